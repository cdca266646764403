"""Results as CSV for spreadsheets and as Markdown for issues and pull requests; every form by the name of a file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelc.benchmark import words
from accelc.benchmark.results import BenchResult, Figure, Row
from accelc.errors import UsageError
from accelc.plain import plain
from accelc.printable import printable
from accelc.textfile import check_writable, write_text
from accelc.units import milliseconds, size

_WRITERS: Mapping[str, Callable[[BenchResult], str]] = {
    ".json": BenchResult.to_json,
    ".csv": BenchResult.to_csv,
    ".md": BenchResult.to_markdown,
    ".html": BenchResult.to_html,
}
_NOTHING = "-"
_FORMULA = ("=", "+", "-", "@")


def check_report(path: Path) -> None:
    """Raise UsageError for a report of a form that there is not, or that surely cannot be written."""
    _writer(path)
    check_writable(path, "the report")


def write(result: BenchResult, path: Path) -> None:
    """Write the form that the ending of the name says. Raises UsageError."""
    write_text(path, _writer(path)(result), "the report")


def _writer(path: Path) -> Callable[[BenchResult], str]:
    found = _WRITERS.get(path.suffix.lower())
    if found is None:
        raise UsageError("the report has no known form", where=str(path), hint=f"end its name in {_or(_WRITERS)}")
    return found


def _or(names: Mapping[str, Any]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}"


# --- CSV -------------------------------------------------------------------------------------------------------------


def to_csv(result: BenchResult) -> str:
    """A line for each row; names carry the unit, cells are empty where there is no figure. Numbers are not rounded."""
    rows = [_cells(each) for each in result.rows]
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _as_text(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def _as_text(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula, behind an apostrophe; numbers as they are."""
    return f"'{value}" if isinstance(value, str) and value.lstrip()[:1] in _FORMULA else value


def _cells(row: Row) -> dict[str, Any]:
    setting, timed, load = row.setting, row.latency, plain(row.load) or {}
    cells: dict[str, Any] = {
        "model": row.label,
        "path": row.path,
        "provider": setting.provider,
        "threads": setting.threads,
        "shape": setting.shape,
        "memory": setting.memory,
        "failure": row.failure,
        "runs": timed and timed.runs,
        "rounds": timed and timed.rounds,
        "loads": timed and timed.loads,
        **_figure("p50", timed.p50_ms if timed else None, "_ms"),
        "p90_ms": timed and timed.p90_ms,
        "p99_ms": timed and timed.p99_ms,
        "mean_ms": timed and timed.mean_ms,
        "least_ms": timed and timed.least_ms,
        **_figure("throughput", timed.throughput if timed else None, "_per_s"),
    }
    for kind, name in (("model", ""), ("provider", "provider_")):
        found = words.versus(row, kind)
        cells |= {
            f"{name}ratio": found and found.ratio,
            f"{name}ratio_low": found and found.low,
            f"{name}ratio_high": found and found.high,
            f"{name}verdict": found and found.verdict,
        }
    error = row.error
    cells |= {
        "error_relative": error and error.relative,
        "error_cosine": error and error.cosine,
        "error_top1": error and error.top1,
        "load_ms": row.load_ms,
        "first_run_ms": row.first_run_ms,
        "peak_bytes": row.peak_bytes,
        "device_bytes": row.device_bytes,
        "bytes": row.bytes or None,
        "nodes": row.nodes or None,
        "copies": row.placed and row.placed.copies,
        "fallen": row.placed and len(row.placed.fallen),
        "notes": "; ".join([*([f"no profile: {row.profile_failure}"] if row.profile_failure else []), *row.notes]),
    }
    return cells | _scalars("load_test", load)


def _figure(name: str, figure: Figure | None, unit: str) -> dict[str, float | None]:
    """Three cells; the bounds that are not finite are empty."""
    values = plain(figure) or dict.fromkeys(("value", "low", "high"))
    return {f"{name}{part}{unit}": values[key] for part, key in (("", "value"), ("_low", "low"), ("_high", "high"))}


