"""Conditions on a result (`--fail-if`), some against an earlier one: true only where the measurement shows it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from accelc.benchmark.results import SCHEMA, BenchResult, Error, Figure, Latency, Row, Setting
from accelc.benchmark.scenarios import Load
from accelc.errors import UsageError
from accelc.units import bytes_of, milliseconds, size

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Holds = Literal["yes", "no", "undecided", "not compared"]
HOLDS_CODE, UNCHECKED_CODE = 7, 2

_KINDS = {
    **dict.fromkeys(("p50", "p90", "p99", "mean", "load", "first-run"), "time"),
    **dict.fromkeys(("throughput", "qps"), "rate"),
    **dict.fromkeys(("memory", "size"), "size"),
    "error": "share",
    "ratio": "ratio",
}
_TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_EXAMPLES = "write 'p50>+5%' against --baseline, or 'p50>20ms', 'memory>300MB', 'ratio<0.95'"
_MACHINE = ("processor", "cores", "onnxruntime", "build", "limits")
_ASKED = ("concurrency", "qps", "bound", "inputs", "preprocess")
_ONE_LOAD = math.log(1.1)
"""How far one load of a model may be from its others; several percent are usual."""
T = TypeVar("T", bound="DataclassInstance")


@dataclass(frozen=True)
class Condition:
    """What became of one condition for one row.

    text: as it was written. row: label and setting, empty where no row is concerned. holds: "undecided" where the
    95 % interval has the limit inside, "not compared" where a figure or the right baseline is missing. detail: why.
    """

    text: str
    row: str
    holds: Holds
    detail: str


@dataclass(frozen=True)
class Limit:
    """A condition, read.

    value: in milliseconds, bytes, items per second or as a share; where relative, a factor on the baseline's figure.
    """

    text: str
    metric: str
    above: bool
    value: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Read METRIC>VALUE or METRIC<VALUE. Raises UsageError."""
        found = re.fullmatch(
            r"\s*([a-z0-9-]+)\s*([<>])\s*([+-]?)\s*(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*(\S*)\s*", text.lower()
        )
        if found is None:
            raise UsageError(f"--fail-if {text!r} is no condition", hint=_EXAMPLES)
        metric, sign, sort, digits, exponent, unit = found[1], found[2], found[3], found[4], found[5] or "", found[6]
        if metric not in _KINDS:
            raise UsageError(
                f"--fail-if {text!r}: there is no figure {metric!r}", hint=f"it is one of {', '.join(_KINDS)}"
            )
        number = float(digits + exponent)
        if sort:
            return cls(text.strip(), metric, sign == ">", _factor(text, metric, sort, number, unit), True)
        return cls(text.strip(), metric, sign == ">", _absolute(text, metric, number, unit), False)


def _factor(text: str, metric: str, sign: str, number: float, unit: str) -> float:
    if unit != "%" or metric == "ratio":
        why = "a sign goes with a percentage of the baseline's figure" if unit != "%" else "ratio has no baseline"
        raise UsageError(f"--fail-if {text!r} is no condition", why=why, hint=_EXAMPLES)
    factor = 1 + number / 100 if sign == "+" else 1 - number / 100
    if factor <= 0:
        raise UsageError(f"--fail-if {text!r} is no condition", why="nothing is 100 % less", hint=_EXAMPLES)
    return factor


def _absolute(text: str, metric: str, number: float, unit: str) -> float:
    kind = _KINDS[metric]
    if kind == "time" and unit in _TIMES:
        return number * _TIMES[unit]
    if kind == "size" and unit and unit not in _TIMES:
        return bytes_of(f"{number:f}{unit}")
    if (kind == "rate" and unit in ("", "/s")) or (kind in ("ratio", "share") and not unit):
        return number
    if kind == "share" and unit == "%":
        return number / 100
    if unit == "%":
        hint = f"write {metric}>+{number:g}% or {metric}<-{number:g}%"
        raise UsageError(f"--fail-if {text!r} is no condition", why="a percentage needs a sign", hint=hint)
    needed = {"time": "ms, s or us", "size": "kB, MB, GB or MiB", "rate": "/s"}.get(kind, "none")
    raise UsageError(f"--fail-if {text!r} is no condition", why=f"the unit of {metric} is {needed}", hint=_EXAMPLES)


