"""What other packages say: their warnings go to the run's log and not to the terminal, where a user can do nothing about them.

Python's own switch goes before: with `python -W ...` or PYTHONWARNINGS every warning is shown as it is.
"""

from __future__ import annotations

import logging
import os
import site
import sys
import sysconfig
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

LOGGERS = ("transformers", "datasets", "huggingface_hub", "accelerate", "peft", "torch", "torchvision", "PIL", "matplotlib")
"""Packages whose loggers print warnings by themselves, or that Python's last resort prints."""



class _State:
    sink: Callable[[str], None] | None = None
    hides_transformers = False


_state = _State()


def quiet() -> None:
    """From now on warnings of other packages are only handed to what `hand_to` names; for command lines, not for libraries."""
    if sys.warnoptions:
        return
    if "TRANSFORMERS_VERBOSITY" not in os.environ:  # read when transformers is imported, which is later
        os.environ["TRANSFORMERS_VERBOSITY"] = "error"
        _state.hides_transformers = True
    shown = warnings.showwarning

    def show(message: Any, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        if file is None and _is_theirs(filename):
            _tell(warnings.formatwarning(message, category, filename, lineno, line).strip())
        else:
            shown(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    handler = _Handler(logging.WARNING)
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.propagate = False


def hand_to(sink: Callable[[str], None] | None) -> None:
    """Where other packages' warnings go: a run's log; None: nowhere."""
    _state.sink = sink
    transformers = sys.modules.get("transformers")
    if sink is not None and transformers is not None and _state.hides_transformers:
        transformers.utils.logging.disable_default_handler()  # it prints; ours, beside it, does not
        transformers.utils.logging.set_verbosity_warning()


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _tell(f"{record.name}: {record.levelname.lower()}: {record.getMessage()}")


def _tell(text: str) -> None:
    if _state.sink is not None:
        _state.sink(text)


def _is_theirs(filename: str) -> bool:
    """Whether a warning points into an installed package, the standard library or this package: not into a user's file."""
    path = Path(filename).absolute()
    installed = [*site.getsitepackages(), site.getusersitepackages(), *map(sysconfig.get_path, ("stdlib", "purelib"))]
    homes = [*map(Path, installed), Path(__file__).absolute().parents[1]]
    return not path.is_file() or any(path.is_relative_to(home) for home in homes)
