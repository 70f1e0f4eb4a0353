"""Updates of the bundled models against a naive float64 reference: numbers, gradients, new weights.

Policy loss, KL in the loss, entropy bonus, truncated importance weights, clipping of the gradient's norm,
decoupled weight decay and AdamW are written out in `naive_update`; `Actor.update` has to give the same in
float32.

Mutants of the local engine: the changed line, what it then does, the test that fails. Each was made by hand.
Files are those of `gmpo_mm/training` and, on the right, of `tests/training` and `tests/engine`.

actor.py, `_loss`: the KL term is subtracted              test_update_equals_the_naive_one
actor.py, `_loss`: the entropy is added                   test_update_equals_the_naive_one
actor.py, `_loss`: importance weights inverted            test_update_equals_the_naive_one
actor.py, `_optimizer_step`: no clipping                  test_update_equals_the_naive_one
optimizer.py, `build_optimizer`: no weight decay              test_update_equals_the_naive_one
actor.py, `log_probs`: at temperature 1                   test_log_probs_are_taken_at_the_sampling_temperature

                                                          test_step_inputs.py:
trainer.py, `_prepare_log_probs`: reference with LoRA     test_the_reference_of_lora_has_no_adapter
trainer.py, `_prepare_log_probs`: old ones not computed   test_old_log_probs_of_a_truncated_sampler
trainer.py, `_step`: the rate does not reach AdamW        test_the_optimizer_takes_the_schedule_s_rate
trainer.py, `_load`: skipped_in_a_row stays 0             test_bad_updates_are_counted_across_a_resume
trainer.py, `_load`: best_score stays None                test_a_resumed_run_knows_its_best_validation

                                                          test_trainer.py:
trainer.py, `_advantages`: KL controller takes 1 for B    test_the_kl_controller_counts_every_sample
trainer.py, `_advantages`: no KL penalty in the reward    test_advantages_with_and_without_kl_in_the_reward
trainer.py, `_advantages`: baselines of other rows        test_advantages_with_and_without_kl_in_the_reward

                                                          test_sampling.py:
sampling.py, `_make_once`: a refill repeats the seeds     test_seeds_differ_between_calls_and_steps
sampling.py, `_make_once`: every step has equal seeds     test_seeds_differ_between_calls_and_steps
sampling.py, `make`: baselines of dropped groups stay     test_filtered_groups_keep_their_greedy_baselines
validation.py, `run`: every call repeats the seeds        test_validation_seeds_differ_by_problem_alone
validation.py, `run`: every problem has the same seed     test_validation_seeds_differ_by_problem_alone
validation.py, `run`: the seeds of the first step         test_validation_seeds_differ_by_problem_alone
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from gmpo_mm.config import load_config, resolve_model_path
from gmpo_mm.config.schema import Config
from gmpo_mm.data.prompts import EncodedPrompt
from gmpo_mm.data.records import Record
from gmpo_mm.engines.local.launch import update_config
from gmpo_mm.models.loading import load_policy
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.processing import Processor
from gmpo_mm.rollout.hf import HFRollout
from gmpo_mm.rollout.protocol import Response, SamplingParams
from gmpo_mm.toys.synthetic_geometry import make_problem
from gmpo_mm.training.actor import Actor
from gmpo_mm.training.batch import Batch, SampledGroup
from gmpo_mm.training.optimizer import build_optimizer
from tests.bundled.encoding import encode
from tests.training.naive_update import Row, Settings, Step, outputs, reference_update

QUICKSTART = str(Path(__file__).parents[2] / "configs" / "quickstart.yaml")
PROMPTS, GROUP, LONGEST = 5, 2, 8
TEXT, VISION = "bundled:qwen2_tiny", "bundled:qwen2_5_vl_tiny"

GMPO = Settings(loss="gmpo", kl="low_var_kl", old="recompute", cap=1.5, max_grad_norm=0.5)
SCENARIOS = {
    "gmpo": (TEXT, GMPO),
    "ppo-token-mean": (TEXT, replace(GMPO, loss="default", unit="token", kl="kl")),
    "sampler-is-old": (TEXT, replace(GMPO, kl="mse", old="sampler", cap=None)),
    "on-policy-then-sampler": (TEXT, replace(GMPO, loss="default", old="auto", cap=None)),
    "pictures": (VISION, GMPO),
}
GRADIENT_TOLERANCE, MOVE_TOLERANCE, NUMBER_TOLERANCE = 3e-4, 3e-3, 2e-4
"""Relative: of a step's whole gradient, of the weights' whole way from the start (Adam's first steps divide
rounding errors of small gradients by small gradients), of a metric."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The matrices are tiny, and threads would wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def configuration(model: str, s: Settings) -> Config:
    """The scenario as a user writes it."""
    overrides = [
        f"worker.actor.model.model_path={model}", f"worker.actor.loss_type={s.loss}",
        f"worker.actor.loss_avg_mode={s.unit}", f"worker.actor.entropy_coef={s.entropy_coef}",
        f"worker.actor.old_log_probs={s.old}", f"worker.actor.max_grad_norm={s.max_grad_norm}",
        f"worker.actor.global_batch_size={s.mini_batch_prompts}", f"worker.actor.ppo_epochs={s.epochs}",
        "worker.actor.dynamic_batching=false", "worker.actor.micro_batch_size_per_device_for_update=4",
        "worker.actor.micro_batch_size_per_device_for_experience=7",
        f"worker.actor.optim.lr={s.lr}", f"worker.actor.optim.betas=[{s.betas[0]},{s.betas[1]}]",
        f"worker.actor.optim.weight_decay={s.weight_decay}", f"worker.rollout.temperature={s.temperature}",
        f"worker.rollout.n={GROUP}", "algorithm.disable_kl=false", "algorithm.use_kl_loss=true",
        f"algorithm.kl_penalty={s.kl}", f"algorithm.kl_coef={s.kl_coef}",
        "algorithm.drop_zero_advantage=false",
    ]  # fmt: skip
    if s.cap is not None:
        overrides += ["worker.rollout.correction=truncated", f"worker.rollout.correction_cap={s.cap}"]
    return load_config(QUICKSTART, overrides).config


