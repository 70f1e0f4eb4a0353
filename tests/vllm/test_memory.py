"""What is freed between rounds, how forbidden tokens are kept out, and one seed for a whole call: on the real
vLLM."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import torch

from gmpo_mm.rollout.vllm import PARTS, VLLMRollout
from gmpo_mm.rollout.vllm_logits import forbid_tokens
from tests.rollout.vllm_double import SLEEP_TAGS, EngineDouble
from tests.vllm.conftest import NEEDS_VLLM
from tests.vllm.test_sampling import same

pytestmark = NEEDS_VLLM


def runner(rollout: VLLMRollout) -> Any:
    return rollout._llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner


def test_freeing_memory_drops_what_was_computed_of_pictures(tiny, rollout, sampling) -> None:
    prompts, seeds = tiny.prompts(), [1, 2, 3, 4, 5]
    first = rollout.generate(prompts, sampling(), seeds)
    assert len(runner(rollout).encoder_cache) > 0
    rollout.free_memory()
    assert len(runner(rollout).encoder_cache) == 0
    again = rollout.generate(
        prompts, sampling(), seeds
    )  # pictures are encoded anew, and the cache of prefixes is empty
    assert same(first, again)
    assert tiny.gap(tiny.fresh_model(), prompts, again) < 1e-4


def test_one_seed_for_a_call_gives_the_same_responses_again(tiny, rollout, sampling, monkeypatch) -> None:
    # as on a GPU with vLLM's first model runner; the CPU's sampler takes its noise from the same generator
    monkeypatch.setattr(rollout, "_seeds_requests", False)
    prompts, params = tiny.prompts(), sampling(temperature=2.0, n=8)
    before = torch.get_rng_state()
    groups = rollout.generate(prompts, params, [1, 2, 3, 4, 5])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)  # a resumed run comes with another state
    assert same(groups, rollout.generate(prompts, params, [1, 2, 3, 4, 5]))
    assert not same(groups, rollout.generate(prompts, params, [1, 2, 3, 4, 6]))
    assert len({tuple(r.token_ids_T.tolist()) for group in groups for r in group}) == 40
    assert tiny.gap(tiny.fresh_model(), prompts, groups, temperature=2.0) < 1e-4


def test_forbidden_tokens_are_kept_out_by_one_processor_for_both_runners(tiny, rollout) -> None:
    assert [kind.__name__ for kind in rollout._llm.llm_engine.vllm_config.model_config.logits_processors] == [
        "ForbiddenTokens"
    ]
    kind = forbid_tokens([1, 3])
    config, device = rollout._llm.llm_engine.vllm_config, torch.device("cpu")
    for processor in (kind(config, device, False), kind(config, SimpleNamespace(device=device))):
        logits_RV = torch.ones(2, 5)
        logits_RV[1, 3] = float("inf")  # a bias of minus infinity would make NaN of it
        kept = processor.apply(logits_RV)
        assert kept is logits_RV
        assert torch.equal(kept.isneginf(), torch.tensor([[False, True, False, True, False]]).expand(2, -1))
        assert (kept[:, [0, 2, 4]] == 1).all() and not processor.is_argmax_invariant()


def test_the_stand_in_for_the_engine_has_the_real_ones_methods() -> None:
    from vllm import LLM
    from vllm.config import VllmConfig
    from vllm.v1.engine.llm_engine import LLMEngine
    from vllm.v1.executor.abstract import SLEEP_TAGS as REAL_TAGS

    assert PARTS == SLEEP_TAGS == REAL_TAGS
    assert isinstance(VllmConfig.use_v2_model_runner, property)
    of_llm = {"sleep", "wake_up", "collective_rpc", "apply_model"}
    for name, method in vars(EngineDouble).items():
        if not name.startswith("_"):
            real = inspect.signature(getattr(LLM if name in of_llm else LLMEngine, name)).parameters
            if name not in ("add_request", "abort_request"):  # called by position
                assert set(inspect.signature(method).parameters) <= {*real, "self"}
