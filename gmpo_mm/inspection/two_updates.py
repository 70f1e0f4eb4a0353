"""Two updates from the same rollouts and the same weights before, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gmpo_mm.algorithms.compared_losses import step_weights
from gmpo_mm.algorithms.token_weights import weighed_tokens
from gmpo_mm.inspection.update_again import LOSS, NORM, Update
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.processing import Processor
from gmpo_mm.runs.step_record import StepRecord

GROUPS = ("vision", "embeddings", "attention", "MLP", "head", "other")
"""Groups of a model's layers: MLP holds experts and their router, other holds norms."""
SHOWN_RESPONSES = 10


@dataclass(frozen=True)
class OneUpdate:
    """An update's numbers. Norms are those of all trained weights together, or of a group's."""

    loss: float
    gradient_norm: float
    """Of the first optimizer step in which either update has a gradient, before clipping."""
    mean_gradient_norm: float
    """Over the step's optimizer steps, before clipping."""
    group_norms: Mapping[str, float]
    step_size: float
    """Norm of the change of the weights by the whole step."""
    optimizer_steps: int
    clipped: int
    """Tokens with an advantage whose policy loss has no gradient, in the last epoch."""
    weighed: int
    """Tokens with an advantage."""


@dataclass(frozen=True)
class ResponseWeights:
    """A response and what both updates do to its tokens; `change` is the sum of |weight difference|."""

    row: int
    prompt: int
    text: str
    problem: str
    reward: float
    advantage: float
    change: float
    tokens: tuple[str, ...]
    own_T: torch.Tensor
    other_T: torch.Tensor


@dataclass(frozen=True)
class TwoUpdates:
    """The run's own update and another one."""

    own: OneUpdate
    other: OneUpdate
    cosine: float
    """Between the gradients of the first optimizer step in which either has one; NaN where one of them is 0.
    """
    cosines: Mapping[str, float]
    """By group of layers; NaN where one of the two is 0."""
    sum_cosine: float
    """Between the sums of the gradients of all optimizer steps, each at the weights that it began with."""
    sum_cosines: Mapping[str, float]
    """The same by group of layers."""
    step_cosine: float
    """Between the changes of the weights by the whole step."""
    weight_cosine: float
    """Between the token weights -dL/dlog p of all optimizer steps of the last epoch."""
    responses: tuple[ResponseWeights, ...]
    tied: bool
    """The head is the embedding: its gradient counts there."""


def update_weights(update: Update) -> torch.Tensor:
    """(B, T): -dL/dlog p of the policy loss for each token, in its optimizer step of the last epoch.

    At the log-probabilities that this step saw; 0 where a token was left out. Without KL and entropy terms.
    """
    return step_weights(update.seen, update.config.loss)[0]


def layer_groups(policy: PolicyModel) -> dict[str, str]:
    """Parameter name -> its group, for all trained weights."""
    vision = {id(p) for p in policy.vision.parameters()} if policy.vision is not None else set()
    embedding = {id(p) for p in policy.embedding.parameters()}
    head = {id(p) for p in policy.lm_head.parameters()}

    def group(name: str, parameter: torch.nn.Parameter) -> str:
        if id(parameter) in vision:
            return "vision"
        if id(parameter) in embedding:
            return "embeddings"
        if id(parameter) in head:
            return "head"
        parts = name.split(".")
        if any("norm" in part for part in parts):
            return "other"
        if any("attn" in part or "attention" in part for part in parts):
            return "attention"
        return "MLP" if any(part in ("mlp", "experts", "feed_forward") for part in parts) else "other"

    return {name: group(name, p) for name, p in policy.module.named_parameters() if p.requires_grad}


