"""Tests of the report: one page that stands alone, whatever the run recorded."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from loopwright.report import (
    format_duration,
    format_number,
    nice_ticks,
    render_chart,
    render_report,
    write_report,
)
from loopwright.run_folder import RunFolder
from loopwright.run_record import MetricsRow, RunRecord, read_run

VOID = {"meta", "line", "circle", "polyline", "br"}


class Page(HTMLParser):
    """Collects tags and text, and insists that every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def record(rows: dict[str, list[float]], **parts: object) -> RunRecord:
    length = max(map(len, rows.values()), default=0)
    metrics = tuple(
        MetricsRow(
            time=0.0,
            epoch=epoch + 1,
            step=10 * (epoch + 1),
            metrics={name: values[epoch] for name, values in rows.items() if epoch < len(values)},
        )
        for epoch in range(length)
    )
    fields = {"path": Path("runs/x"), "config": "", "metrics": metrics} | parts
    return RunRecord(**fields)  # type: ignore[arg-type]


def test_a_whole_run_is_on_the_page(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "digits")
    folder.write_config({"model": {"type": "cnn"}})
    folder.start({"num_epochs": 2})
    for epoch in (1, 2):
        folder.log(epoch, epoch * 5, {"train_loss_epoch": 1 / epoch, "eval_loss_epoch": 2 / epoch})
    folder.finish({"metrics": {}, "samples_per_second": 12345.6, "parameters": 36810, "seconds": 3})
    folder.add_metrics({"test_loss": 0.25, "test_accuracy": 0.9861})
    page = Page((tmp_path / "digits" / "report.html").read_text())
    text = " ".join(page.text)
    for words in (
        "digits",
        "finished",
        "0.9861",
        "12,346",
        "36,810",
        "3.00 s",
        "type: cnn",
        "torch",
    ):
        assert words in text, words
    assert sum(tag == "svg" for tag, _ in page.tags) == 1
    assert sum(tag == "polyline" for tag, _ in page.tags) == 2


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    text = render_report(record({"train_loss_epoch": [1.0, 0.5]}))
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object"}
    names = {name for _, attributes in page.tags for name in attributes}
    assert not names & {"src", "href", "srcset", "style"}
    assert not [name for name in names if name.startswith("on")]
    assert "url(" not in text
    assert "@import" not in text


def test_texts_of_the_run_are_escaped() -> None:
    evil = "<script>alert(1)</script>"
    run = record(
        {f"train_{evil}": [1.0, 2.0], 'a"b': [1.0]},
        path=Path(f"runs/{evil.replace('/', '')}"),
        config=evil,
        trainer={evil: evil},
        environment={evil: {evil: [evil]}},
        status={"status": evil, "message": evil},
        results={"metrics": {evil: 1.0}},
    )
    page = Page(render_report(run))
    assert "script" not in {tag for tag, _ in page.tags}
    assert evil in " ".join(page.text)


@pytest.mark.parametrize(
    "values",
    [
        [math.nan],
        [math.inf, 1.0, math.nan, 2.0],
        [0.0, 0.0],
        [1e308, -1e308],
        [1e-320, 0.0],
        [-5.0],
        [1.0] * 1000,
        [1.0, 1.0 + 1e-15],
        [1e300, 1e300],
    ],
)
def test_any_values_give_a_whole_page(values: list[float]) -> None:
    page = Page(render_report(record({"train_loss_epoch": values})))
    numbers = [
        value
        for tag, attributes in page.tags
        for name, value in attributes.items()
        if tag in ("line", "circle", "polyline", "text")
        and name in ("x", "y", "cx", "cy", "points")
    ]
    assert not [number for number in numbers if re.search("nan|inf", number or "")]


def test_an_empty_run_gives_a_page() -> None:
    assert "running" in " ".join(Page(render_report(record({}, status={"status": "running"}))).text)


def test_related_curves_share_a_chart() -> None:
    curves = {
        "accuracy": [0.5, 0.6],
        "eval_loss_epoch": [1.0, 0.9],
        "train_accuracy": [0.4, 0.5],
        "train_loss_epoch": [1.0, 0.8],
        "lr": [0.1, 0.2],
    }
    text = render_report(record(curves))
    titles = re.findall(r"<figcaption><b>(.*?)</b>(.*?)</figcaption>", text)
    legends = {title: re.findall(r">(\w+)</span>", legend) for title, legend in titles}
    assert legends == {"loss": ["train", "eval"], "accuracy": ["train", "eval"], "lr": ["lr"]}
    assert list(legends) == ["loss", "accuracy", "lr"]


def test_a_gap_splits_a_line() -> None:
    chart = render_chart("a", {"a": [(1, 1.0), (2, 2.0), (3, math.nan), (4, 1.0), (5, 2.0)]})
    assert chart.count("<polyline") == 2
    assert render_chart("a", {"a": [(1, math.nan)]}) == ""


def test_many_epochs_stay_readable() -> None:
    text = render_report(record({"train_loss_epoch": [1 / n for n in range(1, 5001)]}))
    assert len(text) < 100_000
    assert "The last 200 of 5000 epochs" in text
    assert "<td>5000</td>" in text


def test_the_evaluation_is_no_epoch() -> None:
    row = MetricsRow(
        time=0.0, epoch=1, step=1, metrics={"evaluation_loss": 3.0}, event="evaluation"
    )
    assert "evaluation loss" not in render_report(record({}, metrics=(row,)))


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-3, 7), (0.97, 0.99), (5, 5), (0, 0), (1e-9, 2e-9), (-1e9, 1e9)]
)
def test_ticks_enclose_the_values(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 12
    assert list(ticks) == sorted(set(ticks))
    assert ticks[0] <= low <= high <= ticks[-1]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123456, "0.1235"), (3.0, "3"), (123456.7, "1.235e+05"), (math.nan, "nan"), ("NaN", "NaN")],
)
def test_numbers_are_short(value: float | str, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "0.50 s"), (59.94, "59.9 s"), (61, "1 min 1 s"), (7260, "2 h 1 min")],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_the_report_is_made_from_the_files_alone(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.start({})
    folder.log(1, 1, {"train_loss_epoch": 1.0})
    path = write_report(tmp_path)
    assert path.read_text() == render_report(read_run(tmp_path))