def make_prompts(model: str, processor: Processor) -> list[EncodedPrompt]:
    if model == VISION:
        return [encode(make_problem("train", index), processor) for index in range(PROMPTS)]
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(3, 320, (5 + 2 * i,), generator=generator) for i in range(PROMPTS)]
    return [
        EncodedPrompt(Record("?", (), "1", ("1",), str(i)), "", tokens, tokens.tolist(), (), None, None)
        for i, tokens in enumerate(ids)
    ]


def make_batch(policy: PolicyModel, encoded: list[EncodedPrompt], temperature: float) -> Batch:
    """Responses of 1 to 8 tokens; sampler and reference have log-probabilities of their own."""
    generator = torch.Generator().manual_seed(5)
    params = SamplingParams(n=GROUP, temperature=temperature, max_tokens=LONGEST, ignore_eos=True)
    groups = []
    for sampled, prompt in zip(
        HFRollout(policy).generate(encoded, params, range(PROMPTS)), encoded, strict=True
    ):
        responses = []
        for response in sampled:
            length = int(torch.randint(1, LONGEST + 1, (), generator=generator))
            noise_T = 0.5 * torch.randn(length, generator=generator)
            responses.append(
                Response(response.token_ids_T[:length], response.log_probs_T[:length] + noise_T, "length")
            )
        groups.append(SampledGroup(prompt, responses, [""] * GROUP, [{"overall": 0.0}] * GROUP))
    batch = Batch(groups)
    batch.advantages_BT = torch.randn(len(batch), generator=generator)[:, None] * batch.mask_BT
    noise_BT = 0.7 * torch.randn(batch.mask_BT.shape, generator=generator)
    batch.ref_log_probs_BT = (batch.sampler_log_probs_BT + noise_BT) * batch.mask_BT
    return batch


def rows_of(batch: Batch) -> list[Row]:
    rows = []
    for index, response in enumerate(r for g in batch.groups for r in g.responses):
        n = len(response.token_ids_T)
        assert batch.ref_log_probs_BT is not None
        rows.append(
            Row(
                group=index // GROUP, prompt=batch.groups[index // GROUP].prompt, tokens=response.token_ids_T,
                advantage=float(batch.advantages_BT[index, 0]), sampler=response.log_probs_T.tolist(),
                ref=batch.ref_log_probs_BT[index, :n].tolist(),
            )
        )  # fmt: skip
    return rows


def load_float64(model: str) -> torch.nn.Module:
    """The same folder through transformers alone, with the vision tower frozen as in the configuration."""
    kind = transformers.AutoModelForImageTextToText if model == VISION else transformers.AutoModelForCausalLM
    loaded = kind.from_pretrained(resolve_model_path(model), dtype=torch.float64, attn_implementation="eager")
    if model == VISION:
        loaded.model.visual.requires_grad_(False)
    return loaded.eval()


def build(model: str, s: Settings) -> tuple[Actor, Batch]:
    """The actor of a configuration, and a batch for it."""
    config = configuration(model, s)
    policy, processor = load_policy(
        config.worker.actor.model, device=torch.device("cpu"), compute_dtype=torch.float32
    )
    actor = Actor(policy, build_optimizer(policy, config.worker.actor.optim), update_config(config))
    return actor, make_batch(policy, make_prompts(model, processor), s.temperature)