# --- the baseline ----------------------------------------------------------------------------------------------------


def read(path: Path) -> BenchResult:
    """The rows, environment and scenario of a result that was written as JSON. Raises UsageError."""
    hint = "accelc bench --report FILE.json writes one"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError("the baseline cannot be read", where=str(path), why=error.strerror or "", hint=hint) from error
    except ValueError as error:
        raise UsageError("is no JSON file", where=str(path), hint=hint) from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = f"its schema is {data['schema']}" if isinstance(data, dict) and "schema" in data else ""
        raise UsageError("is no result of accelc bench", where=str(path), why=found, hint=hint)
    try:
        rows = [_row(each) for each in data["rows"]]
        return BenchResult(rows, dict(data["environment"]), dict(data["options"]), str(data["scenario"]))
    except (KeyError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise UsageError("is a damaged result of accelc bench", where=str(path), why=why, hint=hint) from error


def _made(kind: type[T], data: Mapping[str, Any], **parts: Any) -> T:
    """A dataclass from plain data; fields of a later version are left out."""
    known = {each.name for each in fields(kind)}
    return kind(**{name: value for name, value in data.items() if name in known} | parts)


def _row(data: Mapping[str, Any]) -> Row:
    timed, error, load = data["latency"], data["error"], data["load"]
    if timed is not None:
        parts: dict[str, Any] = {name: _bounded(timed[name]) for name in ("p50_ms", "throughput")}
        parts["percentiles"] = {name: _bounded(each) for name, each in timed["percentiles"].items()}
        timed = _made(Latency, timed, **parts)
    return _made(
        Row,
        data,
        setting=_made(Setting, data["setting"]),
        latency=timed,
        error=None if error is None else _made(Error, error),
        versus=(),
        placed=None,
        load=None if load is None else _load(load),
        profile=None,
    )


def _load(data: Mapping[str, Any]) -> Load:
    figures = {name: None if data[name] is None else _bounded(data[name]) for name in ("achieved", "within", "most")}
    return _made(Load, data, **figures, windows=(), tried=())


def _bounded(data: Mapping[str, Any]) -> Figure:
    """A figure from JSON, where a bound that is not finite is null."""
    low, high = data["low"], data["high"]
    return Figure(data["value"], 0.0 if low is None else low, math.inf if high is None else high)


# --- before and after the run ----------------------------------------------------------------------------------------


def prepare(conditions: Sequence[str], baseline: Path | None, *, models: int) -> BenchResult | None:
    """Refuse what cannot be checked before any work; the baseline, read. Raises UsageError."""
    limits = [Limit.parse(each) for each in conditions]
    known = None if baseline is None else read(baseline)
    if known is not None and not any(limit.relative for limit in limits):
        hint = "add --fail-if 'p50>+5%', or leave it out"
        raise UsageError("a baseline is for conditions against it, and there are none", hint=hint)
    for limit in limits:
        if limit.relative and known is None:
            hint = "give --baseline FILE, a result written by --report FILE.json"
            raise UsageError(f"--fail-if {limit.text!r} needs a baseline", hint=hint)
        if limit.metric in ("ratio", "error") and not limit.relative and models < 2:
            hint = "name the model to compare with first"
            raise UsageError(f"--fail-if {limit.text!r} compares models, and there is one", hint=hint)
    return known


def check(conditions: Sequence[str], result: BenchResult, baseline: BenchResult | Path | None) -> tuple[Condition, ...]:
    """Each condition for each row that it concerns. Raises UsageError for a condition or a baseline that is wrong."""
    known = read(baseline) if isinstance(baseline, Path) else baseline
    reason = "" if known is None else _foreign(result, known)
    found: list[Condition] = []
    for limit in [Limit.parse(each) for each in conditions]:
        rows = list(_concerned(limit, result))
        if not rows:
            found.append(Condition(limit.text, "", "not compared", "it compares models, and no second one has figures"))
        for row in rows:
            holds, detail = _judge(limit, row, result, known, reason)
            found.append(Condition(limit.text, f"{row.label} on {row.setting}", holds, detail))
    return tuple(found)


def exit_code(conditions: Sequence[Condition]) -> int:
    """7 where one holds, 2 where one could not be checked, else 0."""
    if any(each.holds == "yes" for each in conditions):
        return HOLDS_CODE
    return UNCHECKED_CODE if any(each.holds == "not compared" for each in conditions) else 0


def _concerned(limit: Limit, result: BenchResult) -> Iterator[Row]:
    """All rows; for what compares models, those of all models but the first."""
    first = result.rows[0].label if result.rows else ""
    for row in result.rows:
        if limit.metric == "ratio" and row.label == first:
            continue
        if limit.metric == "error" and row.label == first and row.error is None and not row.failure:
            continue
        yield row


def _foreign(result: BenchResult, known: BenchResult) -> str:
    """Why figures of the two cannot be compared; empty when they can."""
    if result.scenario != known.scenario:
        return f"the baseline's scenario is {known.scenario}, this one's {result.scenario}"
    for name in _ASKED:
        here, there = (each.options.get(name) for each in (result, known))
        if here != there:
            return f"the baseline was measured with {name} {_said(there)}, here it is {_said(here)}"
    for name in _MACHINE:
        here, there = result.environment.get(name), known.environment.get(name)
        if here != there:
            return f"the baseline was measured with {name} {_said(there)}, here it is {_said(here)}"
    here, there = _devices(result.environment), _devices(known.environment)
    for name in here.keys() & there.keys():
        if here[name] != there[name]:
            return f"the baseline was measured on {_said(there[name])}, here there is {_said(here[name])}"
    return ""


def _devices(environment: Mapping[str, Any]) -> dict[str, list[str]]:
    """The GPUs by backend."""
    providers: Mapping[str, Mapping[str, str]] = environment.get("providers", {})
    return {name: [each[key] for key in sorted(each) if key.startswith("GPU")] for name, each in providers.items()}


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return ", ".join(value) if isinstance(value, list) else "unknown" if value is None else str(value)


def _judge(limit: Limit, row: Row, result: BenchResult, known: BenchResult | None, reason: str) -> tuple[Holds, str]:
    if row.failure:
        return "not compared", "there are no figures for this row"
    if limit.relative and reason:
        return "not compared", reason
    figure = _figure(limit.metric, row, result)
    if isinstance(figure, str):
        return "not compared", figure
    if not limit.relative:
        return _decide(limit, figure), f"{limit.metric} is {_shown(limit.metric, figure)}"
    found = _of_baseline(limit.metric, row, known, len({each.label for each in result.rows}) == 1)
    if isinstance(found, str):
        return "not compared", found
    other, label = found
    change = quotient(figure, other)
    here, there = (_value(limit.metric, each.value) for each in (figure, other))
    whose = "" if label == row.label else f" of {label}"
    return _decide(limit, change), f"{limit.metric} is {here}, {_percent(change)} against {there}{whose}"


def _of_baseline(metric: str, row: Row, known: BenchResult | None, alone: bool) -> tuple[Figure, str] | str:
    """The baseline's figure for a row, and the label there. alone: the result holds one model."""
    if known is None:
        return "there is no baseline"
    anyone = alone and len({other.label for other in known.rows}) == 1
    for other in known.rows:
        if other.setting == row.setting and (anyone or other.label == row.label):
            if other.failure:
                return "the baseline has no figures for this row"
            figure = _figure(metric, other, known)
            if isinstance(figure, str):
                return f"in the baseline {figure}"
            return (figure, other.label) if figure.value > 0 else f"in the baseline {metric} is 0"
    rows = [f"{other.label} on {other.setting}" for other in known.rows]
    return f"the baseline has no such row; it has {', '.join(rows[:3])}{', ...' if len(rows) > 3 else ''}"


def quotient(a: Figure, b: Figure) -> Figure:
    """a / b of two figures that were measured apart, with its 95 % interval from theirs; b above 0.

    The distances from each logarithm to its bounds are added as squares, each with the bound that matters for it.
    """
    if a.low == a.high and b.low == b.high:
        return _exactly(a.value / b.value)
    if min(a.low, b.low) <= 0:
        return Figure(a.value / b.value, 0.0, math.inf)
    log_a, log_b = (tuple(math.log(each) for each in (x.value, x.low, x.high)) for x in (a, b))
    value = log_a[0] - log_b[0]
    low = value - math.hypot(log_a[0] - log_a[1], log_b[2] - log_b[0])
    high = value + math.hypot(log_a[2] - log_a[0], log_b[0] - log_b[1])
    return Figure(math.exp(value), math.exp(low), math.exp(high))


def _exactly(value: float) -> Figure:
    return Figure(value, value, value)


def _decide(limit: Limit, figure: Figure) -> Holds:
    """Whether the whole interval lies on one side."""
    if figure.low > limit.value if limit.above else figure.high < limit.value:
        return "yes"
    return "no" if (figure.high <= limit.value if limit.above else figure.low >= limit.value) else "undecided"


# --- figures ---------------------------------------------------------------------------------------------------------


def _figure(metric: str, row: Row, result: BenchResult) -> Figure | str:
    """A figure of a row; those without an interval have an empty one. Or why there is none."""
    if metric == "qps":
        if row.load is None:
            return "qps belongs to queries under load"
        return _for_loads(row.load.most or row.load.achieved, row)
    if metric == "ratio":
        first = result.rows[0].label
        versus = (each for each in row.versus if each.kind == "model" and result.rows[each.against].label == first)
        found = next(versus, None)
        if found is None:
            return "the first model has no figures here"
        return _for_loads(Figure(found.ratio, found.low, found.high), row)
    if metric == "mean" and row.load is not None:
        return "the mean of queries under load has no interval"
    if metric == "error":
        if row.error is None or row.error.relative is None:
            return (row.error.text if row.error is not None else "") or "there is nothing to compare outputs with"
        return _exactly(row.error.relative)
    if metric in ("p50", "p90", "p99", "mean", "throughput"):
        timed = _of_latency(metric, row.latency)
        return timed if isinstance(timed, str) else _for_loads(timed, row)
    value = {"load": row.load_ms, "first-run": row.first_run_ms, "memory": row.peak_bytes, "size": row.bytes}[metric]
    return f"{metric} is not known" if value is None else _exactly(float(value))


def _of_latency(metric: str, timed: Latency | None) -> Figure | str:
    if timed is None:
        return "latency was not measured"
    rate = timed.throughput
    mean = timed.mean_ms
    known = {
        "p50": timed.p50_ms,
        "throughput": rate,
        "mean": Figure(mean, mean * rate.value / rate.high, mean * _ratio(rate.value, rate.low)),
        **timed.percentiles,
    }
    if metric not in known:
        return f"{metric} needs {timed.needed.get(metric, 0):,} runs, there are {timed.runs:,}"
    return known[metric]


def _for_loads(figure: Figure, row: Row) -> Figure:
    """With room for what differs from load to load, where there was one load and nothing is known of it."""
    if row.latency is None or row.latency.loads > 1 or not 0 < figure.low <= figure.high < math.inf:
        return figure
    below, above = math.log(figure.value / figure.low), math.log(figure.high / figure.value)
    return Figure(
        figure.value,
        figure.value * math.exp(-math.hypot(below, _ONE_LOAD)),
        figure.value * math.exp(math.hypot(above, _ONE_LOAD)),
    )


def _ratio(a: float, b: float) -> float:
    return a / b if b else math.inf


def _value(metric: str, number: float) -> str:
    forms = {"time": milliseconds, "size": size, "rate": "{:,.1f}/s".format, "ratio": "{:.3f}".format}
    return forms.get(_KINDS[metric], "{:.3g}".format)(number)


def _shown(metric: str, figure: Figure) -> str:
    if figure.low == figure.high:
        return _value(metric, figure.value)
    return f"{_value(metric, figure.value)} [{_value(metric, figure.low)}, {_value(metric, figure.high)}]"


def _percent(change: Figure) -> str:
    low, value, high = (f"{100 * (each - 1):+.1f} %" for each in (change.low, change.value, change.high))
    return value if change.low == change.high else f"{value} [{low}, {high}]"
