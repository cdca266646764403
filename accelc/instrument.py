"""Instruments watch passes and patches; they never change the model.

Derive from Instrument, override what interests you, and hand it to `optimize(..., instruments=[...])`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from accelc import ir

if TYPE_CHECKING:
    from accelc.context import Context, PatchRecord
    from accelc.pass_base import Pass, PassResult


class Instrument:
    """Callbacks around every pass. All do nothing here."""

    def should_run(self, each: Pass, model: ir.Model, ctx: Context) -> bool:
        """Whether the pass runs at all; one False from any instrument skips it."""
        return True

    def before(self, each: Pass, model: ir.Model, ctx: Context) -> None: ...

    def after(self, each: Pass, result: PassResult, model: ir.Model, ctx: Context) -> None: ...

    def failed(self, each: Pass, error: Exception, model: ir.Model, ctx: Context) -> None: ...

    def on_patch(self, record: PatchRecord) -> None: ...


@dataclass
class Span:
    """A pass's time in the tree of `--time-passes`."""

    name: str
    seconds: float = 0.0
    runs: int = 0
    children: dict[str, Span] = field(default_factory=dict)


class Timer(Instrument):
    """Adds up wall time for each pass, nested as the pipeline nests them."""

    def __init__(self) -> None:
        self.root = Span("total")
        self._stack: list[tuple[Span, float]] = []

    def before(self, each: Pass, model: ir.Model, ctx: Context) -> None:
        parent = self._stack[-1][0] if self._stack else self.root
        self._stack.append((parent.children.setdefault(each.name, Span(each.name)), time.perf_counter()))

    def _pop(self) -> None:
        span, started = self._stack.pop()
        span.seconds += time.perf_counter() - started
        span.runs += 1
        if not self._stack:
            self.root.seconds += time.perf_counter() - started

    def after(self, each: Pass, result: PassResult, model: ir.Model, ctx: Context) -> None:
        self._pop()

    def failed(self, each: Pass, error: Exception, model: ir.Model, ctx: Context) -> None:
        self._pop()


class PrintAfter(Instrument):
    """Prints the graph as ONNX text after passes. which: a pass's name, `all`, or `change` (those that changed it)."""

    def __init__(self, which: str, write: Callable[[str], None]) -> None:
        self.which, self.write = which, write

    def after(self, each: Pass, result: PassResult, model: ir.Model, ctx: Context) -> None:
        if self.which in ("all", each.name) or (self.which == "change" and result.changes):
            self.write(f"// after {each}: {result.changes} changes\n{ir.text(model)}")


class Dump(Instrument):
    """Writes a numbered ONNX file after each pass that changed something, and the input as number 000."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0
        folder.mkdir(parents=True, exist_ok=True)

    def _write(self, model: ir.Model, name: str) -> None:
        from accelc.exporter import write_model

        write_model(model, self.folder / f"{self.count:03d}_{name}.onnx")
        self.count += 1

    def before(self, each: Pass, model: ir.Model, ctx: Context) -> None:
        if self.count == 0:
            self._write(model, "input")

    def after(self, each: Pass, result: PassResult, model: ir.Model, ctx: Context) -> None:
        if result.changes:
            self._write(model, each.name)
