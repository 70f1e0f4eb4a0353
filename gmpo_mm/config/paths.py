"""Where a config's names lead: models, data, reward and loss functions, the run directory, the checkpoint to resume."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from gmpo_mm.config.checkpoint_paths import MODEL_FOLDER, find_checkpoint, find_fsdp_checkpoint
from gmpo_mm.config.keys import nearest
from gmpo_mm.config.schema import Config
from gmpo_mm.config.weight_files import check_weight_files
from gmpo_mm.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]
BUNDLED_MODELS = PACKAGE / "toys" / "bundled"
BUNDLED_PREFIX = "bundled:"
DATA_SUFFIXES = (".parquet", ".jsonl", ".json")
MODEL_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".json", ".yaml", ".yml")
CONFIG_FILE = "config.json"
ADAPTER_FILE = "adapter_config.json"
MODEL_CONFIGS = (CONFIG_FILE, ADAPTER_FILE)
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", *MODEL_CONFIGS)
"""One of them is in every folder that a tokenizer can be read from."""
COMMON_FOLDERS = frozenset({
    "checkpoint", "checkpoints", "ckpt", "ckpts", "configs", "data", "dataset", "datasets", "evaluations", "experiments",
    "log", "logs", "model", "models", "out", "output", "outputs", "result", "results", "run", "runs", "save", "saves",
    "sweep", "sweeps", "tmp",
})  # fmt: skip
"""First parts of paths that are no owners on the hub."""

_HUB_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)
_STEP_NAME = re.compile(r"(?:global_)?step[_-]\d+|checkpoint-\d+")


def bundled_model_names() -> list[str]:
    """The models that ship with the package."""
    return sorted(folder.parent.name for folder in BUNDLED_MODELS.glob("*/config.json"))


def resolve_model_path(name: str) -> str:
    """Where a model's name leads: `bundled:NAME` and every run directory or checkpoint of any engine to the folder with the
    model; other folders and hub names stay as they are.

    Looks at paths only: the folder may hold a LoRA adapter, or shards that are not merged yet
    (`gmpo_mm.runs.usable_model`). Raises ConfigError for an unknown bundled name, listing the shipped ones, and for a run
    without a complete checkpoint.
    """
    if name.startswith(BUNDLED_PREFIX):
        return _bundled_folder(name)
    path = Path(name).expanduser()
    if not path.is_dir():
        return str(path) if name.startswith("~") else name
    if any((path / file).is_file() for file in MODEL_CONFIGS):
        return str(path)
    if (found := find_checkpoint(path)) is not None:
        return str(found / MODEL_FOLDER)
    if (sharded := find_fsdp_checkpoint(path)) is not None:
        return str(sharded / "actor" / MODEL_FOLDER)
    if (path / "run.json").is_file():
        raise ConfigError(f"{name}: this run has no complete checkpoint yet; name a model folder or another run")
    return str(path)


def find_model(name: str, key: str, files: tuple[str, ...] = MODEL_CONFIGS) -> str:
    """The same, once it is sure that a path leads to a folder with one of the `files`.

    The ConfigError names the key or option that the user set, `key`.
    """
    try:
        found = resolve_model_path(name)
    except ConfigError as error:
        raise ConfigError(f"{key} = {name!r}: {error}") from error
    path = Path(found)
    if path.is_dir():
        if not any((path / file).is_file() for file in files):
            raise ConfigError(
                f"{key} = {name!r}: the folder {path.absolute()} holds no {', no '.join(files)} and no checkpoint of a run; "
                "name a model's folder, a run directory, a hub model or bundled:NAME"
            )
        check_weight_files(path, f"{key} = {name!r}")
    elif path.exists():
        raise ConfigError(f"{key} = {name!r}: that is a file; a folder is expected, the one that holds the model")
    elif looks_like_path(found, MODEL_SUFFIXES):
        raise ConfigError(f"{key} = {name!r}: there is no folder {path.absolute()}; correct the path.{_neighbour(path)}")
    return found


def pinned_model(name: str | None) -> str | None:
    """A run directory's or checkpoint's name as that of the model in it now; every other name as it is written.

    So a run keeps the model that it began with while the other run goes on.
    """
    if name is None or not Path(name).expanduser().is_dir():
        return name
    try:
        found = resolve_model_path(name)
    except ConfigError:  # reported with its key by `find_model`
        return name
    return name if found == str(Path(name).expanduser()) else found


def _bundled_folder(name: str) -> str:
    model, shipped = name.removeprefix(BUNDLED_PREFIX), bundled_model_names()
    if model not in shipped:
        known = ", ".join(BUNDLED_PREFIX + item for item in shipped) or "none"
        meant = nearest(model, shipped)
        hint = f" Did you mean {BUNDLED_PREFIX}{meant}?" if meant else ""
        raise ConfigError(f"model {name!r}: no such model ships with the package.{hint} Shipped: {known}.")
    return str(BUNDLED_MODELS / model)


def _neighbour(path: Path) -> str:
    """A hint at a folder of a similar name."""
    beside = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    meant = nearest(path.name, beside)
    return f" Did you mean {path.parent / meant}?" if meant else ""


def looks_like_path(name: str, suffixes: tuple[str, ...] = ()) -> bool:
    """True for what nobody would call a model or data set of the hub (`owner/name`), so that the hub is never asked for it.

    It is no hub name by its letters (`./x`, `a/b/c`, `a b`), names a file, or begins with a folder as `runs/x` that runs,
    data and models commonly lie in, or with one here that holds a run.
    """
    if not _HUB_NAME.fullmatch(name) or ".." in name or "--" in name or name.lower().endswith(suffixes):
        return True
    parts = name.split("/")
    if len(parts) < 2:
        return bool(_STEP_NAME.fullmatch(name))
    return parts[0].lower() in COMMON_FOLDERS or bool(_STEP_NAME.fullmatch(parts[1])) or _holds_runs(Path(parts[0]))


def _holds_runs(folder: Path) -> bool:
    return (folder / "run.json").is_file() or (folder.is_dir() and any(folder.glob("*/run.json")))


def split_data_spec(spec: str) -> tuple[str, str | None]:
    """`name@split` -> (name, split); a path that exists as written keeps its `@`."""
    name, at, split = spec.rpartition("@")
    if not at or Path(spec).expanduser().exists():
        return spec, None
    return name, split


def data_is_local(spec: str) -> bool:
    """True when a data spec is an existing file or folder."""
    return Path(split_data_spec(spec)[0]).expanduser().exists()


def split_function_spec(spec: str, default_function: str = "main") -> tuple[Path, str]:
    """`path/to/file.py:function` -> (file, function).

    A file that is not there relative to the working directory, but whose path starts with `gmpo_mm/`, is taken from
    the installed package: `gmpo_mm/rewards/math.py:compute_score` works from everywhere.
    """
    name, colon, function = spec.rpartition(":")
    if not colon:
        name, function = spec, default_function
    path = Path(name).expanduser()
    if not path.exists() and path.parts and path.parts[0] == PACKAGE.name:
        packaged = PACKAGE.parent / path
        path = packaged if packaged.exists() else path
    return path, function


def top_level_names(path: Path) -> set[str] | None:
    """Names that a Python file defines or imports at its top, without running it; None when `import *` hides them.

    Raises ConfigError for a file that is not Python.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path} is not readable Python: {error}; correct the file") from error
    names: set[str] = set()
    for node in _module_level(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return None if "*" in names else names


def _module_level(node: ast.AST) -> Iterator[ast.AST]:
    """Every node outside function and class bodies."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            yield from _module_level(child)


def run_directory(config: Config) -> Path:
    """`trainer.run_dir`, else EasyR1's `trainer.save_checkpoint_path`, else runs/<project_name>/<experiment_name>."""
    trainer = config.trainer
    chosen = trainer.run_dir or trainer.save_checkpoint_path
    return Path(chosen) if chosen else Path("runs") / trainer.project_name / trainer.experiment_name


def resume_choice(config: Config) -> str:
    """`auto`, `never`, `must` or a checkpoint's path, with EasyR1's two keys taken into account."""
    trainer = config.trainer
    if trainer.load_checkpoint_path:
        return trainer.load_checkpoint_path
    if trainer.resume == "auto" and not trainer.find_last_checkpoint:
        return "never"
    return trainer.resume
