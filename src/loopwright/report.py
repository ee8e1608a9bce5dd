"""The report of a run: one page that stands alone, made from the files of its folder."""

import math
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from loopwright.run_record import PICTURES_FOLDER, REPORT_FILE, RunRecord, read_run

_MAX_TABLE_ROWS = 200
_MAX_CURVE_POINTS = 600
_MAX_PICTURES = 24
_PICTURE_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}
_WIDTH, _HEIGHT = 560, 260
_DATA = ("train", "eval", "test")
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 12, 34


def write_report(run_dir: str | Path) -> Path:
    """Write report.html into a run folder, in one move, and returns its path."""
    path = Path(run_dir) / REPORT_FILE
    page = render_report(read_run(run_dir))
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(page, encoding="utf-8", newline="\n")
    aside.replace(path)
    return path


def render_report(run: RunRecord) -> str:
    """Return the page for a run: figures, curves, epochs, configuration and environment.

    The page loads nothing from elsewhere and runs no script; every text from the run is escaped.
    """
    name = run.path.resolve().name
    sections = [
        _header(run, name),
        _figures(run),
        _curves(run),
        _pictures(run),
        _texts(run),
        _epochs(run),
        _configuration(run),
        _environment(run),
    ]
    body = "\n".join(section for section in sections if section)
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        f"<title>{escape(name)} · loopwright</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _header(run: RunRecord, name: str) -> str:
    status = str(run.status.get("status", "unknown"))
    started = run.status.get("started")
    when = datetime.fromtimestamp(started, UTC).strftime("%Y-%m-%d %H:%M UTC") if started else ""
    message = str(run.status.get("message") or "")
    note = f'<p class="message">{escape(message)}</p>' if message else ""
    return (
        f'<header><div><h1>{escape(name)}</h1><p class="muted">{when}</p></div>'
        f'<span class="status {escape(_css_name(status))}">{escape(status)}</span></header>{note}'
    )


def _figures(run: RunRecord) -> str:
    results = run.results
    metrics = results.get("metrics") or _latest(run)
    tiles = [(_words(name), format_number(value)) for name, value in _headline(metrics)]
    for key, words, show in (
        ("samples_per_second", "samples/s", format_count),
        ("seconds", "duration", format_duration),
        ("parameters", "parameters", format_count),
        ("steps", "steps", format_count),
    ):
        if isinstance(results.get(key), int | float):
            tiles.append((words, show(results[key])))
    if isinstance(results.get("fingerprint"), str):
        tiles.append(("weights", results["fingerprint"]))
    cells = "".join(
        f"<div><dt>{escape(words)}</dt><dd>{escape(value)}</dd></div>" for words, value in tiles
    )
    return f'<section><dl class="tiles">{cells}</dl></section>' if cells else ""


