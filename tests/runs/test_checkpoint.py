import json

import pytest
import torch

from gmpo_mm.errors import TrainingError
from gmpo_mm.runs.checkpoint import (
    checkpoint_steps,
    latest_checkpoint,
    load_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    prune_checkpoints,
    remove_leftovers,
    save_checkpoint,
)


def write_model(folder):
    (folder / "config.json").write_text("{}")


def save(directory, step, **options):
    def model_files(folder):
        (folder / "config.json").write_text("{}")
        (folder / "nested").mkdir()
        (folder / "nested" / "weights.bin").write_bytes(bytes([step]) * 1000)

    tensors = {"optimizer": {"exp_avg/a": torch.full((100,), float(step)), "step/a": torch.tensor(float(step))}}
    return save_checkpoint(directory, step, model_files=model_files, tensors=tensors, state={"best": 0.5}, **options)


def test_a_checkpoint_gives_back_what_was_saved(tmp_path):
    tensors = {
        "optimizer": {
            "exp_avg/layer.weight": torch.randn(3, 4).T,
            "step/layer.weight": torch.tensor(7.0),
            "empty/x": torch.zeros(0),
        },
        "rng": {"torch": torch.get_rng_state(), "half": torch.randn(5).bfloat16()},
    }
    state = {"sampler": {"epoch": 2, "position": 5}, "kl": 0.1 + 0.2, "best": None}

    path = save_checkpoint(tmp_path, 12, model_files=lambda f: (f / "m.txt").write_text("é"), tensors=tensors, state=state)
    loaded = load_checkpoint(path)

    assert (loaded.step, loaded.path, loaded.path.name) == (12, path, "step_12")
    assert {key: loaded.state[key] for key in state} == state
    assert (loaded.model_dir / "m.txt").read_text() == "é"
    for name, group in tensors.items():
        back = loaded.tensors(name)
        assert back.keys() == group.keys()
        for key, value in group.items():
            assert back[key].dtype == value.dtype and torch.equal(back[key], value)


def test_tensors_that_were_not_saved_are_an_error_that_names_the_fix(tmp_path):
    path = save_checkpoint(tmp_path, 1, model_files=write_model, tensors={}, state={})
    loaded = load_checkpoint(path)
    assert not loaded.has_tensors("optimizer")
    with pytest.raises(TrainingError, match=r"save_model_only.*model_path="):
        loaded.tensors("optimizer")


