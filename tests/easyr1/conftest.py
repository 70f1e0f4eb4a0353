"""Tests against the real EasyR1. They skip, with one line that says how to run them, where `import verl` is not EasyR1's."""

from pathlib import Path

import pytest

from gmpo_mm.engines.installed import find_verl

HOW = "EasyR1 is not installed here: make test-easyr1 EASYR1=/path/to/checkout runs these tests in an environment of their own"
FOUND = find_verl()
HAS_EASYR1 = FOUND is not None and FOUND.engine == "easyr1"
HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Modules that import EasyR1 can't even be collected without it; test_skipped.py stands for them."""
    if HAS_EASYR1 or collection_path.parent != HERE or collection_path.name in ("conftest.py", "test_skipped.py"):
        return None
    return collection_path.name.startswith("test_")


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the EasyR1 checkout that is tested."""
    assert FOUND is not None
    return FOUND.root.parent
