"""The bundled text models: files, weights by published names, what they were shown, what they can do, the same bytes again."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from gmpo_mm.config import resolve_model_path
from gmpo_mm.data.prompts import EncodedPrompt
from gmpo_mm.data.records import Record
from gmpo_mm.models.loading import end_token_ids, load_model
from gmpo_mm.models.packed import Group
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.processing import load_processor
from gmpo_mm.rollout.hf import HFRollout
from gmpo_mm.rollout.protocol import SamplingParams
from gmpo_mm.toys.countdown import TINY, TINY_TEST_SIZE, TINY_TRAIN_SIZE, CountdownProblem, make_splits
from gmpo_mm.toys.countdown_demonstrations import IGNORED, countdown_batches, demonstration, make_batch
from gmpo_mm.toys.tiny import write_model_files
from gmpo_mm.toys.tiny_text import new_text_model, text_config, weight_shapes
from gmpo_mm.toys.warm_start import RECIPES, supervised_loss
from gmpo_mm.verifiers.countdown import Verdict, check_expression, extract_expression, read_problem

NAMES = ("qwen2_tiny", "qwen3_moe_tiny")
PARAMETERS = {"qwen2_tiny": 634_496, "qwen3_moe_tiny": 1_669_184}


def folder(name: str) -> Path:
    return Path(resolve_model_path(f"bundled:{name}"))


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_files_are_those_that_the_code_writes(tmp_path: Path, name: str) -> None:
    write_model_files(tmp_path, text_config(name))
    written = sorted(file.name for file in tmp_path.iterdir())
    for file in written:
        assert (tmp_path / file).read_bytes() == (folder(name) / file).read_bytes(), file
    shipped = sorted(file.name for file in folder(name).iterdir())
    assert shipped == sorted([*written, "README.md", "model.safetensors", "warm_start.json"])


@pytest.mark.parametrize("name", NAMES)
def test_stock_classes_load_every_weight(name: str) -> None:
    model, loading = AutoModelForCausalLM.from_pretrained(folder(name), output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    expected = transformers.Qwen2ForCausalLM if name == "qwen2_tiny" else transformers.Qwen3MoeForCausalLM
    assert type(model) is expected
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    tensors = load_file(folder(name) / "model.safetensors")
    assert {key: tuple(tensor.shape) for key, tensor in tensors.items()} == weight_shapes(text_config(name))
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    if name == "qwen3_moe_tiny":
        assert (model.config.num_experts, model.config.num_experts_per_tok) == (8, 1)
        assert model.config.router_aux_loss_coef == 0.01


def test_the_bundled_text_models_stay_small() -> None:
    assert sum(file.stat().st_size for name in NAMES for file in folder(name).iterdir()) < 10_000_000


def test_the_model_of_table_6_has_200_million_parameters_and_eight_experts() -> None:
    config = text_config("qwen3_moe_200m")
    sizes = [torch.Size(shape).numel() for shape in weight_shapes(config).values()]
    assert 190e6 < sum(sizes) < 210e6
    assert (config["num_experts"], config["num_experts_per_tok"]) == (8, 1)
    with torch.device("meta"):
        built = transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**config))
    assert sum(parameter.numel() for parameter in built.parameters()) == sum(sizes)


def test_the_weights_are_drawn_by_the_seed_alone(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        new_text_model(tmp_path / name, text_config("qwen3_moe_tiny"), seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def verdict(problem: CountdownProblem, response: str) -> Verdict | None:
    answer = extract_expression(response, "answer_tags")
    return None if answer is None else check_expression(answer, read_problem(problem.gold))


def test_right_demonstrations_hit_the_target_and_wrong_ones_miss_it_with_the_same_numbers() -> None:
    for problem in make_splits(TINY, 500, TINY_TEST_SIZE)["train"]:
        right, wrong = (verdict(problem, demonstration(problem, is_wrong)) for is_wrong in (False, True))
        assert right is not None and right.correct
        assert wrong is not None and wrong.is_expression and not wrong.correct
        assert "not" in wrong.why or "=" in wrong.why or str(problem.target) in wrong.why
        assert sorted(filter(str.isdigit, demonstration(problem, True))) == sorted(
            character for number in problem.numbers for character in str(number) if character.isdigit()
        )


def test_the_warm_start_is_shown_no_held_out_problem_and_the_share_of_wrong_answers_that_was_asked_for() -> None:
    splits = make_splits(TINY, TINY_TRAIN_SIZE, TINY_TEST_SIZE)
    processor = load_processor(str(folder("qwen2_tiny")), is_vision=False, image_token_id=None)
    held_out = {problem.text("short") for problem in splits["test"]}
    batch_of = countdown_batches(splits["train"], processor, 64, 0.6, random.Random(0))
    seen, wrong = [], 0
    by_text = {problem.text("short"): problem for problem in splits["train"]}
    for step in range(66):  # more than one pass
        batch = batch_of(step)
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            text = processor.tokenizer.decode(ids)
            question = text.split("user\n")[1].split("<|im_end|>")[0]
            answer = processor.tokenizer.decode(labels[labels != IGNORED])
            assert answer.startswith("<answer>") and answer.endswith("</answer><|im_end|>")
            graded = verdict(by_text[question], answer)
            assert graded is not None
            wrong += not graded.correct
            seen.append(question)
    assert not held_out & set(seen)
    assert len(set(seen[:TINY_TRAIN_SIZE])) == TINY_TRAIN_SIZE  # each once before any comes again
    assert abs(wrong / len(seen) - 0.6) < 0.03


@pytest.mark.parametrize("name", NAMES)
def test_the_warm_starts_loss_is_the_likelihood_that_reinforcement_learning_sees(name: str) -> None:
    processor = load_processor(str(folder(name)), is_vision=False, image_token_id=None)
    problems = make_splits(TINY, 6, TINY_TEST_SIZE)["train"]
    prompts = [processor.chat_text([{"role": "user", "content": problem.text("short")}]) for problem in problems]
    responses = [demonstration(problem, False) for problem in problems]
    batch = make_batch(prompts, responses, processor.tokenizer)
    assert not batch["attention_mask"].all()  # else nothing is padded
    model = load_model(str(folder(name))).eval()
    groups = []
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        first = int((labels != IGNORED).nonzero()[0])
        prompt = EncodedPrompt(Record("", (), "", ("",), ""), "", ids[:first], ids[:first].tolist(), (), None, None)
        groups.append(Group(prompt, [labels[labels != IGNORED]]))
    with torch.no_grad():
        packed = PolicyModel(model).response_log_probs(groups)
        stock = AutoModelForCausalLM.from_pretrained(folder(name)).eval()
        stock.config.num_experts = 0  # the balance loss is no part of the likelihood
        loss = supervised_loss(stock, batch)
    assert float(loss) == pytest.approx(-float(packed.log_probs_BT[packed.mask_BT].mean()), rel=1e-4)


def test_the_balance_loss_is_part_of_the_warm_start() -> None:
    name = "qwen3_moe_tiny"
    processor = load_processor(str(folder(name)), is_vision=False, image_token_id=None)
    batch = countdown_batches(make_splits(TINY, 64, 4)["train"], processor, 8, 0.6, random.Random(0))(0)
    model = AutoModelForCausalLM.from_pretrained(folder(name)).eval()
    with torch.no_grad():
        both, plain = supervised_loss(model, batch), model(**batch, use_cache=False).loss
    assert float(both) > float(plain) + 0.005  # 0.01 times at least 1, which an even load gives


@pytest.mark.parametrize("name", NAMES)
def test_they_use_the_right_numbers_and_mostly_the_wrong_signs(name: str) -> None:
    facts = json.loads((folder(name) / "warm_start.json").read_text())
    assert hashlib.sha256((folder(name) / "model.safetensors").read_bytes()).hexdigest() == facts["sha256"]
    torch.set_num_threads(1)
    processor = load_processor(str(folder(name)), is_vision=False, image_token_id=None)
    policy = PolicyModel(load_model(str(folder(name))), eos_token_ids=end_token_ids(str(folder(name)), processor.tokenizer))
    problems = make_splits(TINY, 1, TINY_TEST_SIZE)["test"]
    prompts = []
    for problem in problems:
        text = processor.chat_text([{"role": "user", "content": problem.text("short")}])
        ids, unexpanded, _, _ = processor.encode(text, [])
        prompts.append(EncodedPrompt(Record("", (), "", ("",), ""), text, ids, unexpanded, (), None, None))
    params = SamplingParams(n=8, temperature=0.5, max_tokens=24)
    sampled = HFRollout(policy).generate(prompts, params, range(len(prompts)))
    verdicts = [
        verdict(problem, processor.tokenizer.decode(response.token_ids_T))
        for problem, responses in zip(problems, sampled, strict=True)
        for response in responses
    ]
    form = sum(v is not None and v.is_expression for v in verdicts) / len(verdicts)
    right = sum(v is not None and v.correct for v in verdicts) / len(verdicts)
    print(f"{name}: held-out Pass@1 {right:.3f}, an expression {form:.3f}")
    assert form > 0.97
    assert 0.15 < right < 0.45


def make(out: Path, name: str, *options: str, **environment: str) -> bytes:
    command = [sys.executable, "-m", "gmpo_mm.toys.warm_start", "--model", name, "--out", str(out), "--seed", "0", *options]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | environment)
    return (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])])
def test_two_processes_make_the_same_bytes_and_training_changes_them(tmp_path: Path, name: str) -> None:
    first = make(tmp_path / "a", name, "--steps", "3", OMP_NUM_THREADS="2", ATEN_CPU_CAPABILITY="avx2")
    assert first == make(tmp_path / "b", name, "--steps", "3")
    new_text_model(tmp_path / "c", text_config(name), 0)
    trained, untrained = (load_file(tmp_path / x / "model.safetensors") for x in "ac")
    changed = [key for key in trained if not torch.equal(trained[key], untrained[key])]
    assert len(changed) > 0.9 * len(trained)  # an expert may have had no token in three steps
    facts = json.loads((tmp_path / "a" / "warm_start.json").read_text())
    assert (facts["recipe"]["steps"], facts["parameters"]) == (3, PARAMETERS[name])
    assert f"--model {name}" in facts["command"]


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_weights_are_made_again_byte_for_byte(tmp_path: Path, name: str) -> None:
    facts = json.loads((folder(name) / "warm_start.json").read_text())
    here = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    if any(facts["versions"][key] != version for key, version in here.items()):
        pytest.skip(f"made with {facts['versions']}, this is {here}")
    assert facts["recipe"] == {**facts["recipe"], "steps": RECIPES[name].steps, "wrong_share": RECIPES[name].wrong_share}
    assert make(tmp_path, name) == (folder(name) / "model.safetensors").read_bytes()
