"""The data and models that the shipped configurations name, and the command that makes each, for a fresh clone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gmpo_mm.config.paths import split_data_spec
from gmpo_mm.config.schema import Config


@dataclass(frozen=True)
class Preparation:
    """A command, what it makes, and the file of another command that it reads."""

    command: str
    makes: tuple[str, ...]
    reads: str | None = None


_MATH500 = "data/eval_suite/math500.parquet"
_SMOLLM2 = "models/smollm2-135m"
PREPARATIONS = (
    Preparation(
        "gmpo-mm data synthetic_geometry --out data/synthetic_geometry",
        tuple(f"data/synthetic_geometry/{name}.parquet" for name in ("train", "test_pictures", "test_combinations")),
    ),
    Preparation(
        "gmpo-mm data geometry3k hub --out data/geometry3k",
        tuple(f"data/geometry3k/geometry3k_{name}.parquet" for name in ("train", "validation", "test")),
    ),
    Preparation(
        "gmpo-mm data eval_suite hub --out data/eval_suite",
        tuple(f"data/eval_suite/{name}.parquet" for name in ("aime24", "amc", "math500", "minerva", "olympiadbench")),
    ),
    Preparation(f"gmpo-mm data math hub --math500 {_MATH500}", ("data/math/train.parquet",), _MATH500),
    Preparation(f"gmpo-mm data deepscaler --exclude {_MATH500}", ("data/deepscaler/train.parquet",), _MATH500),
    Preparation(
        "gmpo-mm data countdown --prompt short --out data/countdown_short",
        ("data/countdown_short/train.parquet", "data/countdown_short/test.parquet"),
    ),
    Preparation(
        "gmpo-mm data countdown --tiny --out data/countdown_tiny",
        ("data/countdown_tiny/train.parquet", "data/countdown_tiny/test.parquet"),
    ),
    Preparation(
        "python -m gmpo_mm.toys.warm_start --model qwen3_moe_200m --out models/qwen3_moe_200m", ("models/qwen3_moe_200m",)
    ),
    Preparation(
        "gmpo-mm data word_problems --out data/word_problems",
        tuple(f"data/word_problems/{name}.parquet" for name in ("train", "test", "transfer")),
    ),
    Preparation("gmpo-mm data smollm2 --out models/smollm2-135m", (_SMOLLM2,)),
    Preparation(
        f"gmpo-mm data smollm2_form --model {_SMOLLM2} --out models/smollm2-135m-form", ("models/smollm2-135m-form",), _SMOLLM2
    ),
)


@dataclass(frozen=True)
class Missing:
    """A path of a configuration that isn't there yet, and what makes it."""

    key: str
    path: str
    preparation: Preparation


def find_preparation(path: str) -> Preparation | None:
    """What makes a path, written relative to the working directory as the shipped configurations do; None for others."""
    name = Path(path).as_posix()
    return next((preparation for preparation in PREPARATIONS if name in preparation.makes), None)


def missing_preparations(config: Config, root: Path = Path()) -> Iterator[Missing]:
    """The training data, validation data and model that a command of ours makes and that aren't there yet.

    `root`: the folder that the run will be started in.
    """
    data, model = config.data, config.worker.actor.model
    for key, name in (
        ("data.train_files", split_data_spec(data.train_files)[0]),
        ("data.val_files", split_data_spec(data.val_files)[0]),
        ("worker.actor.model.model_path", model.model_path or ""),
    ):
        preparation = find_preparation(name)
        if preparation is not None and not (root / name).exists():
            yield Missing(key, name, preparation)


def preparing_command(preparations: Sequence[Preparation], root: Path = Path()) -> str:
    """One command line for all of them, each once, after what it reads where that isn't there either."""
    commands: dict[str, None] = {}
    for preparation in preparations:
        before = find_preparation(preparation.reads) if preparation.reads and not (root / preparation.reads).exists() else None
        for needed in (before, preparation):
            if needed is not None:
                commands[needed.command] = None
    return " && ".join(commands)
