"""What a step has sampled, as groups of responses and as padded tensors; and how it is cut into forward passes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from gmpo_mm.data.prompts import EncodedPrompt
from gmpo_mm.models.packed import Group
from gmpo_mm.models.varlen_layout import to_device
from gmpo_mm.rollout.protocol import Response


@dataclass(frozen=True, eq=False)
class SampledGroup:
    """A prompt, its responses, and the reward function's dictionary for each of them."""

    prompt: EncodedPrompt
    responses: Sequence[Response]
    texts: Sequence[str]
    scores: Sequence[dict[str, float]]


@dataclass
class Batch:
    """A step's responses, B in all, group by group; tensors (B, T) are padded on the right to the longest response.

    `old_log_probs_BT` is None where the sampler's own log-probabilities serve as old ones. `top_experts_BUL`: what the sampler
    says of its routing, None where it says nothing (see `Response`).
    """

    groups: Sequence[SampledGroup]
    mask_BT: torch.Tensor = field(init=False)
    sampler_log_probs_BT: torch.Tensor = field(init=False)
    group_ids_B: torch.Tensor = field(init=False)
    rewards_B: torch.Tensor = field(init=False)
    advantages_BT: torch.Tensor = field(init=False)
    old_log_probs_BT: torch.Tensor | None = None
    ref_log_probs_BT: torch.Tensor | None = None
    top_experts_BUL: torch.Tensor | None = None
    host_mask_BT: torch.Tensor = field(init=False)
    """The mask again, always on the CPU, and False on rows that are left out of the loss, whose units are counted from it."""
    left_out: frozenset[int] = field(default=frozenset(), init=False)
    """Rows without a part in the loss (see `leave_out_truncated`)."""
    lengths: list[int] = field(init=False)
    """Tokens of each response."""
    _with_advantage: list[bool] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        responses = [r for g in self.groups for r in g.responses]
        self.lengths = [len(r.token_ids_T) for r in responses]
        self.mask_BT = torch.arange(max(self.lengths)) < torch.tensor(self.lengths)[:, None]
        self.host_mask_BT = self.mask_BT
        self.sampler_log_probs_BT = torch.zeros(self.mask_BT.shape)
        self.sampler_log_probs_BT[self.mask_BT] = torch.cat([r.log_probs_T for r in responses])
        self.group_ids_B = torch.tensor([i for i, g in enumerate(self.groups) for _ in g.responses])
        self.rewards_B = torch.tensor([s["overall"] for g in self.groups for s in g.scores], dtype=torch.float64)
        experts = [r.top_experts_UL for r in responses if r.top_experts_UL is not None]
        if len(experts) == len(responses):
            self.top_experts_BUL = torch.nn.utils.rnn.pad_sequence(experts, batch_first=True)

    def __len__(self) -> int:
        return self.mask_BT.shape[0]

    def leave_out_truncated(self) -> None:
        """Give responses that were cut off no part in the loss: no advantage, no forward pass, no tokens in its mean.

        Called after the advantages are there, in which their rewards count.
        """
        responses = [r for g in self.groups for r in g.responses]
        self.left_out = frozenset(row for row, response in enumerate(responses) if response.stop_reason == "length")
        rows = sorted(self.left_out)
        self.host_mask_BT = self.host_mask_BT.clone()
        self.host_mask_BT[rows] = False
        self.advantages_BT[rows] = 0.0

    def move_to(self, device: torch.device) -> None:
        """Put every tensor that an update reads onto the policy's device."""
        self._with_advantage = None
        self.groups_with_advantage()
        for name in (
            "mask_BT", "sampler_log_probs_BT", "advantages_BT", "old_log_probs_BT", "ref_log_probs_BT", "top_experts_BUL",
        ):  # fmt: skip
            if (tensor := getattr(self, name)) is not None:
                setattr(self, name, to_device(tensor, device))

    def groups_with_advantage(self) -> list[bool]:
        """Whether each group has a response with an advantage other than 0; worked out once, before `move_to`."""
        if self._with_advantage is None:
            self._with_advantage = (self.advantages_BT != 0).any(1).view(len(self.groups), -1).any(1).tolist()
        return self._with_advantage

    @property
    def behaviour_log_probs_BT(self) -> torch.Tensor:
        """Log-probabilities of the old policy: recomputed ones, else the sampler's own."""
        return self.sampler_log_probs_BT if self.old_log_probs_BT is None else self.old_log_probs_BT

    @property
    def group_size(self) -> int:
        """Responses a group, the same for all groups."""
        return len(self.groups[0].responses)

    def group_of(self, rows: Sequence[int]) -> list[Group]:
        """The packed groups that hold exactly these rows of B, which must be in order."""
        members: dict[int, list[torch.Tensor]] = {}
        size = self.group_size
        for row in rows:
            members.setdefault(row // size, []).append(self.groups[row // size].responses[row % size].token_ids_T)
        return [Group(self.groups[index].prompt, responses) for index, responses in members.items()]


@dataclass(frozen=True)
class CutLimits:
    """How large one forward pass may be: a number of samples, or a number of packed tokens (EasyR1's dynamic batching)."""

    samples: int | None = None
    tokens: int | None = None


def cut_into_micro_batches(batch: Batch, rows: Sequence[int], limits: CutLimits) -> list[list[int]]:
    """Cut rows of B into micro-batches of at most `limits`, in order; a group is split only when it does not fit.

    Splitting a group costs one more pass over its prompt, never a different result.
    """
    size = batch.group_size
    lengths = batch.lengths
    micro_batches: list[list[int]] = []
    current: list[int] = []
    tokens = 0
    prompts: set[int] = set()
    for row in rows:
        group = row // size
        cost = lengths[row] - 1 + (0 if group in prompts else len(batch.groups[group].prompt.input_ids_S))
        full = limits.samples is not None and len(current) == limits.samples
        full = full or (limits.tokens is not None and tokens + cost > limits.tokens)
        if current and (full or _better_cut_before(batch, row, current, limits, lengths, tokens)):
            micro_batches.append(current)
            current, tokens, prompts = [], 0, set()
            cost = lengths[row] - 1 + len(batch.groups[group].prompt.input_ids_S)
        current.append(row)
        prompts.add(group)
        tokens += cost
    return [*micro_batches, current] if current else micro_batches


def _better_cut_before(
    batch: Batch, row: int, current: Sequence[int], limits: CutLimits, lengths: Sequence[int], tokens: int
) -> bool:
    """Whether a group that starts at `row` fits whole into a fresh micro-batch but not into the rest of this one."""
    size = batch.group_size
    if row // size == current[-1] // size:
        return False
    members = range(row, (row // size + 1) * size)
    whole = sum(lengths[r] - 1 for r in members) + len(batch.groups[row // size].prompt.input_ids_S)
    if limits.samples is not None:
        return len(members) <= limits.samples < len(current) + len(members)
    return limits.tokens is not None and whole <= limits.tokens < tokens + whole


def row_index(rows: Sequence[int], device: torch.device) -> torch.Tensor | slice:
    """An index of increasing rows: a slice, which copies nothing, when they are neighbours."""
    if rows[-1] - rows[0] + 1 == len(rows):
        return slice(rows[0], rows[-1] + 1)
    return to_device(torch.tensor(rows), device)


def mean_of_scores(groups: Iterable[SampledGroup]) -> dict[str, float]:
    """Mean of every number that the reward function gave, over all responses that have it."""
    found: dict[str, list[float]] = {}
    for scores in (s for g in groups for s in g.scores):
        for key, value in scores.items():
            found.setdefault(key, []).append(float(value))
    return {key: sum(values) / len(values) for key, values in found.items()}


def sample_rows(
    batch_groups: Iterable[SampledGroup],
    advantages_B: Sequence[float] | None = None,
    log_ratios_B: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """One dictionary a response, for `samples/`: what was asked, answered and graded.

    `log_ratios_B` (nats): the log of each sequence's product of ratios at the end of the step; NaN, where a response was left
    out of the update, is written as null.
    """
    rows: list[dict[str, Any]] = []
    for group in batch_groups:
        record = group.prompt.record
        for number, (response, text, scores) in enumerate(zip(group.responses, group.texts, group.scores, strict=True)):
            row = {
                "id": record.id, "sample": number, "problem": record.problem, "ground_truth": record.answer,
                "response": text, "tokens": len(response.token_ids_T), "stop_reason": response.stop_reason, **scores,
            }  # fmt: skip
            if advantages_B is not None:
                row["advantage"] = advantages_B[len(rows)]
            if log_ratios_B is not None:
                log_ratio = log_ratios_B[len(rows)]
                row["log_ratio"] = log_ratio if math.isfinite(log_ratio) else None
            rows.append(row)
    return rows
