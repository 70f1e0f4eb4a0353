"""trainer.record_steps: which steps it names, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from gmpo_mm.config import load_config
from gmpo_mm.config.recording import check_recording, is_recorded, records_steps


def load(text: str, folder: Path):
    file = folder / "run.yaml"
    file.write_text(f"trainer:\n  record_steps: {text}\n")
    return load_config(file)


@pytest.mark.parametrize(
    ("text", "steps"),
    [("[1, 7]", [1, 7]), ("every 3", [3, 6, 9]), ("every 1", list(range(1, 11))), ("none", []), ("[]", []), ('"none"', [])],
)
def test_the_steps_of_a_setting(text: str, steps: list[int], tmp_path: Path) -> None:
    loaded = load(text, tmp_path)
    assert not list(check_recording(loaded))
    assert [step for step in range(1, 11) if is_recorded(loaded.config, step)] == steps
    assert records_steps(loaded.config) == bool(steps)


def test_an_override_names_steps_too() -> None:
    assert is_recorded(load_config(None, ["trainer.record_steps=[1,37]"]).config, 37)
    assert is_recorded(load_config(None, ["trainer.record_steps=every 5"]).config, 5)


@pytest.mark.parametrize("text", ["every 0", "every", "5", "[0]", "[-1]", "[1.5]", "[true]", "all", "{a: 1}", "null", "['1']"])
def test_another_setting_is_named_with_the_fix(text: str, tmp_path: Path) -> None:
    (message,) = check_recording(load(text, tmp_path))
    assert message.startswith("trainer.record_steps = ")
    assert "give a list of steps, as [1, 37], or `every N`, or `none`" in message
