"""One line in the report of an environment without EasyR1."""

import pytest

from tests.easyr1.conftest import HAS_EASYR1, HOW


@pytest.mark.skipif(not HAS_EASYR1, reason=HOW)
def test_the_tests_of_the_easyr1_engine_run_here() -> None:
    import verl.trainer.ray_trainer

    assert verl.trainer.ray_trainer.RayPPOTrainer
