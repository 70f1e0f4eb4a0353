"""The only configuration that the algorithms know, and with it the keys of every loss: each is written here, once.

A key has a default, a range and a meaning. The schema of `worker.actor`, its checks, the reference page and the other engines
take them from here. So a loss with a key of its own touches this file and the loss's. No torch: every command reads this.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, get_type_hints

CLIP_LEVELS = ("token", "sequence", "none")
AVERAGE_MODES = ("token", "seq")
_NO_CLIPPING = "Set worker.actor.gmpo.clip=none for no clipping."
_NO_POWER_CLIPPING = "Set worker.actor.power_mean.clip=none for no clipping."


def key(default: Any, means: str, low: float | None = None, high: float | None = None, **more: Any) -> Any:
    """A key: `low` and `high` are the ends of a number's range; `more` are further words of `config.ranges.Range`."""
    bounds = {} if low is None else {"bounds": {"low": low, "high": high, **more}}
    return field(default=default, metadata={"means": means, **bounds})


@dataclass
class GMPOKeys:
    """GMPO's own keys (arXiv 2507.20673, equation 4); the bounds are in LOG space."""

    clip: str = key("token", "What GMPO clips: each `token`, the whole `sequence`, or `none` (the lines of Table 4).")
    normalize: bool = key(
        True, "Take the 1/|o| power of the product (the geometric mean). `false` is line 4 of Table 4."
    )
    log_clip_low: float = key(
        0.4, "GMPO's lower clip bound for the log-ratio: ratios below exp(-value) are clipped.", 0, 20, fix=_NO_CLIPPING
    )
    log_clip_high: float = key(
        0.4, "GMPO's upper clip bound for the log-ratio: ratios above exp(value) are clipped.", 0, 20, fix=_NO_CLIPPING
    )


@dataclass(unsafe_hash=True)
class DPPOKeys:
    """Of `dppo_tv` and `dppo_kl` (arXiv 2602.04879); the defaults are those of verl's example."""

    tv_low: float = key(
        0.15, "`dppo_tv`: with A < 0, tokens whose probability fell by more than this are left out.", 0, 1
    )
    tv_high: float = key(
        0.15, "`dppo_tv`: with A > 0, tokens whose probability rose by more than this are left out.", 0, 1
    )
    kl_low: float = key(
        0.05, "`dppo_kl`: with A < 0, less probable tokens with a larger binary KL than this are left out.", 0, 1e6
    )
    kl_high: float = key(
        0.05, "`dppo_kl`: with A > 0, more probable tokens with a larger binary KL than this are left out.", 0, 1e6
    )
    ratio_cap: float = key(20.0, "DPPO: a token's ratio weighs at most this.", 1, 1e6)


@dataclass(unsafe_hash=True)
class M2POKeys:
    """Of `m2po` (arXiv 2510.01161)."""

    budget: float = key(
        0.04, "M2PO: the largest mean square of the log-ratios that a trust region concerns.", 0, 1e6, above=True
    )


@dataclass(unsafe_hash=True)
class ClipCovKeys:
    """Of `clip_cov` (arXiv 2505.22617)."""

    share: float = key(2e-4, "Clip-Cov: the share of all tokens that is left out; one token at least.", 0, 1, above=True)
    cov_low: float = key(1.0, "Clip-Cov: only tokens with a larger covariance than this are left out.", -1e6, 1e6)
    cov_high: float = key(5.0, "Clip-Cov: only tokens with a smaller covariance than this are left out.", -1e6, 1e6)


@dataclass(unsafe_hash=True)
class KLCovKeys:
    """Of `kl_cov` (arXiv 2505.22617)."""

    share: float = key(
        2e-4, "KL-Cov: the share of all tokens, those of largest covariance, with a KL penalty; one at least.", 0, 1, above=True
    )
    coef: float = key(1.0, "KL-Cov: coefficient of the penalty.", 0, 1e6)


@dataclass(unsafe_hash=True)
class VESPOKeys:
    """Of `vespo` (arXiv 2602.10693): the weight of a sequence is W^k exp(lambda (1 - W))."""

    k_positive: float = key(2.0, "VESPO: the exponent k for A >= 0.", 0, 1e3)
    k_negative: float = key(3.0, "VESPO: the exponent k for A < 0.", 0, 1e3)
    lambda_positive: float = key(3.0, "VESPO: the decay lambda for A >= 0.", 0, 1e3, above=True)
    lambda_negative: float = key(2.0, "VESPO: the decay lambda for A < 0.", 0, 1e3, above=True)


