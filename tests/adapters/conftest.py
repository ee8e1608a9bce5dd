"""What the tests of adapters share."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lightning warns of many things that are meant here, such as few workers."""
    for item in items:
        if "adapters" in item.path.parts:
            item.add_marker(pytest.mark.filterwarnings("ignore:::lightning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::UserWarning"))


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch) -> None:
    """Lightning's loggers and checkpoints write below the current folder."""
    monkeypatch.chdir(tmp_path)
