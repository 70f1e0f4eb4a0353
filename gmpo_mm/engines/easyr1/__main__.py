"""`python -m gmpo_mm.engines.easyr1 config=FILE key=value ...`: EasyR1's command line, with `worker.actor.loss_type=gmpo`.

A script of EasyR1's changes in the module's name only (`verl.trainer.main` before), plus the loss that it asks for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gmpo_mm.errors import GMPOError, StoppedRun, print_error
from gmpo_mm.runs import third_party
from gmpo_mm.runs.stopping import StopNow, stop_at_once

USAGE = "usage: python -m gmpo_mm.engines.easyr1 config=FILE.yaml [key=value ...]   (keys as in EasyR1, and gmpo_mm's)"


def main(arguments: Sequence[str]) -> int:
    """Train what EasyR1's arguments say; returns the exit code."""
    if not arguments or any(argument in ("-h", "--help") for argument in arguments):
        print(USAGE)
        return 0 if arguments else 2
    from gmpo_mm.config import load_config
    from gmpo_mm.engines.checks import notes, validate_for_training
    from gmpo_mm.engines.easyr1.launch import train
    from gmpo_mm.runs.progress import Progress

    stop_at_once()
    third_party.quiet()
    files = [argument.removeprefix("config=") for argument in arguments if argument.startswith("config=")]
    overrides = [argument for argument in arguments if not argument.startswith("config=")]
    try:
        loaded = load_config(files[-1] if files else None, ["engine=easyr1", *overrides])
        validate_for_training(loaded)  # what is an error is no note
        progress = Progress()
        for line in notes(loaded):
            progress.log(line)
        train(loaded, ["python", "-m", "gmpo_mm.engines.easyr1", *arguments], progress)
    except (StoppedRun, StopNow) as stop:
        return stop.status
    except GMPOError as error:
        print_error(str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
