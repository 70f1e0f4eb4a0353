"""What both sides work on: the shape of a round, its problems and its model, in a folder that each side reads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
MATH_REWARD = "gmpo_mm/rewards/math.py:compute_score"


@dataclass(frozen=True)
class Workload:
    """A round: `prompts` x `samples` responses of at most `new_tokens`, then `mini_batches` optimizer steps."""

    name: str
    model: str
    """Folder of the model, its tokenizer and its image processor."""
    prompts: int
    samples: int
    new_tokens: int
    mini_batches: int
    exact_length: bool
    """Every response has exactly `new_tokens` tokens: the end-of-turn token does not end it."""
    freeze_vision: bool
    rounds: int
    """Rounds that are counted."""
    warmup: int
    """Rounds before them that are not."""
    image_pixels: tuple[int, int]
    """min_pixels and max_pixels of the image processor."""
    reward_function: str = MATH_REWARD
    drop_zero_advantage: bool = False
    """Leave groups without a gradient out of our update; TRL always computes them."""
    learning_rate: float = 1e-4
    threads: int = 1
    seed: int = 0

    @property
    def samples_per_mini_batch(self) -> int:
        """Responses per optimizer step."""
        return self.prompts * self.samples // self.mini_batches

    @property
    def total_rounds(self) -> int:
        """Warm-up and counted rounds."""
        return self.warmup + self.rounds

    def write(self, folder: Path) -> None:
        """Store beside the problems."""
        (folder / "workload.json").write_text(json.dumps(asdict(self), indent=2))

    @classmethod
    def read(cls, folder: Path) -> Workload:
        """The inverse of `write`."""
        values: dict[str, Any] = json.loads((folder / "workload.json").read_text())
        values["image_pixels"] = tuple(values["image_pixels"])
        return cls(**values)


def read_problems(folder: Path) -> list[dict[str, Any]]:
    """The records of `problems.jsonl`: `problem`, `images` (paths relative to the folder), `answer`."""
    return [json.loads(line) for line in (folder / "problems.jsonl").read_text().splitlines()]