@dataclass(unsafe_hash=True)
class FIPOKeys:
    """Of `fipo` (arXiv 2603.19835)."""

    half_life: float = key(32.0, "FIPO: the tokens ahead after which a log-ratio counts half.", 0, 1e9, above=True)
    clip: float = key(0.2, "FIPO: a token's weight is at most 1 + value. 0 leaves the loss of `default`.", 0, 1)
    clip_high_only: bool = key(True, "FIPO: the weight is at least 1; with `false` it is at least 1 - `clip`.")
    safe_ratio: float = key(10.0, "FIPO: with A < 0 and a ratio above this, the weight is held in [0.8, 1].", 0, 1e6)


@dataclass
class PowerMeanKeys:
    """The power mean's own keys (arXiv 2601.22521, 2605.12058); the bounds are in LOG space, as GMPO's."""

    p: float = key(
        0.5, "Exponent of the mean over a response's ratios: 1 is GRPO's (arithmetic), 0 is GMPO's (geometric).", -100, 100
    )
    clip: str = key(
        "token", "What is clipped: each `token` before the mean, the mean itself (`sequence`), or `none`."
    )
    log_clip_low: float = key(
        0.4, "Lower clip bound for the log-ratio: ratios below exp(-value) are clipped.", 0, 20, fix=_NO_POWER_CLIPPING
    )
    log_clip_high: float = key(
        0.4, "Upper clip bound for the log-ratio: ratios above exp(value) are clipped.", 0, 20, fix=_NO_POWER_CLIPPING
    )


@dataclass
class LossKeys:
    """The keys of `worker.actor` that say which policy loss is trained with, and what it reads."""

    loss_type: str = key(
        "default",
        "The policy loss: `gmpo`, `default` (GRPO's), another of [this table](#which-loss-reads-which-key), or a function "
        "of your own, `path/to/file.py:name`.",
    )
    clip_ratio_low: float = key(
        0.2, "Ratios below 1 - value are clipped, for losses that clip ratios. 1.0 is no lower bound.", 0, 1000
    )
    clip_ratio_high: float = key(0.3, "Ratios above 1 + value are clipped, for losses that clip ratios.", 0, 1e6)
    clip_ratio_dual: float = key(
        3.0, "Dual clip: with a negative advantage, the loss of a token is at most value x |advantage|.", 1, 1e6
    )
    tau_positive: float = key(1.0, "SAPO's temperature for tokens with a positive advantage.", 0, 1e6, above=True)
    tau_negative: float = key(1.05, "SAPO's temperature for tokens with a negative advantage.", 0, 1e6, above=True)
    loss_avg_mode: str = key(
        "token",
        "Mean over all tokens of the mini-batch (`token`), or over each response's tokens and then over responses "
        "(`seq`). Losses that are means over sequences ignore it.",
    )
    gmpo: GMPOKeys = field(default_factory=GMPOKeys)
    power_mean: PowerMeanKeys = field(default_factory=PowerMeanKeys)
    dppo: DPPOKeys = field(default_factory=DPPOKeys)
    m2po: M2POKeys = field(default_factory=M2POKeys)
    clip_cov: ClipCovKeys = field(default_factory=ClipCovKeys)
    kl_cov: KLCovKeys = field(default_factory=KLCovKeys)
    vespo: VESPOKeys = field(default_factory=VESPOKeys)
    fipo: FIPOKeys = field(default_factory=FIPOKeys)


@dataclass(unsafe_hash=True)
class GMPOConfig(GMPOKeys):
    """Options of the GMPO loss (Table 4 of the paper, lines 2 to 5).

    The clip bounds are in LOG space: a log-ratio is held above ``-log_clip_low`` or below ``log_clip_high``, so 0.4
    means the ratio range (e^-0.4, e^0.4). EasyR1's ``clip_ratio_low/high`` are ratio space and are not read by GMPO.

    Raises:
        ValueError: unknown ``clip``, or a negative bound.
    """

    def __post_init__(self) -> None:
        _check_log_clip("gmpo", self)


@dataclass(unsafe_hash=True)
class PowerMeanConfig(PowerMeanKeys):
    """Options of the power mean. Raises ValueError: unknown ``clip``, a negative bound, ``p`` that is no finite number."""

    def __post_init__(self) -> None:
        _check_log_clip("power_mean", self)
        if not math.isfinite(self.p):
            raise ValueError(f"power_mean.p: {self.p!r} must be a finite number; 1 is GRPO's mean, 0 is GMPO's.")


