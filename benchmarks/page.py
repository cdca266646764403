"""BENCHMARKS.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelc import units
from benchmarks.measuring import Study, Variant

_HEAD = ("", "nodes", "size", "times as fast", "", "largest error", "top-1", "time to make", "memory to make")


_FACTS = ("processor", "cores", "features", "memory", "system", "python", "build", "date")
_LEAD = """
What accelc's levels and the peers that are installed make of the same models, measured by `accelc bench`. This page is
written by `{command}`.
""".strip()
_METHOD = """
- Each optimizer runs once on each model, with its own defaults, in a process of its own. *Time to make* is that of the
  whole process; accelc's includes comparing the result with the original, and at -O3 measuring it. *Memory to make* is
  what the largest of its processes held resident.
- The original and all variants are then timed in turn: short blocks in random order, over several loads of each file.
  *Times as fast* is the ratio of the latencies inside the rounds, with its 95 % interval; *same* means that there is no
  strong evidence for a difference of more than 2 %.
- *Largest error* is max|a-b| / max|a| over the outputs, against the original's; *top-1* is the share of samples with
  the same largest output. accelc's -O3 and quantize_dynamic may trade precision; the others may not.
- Shipped models run on their evaluation data. Architectures exported from PyTorch have random weights: their errors
  tell of rounding, and nothing about accuracy.
""".strip()


def page(
    studies: Sequence[Study],
    *,
    chart: str,
    command: str,
    environment: Mapping[str, Any],
    versions: Mapping[str, str],
    notes: Sequence[str],
) -> str:
    """The whole page. chart: path of the picture, as seen from the page."""
    parts = [
        "# Benchmarks",
        _LEAD.format(command=command),
        f"![How many times as fast as the original each variant is, with 95 % intervals]({chart})",
        "## How it was made",
        _METHOD,
        "## Where",
        _list([*_where(environment), ", ".join(f"{name} {found}" for name, found in versions.items())]),
        "## Models",
    ]
    for study in studies:
        parts.append(f"### {study.model}")
        parts.append(f"{study.inputs or 'generated inputs'}; the original takes {units.milliseconds(study.p50_ms)}.")
        parts.append(_table(study))
        parts += [f"{noise}." for noise in study.noise]
    if notes:
        parts += ["## Notes", _list(notes)]
    return "\n\n".join(filter(None, parts)) + "\n"


def write(path: Path, text: str) -> None:
    """Write a file, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _table(study: Study) -> str:
    original = ("original", f"{study.nodes:,}", units.size(study.bytes), "1", "", "", "", "", "")
    rows = [_HEAD, ("---", *["--:"] * (len(_HEAD) - 1)), original, *map(_cells, study.variants)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(each: Variant) -> tuple[str, ...]:
    made = (f"{each.seconds:.1f} s", "" if each.peak_bytes is None else units.size(each.peak_bytes))
    if each.failure:
        return (each.optimizer, "", "", f"failed: {each.failure.replace('|', ' ')}", "", "", "", *made)
    ratio = "" if each.ratio is None else f"{each.ratio:.2f} [{each.low:.2f}, {each.high:.2f}]"
    error = "" if each.relative is None else "0" if each.relative == 0 else f"{each.relative:.1e}"
    top1 = "" if each.top1 is None else f"{100 * each.top1:.1f} %"
    verdict = each.verdict if each.verdict != "faster" else "**faster**"
    return (each.optimizer, f"{each.nodes:,}", units.size(each.bytes), ratio, verdict, error, top1, *made)


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _where(environment: Mapping[str, Any]) -> list[str]:
    shown = {**environment, "memory": units.size(environment["memory"])} if environment.get("memory") else environment
    return [f"{name}: {_words(shown[name])}" for name in _FACTS if shown.get(name)]


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
