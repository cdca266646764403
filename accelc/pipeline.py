"""Pipelines: lists of passes that are also a line of text, and the -O levels.

    pipeline := step ("," step)*
    step     := name ["{" option "=" value ("," ...)* "}"]  |  "fixpoint" "(" pipeline ")"  |  "O0" ... "O3"

`Pipeline.parse(str(pipeline)) == pipeline`. Names fold `-` and `_`.
"""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from accelc import ir
from accelc.context import Context
from accelc.errors import UsageError
from accelc.pass_base import Pass, PassRecord, PassResult, make_pass, run_pass

MAX_ROUNDS = 8
MAX_DEPTH = 20
"""How deep fixpoints may be nested."""

_EXACT = (
    "inline, constants, fixpoint(dce, fold, control-flow, shapes, identity, algebra, cast, transpose, reshape, slice, "
    "concat, pad, gather, heads, cse), qdq, dedup, dce"
)
_FUSE = (
    "einsum, recurrent, commute, fixpoint(rotary, attention, gelu, norm, activation, resize, group-norm, batchnorm, "
    "conv, softmax, gemm, layout, fold, shapes, identity, transpose, reshape, cse), merge, dedup, cse, dce"
)
_KERNELS = "winograd, skip-norm, epilogue, dedup, share, residual, dce"
LEVELS: Mapping[int, str] = {
    0: "",
    1: _EXACT,
    2: f"{_EXACT}, {_FUSE}, {_KERNELS}",
    3: f"{_EXACT}, {_FUSE}, share, quantize, {_KERNELS}",
}
"""What each -O level runs, as pipeline text."""


@dataclass(frozen=True)
class Fixpoint(Pass):
    """Repeat a list of passes until none of them changes anything."""

    name: ClassVar[str] = "fixpoint"
    steps: tuple[Pass, ...] = ()

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        outer, ctx.repeats = ctx.repeats, True
        try:
            return self._repeat(model, ctx)
        finally:
            ctx.repeats = outer

    def _repeat(self, model: ir.Model, ctx: Context) -> PassResult:
        total = 0
        for _ in range(MAX_ROUNDS):
            changed = sum(execute(each, model, ctx) for each in self.steps)
            total += changed
            if not changed or ctx.fuel.empty:
                return PassResult(total)
        return PassResult(total, notes=(f"still changing after {MAX_ROUNDS} rounds",))

    def __str__(self) -> str:
        return f"fixpoint({', '.join(map(str, self.steps))})"


@dataclass(frozen=True)
class Pipeline:
    """Passes in order."""

    steps: tuple[Pass, ...] = ()

    @classmethod
    def parse(cls, text: str, find: Callable[[str], type[Pass]] | None = None) -> Pipeline:
        """A pipeline from text. find: the pass class of a name; by default every installed pass is known.

        Raises UsageError with the place where the text stops making sense.
        """
        return cls(tuple(_Parser(text, find or _installed()).pipeline()))

    @classmethod
    def level(cls, number: int, find: Callable[[str], type[Pass]] | None = None) -> Pipeline:
        """The pipeline of an -O level."""
        if number not in LEVELS:
            raise UsageError(f"there is no level {number}", hint=f"levels are {', '.join(f'-O{n}' for n in LEVELS)}")
        return cls.parse(LEVELS[number], find)

    @classmethod
    def load(cls, path: Path, find: Callable[[str], type[Pass]] | None = None) -> Pipeline:
        """A pipeline from a TOML file: `pipeline = "text"`, or a `[[pass]]` table for each step with its options."""
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError("cannot read the pipeline", where=str(path), why=error.strerror or str(error)) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError("is not valid TOML", where=str(path), why=str(error)) from error
        if isinstance(table.get("pipeline"), str):
            return cls.parse(table["pipeline"], find)
        entries = table.get("pass")
        if not isinstance(entries, list) or not all(isinstance(e, dict) and "name" in e for e in entries):
            raise UsageError('has neither pipeline = "..." nor [[pass]] tables with a name', where=str(path))
        steps: list[Pass] = []
        known = find or _installed()
        for entry in entries:
            options = {key: value for key, value in entry.items() if key != "name"}
            steps.extend(_steps_of(str(entry["name"]), options, known))
        return cls(tuple(steps))

    def __str__(self) -> str:
        return ", ".join(map(str, self.steps))

    def __iter__(self) -> Iterator[Pass]:
        """Every pass, those inside fixpoints included."""
        return _flatten(self.steps)

    def run(self, model: ir.Model, ctx: Context) -> list[PassRecord]:
        """Run every pass on the model, in place. Raises PassError."""
        ctx.records = []
        ctx.quiet.clear()
        for each in self.steps:
            execute(each, model, ctx)
        return ctx.records