def _check_log_clip(section: str, keys: GMPOKeys | PowerMeanKeys) -> None:
    if keys.clip not in CLIP_LEVELS:
        raise ValueError(f"{section}.clip: {keys.clip!r} is unknown; use one of {', '.join(CLIP_LEVELS)}.")
    for name in ("log_clip_low", "log_clip_high"):
        if not getattr(keys, name) >= 0:
            raise ValueError(
                f"{section}.{name}: {getattr(keys, name)!r} must be >= 0; it is the size of a log-ratio "
                "(0.4 clips at e^-0.4 or e^0.4)."
            )


@dataclass(unsafe_hash=True)
class PolicyLossConfig(LossKeys):
    """Everything that a policy loss may read; names, meaning and defaults of EasyR1's ``worker.actor``, plus one section
    for each loss with keys of its own (``gmpo``, ``power_mean``).

    ``clip_ratio_low/high`` clip ratios at ``1 - low`` and ``1 + high``; ``clip_ratio_dual`` bounds the ratio where the
    advantage is negative; ``loss_avg_mode`` says whether the mean runs over tokens or over sequences (of their token
    means). Which loss reads which key: ``clip_keys_read_by``.

    Raises:
        ValueError: a value outside its range. (An unknown ``loss_type`` is found by ``get_policy_loss``, which every
            function that takes this config calls first.)
    """

    gmpo: GMPOConfig = field(default_factory=GMPOConfig)
    power_mean: PowerMeanConfig = field(default_factory=PowerMeanConfig)

    def __post_init__(self) -> None:
        if self.loss_avg_mode not in AVERAGE_MODES:
            raise ValueError(f"loss_avg_mode: {self.loss_avg_mode!r} is unknown; use {' or '.join(AVERAGE_MODES)}.")
        if not 0 <= self.clip_ratio_low <= 1:
            raise ValueError(
                f"clip_ratio_low: {self.clip_ratio_low!r} must be in [0, 1]; the bound is 1 - low, and 1 is no lower bound."
            )
        if not self.clip_ratio_high >= 0:
            raise ValueError(f"clip_ratio_high: {self.clip_ratio_high!r} must be >= 0; the bound is 1 + high.")
        if not self.clip_ratio_dual > 1:
            raise ValueError(f"clip_ratio_dual: {self.clip_ratio_dual!r} must be > 1; it bounds the ratio from above.")
        for name in ("tau_positive", "tau_negative"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: {getattr(self, name)!r} must be > 0; it is a temperature.")
        for name in ("dppo", "m2po", "clip_cov", "kl_cov", "vespo", "fipo"):
            _check_bounds(name, getattr(self, name))
        if not self.clip_cov.cov_low < self.clip_cov.cov_high:
            low, high = self.clip_cov.cov_low, self.clip_cov.cov_high
            raise ValueError(f"clip_cov.cov_low: {low!r} must be below clip_cov.cov_high, {high!r}.")


def _check_bounds(prefix: str, section: Any) -> None:
    """ValueError for a number of a section that is outside the range written beside its key."""
    for item in fields(section):
        value, bounds = getattr(section, item.name), item.metadata.get("bounds")
        if bounds is None:
            continue
        low, high, above = bounds["low"], bounds["high"], bounds.get("above", False)
        if not (low < value <= high if above else low <= value <= high):
            words = f"above {low:g}" if above else f"at least {low:g}"
            raise ValueError(f"{prefix}.{item.name}: {value!r} must be {words} and at most {high:g}.")


def make_loss_config(values: Mapping[str, Any]) -> PolicyLossConfig:
    """A `PolicyLossConfig` from plain values, sections as mappings. Raises ValueError for a value outside its range."""
    hints = get_type_hints(PolicyLossConfig)
    return PolicyLossConfig(
        **{name: hints[name](**value) if is_dataclass(hints[name]) else value for name, value in values.items()}
    )


def loss_keys(section: type = LossKeys, prefix: str = "") -> Iterator[str]:
    """Dotted names of the keys but for `loss_type`, relative to `worker.actor`."""
    hints = get_type_hints(section)
    for item in fields(section):
        if is_dataclass(hints[item.name]):
            yield from loss_keys(hints[item.name], f"{prefix}{item.name}.")  # type: ignore[arg-type]
        elif item.name != "loss_type":
            yield f"{prefix}{item.name}"
