"""The documentation runs: every Python block of every page is executed, in order."""

import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


EVERY_PAGE = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
PAGES = [page for page in EVERY_PAGE if blocks(page)]


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One namespace for a page, as a reader would type it; what it writes goes aside."""
    code = blocks(page)
    if any("sklearn" in block for block in code):
        pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, block in enumerate(code, start=1):
        exec(compile(block, f"{page}, block {number}", "exec"), namespace)


def test_the_first_pages_have_code() -> None:
    assert {"index.md", "getting-started.md"} <= set(PAGES)
