"""The corrections of a sampler that differs: names, units, bounds. No torch: every command reads this."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class CorrectionKind:
    """What one value of ``worker.rollout.correction`` is.

    ``unit``: what has one ratio and is cut or masked as a whole, ``token`` or ``sequence``. ``floor`` is None where
    there is no lower bound to set, 0 where it is off unless it is set.
    """

    unit: str
    cap: float
    floor: float | None = None


CORRECTIONS = {
    "truncated": CorrectionKind("token", 2.0),
    "masked": CorrectionKind("token", 5.0, 0.5),
    "sequence_truncated": CorrectionKind("sequence", 2.0),
    "sequence_masked": CorrectionKind("sequence", 3.0, 0.0),
    "geometric_masked": CorrectionKind("sequence", 1.001, 0.999),
}
"""Name -> its unit and the bounds that it has unless others are set.

Whose bounds: 2 for both truncations is verl's default. 0.5 and 5 for ``masked`` are IcePop's, as in verl's
preset. 3 and no floor for ``sequence_masked`` are TRL's. 0.999 and 1.001 for ``geometric_masked`` are those
of verl's preset "geo_rs".
"""


@dataclass(frozen=True)
class Correction:
    """One correction with its bounds, as ``make_correction`` makes it."""

    kind: str
    cap: float
    floor: float = 0.0

    @property
    def unit(self) -> str:
        """``token`` or ``sequence``."""
        return CORRECTIONS[self.kind].unit


def make_correction(kind: str, cap: float | None = None, floor: float | None = None) -> Correction | None:
    """The correction ``kind`` with these bounds, or its own where they are None; None for ``none``.

    Raises:
        ValueError: an unknown kind, a cap that is not above 0 and finite, a floor where the kind has none, a
            floor below 0 or not below the cap.
    """
    if kind == "none":
        return None
    if kind not in CORRECTIONS:
        raise ValueError(f"correction {kind!r} is unknown; use none, {', '.join(CORRECTIONS)}.")
    own = CORRECTIONS[kind]
    cap = own.cap if cap is None else cap
    if not 0 < cap < math.inf:
        raise ValueError(f"cap: {cap!r} must be a finite number above 0; ratios above it are cut or masked.")
    if own.floor is None:
        if floor is not None:
            masking = [name for name, other in CORRECTIONS.items() if other.floor is not None]
            raise ValueError(f"floor: {kind} has no lower bound; leave it out, or use {', '.join(masking)}.")
        return Correction(kind, cap)
    floor = own.floor if floor is None else floor
    if not 0 <= floor < cap:
        raise ValueError(f"floor: {floor!r} must be 0 (no lower bound) or more and below the cap, {cap!r}.")
    return Correction(kind, cap, floor)
