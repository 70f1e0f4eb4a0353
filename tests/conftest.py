"""Nothing that tests do is remembered outside them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The list of decoded pictures of this test session, for child processes too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GMPO_MM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
