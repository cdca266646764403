"""What the commands share: parameter types, the consoles, JSON, and text that is safe to print."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

import click

from accelc.errors import UsageError
from accelc.plain import plain
from accelc.printable import printable as printable

if TYPE_CHECKING:
    from rich.console import Console

    FloatType = click.ParamType[float]
    TextType = click.ParamType[str]
    ShapeType = click.ParamType[tuple[str, tuple[int | str, ...]]]
    SizeType = click.ParamType[tuple[str, int]]
else:
    FloatType = TextType = ShapeType = SizeType = click.ParamType  # not generic in every version that is allowed

F = TypeVar("F", bound=Callable[..., Any])
_NARROWEST, _WIDEST = 40, 120


# --- consoles --------------------------------------------------------------------------------------------------------


def console(*, err: bool = False) -> Console:
    """A console for stdout or stderr: colours only on a terminal and without NO_COLOR, and a width fit for reading."""
    from rich.console import Console

    class Plain(Console):
        """A console that leaves the end of its reader to the program."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    stream = sys.stderr if err else sys.stdout
    made: Console = Plain(file=stream, highlight=False, markup=False, emoji=False)
    if os.environ.get("NO_COLOR") or not made.is_terminal or made.is_dumb_terminal:
        tidy = cast(TextIO, _Tidy(stream))
        made = Plain(file=tidy, highlight=False, markup=False, emoji=False, color_system=None)
    made.width = max(_NARROWEST, min(_WIDEST, made.width))
    return made


class _Tidy:
    """A stream for plain text: lines lose the spaces that fill up the last column of a table."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(re.sub(r" +$", "", text, flags=re.MULTILINE))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def progress(quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """A function that says what is being done: one line with a spinner on stderr, on a terminal only."""
    if quiet or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda text: None
        return
    with console(err=True).status("starting") as status:
        yield lambda text: status.update(printable(text))


# --- JSON ------------------------------------------------------------------------------------------------------------


def emit_json(schema: str, value: Any) -> None:
    """Print a dataclass, list or mapping as JSON, with the name of its schema first."""
    body = plain(value)
    click.echo(json.dumps({"schema": schema, **body}, indent=2, allow_nan=False))


# --- parameters ------------------------------------------------------------------------------------------------------


def model_path(text: str) -> Path:
    """A model file that exists. Raises UsageError with a file of a similar name where there is one."""
    path = Path(text)
    if not path.exists():
        folder = path.parent if path.parent.is_dir() else Path()
        names = [each.name for each in folder.iterdir() if each.suffix == ".onnx"]
        close = difflib.get_close_matches(path.name, names, 1)
        raise UsageError(
            "no such file", where=text, hint=f"did you mean {folder / close[0]}?" if close else "check the path"
        )
    return path


class Share(FloatType):
    """A share as 0.01 or 1%."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """0..1"""
        if isinstance(value, float):
            return value
        text = str(value).strip()
        try:
            share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            share = math.nan
        if not 0 <= share < 1:
            self.fail(f"{value!r} is not a share; write 1% or 0.01", param, ctx)
        return share


class Drop(TextType):
    """What may be lost, kept as it was written: 1% or 0.01."""

    name = "drop"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).strip()
        try:
            number = float(text.removesuffix("%"))
        except ValueError:
            number = math.nan
        if not 0 <= number < (100 if text.endswith("%") else math.inf):
            self.fail(f"{value!r} is no drop; write 1% or 0.01", param, ctx)
        return text


class InputShape(ShapeType):
    """The shape of an input as name=1x128; `?` or a symbol leaves a dimension open."""

    name = "shape"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int | str, ...]]:
        """(input, dimensions)"""
        if isinstance(value, tuple):
            return value
        name, equals, dims = str(value).rpartition("=")
        parts = [part.strip() for part in (dims.split(",") if "," in dims else dims.split("x"))]
        if not name or not equals or not all(parts):
            self.fail(f"{value!r} is no shape; write name=1x128", param, ctx)
        return name, tuple(int(part) if part.isdecimal() else part for part in parts)


class Size(SizeType):
    """The size of a symbolic dimension as batch=8."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """(symbol, size)"""
        if isinstance(value, tuple):
            return value
        name, equals, size = str(value).rpartition("=")
        if not name or not equals or not size.isdecimal() or not int(size):
            self.fail(f"{value!r} is no size; write batch=8", param, ctx)
        return name, int(size)


def _remember_debug(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().meta["accelc.debug"] = True


def debug_option(command: F) -> F:
    """--debug, on every command."""
    return click.option(
        "--debug",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_remember_debug,
        help="Show tracebacks of errors.",
    )(command)


def plugin_option(command: F) -> F:
    """--plugin, on commands that use passes or backends."""
    return click.option(
        "--plugin",
        "plugins",
        multiple=True,
        metavar="MODULE|FILE.py",
        help="Also use the passes and backends that a module or a Python file defines.",
    )(command)


def json_option(command: F) -> F:
    """--json, on commands that list facts."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")(command)


