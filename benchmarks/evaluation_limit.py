"""What fraction of a CPU's limit the sampling of an evaluation reaches, and what its sharing of work saves.

    python -m benchmarks.evaluation_limit                        # both cases, about a minute on one core
    python -m benchmarks.evaluation_limit --case bundled --json FILE

The limit is a roofline: each forward pass takes at least its operations over the rate of a large matrix product, and at
least the bytes that it has to read (all weights once, and the cache of each line) over the rate at which a matrix-vector
product reads memory. Both rates are measured here, on the same threads, before and after; the better ones count. Counted
is only what has to be done: each prompt once, each open sample that differs from the others once, and no padding.

Cases: `bundled`, the bundled model on its own benchmark (64 x 16, as `gmpo-mm evaluate` has it), and `135m`, random
weights in the shape of SmolLM2-135M with prompts of 60 to 400 tokens, in their own order and longest first.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.ratios import Ratios
from gmpo_mm.config.schema import Config
from gmpo_mm.data.prompts import EncodedPrompt, build_prompt
from gmpo_mm.data.records import Record
from gmpo_mm.evaluation.benchmark import load_benchmark, open_benchmark
from gmpo_mm.evaluation.generators import LocalModel
from gmpo_mm.models.flops import ModelFlops, Work, work_of
from gmpo_mm.models.loading import use_packed_attention
from gmpo_mm.models.packed import Group
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.rollout.hf import HFRollout, RolloutCache
from gmpo_mm.rollout.protocol import SamplingParams
from gmpo_mm.rollout.seeds import evaluation_seed
from gmpo_mm.runs.progress import Progress

FLOAT = 4
"""Bytes of a float32."""
SAMPLES_A_CALL = {"bundled": 256, "135m": 64}
"""Responses that are sampled at once; 256 is the default of `gmpo-mm evaluate`."""
CASES = tuple(SAMPLES_A_CALL)


@dataclass
class Rates:
    """The best that this machine showed: FLOP/s of a product of float32 matrices, bytes/s read."""

    flops: float
    bytes: float


@dataclass
class Counts:
    """What a run of the sampler did, and how long it took."""

    seconds: float = 0.0
    """CPU seconds of each thread, which other work on the machine moves less than wall time."""
    passes: list[tuple[float, float]] = field(default_factory=list)
    """Operations and bytes of each forward pass."""
    prompt_tokens: int = 0
    lines: int = 0
    columns_read: int = 0
    columns_needed: int = 0
    lengths: list[int] = field(default_factory=list)
    """Of all responses, in tokens."""

    def limit(self, rates: Rates) -> tuple[float, float]:
        """The least seconds that the passes take, and those of them in which memory is the narrower one."""
        least = [(flops / rates.flops, read / rates.bytes) for flops, read in self.passes]
        return sum(map(max, least)), sum(read for flops, read in least if read > flops)


class CountingRollout(HFRollout):
    """The built-in sampler, counting what each forward pass has to do."""

    def __init__(self, policy: PolicyModel) -> None:
        super().__init__(policy)
        self.counts = Counts()
        self.model = ModelFlops.of(policy.module)
        text = policy.causal_lm.config.get_text_config()
        heads = int(text.num_key_value_heads)
        size = int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
        self.cached_token = FLOAT * 2 * int(text.num_hidden_layers) * heads * size
        weights = self.model.decoder.trained + self.model.decoder.frozen
        weights += self.model.head.trained + self.model.head.frozen
        self.weights = FLOAT * weights

    def _prefill(self, prompts: Sequence[EncodedPrompt], params: SamplingParams) -> tuple:
        vision = getattr(self.policy.causal_lm.config, "vision_config", None)
        work = work_of([Group(prompt, []) for prompt in prompts], vision)
        work.head_tokens = len(prompts)
        self.counts.prompt_tokens += work.tokens
        self.counts.passes.append((self.model.count(work, backward=False), self.weights))
        return super()._prefill(prompts, params)

    def _decode(
        self, tokens_L: torch.Tensor, positions_L: torch.Tensor, cache: RolloutCache
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        lines, needed = len(tokens_L), int(cache.length_L.sum()) + len(tokens_L)
        work = Work(tokens=lines, head_tokens=lines, pairs=needed)
        read = self.weights + self.cached_token * needed
        self.counts.passes.append((self.model.count(work, backward=False), read))
        self.counts.lines += lines
        self.counts.columns_read += lines * cache.columns
        self.counts.columns_needed += needed
        return super()._decode(tokens_L, positions_L, cache)


def measure_rates() -> Rates:
    """A product of 1024 x 1024 matrices, and a matrix of 256 MiB times a vector."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    flops = 2 * 1024**3 / best_seconds(lambda: a @ b, 20)
    matrix, vector = torch.ones(8192, 8192), torch.ones(8192)
    return Rates(flops, FLOAT * matrix.numel() / best_seconds(lambda: matrix @ vector, 10))


def best_seconds(work: Callable[[], Any], times: int) -> float:
    """The shortest of so many runs, after one that does not count."""
    work()
    found = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


