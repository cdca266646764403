"""The program: its commands, and how every way to end looks from outside."""

from __future__ import annotations

import difflib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from accelc.cli import bench, calibrate, decisions, inspect, listing, models, optimize, quantize, system
from accelc.cli.common import printable
from accelc.errors import AccelcError

INTERRUPTED = 130
BROKEN_PIPE = 141

EPILOG = """\b
Examples:
  accelc optimize model.onnx -O3
  accelc optimize model.onnx --eval samples.npz --report report.json
  accelc quantize model.onnx --calibration train.npz --eval test.npz
  accelc bench model.onnx model.O3.cpu.onnx
  accelc inspect model.onnx
  accelc doctor

\b
Exit codes:
    0  success                          4  the numbers differ and cannot be kept
    1  internal error; diff: different  5  a pass failed
    2  wrong usage, backend not usable  6  a plugin cannot be loaded
    3  the model is refused             7  bench: a condition of --fail-if holds
  130  interrupted
"""


class Program(click.Group):
    """A group whose errors are one line, with an exit code that scripts can rely on."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, *_: Any, **extra: Any) -> NoReturn:
        """Run and exit. Options of click.Group.main that would change how it ends are not taken."""
        extra.pop("standalone_mode", None)
        try:
            code = super().main(args, prog_name or "accelc", standalone_mode=False, **extra)
        except click.Abort:
            code = INTERRUPTED
        except click.ClickException as error:
            code = _usage(error)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what goes wrong becomes a line and an exit code."""
        try:
            with _interruptible():
                result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except KeyboardInterrupt:
            _say("interrupted")
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            _silence(sys.stdout)
            ctx.exit(BROKEN_PIPE)
        except AccelcError as error:
            _trace(ctx)
            _say(f"error: {error}")
            ctx.exit(error.exit_code)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except MemoryError:
            _trace(ctx)
            _say("error: the memory of this machine is not enough")
            ctx.exit(1)
        except Exception as error:
            _trace(ctx)
            more = "" if _debug(ctx) else "; run again with --debug for the traceback"
            _say(f"internal error: {type(error).__name__}: {error}; please report it{more}")
            ctx.exit(1)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of a name, or an error that knows what was probably meant."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            close = difflib.get_close_matches(name, self.commands, 1, 0.5)
            hint = f"did you mean {close[0]}?" if close else f"commands are {', '.join(self.commands)}"
            if name.endswith(".onnx"):
                hint = f"did you mean accelc optimize {name}?"
            raise click.UsageError(f"there is no command {name!r}; {hint}", ctx=ctx)
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of their use."""
        return list(self.commands)


def _say(text: str) -> None:
    """One line on stderr, whatever the text is."""
    try:
        click.echo(printable(f"accelc: {text}"), err=True)
    except OSError:
        _silence(sys.stderr)  # nobody listens


def _usage(error: click.ClickException) -> int:
    text = " ".join(error.format_message().split()).rstrip(".")
    text = text[:1].lower() + text[1:]
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx is not None else "accelc"
    if isinstance(error, click.NoSuchOption):
        text = f"there is no option {error.option_name}"
        known = [name for each in ctx.command.params for name in each.opts] if ctx is not None else []
        close = difflib.get_close_matches(error.option_name, known, 1)
        text += f"; did you mean {close[0]}?" if close else ""
    hint = f"see {path} --help"
    _say(f"error: {text} ({hint})" if text.endswith("?") else f"error: {text}; {hint}")
    return int(error.exit_code)


def _debug(ctx: click.Context) -> bool:
    return bool(ctx.find_root().meta.get("accelc.debug"))


def _trace(ctx: click.Context) -> None:
    if _debug(ctx):
        traceback.print_exc()


def _silence(stream: Any) -> None:
    """Let the interpreter flush what is left to nowhere."""
    try:
        number = stream.fileno()
    except (OSError, ValueError, AttributeError):
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C, a polite kill and a closed terminal unwind the stack once, so that children end and files go."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

    def stop(number: int, frame: object) -> None:
        for each in handled:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {each: signal.getsignal(each) for each in handled}
    for each in handled:
        if before[each] is not signal.SIG_IGN:
            signal.signal(each, stop)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"accelc {version('accelc')}")
        ctx.exit()


@click.group(
    cls=Program,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EPILOG,
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version and exit."
)
@click.pass_context
def program(ctx: click.Context) -> None:
    """The ONNX compiler you can trust: nothing wrong, nothing slower, nothing bigger, nothing silent."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for _command in (
    optimize.optimize,
    quantize.quantize,
    bench.bench,
    calibrate.calibrate,
    inspect.inspect,
    models.diff,
    listing.passes,
    listing.rules,
    system.doctor,
    decisions.decisions,
    models.reproduce,
):
    program.add_command(_command)