def _headline(metrics: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the figures to show first: those of the test set, else those of the last epoch."""
    numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float | str)}
    test = [name for name in numbers if name.startswith("test_")]
    shown = sorted(test or numbers, key=reading_order)
    return [(name, numbers[name]) for name in shown[:6]]


def _latest(run: RunRecord) -> dict[str, float]:
    return {name: points[-1][1] for name, points in run.curves().items()}


def _curves(run: RunRecord) -> str:
    charts = [
        chart
        for title, lines in _group_curves(run.curves()).items()
        if (chart := render_chart(title, lines))
    ]
    if not charts:
        return ""
    return f'<section><h2>Curves</h2><div class="charts">{"".join(charts)}</div></section>'


def _pictures(run: RunRecord) -> str:
    """Show the newest pictures of a run; they are part of the page, and no code in them runs."""
    folder = run.path / PICTURES_FOLDER
    files = [path for path in folder.glob("*") if path.suffix in _PICTURE_TYPES]
    shown = sorted(files, key=lambda path: path.name)[-_MAX_PICTURES:]
    figures = "".join(
        f"<figure><figcaption><b>{escape(path.stem)}</b></figcaption>"
        f'<img alt="{escape(path.stem)}" src="data:{_PICTURE_TYPES[path.suffix]};base64,'
        f'{b64encode(path.read_bytes()).decode()}"></figure>'
        for path in shown
    )
    return (
        f'<section><h2>Pictures</h2><div class="charts">{figures}</div></section>' if shown else ""
    )


def _texts(run: RunRecord) -> str:
    """Show the newest texts beside the pictures of a run."""
    files = sorted((run.path / PICTURES_FOLDER).glob("*.txt"), key=lambda path: path.name)
    figures = "".join(
        f"<figure><figcaption><b>{escape(path.stem)}</b></figcaption>"
        f"<pre>{escape(path.read_text(encoding='utf-8', errors='replace'))}</pre></figure>"
        for path in files[-_MAX_PICTURES:]
    )
    return (
        f'<section><h2>Texts</h2><div class="charts">{figures}</div></section>' if figures else ""
    )


def _group_curves(
    curves: Mapping[str, Sequence[tuple[int, float]]],
) -> dict[str, dict[str, Sequence[tuple[int, float]]]]:
    """Put what belongs together into one chart: the losses of train and eval into "loss"."""
    groups: dict[str, dict[str, Sequence[tuple[int, float]]]] = {}
    for name in sorted(curves, key=reading_order):
        title, line = _title_and_line(name)
        if line == title and f"train_{name}" in curves:
            line = "eval"
        groups.setdefault(title, {})[line] = curves[name]
    return groups


def _title_and_line(name: str) -> tuple[str, str]:
    """Return what a metric measures, and on which data; without data, the former twice."""
    stem = name.removesuffix("_epoch")
    for part in _DATA:
        if stem.startswith(f"{part}_"):
            return _words(stem.removeprefix(f"{part}_")), part
    return _words(stem), _words(stem)


def reading_order(name: str) -> tuple[bool, str, int]:
    """Return a key that sorts losses before other metrics, and training before evaluation."""
    title, line = _title_and_line(name)
    return title != "loss", title, _DATA.index(line) if line in _DATA else len(_DATA)


def render_chart(title: str, lines: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Return one chart as an SVG figure; empty where no value is finite.

    Args:
        title: what the vertical axis shows.
        lines: (epoch, value) pairs by name; values that are not finite leave a gap.
    """
    finite = [(x, y) for points in lines.values() for x, y in points if math.isfinite(y)]
    if not finite:
        return ""
    axes = _Axes.around(finite)
    parts = [_grid(axes)]
    legend = []
    for index, (name, points) in enumerate(lines.items()):
        parts.append(_line(points, axes, index, name))
        legend.append(f'<span class="key c{index % 6}">{escape(name)}</span>')
    return (
        f"<figure><figcaption><b>{escape(title)}</b>{''.join(legend)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)} by epoch">'
        f"{''.join(parts)}</svg></figure>"
    )


@dataclass(frozen=True)
class _Axes:
    """Maps epochs and values to the chart's pixels."""

    x_min: float
    x_max: float
    ticks: tuple[float, ...]

    @classmethod
    def around(cls, points: Sequence[tuple[int, float]]) -> "_Axes":
        xs = [x for x, _ in points]
        ys = [y for _, y in points]
        return cls(min(xs), max(xs), nice_ticks(min(ys), max(ys)))

    def x(self, value: float) -> float:
        share = (value - self.x_min) / (self.x_max - self.x_min) if self.x_max > self.x_min else 0.5
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        low, high = self.ticks[0], self.ticks[-1]
        share = value / high if high == low else (value / 2 - low / 2) / (high / 2 - low / 2)
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)

    def epochs(self) -> list[int]:
        first, last = int(self.x_min), int(self.x_max)
        stride = max(1, math.ceil((last - first) / 8))
        return list(range(first, last + 1, stride))


def nice_ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """Return round, rising values, the first at most `low` and the last at least `high`."""
    spread = high / 2 - low / 2  # halves, so that the largest floats do not overflow
    if spread <= abs(high) * 1e-9:
        spread = abs(high) * 0.05 or 0.5
        low, high = low - spread, high + spread
    raw = 2 * (spread / count)
    magnitude = 10.0 ** math.floor(math.log10(raw)) if raw > 1e-300 else 1e-300
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    ticks = tuple(tick for n in range(first, last + 1) if math.isfinite(tick := n * step))
    return ticks if len(ticks) > 1 else (low, high)