def sample(
    policy: PolicyModel, prompts: Sequence[EncodedPrompt], params: SamplingParams, at_once: int
) -> Counts:
    """Sample as an evaluation does, call after call."""
    rollout, a_call = CountingRollout(policy), max(1, at_once // params.n)
    started = time.process_time()
    for start in range(0, len(prompts), a_call):
        part = prompts[start : start + a_call]
        groups = rollout.generate(part, params, [evaluation_seed(1, start + i) for i in range(len(part))])
        rollout.counts.lengths += [len(response.token_ids_T) for group in groups for response in group]
        policy.forget_images()
    rollout.counts.seconds = (time.process_time() - started) / torch.get_num_threads()
    return rollout.counts


def bundled_case(problems: int) -> tuple[PolicyModel, list[EncodedPrompt], SamplingParams]:
    """The bundled model, and the prompts of its benchmark."""
    config = Config()
    config.worker.actor.model.model_path = "bundled:qwen2_5_vl_tiny"
    config.worker.actor.model.enable_gradient_checkpointing = False
    config.worker.rollout.name = "hf"
    config.trainer.device, config.trainer.dtype = "cpu", "float32"
    local = LocalModel(config, Progress())
    records = open_benchmark(load_benchmark("synthetic_pictures"), None, problems)
    assert local.policy is not None
    prompts = [build_prompt(record, local.processor) for record in records]
    return local.policy, prompts, SamplingParams(n=16, temperature=0.5, max_tokens=24)


def random_case(problems: int, tokens: int) -> tuple[PolicyModel, list[EncodedPrompt], SamplingParams]:
    """Random weights in SmolLM2-135M's shape, and prompts of random tokens; each response has `tokens` tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=2048, tie_word_embeddings=True,
    )  # fmt: skip
    policy = PolicyModel(use_packed_attention(LlamaForCausalLM(shape).eval().requires_grad_(False)))
    prompts = []
    for index in range(problems):
        length = 60 + 340 * (index * 5 % problems) // max(1, problems - 1)  # 60 .. 400, in no order
        record = Record(problem="", images=(), answer="", answers=("",), id=str(index))
        ids = torch.randint(0, shape.vocab_size, (length,))
        prompts.append(EncodedPrompt(record, "", ids, ids.tolist(), (), None, None))
    return policy, prompts, SamplingParams(n=16, temperature=1.0, max_tokens=tokens, ignore_eos=True)


def report(name: str, counts: Counts, params: SamplingParams, rates: Rates, ratios: Ratios) -> dict[str, Any]:
    """Print one run's ratios, and add those that a change of the code may move."""
    full = sum(
        max(counts.lengths[i : i + params.n]) * params.n for i in range(0, len(counts.lengths), params.n)
    )
    limit, bound_by_memory = counts.limit(rates)
    shown = {
        "share of the limit": limit / counts.seconds,
        "share of the limit's time that memory bounds": bound_by_memory / limit,
        "prompt tokens encoded / without sharing": 1 / params.n,
        "tokens decoded / lines to each group's longest": counts.lines / full,
        "cache columns read / needed": counts.columns_read / max(1, counts.columns_needed),
    }
    print(f"\n{name}: {len(counts.lengths):,} responses, {counts.prompt_tokens:,} prompt tokens encoded")
    print(f"  {counts.seconds:.2f} s, and at least {limit:.2f} s")
    for words, value in shown.items():
        print(f"  {words:<50}{value:8.3f}")
    ratios.add(f"share of the limit: {name}", limit, counts.seconds, better="higher")
    ratios.add(
        f"cache columns read / needed: {name}", counts.columns_read, counts.columns_needed, better="lower"
    )
    return shown | {"seconds": counts.seconds, "limit_s": limit}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--case", choices=CASES, action="append", help="one of the cases; both when not given"
    )
    parser.add_argument("--problems", type=int, help="64 for bundled and 8 for 135m when not given")
    parser.add_argument("--tokens", type=int, default=32, help="length of a response in 135m")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    before, ratios, found, runs = measure_rates(), Ratios(), {}, []
    for case in options.case or CASES:
        if case == "bundled":
            policy, prompts, params = bundled_case(options.problems or 64)
            orders = {case: prompts}
        else:
            policy, prompts, params = random_case(options.problems or 8, options.tokens)
            longest_first = sorted(prompts, key=lambda prompt: -len(prompt.input_ids_S))
            orders = {f"{case}, as they come": prompts, f"{case}, longest first": longest_first}
        sample(policy, prompts[:1], params, SAMPLES_A_CALL[case])  # what only the first call does
        for name, ordered in orders.items():
            runs.append((name, sample(policy, ordered, params, SAMPLES_A_CALL[case]), params))
    after = measure_rates()
    rates = Rates(max(before.flops, after.flops), max(before.bytes, after.bytes))
    print(
        f"threads: {torch.get_num_threads()}; {rates.flops / 1e9:.1f} GFLOP/s, {rates.bytes / 1e9:.1f} GB/s"
    )
    for name, counts, params in runs:
        found[name] = report(name, counts, params, rates, ratios)
    if options.json is not None:
        numbers = {"gflops": rates.flops / 1e9, "gb_s": rates.bytes / 1e9, "runs": found}
        ratios.write(options.json, numbers)


if __name__ == "__main__":
    main()
