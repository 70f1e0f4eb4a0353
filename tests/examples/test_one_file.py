"""`examples/gmpo_in_one_file.py` beside the paper's formulas and beside the local engine's update.

How equal the two updates are, for the same answers, advantages and old log-probabilities:

- with one forward pass for both (the example's), the weights are equal to the last bit: loss, mean over the
  mini-batch, clipping of the gradient and AdamW are the same arithmetic;
- with a forward pass each they are not: the engine packs the answers of a group behind one prompt where the example
  pads them, so sums run in other orders, and AdamW's first steps divide the rounding error of a small gradient by
  that small gradient. The bounds are in TOLERANCES; those in float64 are about 20 times tighter, no more, since
  RMSNorm in transformers computes in float32.

Mutants of the example, each made by hand, and a test that fails:

gmpo_loss: no minus; `maximum` for `minimum`; no clip;      test_the_losses_are_the_paper_s_equations (and the bits of
  mean of ratios for exp(mean of logs); no power 1/|o|;       the loss, and both tests of the weights)
  the mean taken over the padding as well
a clip at 0.5                                               test_its_constants_are_the_quickstart_s (and those)
grpo_loss: no minus; no clip                                test_the_losses_are_the_paper_s_equations
update: `sum` for `mean` over the mini-batch; gradient      test_with_one_forward_pass_...
  not clipped; old log-probabilities taken anew each time
log_probs: logits taken one token late                      test_with_its_own_forward_pass_...
group_advantages: not divided by the deviation              test_advantages_are_the_engine_s
sample: the end token outside the mask                      test_the_mask_ends_with_the_end_token
"""

from __future__ import annotations

import ast
import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from gmpo_mm.algorithms import compute_advantages, compute_policy_loss
from gmpo_mm.config import load_config
from gmpo_mm.engines.local.launch import update_config
from gmpo_mm.models.loading import load_policy
from gmpo_mm.models.packed import Group, PackedOutput
from gmpo_mm.rollout.protocol import Response
from gmpo_mm.toys.synthetic_geometry import make_problem
from gmpo_mm.training.actor import Actor
from gmpo_mm.training.batch import Batch, SampledGroup
from gmpo_mm.training.optimizer import build_optimizer
from tests.bundled.encoding import encode

ROOT = Path(__file__).parents[2]
FILE = ROOT / "examples" / "gmpo_in_one_file.py"
CONFIGS = {"gmpo": "configs/quickstart.yaml", "grpo": "configs/quickstart_grpo.yaml"}
TOLERANCES = {torch.float32: (2e-4, 0.1), torch.float64: (1e-5, 0.005)}
"""Distance of all weights together, in units of their way from the start; of a single weight, in learning rates.
Measured in two updates: 3.4e-5 and 0.015 in float32, 1.6e-6 and 0.0007 in float64."""
FAST, TIGHT = 1e-3, 0.1  # a rate at which ratios reach the clips, and a bound that gradients' norms reach


def load_example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gmpo_in_one_file", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gmpo_in_one_file"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


