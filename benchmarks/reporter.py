"""What a side of a comparison says to its parent: JSON lines that mark the rounds."""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

from benchmarks.clock import PhaseClock, resident_mib


class Pipe:
    """JSON lines to the parent over the real stdout; whatever else prints goes to stderr."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def send(self, message: dict[str, Any]) -> None:
        """Write one line."""
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()

    def wait_for_go(self) -> None:
        """Block until the parent asks for the next round."""
        if not sys.stdin.readline():
            raise SystemExit("the parent is gone")


class Reporter:
    """Marks the rounds: `ready` once after set-up, then `start` and `finish` around each round."""

    def __init__(self, pipe: Pipe, clock: PhaseClock) -> None:
        self.pipe, self.clock = pipe, clock

    def ready(self, prompts: list[list[int]], versions: dict[str, str], trainable: int) -> None:
        """Report what was loaded; the resident set now is the baseline of the memory figures."""
        gc.collect()
        self.pipe.send(
            {
                "baseline_mib": resident_mib(),
                "prompts": prompts,
                "versions": versions,
                "trainable_parameters": trainable,
            }
        )

    def start(self) -> None:
        """Wait for the parent's word, then start the clock."""
        self.pipe.wait_for_go()
        self.clock.start_round()

    def finish(self, **facts: Any) -> None:
        """Stop the clock and report the round."""
        measured = self.clock.end_round()
        measured.facts.update(facts)
        self.pipe.send(measured.to_json())