def _flatten(steps: Sequence[Pass]) -> Iterator[Pass]:
    for each in steps:
        if isinstance(each, Fixpoint):
            yield from _flatten(each.steps)
        else:
            yield each


def execute(each: Pass, model: ir.Model, ctx: Context) -> int:
    """Run a pass and keep a record of it for the report; a fixpoint is represented by what ran inside it.

    A pass that changed nothing runs again only after another one changed something.
    """
    if ctx.quiet.get(str(each)) == ctx.version:
        return 0
    started = time.perf_counter()
    result = run_pass(each, model, ctx)
    if not result.changes and not result.skipped:
        ctx.quiet[str(each)] = ctx.version
    for note in result.notes:
        ctx.note(f"{each.name}: {note}")
    if not isinstance(each, Fixpoint):
        ctx.records.append(
            PassRecord(
                each.name,
                str(each),
                result.changes,
                time.perf_counter() - started,
                sum(len(graph) for graph in ir.all_graphs(model)) if result.changes else -1,
                ir.initializer_bytes(model) if result.changes else -1,
                result.skipped,
                result.notes,
                result.rules,
                result.details,
            )
        )
    return result.changes


def _installed() -> Callable[[str], type[Pass]]:
    from accelc.plugins import pass_finder

    return pass_finder()


def _steps_of(name: str, options: Mapping[str, Any], find: Callable[[str], type[Pass]]) -> Sequence[Pass]:
    level = re.fullmatch(r"[oO]([0-9])", name)
    if level:
        return Pipeline.level(int(level[1]), find).steps
    return [make_pass(find(name), options)]


class _Parser:
    """Recursive descent over the grammar in the module's docstring."""

    _token = re.compile(r"""\s*(?:(?P<word>[\w.+%/:|\-]+)|(?P<string>"(?:[^"\\]|\\.)*")|(?P<sign>[{}(),=]))""")

    def __init__(self, text: str, find: Callable[[str], type[Pass]]) -> None:
        self.text, self.find = text, find
        self.tokens: list[tuple[str, int]] = []
        at = 0
        while text[at:].strip():
            found = self._token.match(text, at)
            if found is None:
                self._fail(at, "an unexpected character")
            self.tokens.append((found.group().strip(), found.start()))
            at = found.end()
        self.at = 0
        self.depth = 0

    def _fail(self, position: int, what: str) -> NoReturn:
        shown = self.text[max(0, position) : position + 20].strip() or "the end"
        raise UsageError(
            f"{what} at {shown!r}", where=f"pipeline {self.text!r}", hint='write it like "fold, prune{sparsity=0.5}"'
        )

    def _peek(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def _next(self, wanted: str = "") -> str:
        token = self._peek()
        position = self.tokens[self.at][1] if self.at < len(self.tokens) else len(self.text)
        if not token or (wanted and token != wanted):
            self._fail(position, f"{wanted!r} is missing" if wanted else "something is missing")
        if not wanted and token in "{}(),=":
            self._fail(position, "a name is missing")
        self.at += 1
        return token

    def pipeline(self) -> list[Pass]:
        steps = self._list() if self.tokens else []
        if self._peek():
            self._fail(self.tokens[self.at][1], "cannot read on")
        return steps

    def _list(self) -> list[Pass]:
        steps = list(self._step())
        while self._peek() == ",":
            self._next(",")
            steps.extend(self._step())
        return steps

    def _step(self) -> Sequence[Pass]:
        name = self._next()
        if self._peek() == "(":
            if name != "fixpoint":
                self._fail(self.tokens[self.at][1], f"{name} takes options in braces; only fixpoint takes passes")
            self._next("(")
            self.depth += 1
            if self.depth > MAX_DEPTH:
                self._fail(self.tokens[self.at - 1][1], f"more than {MAX_DEPTH} nested fixpoints")
            steps = self._list()
            self.depth -= 1
            self._next(")")
            return [Fixpoint(tuple(steps))]
        options: dict[str, Any] = {}
        if self._peek() == "{":
            self._next("{")
            while self._peek() != "}":
                key = self._next()
                self._next("=")
                options[key] = self._value()
                if self._peek() != "}":
                    self._next(",")
            self._next("}")
        return _steps_of(name, options, self.find)

    def _value(self) -> str:
        token = self._next()
        return re.sub(r"\\(.)", r"\1", token[1:-1]) if token.startswith('"') else token
