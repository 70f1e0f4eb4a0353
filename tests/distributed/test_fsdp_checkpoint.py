"""EasyR1's sharded checkpoints, written by real FSDP processes: found, checked, merged."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp import ShardingStrategy
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from gmpo_mm.config.checkpoint_paths import find_fsdp_checkpoint, latest_fsdp_checkpoint
from gmpo_mm.errors import ConfigError, TrainingError
from gmpo_mm.runs import fsdp_checkpoint
from gmpo_mm.runs.checkpoint_layout import fsdp_layout
from gmpo_mm.runs.fsdp_checkpoint import merged_model
from gmpo_mm.runs.run_directory import RunDirectory
from gmpo_mm.runs.usable_model import usable_model
from tests.distributed.ranks import on_ranks

# 50 rows and 14 columns: neither divides by four, so that shards are of unequal length
CONFIG = {
    "vocab_size": 50, "hidden_size": 28, "intermediate_size": 30, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64, "initializer_range": 0.2,
}  # fmt: skip
LORA = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]}


def build(tied: bool = False, lora: bool = False) -> Any:
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**CONFIG, tie_word_embeddings=tied))
    if not lora:
        return model
    from peft import LoraConfig, TaskType, get_peft_model

    model = get_peft_model(model, LoraConfig(task_type=TaskType.CAUSAL_LM, **LORA))
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:  # zero at first, which would hide a wrong product
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def _save(rank: int, actor: str, mesh: tuple[int, ...], tied: bool, lora: bool) -> torch.Tensor:
    """As EasyR1's checkpoint manager writes one rank's file; world size 1 as well."""
    names = ("fsdp",) if len(mesh) == 1 else ("ddp", "fsdp")
    wrapped = FSDP(
        build(tied, lora),
        device_id=torch.device("cpu"),
        device_mesh=init_device_mesh("cpu", mesh, mesh_dim_names=names),
        sharding_strategy=ShardingStrategy.FULL_SHARD if len(mesh) == 1 else ShardingStrategy.HYBRID_SHARD,
        use_orig_params=lora,
    )
    state = get_model_state_dict(wrapped, options=StateDictOptions(cpu_offload=True))
    size = mesh[0] if len(mesh) == 1 else mesh[0] * mesh[1]
    torch.save(state, Path(actor) / f"model_world_size_{size}_rank_{rank}.pt")
    return torch.zeros(1)


def write_checkpoint(run: Path, step: int, mesh: tuple[int, ...] = (2,), tied: bool = False, lora: bool = False) -> Path:
    """A `global_step_N` of a real FSDP model, with everything that EasyR1 puts beside the shards; then the tracker."""
    folder = run / f"global_step_{step}"
    (folder / "actor" / "huggingface").mkdir(parents=True)
    ranks = mesh[0] if len(mesh) == 1 else mesh[0] * mesh[1]
    on_ranks(ranks, _save, folder, str(folder / "actor"), mesh, tied, lora)
    for file in folder.glob("rank_*.pt"):
        file.unlink()
    build(tied).config.save_pretrained(folder / "actor" / "huggingface")
    if lora:
        (folder / "actor" / "lora_adapter").mkdir()
        (folder / "actor" / "lora_adapter" / "adapter_config.json").write_text(json.dumps(LORA))
    for rank in range(ranks):
        torch.save({}, folder / "actor" / f"optim_world_size_{ranks}_rank_{rank}.pt")
    torch.save({}, folder / "dataloader.pt")
    (run / "checkpoint_tracker.json").write_text(json.dumps({"last_global_step": step, "last_actor_path": "elsewhere"}))
    return folder


def assert_same_weights(folder: Path, model: Any) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    expected = model.state_dict()
    found = loaded.state_dict()
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks with a checkpoint at step 3."""
    run = tmp_path_factory.mktemp("run")
    write_checkpoint(run, 3)
    return run


@pytest.fixture
def run(sharded: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(sharded, tmp_path / "run"))


@pytest.mark.parametrize(
    ("mesh", "tied"), [((1,), False), ((2,), True), ((2, 2), False)], ids=["one rank", "two ranks, tied", "two replicas of two"]
)
def test_merged_shards_are_the_model_bit_for_bit(tmp_path: Path, mesh: tuple[int, ...], tied: bool) -> None:
    checkpoint = write_checkpoint(tmp_path, 1, mesh, tied)
    assert_same_weights(merged_model(checkpoint), build(tied))


def test_a_run_its_checkpoint_and_its_actor_folder_all_name_the_merged_model(run: Path) -> None:
    notes: list[str] = []
    expected = run / "global_step_3" / "actor" / "huggingface"
    assert usable_model(str(run), "model", notes.append) == str(expected)
    assert "merging 2 shards" in notes[0]
    assert_same_weights(expected, build())
    for name in (run / "global_step_3", run / "global_step_3" / "actor", run):
        assert usable_model(str(name), "model", notes.append) == str(expected)
    assert len(notes) == 1, "merged once"


def test_a_lora_adapter_is_merged_as_peft_merges_it(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, 1, (2,), lora=True)
    folder = merged_model(checkpoint)
    found, expected = load_file(folder / "model.safetensors"), build(lora=True).merge_and_unload().state_dict()
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.allclose(found[name], weight, atol=1e-6), name
    adapted = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(expected[adapted], build().state_dict()[adapted])