@pytest.mark.parametrize("file", ["optimizer.safetensors", "huggingface/nested/weights.bin", "trainer_state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damage_is_found_when_loading_and_the_way_out_is_named(tmp_path, file, damage):
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    data = (path / file).read_bytes()
    if damage == "flip":
        (path / file).write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    elif damage == "cut":
        (path / file).write_bytes(data[:-1])
    else:
        (path / file).unlink()
    with pytest.raises(TrainingError, match=rf"step_2 is damaged: {file} .*go on from step 1"):
        load_checkpoint(path)
    assert load_checkpoint(tmp_path / "step_1").step == 1


@pytest.mark.parametrize("manifest", [None, "", "{", "[]", '{"format": 99, "files": {}}'])
def test_a_checkpoint_without_a_readable_manifest_is_an_error(tmp_path, manifest):
    path = save(tmp_path, 1)
    (path / "manifest.json").unlink()
    if manifest is not None:
        (path / "manifest.json").write_text(manifest)
    with pytest.raises(TrainingError, match="manifest.json|format 99"):
        load_checkpoint(path)


def test_pruning_keeps_the_newest_and_the_protected_and_counts_both(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    save(tmp_path, 4, keep=3, protect={1})
    assert checkpoint_steps(tmp_path) == [1, 3, 4]
    save(tmp_path, 5, keep=1, protect={1})
    assert checkpoint_steps(tmp_path) == [1, 5]
    save(tmp_path, 6, keep=1)
    assert checkpoint_steps(tmp_path) == [6]


@pytest.mark.parametrize("keep", [-1, 0])
def test_no_limit_prunes_nothing(tmp_path, keep):
    for step in (1, 2, 3):
        save(tmp_path, step, keep=keep)
    assert checkpoint_steps(tmp_path) == [1, 2, 3]


def test_pruning_never_removes_the_newest(tmp_path):
    save(tmp_path, 9)
    save(tmp_path, 10)
    assert prune_checkpoints(tmp_path, 1, protect={9}) == []
    assert checkpoint_steps(tmp_path) == [9, 10]


def test_nothing_is_pruned_before_the_new_one_is_complete(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2)

    def failing_model_files(folder):
        raise RuntimeError("the model can't be written")

    with pytest.raises(RuntimeError, match="can't be written"):
        save_checkpoint(tmp_path, 3, model_files=failing_model_files, tensors={}, state={}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_1", "step_2"]


def test_saving_a_step_again_replaces_it(tmp_path):
    path = save(tmp_path, 3)
    save_checkpoint(tmp_path, 3, model_files=write_model, tensors={}, state={"best": 0.9})
    assert load_checkpoint(path).state["best"] == 0.9
    assert [path.name for path in tmp_path.iterdir()] == ["step_3"]


def test_steps_are_ordered_as_numbers_and_foreign_names_are_ignored(tmp_path):
    for step in (9, 10, 100):
        save(tmp_path, step)
    (tmp_path / "step_1000.bak").mkdir()
    (tmp_path / "step_2000").write_text("a file")
    assert checkpoint_steps(tmp_path) == [9, 10, 100]
    assert latest_checkpoint(tmp_path).name == "step_100"
    assert latest_checkpoint(tmp_path / "missing") is None


def test_leftovers_of_dead_processes_go_and_a_half_replaced_checkpoint_comes_back(tmp_path):
    save(tmp_path, 4).rename(tmp_path / ".step_4.old-77")
    save(tmp_path, 5)
    for name in (".step_6.tmp-1", ".step_2.removing-1", ".step_5.old-1"):
        (tmp_path / name).mkdir()
    removed = remove_leftovers(tmp_path)
    assert removed == [".step_2.removing-1", ".step_5.old-1", ".step_6.tmp-1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_4", "step_5"]
    assert load_checkpoint(tmp_path / "step_4").step == 4


def _model_and_optimizer(seed, dtype=torch.float32, **options):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1), torch.nn.Linear(2, 2)).to(dtype)
    # The last layer is never used: it has no gradient and so no optimizer state, like an expert no token went to.
    return model, torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1, **options)


def _train(model, optimizer, steps):
    for step in steps:
        x = torch.sin(torch.arange(12.0).reshape(3, 4) * (step + 1)).to(model[0].weight.dtype)
        optimizer.zero_grad()
        model[:3](x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"fused": True}, {"foreach": True}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_goes_on_from_a_saved_optimizer_as_if_it_had_not_stopped(tmp_path, options, dtype):
    straight, straight_optimizer = _model_and_optimizer(0, dtype, **options)
    _train(straight, straight_optimizer, range(7))

    first, optimizer = _model_and_optimizer(0, dtype, **options)
    _train(first, optimizer, range(4))
    tensors = {"optimizer": optimizer_tensors(optimizer, first.named_parameters())}
    path = save_checkpoint(
        tmp_path, 4, model_files=lambda f: torch.save(first.state_dict(), f / "m.pt"), tensors=tensors, state={}
    )

    second, optimizer = _model_and_optimizer(1, dtype, **options)
    loaded = load_checkpoint(path)
    second.load_state_dict(torch.load(loaded.model_dir / "m.pt"))
    load_optimizer_tensors(optimizer, second.named_parameters(), loaded.tensors("optimizer"))
    back = optimizer_tensors(optimizer, second.named_parameters())
    assert back.keys() == tensors["optimizer"].keys()
    assert all(back[key].dtype == value.dtype and torch.equal(back[key], value) for key, value in tensors["optimizer"].items())

    _train(second, optimizer, range(4, 7))
    for name, value in straight.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_loaded_optimizer_state_does_not_share_memory_with_what_was_given():
    model, optimizer = _model_and_optimizer(0)
    _train(model, optimizer, range(2))
    tensors = {key: value.clone() for key, value in optimizer_tensors(optimizer, model.named_parameters()).items()}
    before = {key: value.clone() for key, value in tensors.items()}
    load_optimizer_tensors(optimizer, model.named_parameters(), tensors)
    _train(model, optimizer, range(2, 4))
    assert all(torch.equal(tensors[key], value) for key, value in before.items())


def test_optimizer_state_of_another_model_is_an_error():
    model, optimizer = _model_and_optimizer(0)
    with pytest.raises(TrainingError, match="'other.weight', which this run doesn't train"):
        load_optimizer_tensors(optimizer, model.named_parameters(), {"exp_avg/other.weight": torch.zeros(2)})
    with pytest.raises(TrainingError, match=r"shape \(2, 2\), the parameter \(8, 4\)"):
        load_optimizer_tensors(optimizer, model.named_parameters(), {"exp_avg/0.weight": torch.zeros(2, 2)})


def test_the_model_folder_loads_in_stock_transformers(tmp_path):
    from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = Qwen2ForCausalLM(config)
    path = save_checkpoint(tmp_path, 1, model_files=model.save_pretrained, tensors={}, state={})
    back = AutoModelForCausalLM.from_pretrained(load_checkpoint(path).model_dir)
    assert all(torch.equal(back.state_dict()[name], value) for name, value in model.state_dict().items())


def test_the_state_is_plain_json_without_pickle(tmp_path):
    path = save(tmp_path, 1)
    assert json.loads((path / "trainer_state.json").read_text()) == {"best": 0.5, "step": 1}
    assert sorted(json.loads((path / "manifest.json").read_text())["files"]) == [
        "huggingface/config.json",
        "huggingface/nested/weights.bin",
        "optimizer.safetensors",
        "trainer_state.json",
    ]
