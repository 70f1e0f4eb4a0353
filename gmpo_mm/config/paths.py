"""Where a config's names lead: models, data, reward and loss functions, the run directory, the checkpoint to resume."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from gmpo_mm.config.keys import nearest
from gmpo_mm.config.schema import Config
from gmpo_mm.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]
BUNDLED_MODELS = PACKAGE / "models" / "bundled"
BUNDLED_PREFIX = "bundled:"
DATA_SUFFIXES = (".parquet", ".jsonl", ".json")


def bundled_model_names() -> list[str]:
    """The models that ship with the package."""
    return sorted(folder.parent.name for folder in BUNDLED_MODELS.glob("*/config.json"))


def resolve_model_path(name: str) -> str:
    """`bundled:NAME` -> the shipped model's folder; every other path or hub name stays as it is.

    Raises ConfigError for an unknown bundled name, listing the shipped ones.
    """
    if not name.startswith(BUNDLED_PREFIX):
        return name
    model, shipped = name.removeprefix(BUNDLED_PREFIX), bundled_model_names()
    if model not in shipped:
        known = ", ".join(BUNDLED_PREFIX + item for item in shipped) or "none"
        meant = nearest(model, shipped)
        hint = f" Did you mean {BUNDLED_PREFIX}{meant}?" if meant else ""
        raise ConfigError(f"model {name!r}: no such model ships with the package.{hint} Shipped: {known}.")
    return str(BUNDLED_MODELS / model)


def looks_like_path(name: str, suffixes: tuple[str, ...] = ()) -> bool:
    """True when a name can't be a hub name (`owner/name`): it starts like a path, is deeper, or names a file."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith(suffixes)


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
        raise ConfigError(f"{path} is not readable Python: {error}") from error
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