def test_weights_over_several_files_load_and_a_merge_without_its_index_is_done_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsdp_checkpoint, "MAX_FILE_BYTES", 9000)
    folder = merged_model(run / "global_step_3")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    assert_same_weights(folder, build())
    (folder / "model.safetensors.index.json").unlink()  # a kill between the last file and the index
    (folder / ".merging-7").mkdir()
    assert_same_weights(merged_model(run / "global_step_3"), build())
    assert (folder / "model.safetensors.index.json").is_file()
    assert not list(folder.glob(".merging-*"))
    (folder / ".merging-7").mkdir()  # a kill after the index
    assert merged_model(run / "global_step_3") == folder and not list(folder.glob(".merging-*"))


class _Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("was_run"),))


def test_a_checkpoint_can_not_run_code(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shard = run / "global_step_3" / "actor" / "model_world_size_2_rank_1.pt"
    torch.save({"weight": _Hostile()}, shard)
    with pytest.raises(ConfigError, match=r"can't be read as tensors only .* merge it with EasyR1's own merger"):
        merged_model(run / "global_step_3")
    shard.write_bytes(pickle.dumps(_Hostile()))
    with pytest.raises(ConfigError, match="can't be read as tensors only"):
        merged_model(run / "global_step_3")
    assert not Path("was_run").exists()


def test_a_missing_or_cut_off_shard_is_named(run: Path) -> None:
    actor = run / "global_step_3" / "actor"
    shard = actor / "model_world_size_2_rank_1.pt"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="rank_1.pt can't be read"):
        merged_model(run / "global_step_3")
    shard.unlink()
    with pytest.raises(ConfigError, match=r"names .*global_step_3, which is not there as a whole"):
        latest_fsdp_checkpoint(run)


def test_a_tracker_that_a_kill_cut_off_names_the_checkpoint_to_go_on_from(run: Path) -> None:
    (run / "checkpoint_tracker.json").write_text('{"best_glob')
    with pytest.raises(ConfigError, match=r"as after a kill while it was written; set trainer.resume=.*global_step_3"):
        latest_fsdp_checkpoint(run)


def test_a_folder_without_easyr1s_checkpoints_is_none(tmp_path: Path) -> None:
    assert latest_fsdp_checkpoint(tmp_path) is None
    assert find_fsdp_checkpoint(tmp_path / "nowhere") is None
    (tmp_path / "global_step_4" / "actor").mkdir(parents=True)
    assert find_fsdp_checkpoint(tmp_path / "global_step_4") is None


def test_weights_that_can_not_be_written_leave_no_half(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fsdp_checkpoint, "save_file", full)
    with pytest.raises(TrainingError, match=r"could not write the merged weights .* free some space"):
        merged_model(run / "global_step_3")
    left = {file.name for file in (run / "global_step_3" / "actor" / "huggingface").iterdir()}
    assert left == {"config.json", ".lock"}


def open_run(path: Path, resume: str = "auto", processes: int = 2, lr: float = 1.0) -> RunDirectory:
    config = {"worker": {"actor": {"optim": {"lr": lr}}}}
    return RunDirectory.open(path, resume=resume, config=config, command=["x"], layout=fsdp_layout(processes))


def test_a_run_directory_goes_on_from_easyr1s_checkpoint(tmp_path: Path, sharded: Path) -> None:
    import shutil

    with open_run(tmp_path / "run") as run:
        assert (run.resuming, run.from_step, run.checkpoint) == (False, 0, None)
        run.begin(10)
        for step in (1, 2, 3):  # they are on the disk before the checkpoint is
            run.log_metrics(step, "train", {"loss": 0.5})
    for item in sharded.iterdir():
        (shutil.copytree if item.is_dir() else shutil.copyfile)(item, tmp_path / "run" / item.name)
    with open_run(tmp_path / "run") as run:
        assert (run.resuming, run.from_step) == (True, 3)
        assert run.checkpoint == tmp_path / "run" / "global_step_3"
    with pytest.raises(ConfigError, match=r"written by 2 processes, .* = 4 now"):
        open_run(tmp_path / "run", processes=4)
    with pytest.raises(ConfigError, match="another configuration"):
        open_run(tmp_path / "run", lr=2.0)


def test_a_checkpoint_without_optimizer_states_is_refused_before_any_worker_starts(run: Path, tmp_path: Path) -> None:
    (run / "global_step_3" / "actor" / "optim_world_size_2_rank_1.pt").unlink()
    with pytest.raises(ConfigError, match=r"no optimizer state \(trainer.save_model_only=true\)"):
        open_run(tmp_path / "new", resume=str(run / "global_step_3"))


def test_a_new_run_starts_from_a_named_checkpoint(tmp_path: Path, sharded: Path) -> None:
    with open_run(tmp_path / "new", resume=str(sharded / "global_step_3")) as run:
        assert (run.resuming, run.from_step, run.checkpoint) == (False, 3, sharded / "global_step_3")
    with pytest.raises(ConfigError, match="written by 2 processes"):
        open_run(tmp_path / "other", resume=str(sharded / "global_step_3"), processes=1)
    with pytest.raises(ConfigError, match="no checkpoint there"):
        open_run(tmp_path / "third", resume=str(tmp_path))
