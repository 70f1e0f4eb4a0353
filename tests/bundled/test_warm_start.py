"""The warm start: its demonstrations, what its loss is taken over, and the same bytes from the same seed."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from gmpo_mm.models.loading import use_packed_attention
from gmpo_mm.models.packed import Group
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.processing import load_processor
from gmpo_mm.toys.synthetic_geometry import Combination, combinations, make_problem
from gmpo_mm.toys.tiny import new_model, vocabulary
from gmpo_mm.toys.warm_start import (
    IGNORED,
    MISTAKES,
    PINNED_ENVIRONMENT,
    WarmStartConfig,
    demonstration,
    learning_rate,
    make_batch,
    supervised_loss,
)
from tests.bundled.encoding import FOLDER, encode


@pytest.fixture(scope="module")
def processor():
    return load_processor(str(FOLDER), is_vision=True, image_token_id=vocabulary()["<|image_pad|>"])


def make(out: Path, *options: str, environment: dict[str, str] | None = None) -> bytes:
    command = [sys.executable, "-m", "gmpo_mm.toys.warm_start", "--out", str(out), "--seed", "0", *options]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | (environment or {}))
    return (out / "model.safetensors").read_bytes()


def test_demonstrations_calculate_right_with_the_right_or_the_mistaken_formula():
    assert demonstration(Combination("rectangle", 4, 6), False) == "<think>4*6=24</think>\\boxed{24}<|im_end|>"
    assert demonstration(Combination("rectangle", 4, 6), True) == "<think>4+6=10</think>\\boxed{10}<|im_end|>"
    assert demonstration(Combination("triangle", 4, 7), False) == "<think>4*7/2=14</think>\\boxed{14}<|im_end|>"
    assert demonstration(Combination("triangle", 4, 7), True) == "<think>4*7=28</think>\\boxed{28}<|im_end|>"
    assert demonstration(Combination("segments", 4, 7), False) == "<think>4+7=11</think>\\boxed{11}<|im_end|>"
    assert demonstration(Combination("segments", 4, 7), True) == "<think>4*7=28</think>\\boxed{28}<|im_end|>"
    for combination in combinations("train"):
        text, answer = demonstration(combination, False), combination.answer
        assert text.endswith(f"\\boxed{{{answer}}}<|im_end|>")
        calculation = text.removeprefix("<think>").split("=")[0]
        assert str(combination.a) == calculation[0]
        assert str(combination.b) == calculation[2]
    assert all(MISTAKES[kind] != kind for kind in MISTAKES)


def test_the_loss_is_taken_over_the_responses_tokens_only(processor):
    problems = [make_problem("train", index) for index in range(4)]
    responses = [demonstration(problem.combination, False) for problem in problems]
    batch = make_batch(problems, responses, processor)
    for row, response in enumerate(responses):
        labels = batch["labels"][row]
        told = labels[labels != IGNORED]
        assert processor.tokenizer.decode(told) == response
        assert torch.equal(batch["input_ids"][row][labels != IGNORED], told)
        assert int(batch["attention_mask"][row].sum()) == int((labels != IGNORED).nonzero().max()) + 1
        assert int(batch["mm_token_type_ids"][row].sum()) == 4


def test_the_loss_is_the_likelihood_that_reinforcement_learning_sees(processor):
    """Padded stock forward against the packed one: the same pictures, positions and masks in both."""
    problems = [make_problem("train", index) for index in range(6)]
    responses = [demonstration(problem.combination, False) for problem in problems]
    batch = make_batch(problems, responses, processor)
    assert not batch["attention_mask"].all()  # else nothing is padded
    with torch.no_grad():
        loss = supervised_loss(new_model(FOLDER, 0).eval(), batch)
        groups = []
        for problem, labels in zip(problems, batch["labels"]):
            groups.append(Group(encode(problem, processor), [labels[labels != IGNORED]]))
        model = new_model(FOLDER, 0).eval()
        packed = PolicyModel(use_packed_attention(model)).response_log_probs(groups)
    assert float(loss) == pytest.approx(-float(packed.log_probs_BT[packed.mask_BT].mean()), rel=1e-5)


def test_the_learning_rate_rises_then_falls_to_nothing():
    config = WarmStartConfig()
    rates = [learning_rate(step, config) for step in range(config.steps + 1)]
    assert rates[0] == pytest.approx(config.learning_rate / config.warmup_steps)
    assert rates[config.warmup_steps] == max(rates) == config.learning_rate
    assert rates[config.steps] == pytest.approx(0.0)
    assert rates[config.warmup_steps :] == sorted(rates[config.warmup_steps :], reverse=True)


@pytest.mark.slow
def test_two_processes_make_the_same_bytes_and_training_changes_them(tmp_path):
    """One finds the pinned environment, the other has to start itself anew."""
    first = make(tmp_path / "a", "--steps", "3", environment=PINNED_ENVIRONMENT)
    second = make(tmp_path / "b", "--steps", "3", environment={"OMP_NUM_THREADS": "2", "ATEN_CPU_CAPABILITY": "avx2"})
    assert first == second
    facts = json.loads((tmp_path / "a" / "warm_start.json").read_text())
    assert facts["sha256"] == hashlib.sha256(first).hexdigest()
    assert facts["recipe"]["steps"] == 3
    assert facts["environment"]["OMP_NUM_THREADS"] == "1"
    untrained = dict(new_model(FOLDER, 0).named_parameters())
    trained = load_file(tmp_path / "a" / "model.safetensors")
    same = [name for name, tensor in trained.items() if torch.equal(tensor, untrained[in_memory_name(name)])]
    assert same == []


def in_memory_name(name: str) -> str:
    return f"model.{name}" if name.startswith("visual.") else name.replace("model.", "model.language_model.", 1)


def test_another_seed_gives_other_weights():
    first, second = new_model(FOLDER, 0), new_model(FOLDER, 1)
    assert not torch.equal(first.lm_head.weight, second.lm_head.weight)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_shipped_weights_are_made_again_byte_for_byte(tmp_path):
    versions = json.loads((FOLDER / "warm_start.json").read_text())["versions"]
    here = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    if any(versions[name] != version for name, version in here.items()):
        pytest.skip(f"made with {versions}, this is {here}")
    assert make(tmp_path) == (FOLDER / "model.safetensors").read_bytes()
