"""Seeds of the sampling: each prompt has its own, so that what is sampled does not depend on how prompts are batched."""

from __future__ import annotations

import numpy as np

EVALUATION_SEED = 1  # of validations too: a run's validation gives the number that `evaluate` gives by the same protocol


def prompt_seed(*parts: int) -> int:
    """A 63-bit seed from integers; equal parts give equal seeds on every machine."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def evaluation_seed(seed: int, problem: int) -> int:
    """The seed of a problem's samples in a validation or an evaluation: no prompt of training ever has it."""
    return prompt_seed(seed, 2 << 32, problem)
