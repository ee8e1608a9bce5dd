"""Leaves the global generators as they were, for tests that seed them."""

from collections.abc import Iterator

import pytest

from loopwright.seed import preserved_random_states


@pytest.fixture(autouse=True)
def _generators() -> Iterator[None]:
    with preserved_random_states():
        yield
