"""Small JSON files of other tools: a model's configuration, an adapter's, a tracker's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gmpo_mm.errors import ConfigError


def read_mapping(file: Path, advice: str) -> dict[str, Any]:
    """The content as a mapping; ConfigError of one line, ended by `advice`, for a file that can't be read or is none."""
    try:
        content = json.loads(file.read_bytes().decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        reason = "nested too deep" if deep else " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
        raise ConfigError(f"{file} can't be read ({reason}); {advice}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file} can't be read (a {type(content).__name__} in place of a mapping); {advice}")
    return content
