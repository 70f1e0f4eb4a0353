"""Log-probabilities, mini-batches, ratio, loss, gradient, rate and weights: the update itself."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gmpo_mm.inspection import causes_of_log_probs, causes_of_updates, recipes
from gmpo_mm.inspection.alignment import Alignment
from gmpo_mm.inspection.comparing import (
    LOG_PROB,
    METRIC,
    RATE,
    RATIO,
    after_sampling,
    compare_numbers,
    of_metrics,
    scalars,
    tokens,
)
from gmpo_mm.inspection.findings import DIFFERS, EQUAL, UNKNOWN, Cause, Example, Stage, absent, short
from gmpo_mm.inspection.sources import Source

RATIO_METRICS = ("ratio/token_min", "ratio/token_max", "ratio/seq_geo_mean_min", "ratio/seq_geo_mean_max")
LOSS_METRICS = ("actor/pg_loss", "actor/kl_loss")


def log_probs(tensor: str) -> Callable[[Source, Source, Alignment], Stage]:
    """The stage of one tensor of a record."""
    shown = {"sampler_log_probs": "sampler's log-probs", "ref_log_probs": "reference log-probs"}[tensor]

    def stage(a: Source, b: Source, aligned: Alignment) -> Stage:
        return _of_tokens(shown, tensor, a, b, aligned)

    return stage


def old_log_probs(a: Source, b: Source, aligned: Alignment) -> Stage:
    """Of the old policy; where a side has none of its own, the sampler's serve."""
    own = [bool(s.samples) and all("old_log_probs" in x.tokens for x in s.samples) for s in (a, b)]
    sampled = [bool(s.samples) and all("sampler_log_probs" in x.tokens for x in s.samples) for s in (a, b)]
    if not any(own):
        return absent("old log-probs", False, False, "the sampler's serve" if all(sampled) else "")
    return _of_tokens("old log-probs", "old", a, b, aligned)


def _of_tokens(shown: str, tensor: str, a: Source, b: Source, aligned: Alignment) -> Stage:
    def of(sample: object) -> torch.Tensor | None:
        return sample.behaviour_T if tensor == "old" else sample.tokens.get(tensor)  # type: ignore[attr-defined]

    in_a, in_b = (bool(s.samples) and all(of(x) is not None for x in s.samples) for s in (a, b))
    if not in_a or not in_b:
        return absent(shown, in_a, in_b)
    if not aligned.same:
        return after_sampling(shown)
    stage = compare_numbers(shown, tokens(aligned.same, of), LOG_PROB, "tokens", True)
    if stage.status == DIFFERS:
        stage.causes = causes_of_log_probs.log_probs(tensor, aligned.same, a, b)
    return stage


def mini_batches(a: Source, b: Source, aligned: Alignment) -> Stage:
    """Which responses each optimizer step has."""
    name = "mini-batches"
    if a.updates is None or b.updates is None or not a.samples or not b.samples:
        return absent(name, bool(a.updates), bool(b.updates))
    if not aligned.pairs:
        return after_sampling(name)
    place = (
        {p.a.row: n for n, p in enumerate(aligned.pairs)},
        {p.b.row: n for n, p in enumerate(aligned.pairs)},
    )
    cuts = [
        [frozenset(rows[row] for row in update if row in rows) for update in source.updates or ()]
        for source, rows in ((a, place[0]), (b, place[1]))
    ]
    if cuts[0] == cuts[1]:
        return Stage(name, EQUAL, f"{len(cuts[0])} updates", compared=len(cuts[0]))
    off = sum(x != y for x, y in zip(*cuts)) + abs(len(cuts[0]) - len(cuts[1]))
    total = max(map(len, cuts))
    stage = Stage(name, DIFFERS, f"{off} of {total} updates have other responses", total, share=off / total)
    sizes = [", ".join(str(len(update)) for update in source.updates or ()) for source in (a, b)]
    stage.example = Example(
        "", -1, -1, f"updates of {short(sizes[0], 60)} rows", f"updates of {short(sizes[1], 60)} rows"
    )
    if sorted(map(sorted, cuts[0])) == sorted(map(sorted, cuts[1])):
        cause = Cause("update_order", "the same mini-batches in another order")
    elif sizes[0] == sizes[1]:
        cause = Cause(
            "update_shuffle",
            "mini-batches of the same size with other responses: another shuffle, or balanced ranks",
        )
    else:
        cause = Cause(
            "update_count",
            "another cut into mini-batches (global_batch_size in prompts or responses, ppo_epochs)",
        )
    stage.causes = [cause]
    return stage