example = load_example()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the example has it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Step:
    """A step's answers as the example samples and grades them, and what the example's update makes of them."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(1)
        self.model = example.Model()
        self.problems = [make_problem("train", index) for index in range(example.PROBLEMS)]
        self.prompts = self.model.encode(self.problems, copies=example.GROUP)
        self.answers = self.model.sample(self.prompts)
        rewards_B = example.grade(self.answers.texts, self.problems)
        self.advantages_B = example.group_advantages(rewards_B)
        assert bool((self.advantages_B > 0).any() and (self.advantages_B < 0).any())
        self.model.net.to(dtype)
        self.start = weights(self.model.net)
        with torch.no_grad():
            self.old_BT = self.model.log_probs(self.prompts, self.answers.tokens_BT, self.answers.mask_BT)

    def run_example(self, loss: str) -> dict[str, Tensor]:
        for group in self.model.optimizer.param_groups:
            group["lr"] = example.LEARNING_RATE
        example.update(self.model, self.prompts, self.answers, self.advantages_B, example.LOSSES[loss])
        return weights(self.model.net)

    def batch(self, processor: Any) -> Batch:
        """The same answers as the engine holds them."""
        groups = []
        for number, problem in enumerate(self.problems):
            rows = range(number * example.GROUP, (number + 1) * example.GROUP)
            responses = []
            for row in rows:
                mask_T = self.answers.mask_BT[row]
                log_probs_T = self.old_BT[row][mask_T].float()
                responses.append(Response(self.answers.tokens_BT[row][mask_T], log_probs_T, "stop"))
            scores = [{"overall": 0.0}] * len(rows)
            groups.append(SampledGroup(encode(problem, processor), responses, [""] * len(rows), scores))
        batch = Batch(groups)
        assert torch.equal(batch.mask_BT, self.answers.mask_BT)
        batch.advantages_BT = self.advantages_B[:, None] * batch.mask_BT
        batch.old_log_probs_BT = self.old_BT
        return batch


def weights(module: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def build_engine(loss: str, dtype: torch.dtype, *overrides: str) -> tuple[Actor, Any]:
    """The local engine's actor, in mini-batches of the example's size, each in one piece."""
    rows = example.PROBLEMS_AN_UPDATE * example.GROUP
    wanted = [
        f"worker.actor.optim.lr={example.LEARNING_RATE}", f"worker.actor.max_grad_norm={example.MAX_GRAD_NORM}",
        "worker.actor.dynamic_batching=false", f"worker.actor.micro_batch_size_per_device_for_update={rows}",
        "algorithm.drop_zero_advantage=false",
    ]  # fmt: skip
    if loss == "grpo":
        wanted.append("worker.actor.clip_ratio_dual=1e6")  # equation (1) has no dual clip
    config = load_config(str(ROOT / CONFIGS[loss]), [*wanted, *overrides]).config
    policy, processor = load_policy(
        config.worker.actor.model, device=torch.device("cpu"), compute_dtype=torch.float32
    )
    policy.module.to(dtype)
    return Actor(policy, build_optimizer(policy, config.worker.actor.optim), update_config(config)), processor


def use_the_example_s_forward_pass(actor: Actor, batch: Batch, step: Step) -> None:
    """The engine's update on log-probabilities from `Model.log_probs`, with the actor's own weights."""
    size = example.GROUP
    first_row = {id(group.prompt): number * size for number, group in enumerate(batch.groups)}
    model = example.Model()
    model.net = actor.policy.module
    model.net.config.get_text_config()._attn_implementation = step.model.net.config._attn_implementation

    def log_probs(groups: list[Group], temperature: float = 1.0, with_router: bool = False) -> PackedOutput:
        assert temperature == 1.0 and not with_router and all(len(g.responses) == size for g in groups)
        start = first_row[id(groups[0].prompt)]
        rows = slice(start, start + size * len(groups))
        mask_BT = step.answers.mask_BT[rows]
        log_probs_BT = model.log_probs(step.prompts.rows(rows), step.answers.tokens_BT[rows], mask_BT)
        return PackedOutput(log_probs_BT, torch.zeros_like(log_probs_BT), mask_BT)

    actor.policy.response_log_probs = log_probs  # type: ignore[method-assign, assignment]


def way_error(found: dict[str, Tensor], expected: dict[str, Tensor], start: dict[str, Tensor]) -> float:
    """How far two ends lie apart, in units of the way from the start."""
    apart = sum(float((found[name] - expected[name]).double().square().sum()) for name in start)
    way = sum(float((expected[name] - start[name]).double().square().sum()) for name in start)
    return math.sqrt(apart / way)


@pytest.fixture
def small_and_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two updates, in which all clips bind."""
    monkeypatch.setattr(example, "PROBLEMS", 2 * example.PROBLEMS_AN_UPDATE)
    monkeypatch.setattr(example, "LEARNING_RATE", FAST)
    monkeypatch.setattr(example, "MAX_GRAD_NORM", TIGHT)


