"""The only configuration that the algorithms know: two frozen dataclasses, checked when they are made."""

from dataclasses import dataclass, field

CLIP_LEVELS = ("token", "sequence", "none")
AVERAGE_MODES = ("token", "seq")


@dataclass(frozen=True)
class GMPOConfig:
    """Options of the GMPO loss (Table 4 of the paper, lines 2 to 5).

    The clip bounds are in LOG space: a log-ratio is held above ``-log_clip_low`` or below ``log_clip_high``, so 0.4
    means the ratio range (e^-0.4, e^0.4). EasyR1's ``clip_ratio_low/high`` are ratio space and are not read by GMPO.

    Raises:
        ValueError: unknown ``clip``, or a negative bound.
    """

    clip: str = "token"
    normalize: bool = True
    log_clip_low: float = 0.4
    log_clip_high: float = 0.4

    def __post_init__(self) -> None:
        if self.clip not in CLIP_LEVELS:
            raise ValueError(f"gmpo.clip: {self.clip!r} is unknown; use one of {', '.join(CLIP_LEVELS)}.")
        for key in ("log_clip_low", "log_clip_high"):
            if not getattr(self, key) >= 0:
                raise ValueError(
                    f"gmpo.{key}: {getattr(self, key)!r} must be >= 0; it is the size of a log-ratio "
                    "(0.4 clips at e^-0.4 or e^0.4)."
                )


@dataclass(frozen=True)
class PolicyLossConfig:
    """Everything that a policy loss may read; names, meaning and defaults of EasyR1's ``worker.actor``, plus ``gmpo``.

    ``clip_ratio_low/high`` clip ratios at ``1 - low`` and ``1 + high``; ``clip_ratio_dual`` bounds the ratio where the
    advantage is negative; ``loss_avg_mode`` says whether the mean runs over tokens or over sequences (of their token
    means). Which loss reads which key: ``clip_keys_read_by``.

    Raises:
        ValueError: a value outside its range. (An unknown ``loss_type`` is found by ``get_policy_loss``, which every
            function that takes this config calls first.)
    """

    loss_type: str = "default"
    clip_ratio_low: float = 0.2
    clip_ratio_high: float = 0.3
    clip_ratio_dual: float = 3.0
    tau_positive: float = 1.0
    tau_negative: float = 1.05
    loss_avg_mode: str = "token"
    gmpo: GMPOConfig = field(default_factory=GMPOConfig)

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
        for key in ("tau_positive", "tau_negative"):
            if not getattr(self, key) > 0:
                raise ValueError(f"{key}: {getattr(self, key)!r} must be > 0; it is a temperature.")
