"""Which algorithm a run trains with, and the colour that it has on every page and in every figure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gmpo_mm.algorithms import GMPOConfig
from gmpo_mm.reports.figure_style import LIGHT
from gmpo_mm.reports.study import Study, Variant

ALGORITHMS = ("GRPO", "GMPO", "GSPO", "CISPO", "SAPO", "Dr. GRPO")
"""Their places are their series (colour, dashes, marker: figure_style.py); GRPO's and GMPO's are never another's."""
GRPO, GMPO = 0, 1

_BY_LOSS = {"gmpo": "GMPO", "gspo": "GSPO", "gspo_token": "GSPO", "cispo": "CISPO", "sapo": "SAPO"}
_BY_ESTIMATOR = {"grpo": "GRPO", "grpo_passk": "GRPO", "dr_grpo": "Dr. GRPO"}
"""What the ratio clip of PPO, `loss_type: default`, is called with an estimator."""
_IN_WORDS = re.compile(r"(?<![a-z])(dr[. _-]*grpo|grpo|gmpo|gspo|cispo|sapo)(?![a-z])", re.IGNORECASE)
_LOSS_SETTING = re.compile(r"^worker\.actor\.loss_type=[\"']?(\w+)")


def algorithm_of(config: Mapping[str, Any] | None) -> str | None:
    """One of `ALGORITHMS`; None for another one, and where the configuration doesn't tell."""
    actor = _section(config, "worker", "actor")
    return algorithm_of_loss(str(actor["loss_type"]), config) if "loss_type" in actor else None


def algorithm_of_loss(loss: str, config: Mapping[str, Any] | None) -> str | None:
    """The same for another loss within a configuration."""
    if loss != "default":
        return _BY_LOSS.get(loss)
    return _BY_ESTIMATOR.get(str(_section(config, "algorithm").get("adv_estimator", "grpo")))


def series_of_run(config: Mapping[str, Any] | None) -> int:
    """The series of a run that is shown alone: its algorithm's, or the first that is nobody's."""
    name = algorithm_of(config)
    return len(ALGORITHMS) if name is None else ALGORITHMS.index(name)


def series_of(study: Study) -> tuple[int, ...]:
    """The series of each of a study's variants."""
    return series_of_variants(study.variants)


def series_of_variants(variants: Sequence[Variant]) -> tuple[int, ...]:
    """A series for each variant, no two alike: an algorithm's goes to its plain form, the others get what is free.

    Where colours run out they come again, with other dashes; never GRPO's or GMPO's.
    """
    names = [_algorithm_of_variant(variant) for variant in variants]
    given: dict[int, int] = {}
    for series, name in enumerate(ALGORITHMS):
        its = [i for i, found in enumerate(names) if found == name]
        if its:
            given[min(its, key=lambda i: _distance_from_plain(variants[i], name))] = series
    owned = set(given.values())
    free = (k for k in itertools.count() if k % len(LIGHT) not in (GRPO, GMPO) and k not in owned)
    return tuple(given[i] if i in given else next(free) for i in range(len(variants)))


def series_of_losses(losses: Mapping[str, str | None]) -> dict[str, int]:
    """A series for each loss, no two alike: an algorithm's goes to the first loss that is it, the others get what is free."""
    given: dict[str, int] = {}
    for loss, name in losses.items():
        if name is not None and ALGORITHMS.index(name) not in given.values():
            given[loss] = ALGORITHMS.index(name)
    free = (k for k in itertools.count() if k % len(LIGHT) not in (GRPO, GMPO) and k not in given.values())
    return given | {loss: next(free) for loss in losses if loss not in given}


def _algorithm_of_variant(variant: Variant) -> str | None:
    """By its configuration, its settings, else its label: another tool's log may have nothing but a name."""
    config = variant.runs[0].config if variant.runs else None
    if "loss_type" in _section(config, "worker", "actor"):
        return algorithm_of(config)
    losses = [found[1] for setting in variant.settings if (found := _LOSS_SETTING.match(setting))]
    if losses and losses[-1] != "default":
        return _BY_LOSS.get(losses[-1])
    found = _IN_WORDS.search(f"{variant.label} {variant.name}")
    if found is None:
        return "GRPO" if losses else None
    word = re.sub("[^A-Z]", "", found[1].upper())
    return "Dr. GRPO" if word == "DRGRPO" else word


def _distance_from_plain(variant: Variant, name: str) -> int:
    """0 for a variant that is called as the algorithm is, 1 where no option of the loss was changed, else 2."""
    if variant.label.strip().casefold() == name.casefold():
        return 0
    gmpo = _section(variant.runs[0].config if variant.runs else None, "worker", "actor", "gmpo")
    changed = any(gmpo.get(key, value) != value for key, value in vars(GMPOConfig()).items())
    return 2 if name == "GMPO" and changed else 1


def _section(config: Any, *keys: str) -> Mapping[str, Any]:
    for key in keys:
        config = config.get(key) if isinstance(config, Mapping) else None
    return config if isinstance(config, Mapping) else {}