def _scalars(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """What is inside, under joined names; lists are left to the JSON form."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            found |= _scalars(f"{name}_{key}", value)
        elif not isinstance(value, list):
            found[f"{name}_{key}"] = value
    return found


# --- Markdown --------------------------------------------------------------------------------------------------------

_COLUMNS: tuple[tuple[str, bool, Callable[[Row], str]], ...] = (
    ("model", False, lambda row: _escaped(row.label)),
    ("on", False, lambda row: _escaped(words.where(row))),
    ("p50 ms", True, lambda row: _p50(row)),
    ("p90 ms", True, lambda row: _percentile(row.latency.p90_ms if row.latency else None)),
    ("p99 ms", True, lambda row: _percentile(row.latency.p99_ms if row.latency else None)),
    ("per second", True, lambda row: words.rate(row.latency.throughput.value) if row.latency else _NOTHING),
    ("against the first model", False, lambda row: _versus(row, "model")),
    ("against the first setting", False, lambda row: _versus(row, "provider")),
    ("error", True, lambda row: _escaped(words.error(row.error))),
    ("load", True, lambda row: _NOTHING if row.load_ms is None else milliseconds(row.load_ms)),
    ("first run", True, lambda row: _NOTHING if row.first_run_ms is None else milliseconds(row.first_run_ms)),
    ("memory", True, lambda row: _NOTHING if row.peak_bytes is None else size(row.peak_bytes)),
    ("on the device", True, lambda row: _NOTHING if row.device_bytes is None else size(row.device_bytes)),
    ("file", True, lambda row: size(row.bytes) if row.bytes else _NOTHING),
)


def to_markdown(result: BenchResult) -> str:
    """A table for each shape, what failed, how it was measured and on what."""
    parts = []
    for shape, rows in words.groups(result).items():
        parts += [f"**{_escaped(shape)}**", _table(rows)] if shape else [_table(rows)]
        parts.append(_list([f"{row.label} on {words.where(row)}: {row.failure}" for row in rows if row.failure]))
        said = [(row, each) for row in rows for each in words.under_load(row)]
        parts.append(_list([f"{row.label} on {words.where(row)}: {each}" for row, each in said]))
    parts.append(_list(words.verdicts(result)[: words.MOST_VERDICTS]))
    parts.append(_list(_elsewhere(result)))
    if result.conditions:
        parts.append(_list([words.condition(each) for each in result.conditions]))
    notes = [f"{who}: {note}" for who, note in words.notes(result)]
    missing = [f"no profile of {who}: {why}" for who, why in words.profile_failures(result)]
    parts.append(
        _list([each for each in (words.hidden(result.rows), *missing, *notes, *result.noise, *result.notes) if each])
    )
    made = "; ".join(filter(None, [words.how(result), words.machine(result.environment)]))
    parts.append(_escaped(f"{made[:1].upper()}{made[1:]}.") if made else "")
    return "\n\n".join(filter(None, parts)) + "\n"


def _elsewhere(result: BenchResult) -> list[str]:
    """Where rows ran of which not all nodes are on the provider asked for."""
    placed = [(row, row.placed) for row in result.rows if row.placed is not None and not words.is_plain(row.placed)]
    return [f"{row.label} on {row.setting}: {each}" for row, found in placed for each in words.truth(found)]


def _table(rows: Sequence[Row]) -> str:
    """Columns without a figure in any row are left out."""
    columns = [(name, right, [cell(row) for row in rows]) for name, right, cell in _COLUMNS]
    shown = [each for each in columns if set(each[2]) != {_NOTHING}]
    lines = [[name for name, _, _ in shown], ["---:" if right else "---" for _, right, _ in shown]]
    lines += [[cells[at] for _, _, cells in shown] for at in range(len(rows))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _p50(row: Row) -> str:
    if row.latency is None:
        return "failed" if row.failure else _NOTHING
    figure = row.latency.p50_ms
    return f"{words.number(figure.value)} {_escaped(words.interval(figure))}"


def _percentile(value: float | None) -> str:
    return _NOTHING if value is None else words.number(value)


def _versus(row: Row, kind: str) -> str:
    found = words.versus(row, kind)
    return _NOTHING if found is None else f"{_escaped(words.ratio(found))} {found.verdict}"


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_escaped(line)}" for line in lines)


def _escaped(text: str) -> str:
    """Text on one line that Markdown takes for nothing else."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", printable(" ".join(text.split())))
