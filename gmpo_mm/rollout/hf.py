"""The built-in sampler: transformers' decoder with a key-value cache, no work done twice.

Each prompt is encoded once. Samples of a prompt share a line of the batch, and its cache, for as long as they have drawn the
same tokens; finished ones leave the batch.
"""

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
from gmpo_mm.rollout.protocol import Response, RolloutRequest, SamplingParams

GROWTH = 64
"""Columns by which the cache grows at least when it is full."""

VECTOR = 16
"""Columns of the cache are read in multiples of this."""

MIN_LINES = 8
"""Lines that a decoding step has at least. With fewer, matrix kernels sum in another order, and a response's last bits
would depend on how many others are still open (as, in a mixture of experts, on how many rows an expert happens to get)."""


class RolloutCache:
    """Keys and values of (lines, K, L, D) for every layer.

    Filled in two phases: the packed prompts, then one token a line and step. Each line's tokens stand at the left without a
    gap, so that what attention adds up for a line, and in which order, does not depend on the lines beside it.
    """

    def __init__(self, layout: PackedLayout, first_growth: int) -> None:
        self.layout: PackedLayout | None = layout
        self.first_growth = first_growth
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.length_L = layout.prompt_mask_RP.sum(1)
        self.longest = layout.prompt_index_RP.shape[1]
        self.line_L = torch.arange(len(self.length_L), device=self.length_L.device)

    @property
    def columns(self) -> int:
        """Columns that the coming step reads: whole vectors, since a kernel computes what is left over differently."""
        return -(-(self.longest + 1) // VECTOR) * VECTOR

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns in use; transformers asks for it when it builds positions, which are given here."""
        return self.longest

    def update(self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple:
        """Take the new keys and values (lines, K, 1, D) of a layer and return all of them; prompts come packed (1, K, N, D)."""
        if self.layout is not None:
            self.layers.append((self._spread(key), self._spread(value)))
            return key, value
        keys, values = self.layers[layer_idx]
        keys[self.line_L, :, self.length_L] = key[:, :, 0]
        values[self.line_L, :, self.length_L] = value[:, :, 0]
        return keys[:, :, : self.columns], values[:, :, : self.columns]

    def _spread(self, packed_1KND: torch.Tensor) -> torch.Tensor:
        assert self.layout is not None
        index_RP = self.layout.prompt_index_RP
        per_prompt = packed_1KND[0].index_select(1, index_RP.flatten())  # (K, R * P, D)
        per_prompt = per_prompt.view(per_prompt.shape[0], *index_RP.shape, -1).transpose(0, 1)
        return torch.nn.functional.pad(per_prompt, (0, 0, 0, max(self.first_growth, VECTOR)))

    def prompts_done(self) -> None:
        """Switch from the packed prompts to one token a line and step."""
        self.layout = None

    def mask(self) -> torch.Tensor:
        """Which columns each line may attend to in the coming step, (lines, 1, 1, columns)."""
        column_L = torch.arange(self.columns, device=self.length_L.device)
        return (column_L <= self.length_L[:, None])[:, None, None]

    def advance(self) -> None:
        """Count the token that all layers have written; grow when the next one has no room."""
        self.length_L = self.length_L + 1
        self.longest += 1
        if self.columns > self.layers[0][0].shape[2]:
            more = max(GROWTH, self.longest // 2)
            pad = torch.nn.functional.pad
            self.layers = [(pad(k, (0, 0, 0, more)), pad(v, (0, 0, 0, more))) for k, v in self.layers]

    def take_lines(self, lines: torch.Tensor) -> None:
        """Go on with these lines; one that is named twice is copied."""
        self.layers = [(k.index_select(0, lines), v.index_select(0, lines)) for k, v in self.layers]
        self.length_L = self.length_L[lines]
        self.longest = int(self.length_L.max())
        self.line_L = torch.arange(len(lines), device=lines.device)


def at_least_min_lines(lines: torch.Tensor) -> torch.Tensor:
    """Repeat the last of (lines,) until there are MIN_LINES."""
    missing = MIN_LINES - len(lines)
    return lines if missing <= 0 else torch.cat([lines, lines[-1:].expand(missing)])


def uniform_noise(prompt_seed: int, sample: int, count: int) -> np.ndarray:
    """`count` uniform numbers in (0, 1], float32, that depend on the prompt's seed and the sample's number only."""
    generator = np.random.default_rng([prompt_seed & 0xFFFFFFFFFFFFFFFF, sample])
    return 1.0 - generator.random(count, dtype=np.float32)


def gaussian_noise(prompt_seed: int, sample: int, position: int, count: int) -> np.ndarray:
    """`count` standard normal numbers, float32, that depend on the prompt's seed, the sample's number and the position only."""
    # one number more than `uniform_noise` starts from: another stream
    generator = np.random.default_rng([prompt_seed & 0xFFFFFFFFFFFFFFFF, sample, position, 1])
    return generator.standard_normal(count, dtype=np.float32)


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


def sample_tokens(
    logits_LV: torch.Tensor, line_R: torch.Tensor, noise_R: torch.Tensor, params: SamplingParams
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a token for each of R samples from the distribution of its line, by inverting the cumulative distribution.

    Returns (tokens (R,), log-probabilities (R,)).
    """
    log_probs_LV = logits_LV.log_softmax(-1)
    if params.temperature == 0.0:
        tokens_R = log_probs_LV.argmax(-1)[line_R]
        return tokens_R, log_probs_LV[line_R, tokens_R]
    probs_LV = log_probs_LV.exp()
    if params.is_truncated:
        probs_LV = truncate(probs_LV, params.top_p, params.top_k)
        log_probs_LV = (probs_LV / probs_LV.sum(-1, keepdim=True)).log()
    if params.hidden_top_p < 1.0:
        probs_LV = truncate(probs_LV, params.hidden_top_p, -1)
        log_probs_LV = (probs_LV / probs_LV.sum(-1, keepdim=True)).log()
    cumulative_RV = probs_LV.cumsum(-1).index_select(0, line_R)
    # the first token whose cumulative probability reaches the target has probability above 0
    target_R1 = noise_R[:, None] * cumulative_RV[:, -1:]
    tokens_R = torch.searchsorted(cumulative_RV, target_R1)[:, 0]
    if cumulative_RV.is_cuda:  # a parallel sum may fall by a rounding error, so that an impossible token is hit
        tokens_R = torch.where(probs_LV[line_R, tokens_R] > 0, tokens_R, probs_LV.argmax(-1)[line_R])
    return tokens_R, log_probs_LV[line_R, tokens_R]


class HFRollout:
    """Samples with the trained model itself, so there is nothing to synchronise."""

    name = "hf"
    samples_in_place = True

    def __init__(
        self, policy: PolicyModel, max_rows: int = 256, max_cached_tokens: int = 1 << 19, record_experts: bool = False
    ) -> None:
        """`max_rows` sequences or `max_cached_tokens` prompt + response tokens at most are sampled at once.

        `record_experts`: responses of a mixture of experts say which experts their tokens went to.
        """
        self.policy = policy
        self.record_experts = record_experts and policy.is_mixture_of_experts
        self.max_rows = max_rows
        self.max_cached_tokens = max_cached_tokens
        self.exact_log_probs = policy.compute_dtype == torch.float32

    def sync_weights(self, model: torch.nn.Module) -> None:
        """Nothing to do: the sampler uses the trained weights."""

    def free_memory(self) -> None:
        """Nothing to free: the cache goes with each call."""

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
            for start, end in self.batches(prompts, params):
                note = f"prompts {start + 1}-{end} of {len(prompts)}"
                result += self._generate(prompts[start:end], params, prompt_seeds[start:end], note, progress)
            return result
        finally:
            self.policy.module.train(was_training)

    def batches(self, prompts: Sequence[EncodedPrompt], params: SamplingParams) -> list[tuple[int, int]]:
        """First prompt and end of each batch that is sampled at once."""
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
        policy, device, n = self.policy, self.policy.device, params.n
        rows, vocabulary = len(prompts) * n, policy.lm_head.weight.shape[0]
        noise_RT = torch.from_numpy(
            np.stack([uniform_noise(seed, j, params.max_tokens) for seed in prompt_seeds for j in range(n)])
        ).to(device)
        ends = torch.tensor([] if params.ignore_eos else policy.eos_token_ids, dtype=torch.long, device=device)
        tokens_RT = torch.zeros(rows, params.max_tokens, dtype=torch.long, device=device)
        log_probs_RT = torch.zeros(rows, params.max_tokens, device=device)
        experts_RTL: torch.Tensor | None = None
        lengths_R = torch.full((rows,), params.max_tokens, device=device)
        open_R = torch.arange(rows, device=device)  # the samples that have not ended
        line_R = open_R // n  # samples that have drawn the same tokens so far are one line of the batch
        said = time.monotonic()
        with policy.autocast():
            hidden_LC, next_position_L, cache = self._prefill(prompts, params)
            for step in range(params.max_tokens):
                logits_LV = scaled_logits(
                    hidden_LC, policy.lm_head.weight, policy.lm_head.bias, params.temperature or 1.0,
                    policy.forbidden_F,
                )  # fmt: skip
                if params.logits_noise > 0.0:
                    logits_LV, drawn_R = self._disturbed(logits_LV, line_R, open_R, step, params, prompt_seeds)
                else:
                    drawn_R = line_R
                tokens_R, log_probs_R = sample_tokens(logits_LV, drawn_R, noise_RT[open_R, step], params)
                tokens_RT[open_R, step] = tokens_R
                log_probs_RT[open_R, step] = log_probs_R
                ended = torch.isin(tokens_R, ends)
                lengths_R[open_R[ended]] = step + 1
                going = (~ended).nonzero()[:, 0]
                if len(going) == 0 or step + 1 == params.max_tokens:
                    break
                open_R = open_R[going]
                branch_L, line_R = torch.unique(line_R[going] * vocabulary + tokens_R[going], return_inverse=True)
                branch_L = at_least_min_lines(branch_L)
                parent_L = branch_L // vocabulary
                if not torch.equal(parent_L, torch.arange(len(next_position_L), device=device)):
                    cache.take_lines(parent_L)
                    next_position_L = next_position_L[parent_L]
                hidden_LC, top_experts = self._decode(branch_L % vocabulary, next_position_L + step, cache)
                if top_experts is not None:
                    if experts_RTL is None:
                        shape = (rows, params.max_tokens, top_experts.shape[1])
                        experts_RTL = torch.zeros(shape, dtype=torch.int16, device=device)
                    experts_RTL[open_R, step] = top_experts[line_R]
                if progress is not None and time.monotonic() - said > 1.0:
                    said = time.monotonic()
                    progress(f"{note}: token {step + 1} of at most {params.max_tokens}, {len(open_R)} of {rows} responses open")
        if experts_RTL is not None:
            experts_RTL = experts_RTL.cpu()
        return _responses(tokens_RT.cpu(), log_probs_RT.cpu(), lengths_R.tolist(), ends.tolist(), n, experts_RTL)

    def _disturbed(
        self,
        logits_LV: torch.Tensor,
        line_R: torch.Tensor,
        open_R: torch.Tensor,
        position: int,
        params: SamplingParams,
        prompt_seeds: Sequence[int],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (R, V) with noise, a line for each open sample, since each has its own; and those lines (R,)."""
        seeds = [(prompt_seeds[row // params.n], row % params.n) for row in open_R.tolist()]
        noise = np.stack([gaussian_noise(*seed, position, logits_LV.shape[1]) for seed in seeds])
        scale = params.logits_noise / (params.temperature or 1.0)  # the logits are divided by the temperature already
        noise_RV = torch.from_numpy(noise).to(logits_LV.device) * scale
        return logits_LV[line_R] + noise_RV, torch.arange(len(line_R), device=line_R.device)

    def _prefill(self, prompts: Sequence[EncodedPrompt], params: SamplingParams) -> tuple:
        """Encode every prompt as one line; returns last hidden states (L, C), the next positions (L,), and the cache."""
        policy = self.policy
        layout = build_layout([len(p.input_ids_S) for p in prompts], [], [], policy.device)
        cache = RolloutCache(layout, first_growth=min(params.max_tokens, GROWTH))
        positions = [policy.prompt_positions(p) for p in prompts]
        starts = np.cumsum([0, *(len(p.input_ids_S) for p in prompts)]).tolist()[:-1]
        flat_ids = torch.cat([p.input_ids_S for p in prompts]).to(policy.device)
        embeds, extra = policy.embed_flat(prompts, flat_ids, starts)
        output = policy.decode_flat(embeds, torch.cat(positions, dim=1), layout, cache=cache, **extra)
        cache.prompts_done()
        last_R = layout.prompt_index_RP.gather(1, layout.prompt_mask_RP.sum(1, keepdim=True) - 1)[:, 0]
        next_position_L = torch.tensor([int(p.max()) + 1 for p in positions], device=policy.device)
        line_L = at_least_min_lines(torch.arange(len(prompts), device=policy.device))
        cache.take_lines(line_L)
        return output.last_hidden_state[0].index_select(0, last_R[line_L]), next_position_L[line_L], cache

    def _decode(
        self, tokens_L: torch.Tensor, positions_L: torch.Tensor, cache: RolloutCache
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One decoding step; returns hidden states (lines, C) and, if recorded, the preferred experts (lines, layers)."""
        policy = self.policy
        positions = positions_L[:, None]
        if policy.vision is not None:
            positions = positions.expand(3, -1, -1)
        output = policy.decoder(
            inputs_embeds=policy.embedding(tokens_L)[:, None],
            position_ids=positions,
            attention_mask=cache.mask(),
            past_key_values=cache,
            use_cache=True,
            **({"output_router_logits": True} if self.record_experts else {}),
        )
        cache.advance()
        top_experts = None
        if self.record_experts:
            # a line has one token here, so a layer's logits (lines, 1, experts) or (lines, experts) have a row for each line
            layers = [logits.reshape(len(tokens_L), -1).argmax(-1) for logits in output.router_logits]
            top_experts = torch.stack(layers, dim=-1).to(torch.int16)
        return output.last_hidden_state[:, 0], top_experts


def _responses(
    tokens_RT: torch.Tensor,
    log_probs_RT: torch.Tensor,
    lengths: list[int],
    ends: list[int],
    n: int,
    experts_RTL: torch.Tensor | None,
) -> list[list[Response]]:
    responses = []
    for row, length in enumerate(lengths):
        ids = tokens_RT[row, :length].clone()
        stopped = int(ids[-1]) in ends
        experts_UL = None if experts_RTL is None else experts_RTL[row, : length - 1].clone()
        responses.append(Response(ids, log_probs_RT[row, :length].clone(), "stop" if stopped else "length", experts_UL))
    return [responses[i : i + n] for i in range(0, len(responses), n)]


def build(request: RolloutRequest) -> HFRollout:
    """The backend `hf`; in training its responses say which experts their tokens went to."""
    assert request.policy is not None
    return HFRollout(request.policy, record_experts=request.trains)
