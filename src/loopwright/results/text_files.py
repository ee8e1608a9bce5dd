"""Writing texts of an evaluation where a person can read them."""

import json
from collections.abc import Sequence
from pathlib import Path

from loopwright.checkpoint import write_text_aside

TEXTS_FILE = "texts.jsonl"
"""One JSON object per sample, replaced at each evaluation."""


def write_texts(folder: str | Path, **columns: Sequence[object]) -> Path:
    """Write one line per sample with an entry for each column, and return the file."""
    path = Path(folder).expanduser() / TEXTS_FILE
    rows = zip(*columns.values(), strict=True)
    lines = [json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) for row in rows]
    write_text_aside(path, "".join(f"{line}\n" for line in lines))
    return path
