"""The server that the fault tests start their processes from."""

from collections.abc import Iterator

import pytest

from faults.runner import Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()