def test_with_one_forward_pass_the_weights_are_the_engine_s_to_the_last_bit(small_and_fast: None) -> None:
    step = Step()
    # else the engine's first update takes its own log-probabilities as old ones, which are equal but for rounding
    actor, processor = build_engine("gmpo", torch.float32, "worker.actor.old_log_probs=sampler")
    batch = step.batch(processor)
    use_the_example_s_forward_pass(actor, batch, step)
    metrics = actor.update(batch)
    expected, found = weights(actor.policy.module), step.run_example("gmpo")
    check_that_all_clips_bind(metrics)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("loss", "dtype"), [("gmpo", torch.float32), ("gmpo", torch.float64), ("grpo", torch.float32)]
)
def test_with_its_own_forward_pass_the_engine_gives_nearly_the_same_weights(
    loss: str, dtype: torch.dtype, small_and_fast: None
) -> None:
    step = Step(dtype)
    actor, processor = build_engine(loss, dtype, "worker.actor.old_log_probs=recompute")
    check_that_all_clips_bind(actor.update(step.batch(processor)))
    expected, found = weights(actor.policy.module), step.run_example(loss)
    assert found.keys() == expected.keys()
    furthest = max(float((found[name] - expected[name]).abs().max()) for name in expected)
    of_the_way, of_a_step = TOLERANCES[dtype]
    assert way_error(found, expected, step.start) < of_the_way
    assert furthest < of_a_step * example.LEARNING_RATE


def check_that_all_clips_bind(metrics: dict[str, float]) -> None:
    assert metrics["actor/updates"] == 2
    assert metrics["clip/high_frac"] > 0 and metrics["clip/low_frac"] > 0
    assert metrics["actor/grad_norm"] > TIGHT


def paper_gmpo(ratios: list[float], advantage: float) -> float:
    """Equation (4) for one answer as it stands in the paper, without its expectation and 1/G."""
    product = 1.0
    for rho in ratios:
        clipped = min(max(rho, math.exp(-0.4)), math.exp(0.4))
        product *= abs(min(rho * advantage, clipped * advantage))
    return product ** (1 / len(ratios)) * math.copysign(1.0, advantage)


def paper_grpo(ratios: list[float], advantage: float) -> float:
    """Equation (1) for one answer, without its KL term."""
    return sum(min(r * advantage, min(max(r, 0.8), 1.2) * advantage) for r in ratios) / len(ratios)


