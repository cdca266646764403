"""`python -m benchmarks`: measure, and write BENCHMARKS.md and its chart."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from accelc.errors import AccelcError
from accelc.options import seconds_of
from accelc.plain import plain
from benchmarks import models, optimizers
from benchmarks.chart import chart
from benchmarks.measuring import Study, Variant, study
from benchmarks.page import page, write


@click.command(help="Measure MODELS (by default all that can be had), and write a page and a chart.")
@click.argument("names", nargs=-1, metavar="[MODEL]...", type=click.Choice(models.NAMES))
@click.option("--optimizer", "only", multiple=True, help="One to run, as 'accelc -O2' or onnxsim; again for more.")
@click.option("--duration", default="20s", show_default=True, help="Measured time of each variant.")
@click.option("--threads", type=click.IntRange(1), help="Of one operator. [default: the runtime's]")
@click.option("--limit", default="20min", show_default=True, help="How long an optimizer may take.")
@click.option(
    "--peers-python", "python", default=sys.executable, help="An interpreter that has the peers. [default: this]"
)
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/benchmarks"), show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=Path("BENCHMARKS.md"), show_default=True)
@click.option("--picture", type=click.Path(path_type=Path), default=Path("docs/benchmarks.svg"), show_default=True)
@click.option("--export-only", is_flag=True, help="Only export the architectures, for a run where PyTorch is missing.")
@click.option("--render-only", is_flag=True, help="Only write page and chart again, from the last figures.")
def main(
    names: tuple[str, ...],
    only: tuple[str, ...],
    duration: str,
    threads: int | None,
    limit: str,
    python: str,
    work: Path,
    output: Path,
    picture: Path,
    export_only: bool,
    render_only: bool,
) -> None:
    work.mkdir(parents=True, exist_ok=True)
    kept = work / "figures.json"
    try:
        if not render_only:
            found = [models.find(name, work.resolve()) for name in names or models.NAMES]
            notes = [each for each in found if isinstance(each, str)]
            ready = [each for each in found if not isinstance(each, str)]
            for note in notes:
                _tell(note)
            if export_only:
                return
            wanted = [name for name in optimizers.names(python) if not only or name in only]
            for data in _measure(ready, wanted, notes, work, duration, threads, limit, python):
                write(kept, json.dumps(data, indent=2, allow_nan=False) + "\n")
        _render(json.loads(kept.read_text(encoding="utf-8")), output, picture)
    except (AccelcError, FileNotFoundError) as error:
        raise click.ClickException(str(error)) from error


def _measure(
    ready: list[models.Model],
    wanted: list[str],
    notes: list[str],
    work: Path,
    duration: str,
    threads: int | None,
    limit: str,
    python: str,
) -> Iterator[dict[str, Any]]:
    """The figures so far, after each model: what is there when the rest takes too long can be rendered."""
    studies: list[Study] = []
    environment: dict[str, Any] = {}
    asked = [*(model.name for model in ready), f"--duration {duration}", *([f"--threads {threads}"] if threads else [])]
    for model in ready:
        try:
            figures, environment = study(
                model,
                wanted,
                work,
                duration=seconds_of(duration),
                threads=threads,
                limit=seconds_of(limit),
                python=python,
                tell=_tell,
            )
        except AccelcError as error:
            notes.append(f"{model.name}: {error}")
        else:
            studies.append(figures)
        yield {
            "command": " ".join(["python -m benchmarks", *asked]),
            "environment": plain(environment),
            "versions": optimizers.versions(python),
            "notes": notes,
            "studies": plain(studies),
        }


def _render(data: dict[str, Any], output: Path, picture: Path) -> None:
    studies = [
        Study(**{**each, "variants": tuple(Variant(**one) for one in each["variants"]), "noise": tuple(each["noise"])})
        for each in data["studies"]
    ]
    write(picture, chart(studies))
    link = Path(os.path.relpath(picture, output.parent)).as_posix()
    parts = {name: data[name] for name in ("command", "environment", "versions", "notes")}
    write(output, page(studies, chart=link, **parts))
    _tell(f"wrote {output} and {picture}")


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
