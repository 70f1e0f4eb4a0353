"""A whole run of verl on the CPU, one worker: the bundled Qwen2, and a reward function that fails in the middle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.verl.runs import LIMIT, SILENT_TROUBLE, finish, lines, start, text

REWARD = """
from pathlib import Path

def compute_score(rows):
    written = Path({run!r}, "metrics.jsonl")
    steps = written.read_text().count('"kind": "train"') if written.exists() else 0
    with Path({seen!r}).open("a") as file:
        file.write("".join(f"{{steps}} {{row['problem']!r}}\\n" for row in rows))
    broken = Path({broken!r}).exists()
    return [{{"overall": len(row["response"]) % 3 / ((2 - steps) if broken else 1)}} for row in rows]
"""
"""Divides by zero in step 3 as long as a file is there, and writes down which problems a step has."""


@pytest.mark.timeout(2 * LIMIT)
def test_a_reward_function_that_raises_ends_the_run_with_its_row_and_the_steps_before_it_saved(
    data: Path, tmp_path: Path
) -> None:
    run, reward, seen, broken = (tmp_path / name for name in ("run", "reward.py", "seen", "broken"))
    reward.write_text(REWARD.format(run=str(run), seen=str(seen), broken=str(broken)))
    broken.touch()
    texts = text(
        data, run, "trainer.n_gpus_per_node=1", f"worker.reward.reward_function={reward}:compute_score", "trainer.save_freq=-1"
    )
    process = start(texts)
    output, _ = process.communicate(timeout=LIMIT)
    assert process.returncode != 0
    train = lines(run, "train")
    assert [line["step"] for line in train] == [1, 2], output[-8000:]
    assert all(line["rollout/kl"] < 1e-5 and line["actor/grad_norm"] > 0 for line in train)
    assert train[0]["actor/kl_ref"] == pytest.approx(0, abs=1e-6) and train[1]["actor/kl_ref"] > 1e-7, "the weights moved"
    assert not any(trouble in output for trouble in SILENT_TROUBLE)
    assert "TrainingError" in output and "reward.py" in output and "ZeroDivisionError" in output
    state = json.loads((run / "run.json").read_text())
    assert state["state"] == "failed" and "ZeroDivisionError" in state["exit_reason"]
    assert state["last_checkpoint"] == 2 and "saved step 2 first" in output
    asked = third_step(seen)
    broken.unlink()
    seen.unlink()
    finish(start(texts))
    assert [line["step"] for line in lines(run, "train")] == [1, 2, 3]
    assert third_step(seen) == asked, "the step that failed has its prompts again"
    assert lines(run, "train")[2]["actor/kl_ref"] > train[1]["actor/kl_ref"] / 2, "the weights of step 2"


def third_step(seen: Path) -> set[str]:
    """The problems of step 3; after an error each is graded once more to find the row."""
    problems = {row for row in seen.read_text().splitlines() if row.startswith("2 ")}
    assert len(problems) == 4
    return problems