def compare_updates(
    own: Update, other: Update, record: StepRecord, policy: PolicyModel, processor: Processor
) -> TwoUpdates:
    """All numbers of the two."""
    groups = layer_groups(policy)
    members = {g: [name for name, of in groups.items() if of == g] for g in GROUPS}
    weights = [update_weights(update) for update in (own, other)]
    # until one of the two has a gradient the weights are the same: AdamW moves both by the same momentum
    first = min((update.first for update in (own, other) if update.first >= 0), default=-1)
    mine, others = (update.gradients if update.first == first else {} for update in (own, other))
    return TwoUpdates(
        own=_one(own, mine, weights[0], members),
        other=_one(other, others, weights[1], members),
        cosine=cosine(mine, others, list(groups)),
        cosines={g: cosine(mine, others, names) for g, names in members.items() if names},
        sum_cosine=cosine(own.gradient_sums, other.gradient_sums, list(groups)),
        sum_cosines={
            g: cosine(own.gradient_sums, other.gradient_sums, names) for g, names in members.items() if names
        },
        step_cosine=cosine(own.changes, other.changes, list(groups)),
        weight_cosine=cosine({"": weights[0]}, {"": weights[1]}, [""]),
        responses=_changed_responses(own, weights, record, processor),
        tied=policy.lm_head.weight is getattr(policy.embedding, "weight", None),
    )


def cosine(one: Mapping[str, torch.Tensor], two: Mapping[str, torch.Tensor], names: list[str]) -> float:
    """Between two vectors in parts, in float64; a missing part is 0. NaN where one of the vectors is 0."""
    dot = sum(float((one[n].double() * two[n].double()).sum()) for n in names if n in one and n in two)
    size = norm(one, names) * norm(two, names)
    return dot / size if size else math.nan


def norm(parts: Mapping[str, torch.Tensor], names: list[str]) -> float:
    """Of a vector in parts, in float64."""
    return math.sqrt(sum(float(parts[n].double().square().sum()) for n in names if n in parts))


def _one(
    update: Update,
    gradients: Mapping[str, torch.Tensor],
    weights_BT: torch.Tensor,
    members: Mapping[str, list[str]],
) -> OneUpdate:
    names = list(update.changes)
    weighed_BT = weighed_tokens(update.seen.advantages_BT, update.seen.mask_BT)
    return OneUpdate(
        loss=update.metrics[LOSS],
        gradient_norm=norm(gradients, names),
        mean_gradient_norm=update.metrics.get(NORM, math.nan),
        group_norms={g: norm(gradients, names) for g, names in members.items() if names},
        step_size=norm(update.changes, names),
        optimizer_steps=update.optimizer_steps,
        clipped=int((weighed_BT & (weights_BT == 0)).sum()),
        weighed=int(weighed_BT.sum()),
    )


def _changed_responses(
    own: Update, weights: list[torch.Tensor], record: StepRecord, processor: Processor
) -> tuple[ResponseWeights, ...]:
    """Those whose token weights change most, the most first."""
    change_B = (weights[0] - weights[1]).abs().double().sum(1)
    rows = [row for row in change_B.argsort(descending=True, stable=True).tolist() if change_B[row] > 0][
        :SHOWN_RESPONSES
    ]
    found = []
    for row in rows:
        prompt, length = int(record.group_ids_B[row]), record.lengths_B[row]
        found.append(
            ResponseWeights(
                row=row,
                prompt=prompt,
                text=record.texts[row],
                problem=record.prompts[prompt].problem,
                reward=float(record.rewards_B[row]),
                advantage=float(own.batch.advantages_BT[row, 0]),
                change=float(change_B[row]),
                tokens=token_texts(processor.tokenizer, record.response_ids_BT[row, :length].tolist()),
                own_T=weights[0][row, :length],
                other_T=weights[1][row, :length],
            )
        )
    return tuple(found)


def token_texts(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """The text of each token, special ones too; a character of several tokens stands at its last one."""
    texts, waiting = [], []
    for place, token in enumerate(ids):
        waiting.append(token)
        text = tokenizer.decode(waiting, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        whole = not text.endswith("\ufffd") or len(waiting) == 4 or place == len(ids) - 1
        texts.append(text if whole else "")
        waiting = [] if whole else waiting
    return tuple(texts)