def _grid(axes: _Axes) -> str:
    parts = []
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    for tick in axes.ticks:
        y = axes.y(tick)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>'
            f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{format_number(tick)}</text>'
        )
    for epoch in axes.epochs():
        parts.append(
            f'<text x="{axes.x(epoch)}" y="{bottom + 18}" text-anchor="middle">{epoch}</text>'
        )
    parts.append(f'<text x="{right}" y="{_HEIGHT - 2}" text-anchor="end">epoch</text>')
    return "".join(parts)


def _line(points: Sequence[tuple[int, float]], axes: _Axes, index: int, name: str) -> str:
    stretches: list[list[tuple[int, float]]] = [[]]
    for x, y in _thin(points):
        if math.isfinite(y):
            stretches[-1].append((x, y))
        elif stretches[-1]:
            stretches.append([])
    drawn = "".join(
        f'<polyline points="{" ".join(f"{axes.x(x)},{axes.y(y)}" for x, y in stretch)}"/>'
        for stretch in stretches
        if len(stretch) > 1
    )
    dots = ""
    if len(points) <= 40:
        dots = "".join(
            f'<circle cx="{axes.x(x)}" cy="{axes.y(y)}" r="2.6">'
            f"<title>{escape(name)}, epoch {x}: {format_number(y)}</title></circle>"
            for x, y in points
            if math.isfinite(y)
        )
    return f'<g class="c{index % 6}">{drawn}{dots}</g>'


