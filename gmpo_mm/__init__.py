"""GMPO and GRPO reinforcement learning of vision-language and language models, on top of EasyR1's configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gmpo_mm.version import VERSION

if TYPE_CHECKING:
    from gmpo_mm.api import (
        compare,
        diff,
        evaluate,
        grade,
        grade_file,
        load_config,
        load_run,
        load_step,
        replay,
        report,
        train,
    )

__version__ = VERSION
__all__ = [
    "compare", "diff", "evaluate", "grade", "grade_file", "load_config", "load_run", "load_step", "replay", "report",
    "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """The API, imported when it is asked for: `import gmpo_mm` takes no time and no torch."""
    if name in __all__:
        from gmpo_mm import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
