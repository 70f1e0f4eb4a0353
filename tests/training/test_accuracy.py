import pytest

from gmpo_mm.runs.accuracy import Accuracy, accuracy_of, not_0_or_1

PLAIN, NORMALIZED = "val/accuracy_reward", "val/accuracy_normalized_reward"


@pytest.mark.parametrize(
    ("scores", "share"),
    [([1.0, 0.0], None), ([1.0, -1.0, 1.0, -1.0], 0.5), ([0.5, 1.0], 0.5), ([2.0], 1.0), ([True, False], None), ([], None)],
)
def test_an_accuracy_that_is_neither_0_nor_1_for_some_response_is_noted(scores, share):
    found = not_0_or_1([{"accuracy": score} for score in scores])
    assert found == ({} if share is None else {"val/accuracy_not_0_or_1_frac": share})


@pytest.mark.parametrize(
    ("metrics", "found"),
    [
        ({PLAIN: 0.5}, Accuracy(PLAIN, True)),
        ({PLAIN: 0.5, "val/accuracy_not_0_or_1_frac": 0.1}, Accuracy(PLAIN, False)),
        ({PLAIN: -0.5}, Accuracy(PLAIN, False)),
        ({PLAIN: -0.5, NORMALIZED: 0.25}, Accuracy(NORMALIZED, True)),
        ({PLAIN: 0.5, NORMALIZED: 0.75}, Accuracy(NORMALIZED, True)),  # EasyR1's log: means alone
        ({PLAIN: [0.5, 0.25, -0.125]}, Accuracy(PLAIN, False)),
        ({PLAIN: [0.0, 1.0]}, Accuracy(PLAIN, True)),
        ({"val/reward_score": 1.0}, None),
    ],
)
def test_which_number_is_a_share_of_right_answers(metrics, found):
    assert accuracy_of(metrics) == found