SOURCE = "SRC"
"""Data: a file, a folder or a function; docs/cli.md says which."""


def _with(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


calibration_options: Callable[[Any], Any] = _with(
    click.option(
        "--calibration",
        metavar=SOURCE,
        help="Data to find the ranges of static int8 on: .npz files, folders of .npy, .pb or images, .parquet, or "
        "module:function.",
    ),
    click.option(
        "--preprocess",
        metavar="TEXT|FILE",
        help='How images become inputs, as "resize=256,crop=224,scale=1/255", or a .json or .toml file of it.',
    ),
)
"""--calibration and --preprocess."""

quality_options: Callable[[Any], Any] = _with(
    click.option(
        "--eval",
        "--inputs",
        "inputs",
        metavar=SOURCE,
        help="Data (with labels) to verify, judge and measure on; takes what --calibration takes.",
    ),
    click.option(
        "--metric",
        metavar="NAME|MODULE:FUNCTION",
        help="Judge quality by top1, topk=5, cosine, mse, psnr, f1 or a function.  [default: closeness of all outputs, "
        "and top-1 accuracy with labels]",
    ),
    click.option("--metric-output", metavar="NAME", help="The output to score.  [default: the first of floats]"),
    click.option(
        "--max-drop",
        type=Drop(),
        default="1%",
        metavar="DROP",
        show_default=True,
        help="What lower precision may cost: 0.5% of the original's score, or 0.005 in the metric's unit.",
    ),
)
"""--eval (or --inputs), --metric, --metric-output and --max-drop."""

search_options: Callable[[Any], Any] = _with(
    click.option(
        "--calibration-method",
        default="minmax",
        show_default=True,
        metavar="NAME",
        help="How ranges follow from the data: minmax, average, percentile=99.99, entropy or mse.",
    ),
    click.option("--ranges", metavar="FILE", help="Ranges that accelc calibrate found, instead of data."),
    click.option("--search-time", metavar="TIME", help="How long the search for lower precision may take, as 60s."),
    click.option("--pareto", metavar="FILE", help="Write the trade-off that the search found, as .html or .json."),
    click.option("--isa", metavar="NAMES", help="Compile for other instruction sets than this processor's."),
)
"""--calibration-method, --ranges, --search-time, --pareto and --isa."""

data_options: Callable[[Any], Any] = _with(calibration_options, quality_options, search_options)
"""All of these, on commands that lower precision; `data_fields` reads them."""


def data_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of accelc.options.Options from those of `data_options`."""
    paths = {name: options[name] for name in ("inputs", "calibration", "ranges", "pareto")}
    names = ("preprocess", "metric", "metric_output", "max_drop", "calibration_method", "search_time", "isa")
    return {name: None if text is None else Path(text) for name, text in paths.items()} | {
        name: options[name] for name in names
    }
