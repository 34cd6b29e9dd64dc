"""What all tests on real servers share."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
from botocore.loaders import JSONFileLoader


@pytest.fixture(scope="session", autouse=True)
def read_once() -> Iterator[None]:
    """Let botocore read its descriptions of AWS once, not for each of hundreds of clients: a third of the time."""
    with pytest.MonkeyPatch.context() as patch:
        read = functools.lru_cache(JSONFileLoader().load_file)
        patch.setattr(JSONFileLoader, "load_file", lambda self, path: read(path))
        yield