def watch(actor: Actor) -> list[Step]:
    """A list that fills with what each optimizer step took and left; the norms are in the metrics only."""
    steps: list[Step] = []
    names = {name: p for name, p in actor.policy.module.named_parameters() if p.requires_grad}

    def before(*_: object) -> None:
        steps.append(Step({name: p.grad.clone() for name, p in names.items() if p.grad is not None}, 0.0, {}))

    def after(*_: object) -> None:
        steps[-1].weights.update({name: p.detach().clone() for name, p in names.items()})

    actor.optimizer.register_step_pre_hook(before)
    actor.optimizer.register_step_post_hook(after)
    return steps


def flat(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


def gradient_error(step: Step, expected: Step) -> float:
    return float((flat(step.gradients) - flat(expected.gradients)).norm() / flat(expected.gradients).norm())


def move_error(step: Step, expected: Step, start: dict[str, torch.Tensor]) -> float:
    way = flat(expected.weights) - flat(start)
    return float((flat(step.weights) - flat(expected.weights)).norm() / way.norm())


def trained_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", SCENARIOS)
def test_update_equals_the_naive_one(name: str) -> None:
    model, s = SCENARIOS[name]
    actor, batch = build(model, s)
    if s.old == "recompute":
        batch.old_log_probs_BT = actor.log_probs(batch)
    steps = watch(actor)
    metrics = actor.update(batch, s.kl_coef)

    reference = load_float64(model)
    start = trained_weights(reference)
    expected, numbers = reference_update(reference, rows_of(batch), s, actor.policy.forbidden_token_ids)
    assert len(steps) == len(expected) == 6
    pairs = list(zip(steps, expected, strict=True))
    assert all(step.gradients.keys() == wanted.gradients.keys() for step, wanted in pairs)
    gradient_errors = [gradient_error(*pair) for pair in pairs]
    move_errors = [move_error(*pair, start) for pair in pairs]
    assert max(gradient_errors) < GRADIENT_TOLERANCE, (gradient_errors, move_errors)
    assert max(move_errors) < MOVE_TOLERANCE, (gradient_errors, move_errors)
    if s.old == "recompute":  # the gap is then measured when the old log-probabilities are
        numbers = {key: value for key, value in numbers.items() if not key.startswith("rollout/")}
    for key, value in numbers.items():
        assert metrics[key] == pytest.approx(value, rel=NUMBER_TOLERANCE), key
    assert metrics["actor/updates"] == 6 and metrics["actor/kl_coef"] == s.kl_coef


def test_log_probs_are_taken_at_the_sampling_temperature() -> None:
    actor, batch = build(TEXT, GMPO)
    found_BT = actor.log_probs(batch)
    reference = load_float64(TEXT)
    for index, row in enumerate(rows_of(batch)):
        with torch.no_grad():
            expected_T, _ = outputs(reference, row, GMPO.temperature, actor.policy.forbidden_token_ids)
        torch.testing.assert_close(
            found_BT[index, : len(expected_T)].double(), expected_T, atol=2e-5, rtol=1e-5
        )
    assert bool((found_BT[~batch.mask_BT] == 0).all())


MUTANTS = {
    "sign of the KL term": replace(GMPO, kl_coef=-GMPO.kl_coef),
    "sign of the entropy bonus": replace(GMPO, entropy_coef=-GMPO.entropy_coef),
    "importance weights inverted": replace(GMPO, weight_power=-1),
    "gradient clipping off": replace(GMPO, max_grad_norm=1e9),
    "weight decay off": replace(GMPO, weight_decay=0.0),
    "logits not divided by the temperature": replace(GMPO, temperature=1.0),
    "betas of AdamW left at their defaults": replace(GMPO, betas=(0.9, 0.999)),
}


def test_every_term_is_far_larger_than_the_tolerances() -> None:
    """The reference with one term changed, as a mutant would change it, is far from the reference."""
    actor, batch = build(TEXT, GMPO)
    rows = rows_of(batch)[: 3 * GROUP]
    start = trained_weights(load_float64(TEXT))

    def steps_of(s: Settings) -> list[Step]:
        short = replace(s, epochs=1, mini_batch_prompts=1)
        return reference_update(load_float64(TEXT), rows, short, actor.policy.forbidden_token_ids)[0]

    right = steps_of(GMPO)
    for name, settings in MUTANTS.items():
        distances = [
            max(gradient_error(a, b) / GRADIENT_TOLERANCE, move_error(a, b, start) / MOVE_TOLERANCE)
            for a, b in zip(steps_of(settings), right, strict=True)
        ]
        assert max(distances) > 30, (name, distances)
