"""The order in which vLLM's memory comes and goes on a GPU, and its seeds there, with a stand-in for its
engine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from gmpo_mm.rollout import vllm as backend
from gmpo_mm.rollout.protocol import SamplingParams
from gmpo_mm.rollout.vllm import VLLMRollout
from tests.models.model_zoo import IS_V5, build_model, make_prompt
from tests.rollout.vllm_double import vllm_double

pytestmark = pytest.mark.skipif(not IS_V5, reason="vLLM needs transformers 5, and so do the names of its weights")
Start = Callable[..., tuple[VLLMRollout, list[str]]]
PARAMS = SamplingParams(n=3, temperature=1.0, max_tokens=4)
CACHES = "drop encoder cache"
FALLS_ASLEEP = [CACHES, "sleep 1"]
TAKES_WEIGHTS = ["empty cache", "wake weights", "reload", CACHES]
OPENS_CACHE = ["empty cache", "wake kv_cache"]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """A backend that takes itself to be on a GPU, and the list of calls that its engine gets."""

    def make(second_runner: bool = True, **options: Any) -> tuple[VLLMRollout, list[str]]:
        calls: list[str] = []
        monkeypatch.setattr(backend, "import_vllm", lambda device: vllm_double(calls, second_runner))
        monkeypatch.setattr(backend, "globals_kept", lambda device: nullcontext())
        monkeypatch.setattr(backend, "_patch_size", lambda *_: None)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("empty cache"))
        rollout = VLLMRollout(
            "model", dtype=torch.bfloat16, device=torch.device("cuda:0"), seed=1, max_model_len=64, forbidden_token_ids=[],
            eos_token_ids=[2], **options,
        )  # fmt: skip
        return rollout, calls

    return make


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return build_model("qwen2")


def generate(rollout: VLLMRollout, seeds: tuple[int, ...] = (1, 2)) -> None:
    prompts = [make_prompt(5, [], seed=seed) for seed in seeds]
    found = rollout.generate(prompts, PARAMS, list(seeds))
    assert [len(group) for group in found] == [3] * len(seeds)


def taken(calls: list[str]) -> list[str]:
    made = list(calls)
    calls.clear()
    return made


def test_weights_first_then_the_cache_then_neither(start: Start, model: torch.nn.Module) -> None:
    rollout, calls = start()
    assert taken(calls) == FALLS_ASLEEP  # the run loads its checkpoint and optimizer states next
    for _ in range(2):
        rollout.sync_weights(model)
        assert taken(calls) == TAKES_WEIGHTS
        generate(rollout)  # a validation
        assert taken(calls) == [*OPENS_CACHE, "step"]
        generate(rollout)  # the step's own samples, in as many calls as the filter needs
        generate(rollout)
        assert taken(calls) == ["step", "step"]
        rollout.free_memory()
        assert taken(calls) == FALLS_ASLEEP


def test_a_second_free_changes_nothing_and_a_cache_that_stayed_away_stays_away(
    start: Start, model: torch.nn.Module
) -> None:
    rollout, calls = start()
    rollout.free_memory()
    assert taken(calls) == [*FALLS_ASLEEP, CACHES]
    rollout.sync_weights(model)
    rollout.free_memory()
    assert taken(calls) == [*TAKES_WEIGHTS, *FALLS_ASLEEP]


def test_sampling_without_a_sync_wakes_both(start: Start) -> None:
    rollout, calls = start()
    generate(rollout)
    assert taken(calls)[2:] == ["empty cache", "wake weights", *OPENS_CACHE, "step"]


def test_new_weights_while_everything_is_awake_move_nothing(start: Start, model: torch.nn.Module) -> None:
    rollout, calls = start()
    generate(rollout)
    taken(calls)
    rollout.sync_weights(model)
    generate(rollout)
    assert taken(calls) == ["reload", CACHES, "step"]


def test_a_cache_that_finds_no_room_is_still_away_afterwards(start: Start, model: torch.nn.Module) -> None:
    rollout, calls = start()
    rollout.sync_weights(model)
    rollout._llm.fails_to_wake = "kv_cache"
    with pytest.raises(RuntimeError, match="out of memory"):
        generate(rollout)
    rollout._llm.fails_to_wake = None
    taken(calls)
    generate(rollout)
    assert taken(calls) == [*OPENS_CACHE, "step"]


def test_an_error_while_sampling_leaves_no_request_and_the_memory_can_be_freed(
    start: Start, monkeypatch
) -> None:
    rollout, calls = start()
    monkeypatch.setattr(rollout._llm, "step", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate(rollout)
    assert not rollout._llm.waiting
    taken(calls)
    rollout.free_memory()
    assert taken(calls) == FALLS_ASLEEP


def test_an_engine_that_has_the_gpu_to_itself_never_sleeps(start: Start) -> None:
    rollout, calls = start(sleep_between_rounds=False)
    assert taken(calls) == []
    generate(rollout)
    rollout.free_memory()
    assert taken(calls) == ["step", CACHES]
    assert rollout._llm.options["enable_sleep_mode"] is False


def test_the_second_runner_seeds_each_request(start: Start) -> None:
    rollout, _ = start()
    generate(rollout, (1, 2))
    generate(rollout, (2,))
    one, two, again = rollout._llm.seeds
    assert two == again and one != two


def test_the_first_runner_gets_one_seed_a_call(start: Start) -> None:
    rollout, _ = start(second_runner=False)
    states = []
    for seeds in ((1, 2), (1, 2), (1, 3), (12,)):
        generate(rollout, seeds)
        states.append(torch.initial_seed())
    assert rollout._llm.seeds == [None] * 7
    assert states[0] == states[1] and len(set(states)) == 3
