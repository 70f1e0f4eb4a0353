"""A whole run of verl on the CPU, one worker: the bundled Qwen2, and a reward function that fails in the middle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.verl.runs import LIMIT, SILENT_TROUBLE, lines, start, text


@pytest.mark.timeout(LIMIT)
def test_text_trains_on_one_worker_until_a_reward_function_that_raises_ends_the_run_with_its_row(
    data: Path, tmp_path: Path
) -> None:
    run, reward = tmp_path / "run", tmp_path / "broken.py"
    reward.write_text(
        "from pathlib import Path\n"
        "def compute_score(rows):\n"
        f"    written = Path('{run}/metrics.jsonl')\n"
        "    steps = written.read_text().count('\"kind\": \"train\"') if written.exists() else 0\n"
        "    return [{'overall': len(row['response']) % 3 / (2 - steps)} for row in rows]\n"
    )
    more = ("trainer.n_gpus_per_node=1", f"worker.reward.reward_function={reward}:compute_score", "trainer.save_freq=2")
    process = start(text(data, run, *more))
    output, _ = process.communicate(timeout=LIMIT)
    assert process.returncode != 0
    train = lines(run, "train")
    assert [line["step"] for line in train] == [1, 2], output[-8000:]
    assert all(line["rollout/kl"] < 1e-5 and line["actor/grad_norm"] > 0 for line in train)
    assert train[0]["actor/kl_ref"] == pytest.approx(0, abs=1e-6) and train[1]["actor/kl_ref"] > 1e-7, "the weights moved"
    assert not any(trouble in output for trouble in SILENT_TROUBLE)
    assert "TrainingError" in output and "broken.py" in output and "ZeroDivisionError" in output
    state = json.loads((run / "run.json").read_text())
    assert state["state"] == "failed" and "ZeroDivisionError" in state["exit_reason"] and state["last_checkpoint"] == 2
