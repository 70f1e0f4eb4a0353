"""Errors that a user can cause; each message names the key or row, the value, and the fix."""

import os
from pathlib import Path

from gmpo_mm.credentials import clean


class GMPOError(Exception):
    """Base of every error that this package raises on purpose; the command line prints it without a traceback."""


class ConfigError(GMPOError, ValueError):
    """A configuration that can't train what it says."""


class DataError(GMPOError, ValueError):
    """A record, image or file that can't be used; the message names its row."""


class RewardError(GMPOError, RuntimeError):
    """A reward function that raised or returned something other than its contract."""


class TrainingError(GMPOError, RuntimeError):
    """A run that has to end: repeated non-finite gradients, a log-probability gap out of bounds, a full disk."""


class StoppedRun(GMPOError):
    """A run that was asked to stop and has saved; `status` is its exit status, `path` its directory."""

    def __init__(self, message: str, status: int, path: Path) -> None:
        super().__init__(message)
        self.status, self.path = status, path


def print_error(message: str) -> None:
    """Print an error that a user can correct, in red, on the standard error; what it quotes moves no cursor."""
    message = clean(message)
    message = "".join(c if c.isprintable() or c == "\n" else " " for c in message)
    try:
        from rich.console import Console
        from rich.text import Text

        Console(stderr=True).print(Text(message, style="red"), soft_wrap=True)
    except (MemoryError, ImportError):  # memory is what the message is about
        os.write(2, f"{message}\n".encode(errors="replace"))
