"""A step on file comes back as it was; what is cut, changed or missing is named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import gmpo_mm
from gmpo_mm.config.schema import Config
from gmpo_mm.errors import DataError
from gmpo_mm.runs.step_record import (
    RecordedPrompt,
    StepRecord,
    announcement,
    load_step,
    record_bytes,
    recorded_steps,
    remove_leftovers,
    write_picture,
    write_step,
)


def record(step: int = 3, seed: int = 0) -> StepRecord:
    """Two prompts with a picture each, two responses a prompt, of 4, 2, 3 and 1 tokens."""
    torch.manual_seed(seed)
    lengths = [4, 2, 3, 1]
    mask_BT = torch.arange(4)[None] < torch.tensor(lengths)[:, None]
    values = [torch.where(mask_BT, -torch.rand(4, 4), 0.0) for _ in range(5)]
    prompts = [
        RecordedPrompt(f"p{i}", f"chat {i}", f"problem {i}", str(i), torch.arange(5 + i), ("a" * 64,),
                       torch.tensor([[1, 2, 2 + i]]))
        for i in range(2)
    ]  # fmt: skip
    return StepRecord(
        step=step, engine="local", prompts=prompts, group_ids_B=torch.tensor([0, 0, 1, 1]),
        response_ids_BT=torch.where(mask_BT, torch.randint(1, 9, (4, 4)), 0), mask_BT=mask_BT,
        texts=["één", "b", "", "d"], stop_reasons=["stop", "length", None, "stop"],
        rewards_B=torch.tensor([1.0, 0.0, 0.1, 1 / 3], dtype=torch.float64), advantages_BT=values[0],
        updates=[[0, 1], [2, 3], [0, 1], [2, 3]],
        reward_parts={"accuracy": torch.tensor([1.0, 0.0, float("nan"), 1.0], dtype=torch.float64)},
        left_out=frozenset({1}), sampler_log_probs_BT=values[1], old_log_probs_BT=values[2], ref_log_probs_BT=values[3],
        log_probs_BT=values[4], temperature=0.7, learning_rate=1e-3, kl_coef=0.01,
        metrics={"actor/pg_loss": 0.5, "ratio/token_max": float("inf")}, config={"trainer": {"max_steps": 3}},
        versions={"torch": "x"}, weights_before="b", weights_after="a",
    )  # fmt: skip


def test_a_record_comes_back_bit_for_bit(tmp_path: Path) -> None:
    written = record()
    write_step(tmp_path, written)
    read = gmpo_mm.load_step(tmp_path, 3)
    for name, value in vars(written).items():
        found = getattr(read, name)
        if isinstance(value, torch.Tensor):
            assert found.dtype == value.dtype and torch.equal(found, value), name
        elif name == "reward_parts":
            assert torch.equal(found["accuracy"].nan_to_num(7), value["accuracy"].nan_to_num(7))
        elif name == "metrics":
            assert found["actor/pg_loss"] == 0.5 and found["ratio/token_max"] != found["ratio/token_max"]
        elif name == "prompts":
            for one, other in zip(found, value, strict=True):
                assert torch.equal(one.input_ids_S, other.input_ids_S)
                assert torch.equal(one.image_grid_thw_N3, other.image_grid_thw_N3)
                assert (one.id, one.text, one.problem, one.answer, one.images) == (
                    other.id, other.text, other.problem, other.answer, other.images)  # fmt: skip
        else:
            assert list(found) == list(value) if isinstance(value, (list, frozenset)) else found == value, name


def test_tensors_that_a_step_lacks_are_none(tmp_path: Path) -> None:
    written = record()
    written.old_log_probs_BT = written.ref_log_probs_BT = written.log_probs_BT = None
    write_step(tmp_path, written)
    read = load_step(tmp_path / "rollouts" / "step_3.safetensors")
    assert read.old_log_probs_BT is None and read.ref_log_probs_BT is None and read.log_probs_BT is None
    assert read.behaviour_log_probs_BT is read.sampler_log_probs_BT


def test_a_step_written_again_replaces_the_former_one(tmp_path: Path) -> None:
    write_step(tmp_path, record(seed=0))
    write_step(tmp_path, record(seed=1))
    assert torch.equal(load_step(tmp_path, 3).advantages_BT, record(seed=1).advantages_BT)
    assert recorded_steps(tmp_path) == [3]


def test_a_mask_with_holes_and_a_masked_first_token_come_back(tmp_path: Path) -> None:
    written = record()
    written.mask_BT = written.mask_BT.clone()
    written.mask_BT[0, :2] = False
    written.advantages_BT = torch.where(written.mask_BT, written.advantages_BT, 0.0)
    write_step(tmp_path, written)
    assert torch.equal(load_step(tmp_path, 3).mask_BT, written.mask_BT)


@pytest.mark.parametrize("damage", ["cut", "changed", "removed", "other"])
def test_a_damaged_record_is_named(tmp_path: Path, damage: str) -> None:
    path = write_step(tmp_path, record()).with_suffix(".safetensors")
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "changed":
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "removed":
        path.unlink()
    else:
        write_step(tmp_path, record(step=4, seed=2))
        (tmp_path / "rollouts/step_4.safetensors").replace(path)
    with pytest.raises(DataError, match=r"step_3\.safetensors"):
        load_step(tmp_path, 3)


def test_a_newer_format_and_a_missing_step_are_named(tmp_path: Path) -> None:
    path = write_step(tmp_path, record())
    with pytest.raises(DataError, match="step 4 has no record; there are 3"):
        load_step(tmp_path, 4)
    header = json.loads(path.read_text())
    path.write_text(json.dumps(header | {"format": 99}))
    with pytest.raises(DataError, match="format 99"):
        load_step(tmp_path, 3)
    with pytest.raises(DataError, match="there is none"):
        load_step(tmp_path / "rollouts", 1)
    with pytest.raises(DataError, match="nowhere: there is no such run directory"):
        load_step(tmp_path / "nowhere", 1)


def test_a_kill_at_any_file_operation_leaves_a_record_whole_or_absent(tmp_path: Path) -> None:
    """A first and a second write of the same step, killed before each operation that changes the disk."""
    program = (
        "import os, sys; from pathlib import Path; from tests.runs.test_step_record import record\n"
        "from gmpo_mm.runs.step_record import write_step\n"
        "def child(folder, left):\n"
        "    def hook(event, args):\n"
        "        nonlocal left\n"
        "        if event in ('open', 'os.rename', 'os.remove', 'os.mkdir') and folder in str(args[0]):\n"
        "            left -= 1\n"
        "            if left < 0: os._exit(9)\n"
        "    sys.addaudithook(hook)\n"
        "    for seed in (0, 1): write_step(Path(folder), record(seed=seed))\n"
        "    os._exit(0)\n"
        "left, code = 0, 9\n"
        "while code:\n"
        "    folder = sys.argv[1] + f'/{left}/'\n"
        "    os.mkdir(folder)\n"
        "    if (pid := os.fork()) == 0: child(folder, left)\n"
        "    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
        "    assert code in (0, 9), code\n"
        "    left += 1\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    wanted = [record(seed=seed).advantages_BT for seed in (0, 1)]
    seen = set()
    for folder in tmp_path.iterdir():
        if recorded_steps(folder):
            found = load_step(folder, 3).advantages_BT
            seen.add(next(i for i, each in enumerate(wanted) if torch.equal(each, found)))
        else:
            seen.add(None)
        remove_leftovers(folder)
        assert not list(folder.rglob(".*.tmp"))
    assert seen == {None, 0, 1}


def test_a_picture_is_kept_once_under_the_hash_of_its_pixels(tmp_path: Path) -> None:
    image = Image.new("RGB", (3, 2), (1, 2, 3))
    name = write_picture(tmp_path, image)
    assert write_picture(tmp_path, image.copy()) == name != write_picture(tmp_path, Image.new("RGB", (2, 3), (1, 2, 3)))
    with Image.open(tmp_path / "rollouts/pictures" / f"{name}.png") as kept:
        assert kept.tobytes() == image.tobytes()


def test_the_size_that_is_announced_holds(tmp_path: Path) -> None:
    written = record()
    write_step(tmp_path, written)
    size = sum(path.stat().st_size for path in (tmp_path / "rollouts").glob("step_3.*"))
    assert size <= record_bytes(len(written), 4, 2, 6)


def test_two_runs_that_differ_in_where_they_write_have_one_configuration_hash() -> None:
    one, two, three = record(), record(), record()
    two.config = {"trainer": {"max_steps": 3, "run_dir": "elsewhere"}}
    three.config = {"trainer": {"max_steps": 4}}
    assert one.config_sha256 == two.config_sha256 != three.config_sha256


def test_what_a_run_says_of_its_records_before_it_starts() -> None:
    config = Config()
    assert announcement(config, 10, 0) is None
    config.data.rollout_batch_size, config.worker.rollout.n = 2, 2
    config.data.max_response_length, config.data.max_prompt_length = 4, 6
    config.trainer.record_steps = [2, 37]
    said = announcement(config, 10, 3 * 10**9)
    size = record_bytes(4, 4, 2, 6) / 1e6
    assert said is not None and f"1 of 10 steps, each at most {size:,.1f} MB and about 6.0 s" in said
    assert "There is no step 37: the run has 10" in said
    config.trainer.record_steps = "every 4"
    assert "2 of 10 steps" in (announcement(config, 10, 0) or "")
