"""A resumed run sees exactly the rows that the run would have seen that was not interrupted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmpo_mm.data import PromptSampler
from gmpo_mm.errors import DataError


@settings(deadline=None)
@given(
    st.integers(1, 30),
    st.booleans(),
    st.integers(0, 3),
    st.lists(st.integers(1, 30), min_size=1, max_size=20),
    st.integers(0, 20),
)
def test_resuming_at_any_step_gives_the_same_rows(
    size: int, shuffle: bool, seed: int, counts: list[int], stop: int
) -> None:
    counts = [min(count, size) for count in counts]
    whole = PromptSampler(size, shuffle, seed)
    expected = [whole.next_indices(count) for count in counts]
    first = PromptSampler(size, shuffle, seed)
    seen = [first.next_indices(count) for count in counts[:stop]]
    saved = json.loads(json.dumps(first.state_dict()))
    resumed = PromptSampler(size, shuffle, seed)
    resumed.load_state_dict(saved)
    assert seen + [resumed.next_indices(count) for count in counts[stop:]] == expected
    assert resumed.state_dict() == whole.state_dict()


@given(st.integers(1, 30), st.booleans(), st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_looking_ahead_changes_nothing(size: int, shuffle: bool, counts: list[int]) -> None:
    counts = [min(count, size) for count in counts]
    looked, plain = PromptSampler(size, shuffle, 1), PromptSampler(size, shuffle, 1)
    for count in counts:
        shown = looked.upcoming(count)
        assert looked.state_dict() == plain.state_dict()
        assert looked.next_indices(count) == shown == plain.next_indices(count)


def test_an_epoch_shows_every_row_once_and_epochs_differ() -> None:
    sampler = PromptSampler(12, True, 5)
    epochs = [[i for _ in range(3) for i in sampler.next_indices(4)] for _ in range(3)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert sampler.epoch == 2
    assert PromptSampler(12, True, 6).next_indices(12) != epochs[0]


def test_a_batch_never_spans_two_epochs() -> None:
    sampler = PromptSampler(10, True, 1)
    epochs = []
    for _ in range(20):
        batch = sampler.next_indices(4)
        assert len(set(batch)) == 4
        epochs.append(sampler.epoch)
    assert epochs == [i // 2 for i in range(20)]
    ordered = PromptSampler(10, False, 1)
    assert [ordered.next_indices(4) for _ in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]


def test_the_order_of_a_seed_never_changes() -> None:
    """Written down once: a new library version that shuffles otherwise would break resuming of old runs."""
    assert PromptSampler(8, True, 1).next_indices(8) == [1, 5, 4, 2, 7, 0, 3, 6]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 11}, "the checkpoint saw 10 training rows, the data has 11 now"),
        ({"seed": 2}, "data.seed was 1 when the checkpoint was made and is 2 now"),
        ({"shuffle": False}, "data.shuffle was True"),
        ({"fingerprint": "other"}, "the training data changed since the checkpoint"),
    ],
)
def test_resuming_on_other_data_is_an_error(change: dict, message: str) -> None:
    arguments: dict[str, Any] = {"size": 10, "shuffle": True, "seed": 1, "fingerprint": "this"}
    state = PromptSampler(**arguments).state_dict()
    with pytest.raises(DataError) as caught:
        PromptSampler(**{**arguments, **change}).load_state_dict(state)
    assert message in str(caught.value) and "trainer.resume=never" in str(caught.value)


@pytest.mark.parametrize("count", [0, 11])
def test_a_batch_that_no_epoch_can_give_is_an_error(count: int) -> None:
    with pytest.raises(DataError, match=f"a batch of {count} prompts .* 10 rows; set data.rollout_batch_size"):
        PromptSampler(10, True, 1).next_indices(count)


def test_no_rows_is_an_error() -> None:
    with pytest.raises(DataError, match="0 rows"):
        PromptSampler(0, True, 1)