def _thin(points: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    stride = math.ceil(len(points) / _MAX_CURVE_POINTS)
    return points if stride <= 1 else [*points[::stride], points[-1]]


def _epochs(run: RunRecord) -> str:
    rows = [row for row in run.metrics if row.event is None]
    if not rows:
        return ""
    names = sorted({name for row in rows for name in row.metrics}, key=reading_order)
    shown = rows if len(rows) <= _MAX_TABLE_ROWS else rows[-_MAX_TABLE_ROWS:]
    head = "".join(f"<th>{escape(_words(name))}</th>" for name in names)
    body = "".join(
        f"<tr><td>{row.epoch}</td><td>{row.step}</td>"
        + "".join(f"<td>{_cell(row.metrics.get(name))}</td>" for name in names)
        + "</tr>"
        for row in shown
    )
    notes = []
    if len(shown) < len(rows):
        notes.append(f"The last {len(shown)} of {len(rows)} epochs; metrics.jsonl holds them all.")
    if run.unreadable_lines:
        notes.append(f"{run.unreadable_lines} line(s) of metrics.jsonl were cut off and left out.")
    note = f'<p class="muted">{" ".join(notes)}</p>' if notes else ""
    return (
        f'<section><h2>Epochs</h2>{note}<div class="scroll"><table><thead><tr><th>epoch</th>'
        f"<th>step</th>{head}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )


def _cell(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "" if value is None else str(value)
    return f"{value:#.4g}".rstrip(".")  # keeps zeros at the end, so that a column lines up


def _configuration(run: RunRecord) -> str:
    parts = []
    if run.config:
        parts.append(f"<pre>{escape(run.config.rstrip())}</pre>")
    if run.trainer:
        rows = _rows(run.trainer.items())
        parts.append(f"<details><summary>What the trainer ran with</summary>{rows}</details>")
    return f"<section><h2>Configuration</h2>{''.join(parts)}</section>" if parts else ""


def _environment(run: RunRecord) -> str:
    if not run.environment:
        return ""
    return f"<section><h2>Environment</h2>{_rows(_flatten(run.environment))}</section>"


def _flatten(values: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            prefix = "" if key == "versions" else f"{key} "
            yield from ((f"{prefix}{inner}", item) for inner, item in _flatten(value))
        elif key == "memory_bytes" and isinstance(value, int | float):
            yield "memory", f"{value / 2**30:.1f} GiB"
        else:
            yield key, value


def _rows(items: Iterable[tuple[str, Any]]) -> str:
    rows = "".join(
        f"<tr><th>{escape(_words(str(key)))}</th><td>{escape(_show(value))}</td></tr>"
        for key, value in items
    )
    return f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>'


def _show(value: Any) -> str:
    if value is None or value == [] or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_show(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_show(item)}" for key, item in value.items())
    return str(value)


def _words(name: str) -> str:
    return name.removesuffix("_epoch").replace("_", " ")


def _css_name(status: str) -> str:
    return status if status.isalpha() else "unknown"


def format_number(value: float | str) -> str:
    """Return a number with four figures that matter, short enough for a table."""
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.4g}"


def format_count(value: float) -> str:
    """Return a count with thousands set apart."""
    return f"{value:,.0f}"


def format_duration(seconds: float) -> str:
    """Return a duration in the units a person would choose."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


_STYLE = """
:root{--bg:#f7f7f5;--card:#fff;--ink:#1c1e21;--muted:#6a7079;--rule:#e3e4e0;--c0:#2563c9;
--c1:#d9682b;--c2:#1f8f6b;--c3:#8a4fbf;--c4:#b8860b;--c5:#c23b5e;--ok:#1f7a4d;--bad:#b3261e;
--wait:#946200}
@media (prefers-color-scheme:dark){:root{--bg:#15171a;--card:#1d2024;--ink:#e8e9ea;
--muted:#9aa1ab;--rule:#31353b;--c0:#6ea8fe;--c1:#ff9d5c;--c2:#4fcfa2;--c3:#c79bf2;--c4:#e0b84c;
--c5:#f2809c;--ok:#57c78f;--bad:#ff8a80;--wait:#e6b450}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1180px;margin:0 auto;padding:32px 20px 64px}
header{display:flex;justify-content:space-between;align-items:flex-start;gap:16px}
h1{font-size:26px;line-height:1.25;margin:0;overflow-wrap:anywhere;letter-spacing:-.01em}
h2{font-size:17px;margin:36px 0 12px}
p{margin:4px 0}
.muted{color:var(--muted)}
.status{border:1px solid currentColor;border-radius:99px;padding:2px 12px;font-weight:600;
font-size:13px;white-space:nowrap;color:var(--wait)}
.status.finished{color:var(--ok)}
.status.failed{color:var(--bad)}
.message{margin-top:12px;padding:10px 14px;border-left:3px solid var(--bad);
background:var(--card);white-space:pre-wrap;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:12px;
margin:24px 0 0}
.tiles div{background:var(--card);border:1px solid var(--rule);border-radius:10px;
padding:12px 16px}
dt{color:var(--muted);font-size:13px}
dd{margin:0;font-size:23px;font-weight:600;font-variant-numeric:tabular-nums;
letter-spacing:-.01em}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(440px,100%),1fr));gap:16px}
figure{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:10px;
padding:14px 16px 8px}
figcaption{display:flex;flex-wrap:wrap;gap:4px 16px;margin-bottom:6px}
figcaption b{margin-right:auto;font-weight:600}
.key{color:var(--muted);font-size:13px}
.key::before{content:"";display:inline-block;width:14px;height:3px;border-radius:2px;
margin-right:6px;vertical-align:middle;background:var(--line)}
figure img{max-width:100%;background:#fff}
figure pre{border:0;padding:0 0 8px;white-space:pre-wrap}
svg{display:block;width:100%;height:auto}
svg text{fill:var(--muted);font-size:12px;font-variant-numeric:tabular-nums}
.grid{stroke:var(--rule);stroke-width:1}
polyline{fill:none;stroke:var(--line);stroke-width:2;stroke-linejoin:round;
stroke-linecap:round}
circle{fill:var(--line)}
.c0{--line:var(--c0)}.c1{--line:var(--c1)}.c2{--line:var(--c2)}
.c3{--line:var(--c3)}.c4{--line:var(--c4)}.c5{--line:var(--c5)}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--rule);border-radius:10px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:7px 16px;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
tbody tr:last-child>*{border-bottom:0}
thead th{color:var(--muted);font-weight:500;font-size:13px}
.facts th{text-align:left;font-weight:400;color:var(--muted);width:1%;padding-right:32px}
.facts td{text-align:left;white-space:normal;overflow-wrap:anywhere}
pre{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:10px;
padding:14px 18px;overflow-x:auto;font:13px/1.55 ui-monospace,Menlo,Consolas,monospace}
details{margin-top:12px}
summary{cursor:pointer;color:var(--muted);margin-bottom:8px}
@media print{body{background:none}figure,tr{break-inside:avoid}}
"""
