"""Pipelines are text and objects at once, and text that makes no sense is a UsageError that says where."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from accelc import ir
from accelc.context import Context, Fuel, Settings
from accelc.errors import UsageError
from accelc.options import Options
from accelc.pass_base import Pass, PassResult, make_pass, option_table
from accelc.pipeline import LEVELS, MAX_ROUNDS, Fixpoint, Pipeline
from accelc.plugins import entries
from accelc.target import Target


@dataclass(frozen=True)
class Fold(Pass):
    """No options."""

    name = "fold"


@dataclass(frozen=True)
class Cut(Pass):
    """Every kind of option."""

    name = "cut-some"
    count: int = 3
    share: float = 0.5
    text: str = "plain"
    deep: bool = False
    method: Literal["magnitude", "random"] = "magnitude"
    bits: Literal[4, 8] = 8
    limit: int | None = None
    node_name: str = ""

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("count cannot be negative")


@dataclass(frozen=True)
class Must(Pass):
    """An option without a default."""

    name = "must"
    size: int


KINDS: dict[str, type[Pass]] = {"fold": Fold, "cut-some": Cut}


def lookup(name: str) -> type[Pass]:
    kind = KINDS.get(name.lower().replace("_", "-"))
    if kind is None:
        raise UsageError(f"there is no pass named {name!r}")
    return kind


def parse(text: str) -> Pipeline:
    return Pipeline.parse(text, lookup)


# --- text to passes


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_no_text_is_no_passes(text: str) -> None:
    assert parse(text) == Pipeline()


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("fold", (Fold(),)),
        (" fold ,\n fold ", (Fold(), Fold())),
        ("FOLD", (Fold(),)),
        ("cut_some, cut-some{}", (Cut(), Cut())),
        ("cut-some{count=7,share=1e-3}", (Cut(count=7, share=0.001),)),
        ("cut-some{ deep = yes , method = random }", (Cut(deep=True, method="random"),)),
        ("cut-some{deep=off, bits=4}", (Cut(bits=4),)),
        ('cut-some{text="a, {b} = \\"c\\" \\\\ d"}', (Cut(text='a, {b} = "c" \\ d'),)),
        ("cut-some{limit=9, node-name=/layer.0/MatMul:0}", (Cut(limit=9, node_name="/layer.0/MatMul:0"),)),
        ("cut-some{limit=none}", (Cut(),)),
        ("fixpoint(fold, cut-some{count=1}), fold", (Fixpoint((Fold(), Cut(count=1))), Fold())),
        ("fixpoint(fixpoint(fold))", (Fixpoint((Fixpoint((Fold(),)),)),)),
    ],
)
def test_text_becomes_passes(text: str, passes: tuple[Pass, ...]) -> None:
    found = parse(text)
    assert found.steps == passes
    assert parse(str(found)) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nope", "there is no pass named 'nope'"),
        ("fold,", "something is missing at 'the end'"),
        (",fold", "a name is missing at ',fold'"),
        ("fold fold", "cannot read on at 'fold'"),
        ("fold{", "something is missing at 'the end'"),
        ("fold}", "cannot read on at '}'"),
        ("fold{a}", "'=' is missing at '}'"),
        ("fold{a=}", "a name is missing at '}'"),
        ("fold{a=1 b=2}", "',' is missing at 'b=2}'"),
        ("fold(cut-some)", "fold takes options in braces; only fixpoint takes passes"),
        ("fixpoint(fold", "')' is missing at 'the end'"),
        ("fixpoint()", "a name is missing at ')'"),
        ("fold; cut-some", "an unexpected character at '; cut-some'"),
        ('cut-some{text="open}', "an unexpected character"),
        ("fold{a=1}", "pass fold: unknown option 'a'; it has no options"),
        ("cut-some{cuont=1}", "unknown option 'cuont'; it has bits, count, deep"),
        ("cut-some{count=many}", "pass cut-some: option count: cannot be 'many'; it is int"),
        ("cut-some{count=1.5}", "cannot be '1.5'; it is int"),
        ("cut-some{share=half}", "cannot be 'half'; it is float"),
        ("cut-some{deep=maybe}", "cannot be 'maybe'; it is bool"),
        ("cut-some{method=best}", "cannot be 'best'; it is magnitude|random"),
        ("cut-some{bits=16}", "cannot be '16'; it is 4|8"),
        ("cut-some{limit=few}", "cannot be 'few'; it is int|none"),
        ("cut-some{count=-1}", "pass cut-some: count cannot be negative"),
        ("O7", "there is no level 7; levels are -O0, -O1, -O2, -O3"),
    ],
)
def test_text_that_makes_no_sense(text: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(text)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_errors_show_the_pipeline_and_how_to_write_one() -> None:
    with pytest.raises(UsageError) as raised:
        parse("fold{a")
    assert str(raised.value).startswith("pipeline 'fold{a': ")
    assert raised.value.hint == 'write it like "fold, prune{sparsity=0.5}"'


def test_an_option_without_a_default_must_be_given() -> None:
    assert make_pass(Must, {"size": "4"}) == Must(size=4)
    with pytest.raises(UsageError, match=r"^pass must: .*size"):
        make_pass(Must, {})
    assert option_table(Must) == [("size", "int", "")]


def test_the_option_table_shows_what_may_be_written() -> None:
    assert option_table(Cut) == [
        ("count", "int", "3"),
        ("share", "float", "0.5"),
        ("text", "str", "plain"),
        ("deep", "bool", "false"),
        ("method", "magnitude|random", "magnitude"),
        ("bits", "4|8", "8"),
        ("limit", "int|none", "none"),
        ("node_name", "str", '""'),
    ]


# --- properties

_passes = st.one_of(
    st.just(Fold()),
    st.builds(
        Cut,
        count=st.integers(0, 10**9),
        share=st.floats(allow_nan=False),
        text=st.text(max_size=20),
        deep=st.booleans(),
        method=st.sampled_from(["magnitude", "random"]),
        bits=st.sampled_from([4, 8]),
        limit=st.none() | st.integers(0, 99),
        node_name=st.text(max_size=8),
    ),
)
_steps = st.recursive(
    _passes, lambda inner: st.builds(Fixpoint, st.lists(inner, min_size=1, max_size=3).map(tuple)), max_leaves=8
)
pipelines = st.builds(Pipeline, st.lists(_steps, max_size=4).map(tuple))


@given(pipelines)
@example(Pipeline((Cut(text='quote " backslash \\ end\\'), Cut(text="tab\tnewline\nspace "), Cut(text="none"))))
@example(Pipeline((Cut(text=""), Cut(share=float("-inf")), Cut(text="Grün é 中"), Cut(text="a\x0bb\x85c"))))
def test_text_round_trips(pipeline: Pipeline) -> None:
    assert Pipeline.parse(str(pipeline), lookup) == pipeline
    assert str(Pipeline.parse(str(pipeline), lookup)) == str(pipeline)


@given(st.text(max_size=40) | st.text(alphabet='fold cut-some{}(),="\\1O2 fixpoint', max_size=60))
@example("fold{" * 500)
@example("fixpoint(" * 5000)
@example("cut-some{count=" + "9" * 5000 + "}")
@example("O²")
def test_any_text_parses_or_is_a_usage_error(text: str) -> None:
    try:
        found = parse(text)
    except UsageError:
        return
    assert parse(str(found)) == found


@given(st.integers(-5, 200), st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2))
def test_options_given_as_values_convert_or_are_usage_errors(count: int, more: dict[str, str]) -> None:
    try:
        made = make_pass(Cut, {"count": count, **more})
    except UsageError:
        return
    assert isinstance(made, Cut)
    assert made.count == count


# --- levels


def test_levels_contain_each_other() -> None:
    runs = [{each.name for each in Pipeline.parse(text, _any_pass)} for text in LEVELS.values()]
    assert runs[0] == set()
    assert all(before < after for before, after in pairwise(runs))


def _any_pass(name: str) -> type[Pass]:
    return type(name, (Pass,), {"name": name, "__doc__": name})


def test_levels_name_only_installed_passes() -> None:
    known = entries("pass")
    for level in LEVELS:
        assert {each.name for each in Pipeline.parse(LEVELS[level], _any_pass)} <= set(known)


def test_a_level_may_stand_in_a_pipeline() -> None:
    assert Pipeline.parse("O1, quantize", _names).steps == (*Pipeline.level(1, _names).steps, _names("quantize")())


_made: dict[str, type[Pass]] = {}


def _names(name: str) -> type[Pass]:
    return _made.setdefault(name, _any_pass(name))


# --- TOML


def test_toml_as_text_or_tables(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.toml"
    path.write_text('pipeline = "fold, cut-some{count=2}"', encoding="utf-8")
    wanted = parse("fold, cut-some{count=2}")
    assert Pipeline.load(path, lookup) == wanted
    path.write_text('[[pass]]\nname = "fold"\n[[pass]]\nname = "cut-some"\ncount = 2\n', encoding="utf-8")
    assert Pipeline.load(path, lookup) == wanted


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"pipeline = [", "is not valid TOML"),
        (b"\xff\xfe", "is not valid TOML"),
        (b"", "has neither pipeline"),
        (b"pass = 3", "has neither pipeline"),
        (b"[[pass]]\ncount = 2\n", "has neither pipeline"),
        (b'[[pass]]\nname = "fold"\ncount = 2\n', "unknown option 'count'"),
        (b'[[pass]]\nname = "cut-some"\ncount = [1]\n', "cannot be"),
        (b'[[pass]]\nname = "cut-some"\ncount = {a = 1}\n', "cannot be"),
        (b'[[pass]]\nname = "cut-some"\ncount = 1.5\n', "cannot be 1.5; it is int"),
        (b'[[pass]]\nname = "cut-some"\ncount = inf\n', "cannot be inf"),
        (b'[[pass]]\nname = "cut-some"\ntext = ["a"]\n', "cannot be"),
    ],
)
def test_bad_toml(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "pipeline.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        Pipeline.load(path, lookup)


def test_missing_toml(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the pipeline"):
        Pipeline.load(tmp_path / "none.toml", lookup)


# --- running


@dataclass(frozen=True)
class Countdown(Pass):
    """Change something until the count is reached."""

    name = "countdown"
    left: int = 3

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        done = int(model.metadata_props.get(self.name, "0"))
        if done >= self.left or not ctx.spend("count", "node"):
            return PassResult()
        model.metadata_props[self.name] = str(done + 1)
        return PassResult(1)


@dataclass(frozen=True)
class Echo(Countdown):
    """Change something whenever the countdown did."""

    name = "echo"

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        done = int(model.metadata_props.get("echo", "0"))
        if done >= int(model.metadata_props.get("countdown", "0")) or not ctx.spend("echo", "node"):
            return PassResult()
        model.metadata_props["echo"] = str(done + 1)
        return PassResult(1)


def small() -> ir.Model:
    return ir.parse("(float a) => (float r) { r = Neg(a) }")


def context(**settings: Any) -> Context:
    return Context(Target.cpu(), Settings(**settings))


def test_a_fixpoint_runs_until_nothing_changes() -> None:
    model = small()
    records = Pipeline((Fixpoint((Countdown(left=4), Echo())),)).run(model, context())
    assert model.metadata_props == {"countdown": "4", "echo": "4"}
    assert sum(record.changes for record in records) == 8
    assert {record.name for record in records} == {"countdown", "echo"}


def test_a_fixpoint_gives_up_after_some_rounds_and_says_so() -> None:
    ctx = context()
    Pipeline((Fixpoint((Countdown(left=99), Echo())),)).run(small(), ctx)
    assert ctx.notes == [f"fixpoint: still changing after {MAX_ROUNDS} rounds"]


def test_a_fixpoint_stops_without_fuel() -> None:
    ctx = Context(Target.cpu(), fuel=Fuel(3))
    Pipeline((Fixpoint((Countdown(left=99), Echo())),)).run(small(), ctx)
    assert len(ctx.fuel.records) == 3


def test_disabled_passes_are_recorded_as_such() -> None:
    records = Pipeline((Countdown(),)).run(small(), context(disabled=frozenset({"countdown"})))
    assert [(record.changes, record.skipped) for record in records] == [(0, "disabled")]


def test_iterating_looks_into_fixpoints() -> None:
    pipeline = parse("fold, fixpoint(cut-some, fixpoint(fold))")
    assert [each.name for each in pipeline] == ["fold", "cut-some", "fold"]


# --- options of optimize


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"level": 4}, "there is no level 4"),
        ({"verify": "never"}, "verify cannot be 'never'; it is one of final, each, off"),
        ({"max_drop": 1.0}, "max_drop 1.0 is out of range"),
        ({"max_drop": -0.1}, "max_drop -0.1 is out of range"),
        ({"max_drop": float("nan")}, "max_drop nan is out of range"),
        ({"bisect_limit": -1}, "bisect_limit is negative"),
        ({"passes": "dce", "pipeline": Pipeline()}, "both passes and pipeline are given"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Options(**options)


def test_labels_and_the_choice_of_pipeline() -> None:
    assert (Options(level=3).label, Options(passes="dce").label) == ("O3", "custom")
    given_one = Pipeline((Fold(),))
    assert Options(pipeline=given_one).chosen_pipeline() is given_one
    fixed = Options(pipeline=given_one, shapes={"x": [1]}).chosen_pipeline()
    assert [each.name for each in fixed] == ["specialize", "fold"]