def made_answers(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities, old ones, advantages of both signs and 0, and a mask; ratios on both sides of both clips."""
    generator = torch.Generator().manual_seed(4)
    old_BT = -3 * torch.rand(12, 9, generator=generator)
    log_probs_BT = (old_BT + 0.6 * torch.randn(12, 9, generator=generator)).to(dtype).requires_grad_()
    mask_BT = torch.arange(9) < torch.randint(1, 10, (12, 1), generator=generator)
    advantages_B = torch.randn(12, generator=generator)
    advantages_B[3] = 0.0
    return log_probs_BT, old_BT.to(dtype), advantages_B.to(dtype), mask_BT


@pytest.mark.parametrize(("loss", "paper"), [("gmpo", paper_gmpo), ("grpo", paper_grpo)])
def test_the_losses_are_the_paper_s_equations(
    loss: str, paper: Callable[[list[float], float], float]
) -> None:
    log_probs_BT, old_BT, advantages_B, mask_BT = made_answers(torch.float64)
    log_probs_BT = log_probs_BT.detach()
    found_B = example.LOSSES[loss](log_probs_BT, old_BT, advantages_B, mask_BT)
    for row in range(len(mask_BT)):
        ratios = torch.exp(log_probs_BT - old_BT)[row][mask_BT[row]].tolist()
        expected = -paper(ratios, float(advantages_B[row]))
        assert float(found_B[row]) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_loss_and_gradient_are_the_engine_s_to_the_last_bit() -> None:
    log_probs_BT, old_BT, advantages_B, mask_BT = made_answers(torch.float32)
    config = update_config(load_config(str(ROOT / CONFIGS["gmpo"]), []).config).loss
    found = example.gmpo_loss(log_probs_BT, old_BT, advantages_B, mask_BT).sum()
    expected = compute_policy_loss(log_probs_BT, old_BT, advantages_B[:, None] * mask_BT, mask_BT, config).sum
    assert torch.equal(found, expected)
    (found_BT,), (expected_BT,) = (torch.autograd.grad(x, log_probs_BT) for x in (found, expected))
    assert torch.equal(found_BT, expected_BT) and bool(found_BT.any())


def test_advantages_are_the_engine_s() -> None:
    rewards_B = (torch.arange(8) < torch.arange(9)[:, None]).double().flatten()  # 0 to 8 of 8 are right
    groups_B = torch.arange(9).repeat_interleave(8)
    assert torch.equal(
        example.group_advantages(rewards_B), compute_advantages("grpo", rewards_B, groups_B).float()
    )
    assert not example.group_advantages(rewards_B)[[0, -1]].any()


def test_its_constants_are_the_quickstart_s() -> None:
    for loss, file in CONFIGS.items():
        config = load_config(str(ROOT / file), []).config
        actor = config.worker.actor
        assert config.data.rollout_batch_size == example.PROBLEMS and config.worker.rollout.n == example.GROUP
        assert actor.global_batch_size == example.PROBLEMS_AN_UPDATE
        assert config.data.max_response_length == example.LONGEST and config.worker.rollout.temperature == 1.0
        assert actor.optim.lr == example.LEARNING_RATE and actor.max_grad_norm == example.MAX_GRAD_NORM
        if loss == "gmpo":
            assert actor.gmpo.log_clip_low == actor.gmpo.log_clip_high == example.LOG_CLIP
        else:
            assert actor.clip_ratio_low == actor.clip_ratio_high == example.RATIO_CLIP


def test_log_probs_are_those_that_it_sampled_from(small_and_fast: None) -> None:
    """Greedy answers are the most probable token by token, which a shift of the logits or of the mask would undo."""
    step = Step()
    answers = step.model.sample(step.prompts, temperature=1e-4)
    with torch.no_grad():
        log_probs_BT = step.model.log_probs(step.prompts, answers.tokens_BT, answers.mask_BT)
    assert bool((log_probs_BT[~answers.mask_BT] == 0).all())
    assert float(log_probs_BT.exp()[answers.mask_BT].min()) > 1 / 4  # few tokens compete


def test_the_mask_ends_with_the_end_token(small_and_fast: None) -> None:
    step = Step()
    end = step.model.tokenizer.eos_token_id
    for tokens_T, mask_T in zip(step.answers.tokens_BT, step.answers.mask_BT, strict=True):
        kept = tokens_T[mask_T].tolist()
        assert end not in kept[:-1] and (kept[-1] == end or len(kept) == example.LONGEST)


def test_grades() -> None:
    problem = make_problem("train", 0)
    right = f"<think>1</think>\\boxed{{{problem.answer}}}"
    texts = [
        right,
        right + "0",
        right.replace("<think>", ""),
        f"<think>1</think>\\boxed{{{problem.answer}0}}",
    ]
    assert example.grade(texts, [problem]).tolist() == [1, 0, 0, 0]


def test_it_has_at_most_250_lines_and_needs_torch_and_transformers_alone() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 250
    tree = ast.parse(text)
    froms = {
        node.module.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
    }
    names = {
        alias.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names
    }
    assert (froms | names) - set(sys.stdlib_module_names) == {"torch", "transformers", "gmpo_mm"}
    engine = {"engines", "training", "algorithms", "rollout"}
    assert not any(f"gmpo_mm.{room}" in text for room in engine)


def test_it_runs_from_any_folder_and_leaves_nothing_there(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(FILE), "--steps", "1"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    check_output(done.stdout)
    assert not list(tmp_path.iterdir())


def test_it_trains_with_grpo_as_well(
    small_and_fast: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(example, "TEST_PROBLEMS", 4)
    monkeypatch.setattr(sys, "argv", ["x", "--steps", "1", "--loss", "grpo", "--seed", "2"])
    example.main()
    check_output(capsys.readouterr().out)


def check_output(text: str) -> None:
    first, step, last = text.splitlines()
    assert first.startswith("Pass@1 before: 0.")
    assert step.startswith("step  1/1  reward 0.") and "token ratios" in step
    assert last.startswith("Pass@1 before 0.") and ", after 0." in last


def test_it_refuses_to_take_no_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--steps", "0"])
    with pytest.raises(SystemExit):
        example.main()
    assert "--steps 0: give 1 or more" in capsys.readouterr().err