def ratio(a: Source, b: Source, aligned: Alignment) -> Stage:
    """Of the last epoch's forward passes; from the metrics where a side has no such log-probs."""
    name = "ratio"
    complete = [
        bool(s.samples) and all("log_probs" in x.tokens and x.behaviour_T is not None for x in s.samples)
        for s in (a, b)
    ]
    if not all(complete):
        return of_metrics(name, RATIO_METRICS, RATIO, a, b)
    if not aligned.same:
        return after_sampling(name)
    # a row whose group has no advantage may be left out of the update; it has no log-probs then
    pairs = [p for p in aligned.same if all(bool((s.tokens["log_probs"] != 0).any()) for s in (p.a, p.b))]
    values = tokens(pairs, lambda s: (s.tokens["log_probs"] - s.behaviour_T).exp())
    stage = compare_numbers(name, values, RATIO, "tokens' ratios", True)
    if stage.status == DIFFERS:
        stage.causes = causes_of_updates.ratio(pairs, a, b)
    return stage


def loss(a: Source, b: Source, aligned: Alignment) -> Stage:
    """The policy loss, and the KL term where there is one."""
    stage = of_metrics("loss", LOSS_METRICS, METRIC, a, b)
    if stage.status == DIFFERS:
        x, y = (
            (s.metrics["actor/pg_loss"] for s in (a, b))
            if all("actor/pg_loss" in s.metrics for s in (a, b))
            else (0.0, 0.0)
        )
        stage.causes = recipes.loss(a, b) or causes_of_updates.scaled_loss(x, y)
        if not stage.causes:
            words = "another loss, another mean, or what differs before it"
            stage.causes = [Cause("loss", words, causes_of_updates.loss_settings(a, b))]
    return stage


def gradient_norm(a: Source, b: Source, aligned: Alignment) -> Stage:
    """Mean over the step's updates, before clipping."""
    stage = of_metrics("gradient norm", ("actor/grad_norm",), METRIC, a, b)
    if stage.status == DIFFERS:
        stage.causes = causes_of_updates.gradient_norm(
            a.metrics["actor/grad_norm"], b.metrics["actor/grad_norm"], a, b
        )
    return stage


def rate(a: Source, b: Source, aligned: Alignment) -> Stage:
    """Of the step's updates."""
    name = "learning rate"
    if a.learning_rate is None or b.learning_rate is None:
        return absent(name, a.learning_rate is not None, b.learning_rate is not None)
    stage = scalars(name, [("", a.learning_rate, b.learning_rate)], RATE)
    if stage.status == DIFFERS:
        stage.causes = causes_of_updates.rate(a.learning_rate, b.learning_rate, a, b)
    return stage


def weights(a: Source, b: Source, aligned: Alignment) -> Stage:
    """By their hashes before and after the step, which are equal bit for bit or not at all."""
    name = "weights"
    in_a, in_b = (bool(s.weights_before or s.weights_after) for s in (a, b))
    if not in_a or not in_b:
        return absent(name, in_a, in_b)
    off = [
        when
        for when, x, y in (
            ("before", a.weights_before, b.weights_before),
            ("after", a.weights_after, b.weights_after),
        )
        if x != y
    ]
    if not off:
        return Stage(name, EQUAL, "before and after the step, bit for bit", compared=2)
    if a.engine != b.engine:
        return Stage(
            name, UNKNOWN, f"the hashes {' and '.join(off)} the step differ, as one different bit makes them"
        )
    stage = Stage(name, DIFFERS, f"{' and '.join(off)} the step", 2, share=len(off) / 2)
    when = off[0]
    values = [getattr(s, f"weights_{when}")[:12] for s in (a, b)]
    stage.example = Example("", -1, -1, f"{when}: {values[0]}", f"{when}: {values[1]}")
    if when == "before":
        cause = Cause(
            "weights_before",
            "the weights before the step differ: look at an earlier step, or at the model's files",
        )
    else:
        words = (
            "the optimizer makes another step of the gradient (or the gradient differs, with the same norm)"
        )
        cause = Cause("optimizer", words, causes_of_updates.optimizer_settings(a, b))
    stage.causes = [cause]
    return stage
