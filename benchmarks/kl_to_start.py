"""How far training took a model from its start: the KL divergence per token, from responses of the trained model.

    python -m benchmarks.kl_to_start START MODEL [MODEL ...] --records data/word_problems/test.parquet

The trained model answers each problem once at temperature 1, from its whole distribution, with the sampler of `gmpo-mm
evaluate`. Over the tokens, the mean of log p(trained) - log p(start) estimates KL(trained || start) in nats. A run directory
stands for its newest checkpoint. Needed after runs with `algorithm.disable_kl`, which keep no reference model.
"""

from __future__ import annotations

import argparse
import math
import sys

import torch

from gmpo_mm.config.schema import ModelConfig
from gmpo_mm.data import RecordKeys, build_prompt, load_records
from gmpo_mm.models.loading import load_policy
from gmpo_mm.models.packed import Group
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.processing import Processor
from gmpo_mm.rollout.hf import HFRollout
from gmpo_mm.rollout.protocol import SamplingParams
from gmpo_mm.runs.usable_model import usable_model

PROMPTS_A_PASS = 16


def load(name: str) -> tuple[PolicyModel, Processor]:
    """A model, adapters merged, frozen."""
    model = ModelConfig(model_path=usable_model(name, "model", whole=True), enable_gradient_checkpointing=False)
    return load_policy(model, device=torch.device("cpu"), compute_dtype=torch.float32, trains=False)


@torch.no_grad()
def measure(start: PolicyModel, trained: PolicyModel, prompts: list, longest: int) -> tuple[float, float, float]:
    """KL in nats a token, its standard error over the prompts, and tokens a response."""
    params = SamplingParams(n=1, temperature=1.0, max_tokens=longest)
    responses = HFRollout(trained).generate(prompts, params, list(range(len(prompts))))
    groups = [Group(prompt, [r.token_ids_T for r in given]) for prompt, given in zip(prompts, responses, strict=True)]
    sums, counts = [], []
    for begin in range(0, len(groups), PROMPTS_A_PASS):
        part = groups[begin : begin + PROMPTS_A_PASS]
        ours, theirs = (model.response_log_probs(part, 1.0) for model in (trained, start))
        gap_BT = torch.where(ours.mask_BT, ours.log_probs_BT - theirs.log_probs_BT, 0.0)
        sums += gap_BT.double().sum(1).tolist()
        counts += ours.mask_BT.sum(1).tolist()
    kl, mean = sum(sums) / sum(counts), sum(counts) / len(counts)
    spread = sum((s - kl * c) ** 2 for s, c in zip(sums, counts, strict=True)) / (len(sums) - 1)  # of a ratio of sums
    return kl, math.sqrt(spread / len(sums)) / mean, mean


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kl_to_start", description=__doc__)
    parser.add_argument("start")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--records", required=True, help="a file with columns `problem` and `answer`")
    parser.add_argument("--longest", type=int, default=48, help="tokens of a response at most")
    options = parser.parse_args()
    torch.set_num_threads(1)  # it may run beside a sweep
    start, processor = load(options.start)
    records = load_records(options.records, RecordKeys("problem"))
    prompts = [build_prompt(record, processor) for record in records]
    for name in options.models:
        kl, error, length = measure(start, load(name)[0], prompts, options.longest)
        print(f"{name}: {kl:.4f} nats a token (standard error {error:.4f}), {length:.1f} tokens a response", flush=True)


if __name__ == "__main__":
    sys.exit(main())
