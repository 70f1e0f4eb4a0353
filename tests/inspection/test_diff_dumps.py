"""Dumps that verl, EasyR1 and TRL wrote themselves (write_dumps.py) are compared as far as they go."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer

import gmpo_mm
from gmpo_mm.errors import DataError
from gmpo_mm.inspection.alignment import plain_text
from gmpo_mm.inspection.opening import open_sources
from gmpo_mm.inspection.recipes import recipe
from gmpo_mm.runs.step_record import RecordedPrompt, StepRecord, write_step
from tests.inspection.dump_samples import ANSWERS, PROBLEMS, chat_text, rows

DUMPS = Path(__file__).parent / "dumps"
MODEL = Path(gmpo_mm.__file__).parent / "toys" / "bundled" / "qwen2_tiny"
ALL = ("verl_ray_trainer", "verl_v1", "easyr1", "trl_messages", "trl_plain")


def record_of_the_samples(folder: Path) -> Path:
    """The samples of the dumps as a step of ours."""
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    _, responses, _, scores = map(list, zip(*rows(), strict=True))

    def encoded(text: str) -> torch.Tensor:
        return torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids)

    ids = [encoded(text) for text in responses]
    ids_BT = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    mask_BT = torch.arange(ids_BT.shape[1])[None] < torch.tensor([len(i) for i in ids])[:, None]
    prompts = [
        RecordedPrompt(f"row {i}", chat_text(p), p, a, encoded(chat_text(p)))
        for i, (p, a) in enumerate(zip(PROBLEMS, ANSWERS, strict=True))
    ]  # fmt: skip
    return write_step(
        folder,
        StepRecord(
            step=1, engine="local", prompts=prompts, group_ids_B=torch.arange(8) // 2,
            response_ids_BT=ids_BT, mask_BT=mask_BT,
            texts=[tokenizer.decode(i.tolist()) for i in ids], stop_reasons=["stop"] * 8,
            rewards_B=torch.tensor(scores, dtype=torch.float64), advantages_BT=torch.zeros(mask_BT.shape),
            updates=[range(8)],
        ),
    )  # fmt: skip


def stages(found: gmpo_mm.api.Diff) -> dict[str, str]:
    return {stage.name: stage.status for stage in found.stages}


@pytest.mark.parametrize("name", ALL)
def test_a_dump_is_equal_to_itself_and_says_what_it_lacks(name: str) -> None:
    found = gmpo_mm.diff(DUMPS / name, DUMPS / name)
    assert found.equal and found.first is None
    assert stages(found)["responses"] == "equal" and len(found.aligned.pairs) == 8
    missing = {stage.name: stage.words for stage in found.stages if stage.status == "not there"}
    assert missing["prompt ids"] == missing["masks"] == missing["ratio"] == "not in A and B"


@pytest.mark.parametrize("name", ["verl_ray_trainer", "verl_v1", "easyr1"])
def test_a_record_and_a_dump_of_its_samples_are_aligned_and_equal(tmp_path: Path, name: str) -> None:
    found = gmpo_mm.diff(record_of_the_samples(tmp_path), DUMPS / name)
    assert found.first is None, found.first
    assert len(found.aligned.same) == 8 and len(found.aligned.prompts) == 4
    assert stages(found)["prompt text"] == stages(found)["responses"] == stages(found)["rewards"] == "equal"
    assert {stage.words for stage in found.stages if stage.name == "masks"} == {"not in B"}
    swapped = gmpo_mm.diff(DUMPS / name, tmp_path / "rollouts" / "step_1.json")
    assert swapped.equal and {stage.words for stage in swapped.stages if stage.name == "masks"} == {
        "not in A"
    }


def test_the_prompts_of_a_uid_are_verls_groups() -> None:
    source, _ = open_sources(DUMPS / "verl_v1", DUMPS / "verl_v1", 1)
    assert [s.group for s in source.samples] == [f"prompt{i // 2}" for i in range(8)]
    older, _ = open_sources(DUMPS / "verl_ray_trainer", DUMPS / "verl_v1", 1)
    assert {s.group for s in older.samples} == {None}
    assert older.samples[0].parts == {"acc": 1.0}


def test_a_fault_in_verls_dump_is_named(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (DUMPS / "verl_v1" / "1.jsonl").read_text().splitlines()]
    shutil.copytree(DUMPS / "verl_v1", tmp_path / "other")
    for key, value, stage, cause in (
        ("score", 0.25, "rewards", "reward"),
        ("output", "no", "responses", "sampling"),
        ("uid", "prompt1_0_0", "group ids", "groups"),
    ):
        changed = [dict(lines[0], **{key: value}), *lines[1:]]
        (tmp_path / "other" / "1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed))
        found = gmpo_mm.diff(DUMPS / "verl_v1", tmp_path / "other", 1)
        assert found.first is not None and found.first.name == stage and found.first.causes[0].code == cause
    without = [dict(line, input=line["input"].replace("system\nThink first.\n", "")) for line in lines]
    (tmp_path / "other" / "1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in without))
    found = gmpo_mm.diff(DUMPS / "verl_v1", tmp_path / "other", 1)
    assert (
        found.first is not None
        and found.first.name == "prompt text"
        and "Think first" in found.first.causes[0].evidence
    )


def test_a_validation_of_easyr1s_log_is_chosen_by_its_number(tmp_path: Path) -> None:
    record = record_of_the_samples(tmp_path)
    second = gmpo_mm.diff(record, DUMPS / "easyr1" / "generations.log", 1)
    assert second.equal and "2 validations of 8" in second.notes[0]
    one, two = open_sources(DUMPS / "easyr1", DUMPS / "easyr1", 2)
    assert [s.reward for s in two.samples] == [1.0] * 8 and one.step is None


def test_trls_prompts_rewards_and_advantages_are_read() -> None:
    messages, plain = open_sources(DUMPS / "trl_messages", DUMPS / "trl_plain", 2)
    assert sorted(p.text for p in messages.prompts) == sorted(PROBLEMS)
    assert sorted(plain_text(p.text) for p in plain.prompts) == sorted(plain_text(p) for p in PROBLEMS)
    rows = pq.read_table(DUMPS / "trl_messages/completions/completions_00002.parquet").to_pylist()
    assert [s.advantage for s in messages.samples] == [row["advantage"] for row in rows]
    assert [s.parts for s in messages.samples] == [
        {name: row[name] for name in ("length", "even")} for row in rows
    ]
    assert (
        str(recipe(messages))
        == "the parts' sum minus the group's mean, divided by the group's unbiased std + 0.0001"
    )
    found = gmpo_mm.diff(DUMPS / "trl_messages", DUMPS / "trl_messages", 1)
    assert stages(found)["advantages"] == "equal" and found.a.step == 1


def test_what_cant_be_read_is_named_with_its_line(tmp_path: Path) -> None:
    good = DUMPS / "verl_v1" / "1.jsonl"
    broken = tmp_path / "1.jsonl"
    broken.write_text(good.read_text() + "{half\n")
    with pytest.raises(DataError, match=r"1\.jsonl, line 9: not a JSON object"):
        gmpo_mm.diff(good, broken)
    broken.write_text(good.read_text().replace('"score": 1.0', '"score": "high"', 1))
    with pytest.raises(DataError, match=r"1\.jsonl: the score 'high' is no number"):
        gmpo_mm.diff(good, broken)
    log = tmp_path / "generations.log"
    log.write_text((DUMPS / "easyr1" / "generations.log").read_text() + "[prompt] cut")
    with pytest.raises(DataError, match=r"generations\.log, line \d+: no sample"):
        gmpo_mm.diff(good, log)
    other = tmp_path / "notes.txt"
    other.write_text("hello")
    with pytest.raises(DataError, match="nothing that can be compared"):
        gmpo_mm.diff(good, other)
    with pytest.raises(DataError, match="is not there"):
        gmpo_mm.diff(good, tmp_path / "missing")
    with pytest.raises(DataError, match="no file of step 7; there are 1, 2"):
        gmpo_mm.diff(DUMPS / "verl_v1", DUMPS / "verl_v1", 7)
    with pytest.raises(DataError, match=r"1\.jsonl is step 1, not 2"):
        gmpo_mm.diff(good, good, 2)
