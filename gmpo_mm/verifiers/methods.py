"""The comparisons that a verifier process can make, by name. Each is loaded inside the supervisor, at first need."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

Compare = Callable[[str, str], bool]  # (prediction, gold)


class MethodUnavailableError(Exception):
    """A method's packages are not installed; the text names the mend."""


@dataclass(frozen=True)
class Method:
    """Where a method's loader is, and the extra of this package that brings what it imports ("" for none)."""

    module: str
    loader: str
    extra: str = ""

    def load(self) -> Compare:
        """Import the method and everything that its first comparisons would import; takes a second."""
        try:
            compare: Compare = getattr(importlib.import_module(self.module), self.loader)()
        except ModuleNotFoundError as error:
            if not self.extra or (error.name or "").startswith("gmpo_mm"):
                raise
            mend = f"pip install 'gmpo-mm[{self.extra}]'"
            raise MethodUnavailableError(f"{error}; install what is missing with: {mend}") from error
        return compare


FIRST = "math"  # loaded at the supervisor's start; the others when a job first asks for them
METHODS = {
    FIRST: Method("gmpo_mm.verifiers.worker", "load_math"),
    "minerva": Method("gmpo_mm.verifiers.worker", "load_minerva"),
    "olympiadbench": Method("gmpo_mm.verifiers.worker", "load_olympiadbench"),
    "drgrpo_fast": Method("gmpo_mm.verifiers.drgrpo_symbolic", "load_fast", extra="drgrpo"),
    "drgrpo_slow": Method("gmpo_mm.verifiers.drgrpo_symbolic", "load_slow", extra="drgrpo"),
}
