"""One real record for all tests of this folder."""

import pytest

from tests.inspection.recorded import Recorded, train_and_record


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return train_and_record(tmp_path_factory.mktemp("recorded"))
