"""One line in the report of an environment without verl."""

import pytest

from tests.verl.conftest import HAS_VERL, HOW


@pytest.mark.skipif(not HAS_VERL, reason=HOW)
def test_the_tests_of_the_verl_engine_run_here() -> None:
    import verl

    assert verl.__version__ == "0.9.1"
