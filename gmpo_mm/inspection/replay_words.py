"""A replay in words and tables, the same on the terminal, on the page and as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from gmpo_mm.config.engine_facts import has_own_actor
from gmpo_mm.inspection.replay import Replay
from gmpo_mm.inspection.two_updates import OneUpdate, ResponseWeights, TwoUpdates
from gmpo_mm.reports.words import MINUS

NOTES = (
    "First step: the gradients of the first optimizer step that has any, before clipping, at equal weights "
    "(on-policy, most losses agree there). All steps: gradients summed over the optimizer steps, each at the "
    "weights that its own update had reached.",
    "Token weights and clipped tokens are those of all optimizer steps of the last epoch, at the "
    "log-probabilities that each update saw.",
    "A token's weight is -dL/dlog p of the policy loss, without KL and entropy terms: above 0 its "
    "probability is raised, below 0 lowered, and 0 is no gradient (clipped, or no advantage).",
)


@dataclass(frozen=True)
class Row:
    """A number of both updates."""

    name: str
    own: str
    other: str


def headline(replay: Replay) -> str:
    """One sentence: the same bytes, within the tolerance, or what differs first."""
    first = replay.first_difference
    done = f"Step {replay.step}, done again"
    if first is not None:
        return f"{done}, differs from the record. The first difference is in {first.name}: {first.words}."
    if replay.exact:
        return f"{done}: the same bytes."
    largest = max(replay.stages, key=lambda stage: stage.difference)
    why = "on another device" if has_own_actor(replay.engine) else f"recorded by engine {replay.engine}"
    found = (
        f"at most {largest.difference:.1e} apart, in {largest.name}"
        if largest.difference
        else "no number differs"
    )
    return (
        f"{done} on engine local: agrees with the record ({why}) to {replay.replayed.tolerance:g}; {found}."
    )


def changed_words(replay: Replay) -> str:
    """What is not as it was when the step was recorded; empty where the bytes are the same in spite of it."""
    if replay.same and replay.exact:
        return ""
    if replay.changed:
        parts = [f"{name} {_value(then)} -> {_value(now)}" for name, (then, now) in replay.changed.items()]
        return f"Changed since it was recorded: {'; '.join(parts)}."
    return "" if replay.same else "Nothing that a record says of the machine and its packages has changed."


def number_rows(two: TwoUpdates) -> list[Row]:
    """Loss, norms, step size and clipped tokens, side by side."""

    def row(name: str, value: Any) -> Row:
        return Row(name, value(two.own), value(two.other))

    several = max(two.own.optimizer_steps, two.other.optimizer_steps) > 1
    rows = [row("loss", lambda u: number(u.loss)), row("gradient norm", lambda u: number(u.gradient_norm))]
    rows += [row("mean gradient norm", lambda u: number(u.mean_gradient_norm))] if several else []
    rows += [row("optimizer steps", lambda u: str(u.optimizer_steps))] if several else []
    rows += [row("step size", lambda u: number(u.step_size)), row("tokens clipped", _clipped)]
    return rows


COSINE_COLUMNS = ("cosine of", "first step", "all steps", "norm, own", "norm, other")


def cosine_rows(two: TwoUpdates) -> list[tuple[str, str, str, str, str]]:
    """In `COSINE_COLUMNS`: gradients whole and by group of layers, token weights, the change of the weights.

    Norms are those of the first optimizer step's gradients, and of the whole step's change.
    """
    own, other = two.own, two.other
    rows = [
        (
            "gradients",
            cosine_text(two.cosine),
            cosine_text(two.sum_cosine),
            number(own.gradient_norm),
            number(other.gradient_norm),
        )
    ]
    for group, value in two.cosines.items():
        name = "embeddings, tied head" if group == "embeddings" and two.tied else group
        norms = (number(own.group_norms[group]), number(other.group_norms[group]))
        rows.append((f"  {name}", cosine_text(value), cosine_text(two.sum_cosines[group]), *norms))
    rows.append(("token weights", "", cosine_text(two.weight_cosine), "", ""))
    rows.append(
        ("weights' change", "", cosine_text(two.step_cosine), number(own.step_size), number(other.step_size))
    )
    return rows


def response_title(found: ResponseWeights) -> str:
    """Which response, its reward, and by how much its weights change."""
    return (
        f"Response {found.row} to prompt {found.prompt}: reward {found.reward:.3g}, advantage "
        f"{signed(found.advantage)}, weight changes by {number(found.change)} in all"
    )


def replay_json(replay: Replay) -> dict[str, Any]:
    """All numbers, for scripts; weights of tokens too."""
    found: dict[str, Any] = {
        "run": str(replay.run), "step": replay.step, "engine": replay.engine, "same": replay.same,
        "same_bytes": replay.same and replay.exact, "tolerance": replay.replayed.tolerance,
        "first_difference": None if replay.first_difference is None else replay.first_difference.name,
        "stages": [asdict(stage) for stage in replay.stages],
        "changed": {name: list(pair) for name, pair in replay.changed.items()},
        "overrides": list(replay.overrides),
    }  # fmt: skip
    two = replay.two
    if two is None:
        return found
    return found | {
        "own": asdict(two.own), "other": asdict(two.other),
        "cosine": two.cosine, "cosine_by_group": dict(two.cosines), "sum_cosine": two.sum_cosine,
        "sum_cosine_by_group": dict(two.sum_cosines), "weight_cosine": two.weight_cosine,
        "step_cosine": two.step_cosine,
        "responses": [
            {
                "row": r.row, "prompt": r.prompt, "change": r.change, "tokens": list(r.tokens),
                "own": r.own_T.tolist(), "other": r.other_T.tolist(),
            }
            for r in two.responses
        ],
    }  # fmt: skip


def number(value: float) -> str:
    """Five digits that count, with a true minus sign."""
    return (
        "none" if math.isnan(value) else f"{value:.5g}".replace("-", MINUS) if value < 0 else f"{value:.5g}"
    )


def signed(value: float) -> str:
    """A weight with its sign, three digits that count."""
    return "0" if value == 0 else f"{'+' if value > 0 else MINUS}{abs(value):.3g}"


def cosine_text(value: float) -> str:
    """Six digits after the point: updates of one step are often nearly parallel."""
    return "none" if math.isnan(value) else f"{value:.6f}".replace("-", MINUS)


def settings(replay: Replay) -> str:
    """The overrides as they were given."""
    return " ".join(replay.overrides)


def _clipped(update: OneUpdate) -> str:
    share = update.clipped / update.weighed if update.weighed else 0.0
    return f"{update.clipped:,} of {update.weighed:,} ({100 * share:.2g} %)"


def _value(value: Any) -> str:
    return "none" if value is None else str(value)
