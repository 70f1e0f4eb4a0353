import random

import numpy as np
import torch

from gmpo_mm.runs.shown_samples import choose_rows, choose_sample, is_due

ROWS = [
    {"problem": f"p{i}", "response": f"r{i}", "ground_truth": "a", "overall": reward}
    for i, reward in enumerate([0.5, 1.0, 0.0, 1.0, 0.25, 0.75])
]


def test_samples_are_shown_every_so_many_steps_and_never_for_0():
    assert [step for step in range(1, 12) if is_due(step, 5)] == [1, 6, 11]
    assert not any(is_due(step, 0) for step in range(1, 12))


def test_the_best_the_worst_and_a_random_one_take_turns():
    kinds = [choose_sample(ROWS, step, 5) for step in (1, 6, 11, 16)]
    assert [sample.kind for sample in kinds] == ["best", "worst", "random", "best"]
    assert (kinds[0].response, kinds[1].response) == ("r1", "r2")
    drawn = {choose_sample(ROWS, step, 1).response for step in range(3, 300, 3)}
    assert drawn == {f"r{i}" for i in range(6)}


def test_a_random_choice_is_the_same_in_a_resumed_run_and_draws_from_no_generator_of_the_training():
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert choose_sample(ROWS, 3, 1) == choose_sample(ROWS, 3, 1)
    assert choose_rows(ROWS, 7) == choose_rows(ROWS, 7)
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_a_trackers_table_has_the_best_and_the_worst_first_and_no_row_twice():
    chosen = choose_rows(ROWS, 4, limit=4)
    assert chosen[:2] == [1, 2] and len(set(chosen)) == 4
    assert sorted(choose_rows(ROWS, 4, limit=100)) == list(range(6))
    assert choose_rows(ROWS, 4, limit=0) == []
