"""Let torchvision be imported when its compiled operators can't be loaded, as with a CUDA build beside a CPU torch.

`make .venv-vllm` copies this file into that environment, with a `.pth` line that imports it, but only after a plain
`import torchvision` failed there. It has to run in every process: vLLM inspects a model in a child process. torchvision
registers meta kernels for `nms` and `qnms` while it is imported, which fails unless somebody has declared the two;
nothing in text or image rollouts calls them.
"""

from __future__ import annotations

import importlib.abc
import sys

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_library = None  # the declarations live as long as this object


class _DeclareFirst(importlib.abc.MetaPathFinder):
    """Finds nothing; it only notices the first import of torchvision, so that other processes don't pay for torch."""

    def find_spec(self, fullname, path=None, target=None):
        global _library
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch

            _library = torch.library.Library("torchvision", "DEF")
            for name, schema in _SCHEMAS.items():
                _library.define(name + schema)


sys.meta_path.insert(0, _DeclareFirst())
