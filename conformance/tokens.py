"""What the naive reference of a loss is given: the valid tokens of a response; and the counter of its clip
shares."""

from __future__ import annotations

from dataclasses import dataclass, field

from conformance.dual import Dual, exp


@dataclass
class Token:
    """A valid token: its log-probabilities, of which only the policy's has a gradient, its advantage, and its
    weight by a correction of the sampler."""

    log_prob: Dual
    old: float
    ref: float
    a: float
    weight: float = 1.0

    @property
    def rho(self) -> Dual:
        return exp(self.log_prob - self.old)

    @property
    def log_ratio(self) -> float:
        return self.log_prob.value - self.old


Row = list[Token]


@dataclass
class Shares:
    """Counts tokens on which a bound binds, by name."""

    names: tuple[str, ...]
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, when: bool = True, tokens: int = 1) -> bool:
        """Count ``tokens`` under the name if ``when``, which is given back."""
        assert name in self.names
        if when:
            self.counts[name] = self.counts.get(name, 0) + tokens
        return when
