import io

import pytest

from gmpo_mm.runs.learning_watch import SIGNS, LearningWatch
from gmpo_mm.runs.progress import Progress

FINE = {
    "critic/score/min": 0.0, "critic/score/max": 1.0, "group/zero_advantage_frac": 0.25, "response/truncated_frac": 0.1,
    "reward/format": 0.9, "reward/accuracy": 0.4, "actor/grad_norm": 0.5, "actor/updates": 2, "actor/skipped_updates": 0,
    "response_length/max": 12, "verifier/timeout_frac": 0.0,
}  # fmt: skip
BAD = {
    "equal rewards": ({"critic/score/min": 0.0, "critic/score/max": 0.0}, "got the reward 0", "worker.reward.reward_function"),
    "no advantage": ({"group/zero_advantage_frac": 1.0}, "nothing was learned", "algorithm.online_filtering"),
    "all cut off": ({"response/truncated_frac": 1.0}, "cut off at its longest", "data.max_response_length"),
    "all empty": ({"response_length/max": 1.0}, "response was empty", "data.format_prompt"),
    "no format": ({"reward/format": 0.0}, "no response had the format", "data.format_prompt"),
    "none right": ({"reward/accuracy": -1.0}, "no response was right", "data.answer_key"),
    "all timed out": ({"verifier/timeout_frac": 1.0}, "graded in time", "(timeout)"),
    "no gradient": ({"actor/grad_norm": 0.0}, "gradient was exactly 0", "freeze_vision_tower"),
    "all skipped": ({"actor/updates": 0, "actor/skipped_updates": 2}, "every update was skipped", "worker.actor.optim.lr"),
}


@pytest.fixture
def watch():
    return LearningWatch(Progress(io.StringIO()))


def said(watch):
    return watch.progress._file.getvalue()


def test_every_sign_has_its_case_and_at_least_three_causes():
    assert {sign.name for sign in SIGNS} == set(BAD)
    assert all(len(sign.causes) >= 3 for sign in SIGNS)


@pytest.mark.parametrize("name", BAD)
def test_the_first_step_warns_in_words_with_three_causes_and_their_keys(watch, name):
    change, words, key = BAD[name]
    watch.step(1, FINE | change)
    text = said(watch)
    assert text.startswith("warning: step 1 shows") and words in text
    causes = text.split("likeliest causes:\n")[1].splitlines()
    assert [line.split(".")[0].strip() for line in causes] == ["1", "2", "3"]
    assert any(key in sign_text for sign_text in [text, *(c.text for s in SIGNS if s.name == name for c in s.causes)])
    watch.step(2, FINE | change)
    assert said(watch) == text, "once is enough until the end"
    watch.summary()
    assert f"in 2 of 2 steps: {words}" in said(watch) or (words in said(watch) and "in 2 of 2 steps" in said(watch))


def test_a_run_that_learns_hears_nothing(watch):
    for step in range(1, 10):
        watch.step(step, FINE)
    watch.summary()
    assert said(watch) == ""


def test_a_summary_tells_what_came_later_and_often_and_leaves_out_what_was_rare(watch):
    for step in range(1, 11):
        change = BAD["no advantage"][0] if step > 4 else {}
        watch.step(step, FINE | change | ({"response/truncated_frac": 1.0} if step == 5 else {}))
    assert said(watch) == ""
    watch.summary()
    assert "in 6 of 10 steps: no group had" in said(watch) and "longest length" not in said(watch)


def test_a_bad_first_step_that_was_an_exception_is_counted_at_the_end(watch):
    watch.step(1, FINE | BAD["no advantage"][0])
    for step in range(2, 51):
        watch.step(step, FINE)
    watch.summary()
    assert "in 1 of 50 steps" in said(watch)


@pytest.mark.parametrize(
    ("metrics", "first"),
    [
        ({"response/truncated_frac": 0.9, "reward/accuracy": 0.0, "reward/format": 0.0}, "data.max_response_length"),
        ({"reward/format": 0.0, "reward/accuracy": 0.0}, "data.format_prompt"),
        ({"reward/accuracy": 0.0}, "data.answer_key"),
        ({"critic/score/min": 1.0, "critic/score/max": 1.0, "reward/accuracy": 1.0}, "too easy"),
        ({"verifier/timeout_frac": 0.8, "reward/accuracy": 0.0}, "runs out of time"),
    ],
)
def test_the_causes_that_the_numbers_point_to_come_first(watch, metrics, first):
    watch.step(1, FINE | {"critic/score/min": 0.0, "critic/score/max": 0.0} | metrics)
    assert first in said(watch).split("  1. ")[1].split("\n")[0]


def test_a_part_of_the_reward_that_is_not_finite_is_told_once(watch):
    watch.step(3, FINE | {"reward/length_not_finite": 0.25})
    watch.step(4, FINE | {"reward/length_not_finite": 0.5})
    assert said(watch).count("no finite number for 25.0% of the responses") == 1 == said(watch).count("warning")
