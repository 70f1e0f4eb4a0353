"""The built-in sampler: transformers' decoder, each prompt encoded once, key-value cache, finished rows leave the batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from gmpo_mm.data.prompts import EncodedPrompt
from gmpo_mm.models.packed_attention import PackedLayout, build_layout
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.token_log_probs import scaled_logits
from gmpo_mm.rollout.protocol import Response, SamplingParams

GROWTH = 64
"""Columns by which the cache grows at least when it is full."""
KEEP_FRACTION = 0.85
"""The batch is compacted once no more than this share of its rows is still running."""


class RolloutCache:
    """Keys and values of (rows, K, L, D) for every layer.

    Filled in two phases: the packed prompts (every prompt once, then repeated for its samples), then one column a step.
    """

    def __init__(self, layout: PackedLayout, samples: int, first_growth: int) -> None:
        self.layout: PackedLayout | None = layout
        self.samples = samples
        self.first_growth = first_growth
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.length = layout.prompt_index_RP.shape[1]
        self.mask_RL = torch.nn.functional.pad(
            layout.prompt_mask_RP.repeat_interleave(samples, 0), (0, first_growth), value=True
        )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns in use; transformers asks for it when it builds positions, which are given here."""
        return self.length

    def update(self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple:
        """Take the new keys and values (rows, K, 1, D) of a layer and return all of them; prompts come packed (1, K, N, D)."""
        if self.layout is not None:
            self.layers.append((self._spread(key), self._spread(value)))
            return key, value
        keys, values = self.layers[layer_idx]
        keys[:, :, self.length] = key[:, :, 0]
        values[:, :, self.length] = value[:, :, 0]
        end = self.length + 1
        return keys[:, :, :end], values[:, :, :end]

    def _spread(self, packed_1KND: torch.Tensor) -> torch.Tensor:
        assert self.layout is not None
        index_RP = self.layout.prompt_index_RP
        per_prompt = packed_1KND[0].index_select(1, index_RP.flatten())  # (K, R * P, D)
        per_prompt = per_prompt.view(per_prompt.shape[0], *index_RP.shape, -1).transpose(0, 1)
        rows = per_prompt.repeat_interleave(self.samples, 0)
        return torch.nn.functional.pad(rows, (0, 0, 0, self.first_growth))

    def prompts_done(self) -> None:
        """Switch from the packed prompts to one column a step."""
        self.layout = None

    def advance(self) -> None:
        """Count the column that all layers have written; grow when the next one has no room."""
        self.length += 1
        if self.length == self.mask_RL.shape[1]:
            more = max(GROWTH, self.length // 2)
            pad = torch.nn.functional.pad
            self.layers = [(pad(k, (0, 0, 0, more)), pad(v, (0, 0, 0, more))) for k, v in self.layers]
            self.mask_RL = pad(self.mask_RL, (0, more), value=True)

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Drop all rows but these."""
        self.layers = [(k.index_select(0, rows), v.index_select(0, rows)) for k, v in self.layers]
        self.mask_RL = self.mask_RL.index_select(0, rows)


def uniform_noise(prompt_seed: int, sample: int, count: int) -> np.ndarray:
    """`count` uniform numbers in (0, 1], float32, that depend on the prompt's seed and the sample's number only."""
    generator = np.random.default_rng([prompt_seed & 0xFFFFFFFFFFFFFFFF, sample])
    return 1.0 - generator.random(count, dtype=np.float32)


def truncate(probs_RV: torch.Tensor, top_p: float, top_k: int) -> torch.Tensor:
    """Zero the probabilities outside the top k tokens and outside the smallest set that holds `top_p`."""
    if top_k > 0:
        kept = probs_RV.topk(min(top_k, probs_RV.shape[1])).values[:, -1:]
        probs_RV = probs_RV.masked_fill(probs_RV < kept, 0.0)
    if top_p < 1.0:
        ordered, order = probs_RV.sort(descending=True)
        before = ordered.cumsum(-1) - ordered
        ordered = ordered.masked_fill(before >= top_p * ordered.sum(-1, keepdim=True), 0.0)
        probs_RV = torch.zeros_like(probs_RV).scatter_(1, order, ordered)
    return probs_RV


def sample_tokens(logits_RV: torch.Tensor, noise_R: torch.Tensor, params: SamplingParams) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a token per row by inverting the cumulative distribution; returns (tokens (R,), log-probabilities (R,))."""
    log_probs_RV = logits_RV.log_softmax(-1)
    if params.temperature == 0.0:
        tokens_R = log_probs_RV.argmax(-1)
        return tokens_R, log_probs_RV.gather(1, tokens_R[:, None])[:, 0]
    probs_RV = log_probs_RV.exp()
    if params.is_truncated:
        probs_RV = truncate(probs_RV, params.top_p, params.top_k)
        log_probs_RV = (probs_RV / probs_RV.sum(-1, keepdim=True)).log()
    cumulative_RV = probs_RV.cumsum(-1)
    # the first token whose cumulative probability reaches the target has probability above 0
    target_R1 = noise_R[:, None] * cumulative_RV[:, -1:]
    tokens_R = torch.searchsorted(cumulative_RV, target_R1)[:, 0]
    return tokens_R, log_probs_RV.gather(1, tokens_R[:, None])[:, 0]


class HFRollout:
    """Samples with the trained model itself, so there is nothing to synchronise."""

    name = "hf"

    def __init__(self, policy: PolicyModel, max_rows: int = 256, max_cached_tokens: int = 1 << 19) -> None:
        """`max_rows` sequences or `max_cached_tokens` prompt + response tokens at most are sampled at once."""
        self.policy = policy
        self.max_rows = max_rows
        self.max_cached_tokens = max_cached_tokens
        self.exact_log_probs = policy.compute_dtype == torch.float32

    def sync_weights(self, model: torch.nn.Module) -> None:
        """Nothing to do: the sampler uses the trained weights."""

    def close(self) -> None:
        """Nothing to free."""

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[EncodedPrompt],
        params: SamplingParams,
        prompt_seeds: Sequence[int],
        progress: Callable[[str], None] | None = None,
    ) -> list[list[Response]]:
        """See RolloutBackend.generate."""
        was_training = self.policy.module.training
        self.policy.module.eval()
        try:
            result: list[list[Response]] = []
            for start, end in self._batches(prompts, params):
                note = f"prompts {start + 1}-{end} of {len(prompts)}"
                result += self._generate(prompts[start:end], params, prompt_seeds[start:end], note, progress)
            return result
        finally:
            self.policy.module.train(was_training)

    def _batches(self, prompts: Sequence[EncodedPrompt], params: SamplingParams) -> list[tuple[int, int]]:
        batches, start, longest = [], 0, 0
        for i, prompt in enumerate(prompts):
            longest = max(longest, len(prompt.input_ids_S) + params.max_tokens)
            rows = (i + 1 - start) * params.n
            if i > start and (rows > self.max_rows or rows * longest > self.max_cached_tokens):
                batches.append((start, i))
                start, longest = i, len(prompt.input_ids_S) + params.max_tokens
        return [*batches, (start, len(prompts))] if prompts else []

    def _generate(
        self,
        prompts: Sequence[EncodedPrompt],
        params: SamplingParams,
        prompt_seeds: Sequence[int],
        note: str,
        progress: Callable[[str], None] | None,
    ) -> list[list[Response]]:
        policy, device = self.policy, self.policy.device
        rows = len(prompts) * params.n
        noise_RT = torch.from_numpy(
            np.stack([uniform_noise(seed, j, params.max_tokens) for seed in prompt_seeds for j in range(params.n)])
        ).to(device)
        ends = torch.tensor([] if params.ignore_eos else policy.eos_token_ids, dtype=torch.long, device=device)
        tokens_RT = torch.zeros(rows, params.max_tokens, dtype=torch.long, device=device)
        log_probs_RT = torch.zeros(rows, params.max_tokens, device=device)
        lengths_R = torch.full((rows,), params.max_tokens, device=device)
        alive = torch.arange(rows, device=device)  # the row that each line of the batch belongs to
        running = torch.ones(rows, dtype=torch.bool, device=device)
        said = time.monotonic()
        with policy.autocast():
            hidden_RC, next_position_R, cache = self._prefill(prompts, params)
            for step in range(params.max_tokens):
                logits_RV = scaled_logits(
                    hidden_RC, policy.lm_head.weight, policy.lm_head.bias, params.temperature or 1.0,
                    policy.forbidden_token_ids,
                )  # fmt: skip
                tokens_R, log_probs_R = sample_tokens(logits_RV, noise_RT[alive, step], params)
                tokens_RT[alive, step] = tokens_R
                log_probs_RT[alive, step] = log_probs_R
                ended = running & torch.isin(tokens_R, ends)
                lengths_R[alive[ended]] = step + 1
                running = running & ~ended
                left = int(running.sum())
                if left == 0 or step + 1 == params.max_tokens:
                    break
                if left <= KEEP_FRACTION * len(alive):
                    keep = running.nonzero()[:, 0]
                    cache.keep_rows(keep)
                    alive, tokens_R, running = alive[keep], tokens_R[keep], running[keep]
                hidden_RC = self._decode(tokens_R, next_position_R[alive] + step, cache)
                if progress is not None and time.monotonic() - said > 1.0:
                    said = time.monotonic()
                    progress(f"{note}: token {step + 1} of at most {params.max_tokens}, {left} of {rows} responses open")
        return _responses(tokens_RT.cpu(), log_probs_RT.cpu(), lengths_R.tolist(), ends.tolist(), params.n)

    def _prefill(self, prompts: Sequence[EncodedPrompt], params: SamplingParams) -> tuple:
        """Encode every prompt once; returns last hidden states (rows, C), the next positions (rows,), and the cache."""
        policy, n = self.policy, params.n
        layout = build_layout([len(p.input_ids_S) for p in prompts], [], [], policy.device)
        cache = RolloutCache(layout, n, first_growth=min(params.max_tokens, GROWTH))
        positions = [policy.prompt_positions(p) for p in prompts]
        starts = np.cumsum([0, *(len(p.input_ids_S) for p in prompts)]).tolist()[:-1]
        flat_ids = torch.cat([p.input_ids_S for p in prompts]).to(policy.device)
        embeds, extra = policy.embed_flat(prompts, flat_ids, starts)
        output = policy.decode_flat(embeds, torch.cat(positions, dim=1), layout, cache=cache, **extra)
        cache.prompts_done()
        last_R = layout.prompt_index_RP.gather(1, layout.prompt_mask_RP.sum(1, keepdim=True) - 1)[:, 0]
        hidden_RC = output.last_hidden_state[0].index_select(0, last_R).repeat_interleave(n, 0)
        next_position_R = torch.tensor([int(p.max()) + 1 for p in positions], device=policy.device).repeat_interleave(n)
        return hidden_RC, next_position_R, cache

    def _decode(self, tokens_R: torch.Tensor, positions_R: torch.Tensor, cache: RolloutCache) -> torch.Tensor:
        """One decoding step; returns the new hidden states (rows, C)."""
        policy = self.policy
        positions = positions_R[:, None]
        if policy.vision is not None:
            positions = positions.expand(3, -1, -1)
        output = policy.decoder(
            inputs_embeds=policy.embedding(tokens_R)[:, None],
            position_ids=positions,
            attention_mask=cache.mask_RL[:, None, None, : cache.length + 1],
            past_key_values=cache,
            use_cache=True,
        )
        cache.advance()
        return output.last_hidden_state[:, 0]


def _responses(
    tokens_RT: torch.Tensor, log_probs_RT: torch.Tensor, lengths: list[int], ends: list[int], n: int
) -> list[list[Response]]:
    responses = []
    for tokens_T, log_probs_T, length in zip(tokens_RT, log_probs_RT, lengths, strict=True):
        ids = tokens_T[:length].clone()
        stopped = int(ids[-1]) in ends
        responses.append(Response(ids, log_probs_T[:length].clone(), "stop" if stopped else "length"))
    return [responses[i : i + n] for i in range(0, len(responses), n)]
