"""Own data and an own file from scratch: what the README shows works with the defaults, what can't work says so first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from gmpo_mm.config import load_config
from gmpo_mm.engines.local.launch import train
from gmpo_mm.errors import ConfigError, DataError
from tests.data.helpers import encoded
from tests.engine.runs import train_metrics

TEXT: dict[str, Any] = {
    "data": {
        "train_files": "rows.jsonl",
        "max_prompt_length": 64,
        "max_response_length": 4,
        "rollout_batch_size": 4,
    },
    "worker": {
        "actor": {"global_batch_size": 4, "loss_type": "gmpo", "model": {"model_path": "bundled:qwen2_tiny"}},
        "rollout": {"n": 2},
        "reward": {"reward_function": "gmpo_mm/rewards/math.py:compute_score"},
    },
    "algorithm": {"disable_kl": True},
    "trainer": {"max_steps": 1, "threads": 1},
}


def row(i: int, **changes: Any) -> dict[str, Any]:
    return {"problem": f"What is {i} + 1?", "answer": str(i + 1), **changes}


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a configuration as a new user writes it: no key that the README does not ask for."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(yaml.safe_dump(TEXT))
    write("rows.jsonl", [row(i) for i in range(8)])


def write(name: str, rows: list[dict[str, Any]]) -> None:
    Path(name).write_text("".join(json.dumps(one) + "\n" for one in rows))


def run(*overrides: str, overwrite: bool = False) -> Path:
    return train(load_config("mine.yaml", overrides), overwrite=overwrite)


def contents(run_dir: Path) -> dict[Path, bytes]:
    """All files but the lock."""
    return {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file() and path.name != ".lock"}


def test_the_record_of_the_readme_trains_with_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = run()
    assert run_dir == Path("runs/mine") and len(train_metrics(run_dir)) == 1
    assert "no column 'prompt': 'problem' is used (data.prompt_key=problem)" in capsys.readouterr().out
    resolved = load_config(run_dir / "config.yaml").config
    assert (resolved.data.prompt_key, resolved.trainer.run_dir) == ("problem", "runs/mine")


def test_a_column_key_of_the_file_is_never_replaced() -> None:
    with pytest.raises(DataError, match=r"no column 'prompt' \(data.prompt_key\)"):
        run("data.prompt_key=prompt")
    write("rows.jsonl", [row(i, prompt="What?", question="?") for i in range(8)])
    assert load_config(run() / "config.yaml").config.data.prompt_key == "prompt"


def test_columns_that_may_both_be_meant_are_refused_before_a_run_directory_is_made() -> None:
    write("rows.jsonl", [row(i, question="?") for i in range(8)])
    with pytest.raises(
        DataError, match="'problem' or 'question' may be meant; say which with data.prompt_key=problem"
    ):
        run()
    assert not Path("runs").exists()


def test_two_data_sets_with_other_columns_are_refused() -> None:
    write("val.jsonl", [{"question": "?", "answer": "1"}])
    with pytest.raises(DataError, match="rows.jsonl has 'problem', val.jsonl has 'question'"):
        run("data.val_files=val.jsonl")


def test_a_run_of_another_configuration_is_started_over_with_overwrite(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run()
    Path("runs/mine/notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="start over with `gmpo-mm train ... --overwrite`"):
        run("worker.rollout.n=4")
    run_dir = run("worker.rollout.n=4", overwrite=True)
    assert "starting over: the run in runs/mine (finished at step 1) is replaced" in capsys.readouterr().out
    assert len(train_metrics(run_dir)) == 1 and (run_dir / "notes.txt").read_text() == "mine"
    rows = (run_dir / "samples/step_1_train.jsonl").read_text().splitlines()
    assert len(rows) == 16 and {path.name for path in run_dir.iterdir() if path.name.startswith(".")} == {
        ".lock"
    }


def test_overwrite_keeps_the_former_run_when_the_new_one_does_not_begin() -> None:
    before = contents(run())
    write("rows.jsonl", [row(i, answer="") for i in range(8)])
    with pytest.raises(DataError, match="8 of 8 rows can't be used"):
        run(overwrite=True)
    assert contents(Path("runs/mine")) == before


def test_a_file_that_validates_trains_without_validation_once_val_files_is_empty() -> None:
    write("val.jsonl", [row(1)])
    validating = {
        **TEXT,
        "data": {**TEXT["data"], "val_files": "val.jsonl"},
        "trainer": {**TEXT["trainer"], "val_freq": 1},
    }
    Path("mine.yaml").write_text(yaml.safe_dump(validating))
    kinds = {
        json.loads(line)["kind"]
        for line in (run("data.val_files=") / "metrics.jsonl").read_text().splitlines()
    }
    assert "validation" not in kinds
    with pytest.raises(ConfigError, match="val_only"):
        run("data.val_files=", "trainer.val_only=true")


def test_golds_that_are_no_answers_are_refused_and_a_few_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    prose = "She sold forty eight clips and then half as many, so she has many"
    write(
        "rows.jsonl", [row(i, answer=prose if i < 2 else "48 + 24\n= 72" if i < 5 else "3") for i in range(8)]
    )
    with pytest.raises(DataError) as caught:
        run()
    text = str(caught.value)
    assert (
        "5 of 8 golds are no short answer (3 several lines, 2 sentence)" in text and "data.answer_key" in text
    )
    assert [f"row {i} of rows.jsonl" in text for i in range(5)] == [True, True, True, False, False]
    assert not Path("runs/mine/metrics.jsonl").exists()
    write("rows.jsonl", [row(i, answer=prose if i < 2 else f"2 + 1\n#### {i}") for i in range(8)])
    run()
    said = capsys.readouterr().out
    assert "2 of 8 golds are no short answer (2 sentence)" in said
    assert "6 of 8 golds hold a whole solution" in said and "-> '2'" in said


def test_golds_for_a_reward_of_ones_own_are_told_and_not_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("reward.py").write_text(
        "def compute_score(inputs):\n    return [{'overall': 1.0} for _ in inputs]\n"
    )
    write("rows.jsonl", [row(i, answer="a\nb") for i in range(8)])
    run("worker.reward.reward_function=reward.py:compute_score")
    assert "reward.py gets them as they are" in capsys.readouterr().out


def test_golds_that_the_countdown_reward_can_not_grade_by_are_named_before_training() -> None:
    good = '{"numbers": [1, 2], "target": 3}'
    write("rows.jsonl", [row(i, answer="12" if i in (3, 5) else good) for i in range(8)])
    with pytest.raises(DataError, match=r"(?s)2 of 8 rows can't be used.*row 3 of.*row 5 of"):
        run("worker.reward.reward_function=gmpo_mm/rewards/countdown.py:compute_score")


def test_every_truncated_picture_of_both_data_sets_is_named_before_training() -> None:
    picture = encoded(Image.effect_noise((120, 120), 90).convert("RGB"), "JPEG")
    for name, data in (("good.jpg", picture), ("cut.jpg", picture[: len(picture) // 2]), ("empty.jpg", b"")):
        Path(name).write_bytes(data)

    def shown(*names: str) -> list[dict[str, Any]]:
        return [row(i, problem="<image>Area?", image=name) for i, name in enumerate(names)]

    write("rows.jsonl", shown("good.jpg", "cut.jpg", "good.jpg", "empty.jpg", *["good.jpg"] * 4))
    write("val.jsonl", shown("good.jpg", "cut.jpg"))
    with pytest.raises(DataError) as caught:
        run("data.val_files=val.jsonl", "worker.actor.model.model_path=bundled:qwen2_5_vl_tiny")
    lines = str(caught.value).splitlines()
    rows = [("rows.jsonl", 1), ("rows.jsonl", 3), ("val.jsonl", 1)]
    assert lines[0] == "2 of 8 rows can't be used:"
    assert [line.partition(":")[0] for line in lines[1:]] == [
        f"row {i} of {name}, image 0" for name, i in rows
    ]
    assert "truncated" in lines[1] and "empty (0 bytes)" in lines[2]
