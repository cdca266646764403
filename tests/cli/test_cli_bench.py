"""`accelc bench` as people use it: what is asked for is measured or refused in one line, and every row is reported."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmark.bench_results import comparison, failed, latency, result, row, versus
from cli_helpers import LEAN, one_line_error, run, write
from click.testing import Result

from accelc.backends.cuda import no_driver
from accelc.benchmark.baseline import Condition
from accelc.benchmark.options import BenchOptions
from accelc.benchmark.profile import Change, NodeTime, Peaks, Profile
from accelc.benchmark.results import BenchResult, Fallen, Figure, Placed, Versus

no_cuda = pytest.mark.skipif(not no_driver(), reason="this machine has an NVIDIA driver")
QUICK = ("--duration", "0.1s")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with two models that compute the same."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "model.onnx")
    write(tmp_path / "lean.onnx", LEAN)
    return tmp_path


class Bench:
    """Stands in for the measurement: keeps what it was asked for, and returns what a test wants."""

    def __init__(self, found: BenchResult) -> None:
        self.found = found
        self.asked: list[BenchOptions] = []

    def __call__(self, options: BenchOptions, progress: Any) -> BenchResult:
        self.asked.append(options)
        return self.found


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Bench:
    made = Bench(comparison())
    monkeypatch.setattr("accelc.benchmark.run.bench", made)
    return made


def shown(made: Bench, found: BenchResult, *options: object, **environment: str) -> Result:
    """Print a result."""
    made.found = found
    return run("bench", "model.onnx", *options, **environment)


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "missing argument 'MODEL...'"),
        (("modle.onnx",), "did you mean model.onnx?"),
        (("model.onnx", "none.onnx"), "none.onnx: no such file"),
        (("model.onnx", "--durration", "1s"), "did you mean --duration?"),
        (("model.onnx", "--duration", "soon"), "'soon' is no time"),
        (("model.onnx", "--ep", "cdua"), "no backend named 'cdua'; did you mean cuda?"),
        (("model.onnx", "--ep", "cpu:wings=2"), "no option 'wings'"),
        (("model.onnx", "--ep", "cpu", "--ep", "cpu"), "twice"),
        (("model.onnx", "--threads", "1,x"), "'1,x' is no list of numbers; write 1,2,8"),
        (("model.onnx", "--batch", "0"), "'0' is no list of numbers"),
        (("model.onnx", "--shape", "x"), "write name=1x128"),
        (("model.onnx", "--inputs", "none.npz"), "none.npz: no such file or folder"),
        (("model.onnx", "--memory-limit", "much"), "'much' is no size; write 300MB or 4GiB"),
        (("model.onnx", "--scenario", "crowd"), "there is no scenario 'crowd'; it is one of single-stream"),
        (("model.onnx", "--qps", "5"), "qps belongs to the scenario server"),
        (("model.onnx", "--scenario", "server"), "give --qps 100 or --bound 50ms"),
        (("model.onnx", "--trace", "t.json"), "a trace comes from a profile"),
        (("model.onnx", "--report", "out.txt"), "end its name in .json, .csv, .md or .html"),
        (("model.onnx", "--report", "no/such/out.csv"), "the report cannot be written"),
        (("model.onnx", "--baseline", "none.json"), "none.json: no such file"),
        (("model.onnx", "--baseline", "model.onnx"), "model.onnx: is no JSON file"),
        (("model.onnx", "--fail-if", "p50>5%"), "a percentage needs a sign; write p50>+5%"),
        (("model.onnx", "--fail-if", "p50>+5%"), "needs a baseline; give --baseline"),
        (("model.onnx", "--fail-if", "p95>5ms"), "there is no figure 'p95'"),
        (("model.onnx", "--fail-if", "ratio<0.9"), "compares models, and there is one"),
        (("model.onnx", "--dry-run", "--profile"), "a dry run has no use for profile"),
        (("model.onnx", "-q", "-v"), "-q and -v exclude each other"),
    ],
)
def test_mistakes_are_one_line_before_any_work(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    assert said in one_line_error(run("bench", *arguments), 2)
    assert sorted(each.name for each in folder.iterdir()) == ["lean.onnx", "model.onnx"]


@no_cuda
@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--fallback",), ("--json",)])
def test_cuda_that_is_absent_is_one_line_and_no_figures_of_the_processor(folder: Path, more: tuple[str, ...]) -> None:
    line = one_line_error(run("bench", "model.onnx", "--ep", "cuda", *more), 2)
    assert line.startswith("accelc: error: backend cuda is not usable here: ")


# --- what is asked for -----------------------------------------------------------------------------------------------


def test_options_reach_the_measurement(bench: Bench) -> None:
    words = "bench model.onnx lean.onnx --ep cpu --ep cpu:threads=1 --batch 1,8 --shape x=1x4 --shape x=2x4 "
    words += "--duration 2min --memory-limit 4GiB --profile --trace t.json --fallback --seed 7"
    assert run(*words.split()).exit_code == 3
    (asked,) = bench.asked
    assert asked.models == (Path("model.onnx"), Path("lean.onnx"))
    assert asked.providers == ("cpu", "cpu:threads=1")
    assert (asked.batches, asked.threads) == ((1, 8), (None,))
    assert asked.shapes == ({"x": (1, 4)}, {"x": (2, 4)})
    assert (asked.seconds, asked.memory_limit, asked.seed) == (120.0, 4 * 2**30, 7)
    assert (asked.profile, asked.trace, asked.fallback) == (True, Path("t.json"), True)
    run(*"bench model.onnx --scenario server --concurrency 2 --qps 50 --bound 40ms --threads 1,2".split())
    asked = bench.asked[-1]
    assert (asked.scenario, asked.concurrency, asked.qps, asked.bound_seconds) == ("server", 2, 50.0, 0.04)
    assert asked.threads == (1, 2)


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_a_comparison_is_shown(bench: Bench) -> None:
    done = shown(bench, comparison())
    text = done.stdout
    assert done.exit_code == 3  # of the row that failed
    assert done.stderr == ""
    assert max(map(len, text.splitlines())) <= 80
    heads = [line for line in text.splitlines() if line.startswith("batch=")]
    assert heads == ["batch=1, single stream, on cpu", "batch=8, single stream, on cpu"]
    lines = {" ".join(line.split()) for line in text.splitlines()}
    assert "base 2.000 [1.989, 2.011] 500 -" in lines
    assert "fast 1.250 [1.243, 1.257] 800 1.60 x [1.58, 1.62] faster" in lines
    assert "broken failed" in lines
    assert "p90 needs 23,886 runs, p99 262,742; there are 250" in lines
    assert "fast 35.5 ms 4.250 ms 12.50 MB 600.00 kB 1.5e-06" in lines
    assert "failed broken on cpu batch=1: broken.onnx: not an ONNX model" in lines
    assert "noise another process used 40 % of the processor" in lines


def test_a_narrow_terminal_has_the_comparison_below_the_latency(bench: Bench) -> None:
    lines = {" ".join(line.split()) for line in shown(bench, comparison(), COLUMNS="60").stdout.splitlines()}
    assert "fast 1.250 [1.243, 1.257] 800" in lines
    assert "fast base 1.60 x [1.58, 1.62] faster" in lines
    assert "fast base 0.995 x [0.985, 1.005] same" in lines


def test_percentiles_have_columns_where_a_row_has_them(bench: Bench) -> None:
    found = result(row(), row("fast", timed=latency(1.25, runs=30_000)))
    lines = {" ".join(line.split()) for line in shown(bench, found).stdout.splitlines()}
    assert "model p50 ms 95 % p90 per second" in lines
    assert "p90 needs 23,886 runs, p99 262,742; there are 250 to 30,000" in lines


@pytest.mark.parametrize("columns", ["40", "80", "120"])
@pytest.mark.parametrize("verbose", [(), ("-v",)])
def test_tables_fit(bench: Bench, columns: str, verbose: tuple[str, ...]) -> None:
    long = "a_model_with_quite_a_long_name.O3.cpu"
    found = result(
        row(),
        row(provider="cuda", versus=(versus(0, 2.0, kind="provider"),), device_bytes=10**9),
        row(provider="cuda", memory="device", versus=(versus(0, 2.1, kind="provider"),)),
        row(long, 1.5, versus=(versus(0, 1.33),)),
        row(long, 0.9, provider="cuda:enable_cuda_graph=1", threads=16, timed=latency(1234.5, runs=300_000)),
    )
    text = shown(bench, found, *verbose, COLUMNS=columns, PYTHONIOENCODING="ascii").stdout
    figures = text.replace("\n", "").replace(" ", "")
    assert "2.00x[1.98,2.02]" in figures
    assert figures.count("faster") >= 3
    if columns != "40":
        assert max(map(len, text.splitlines())) <= int(columns)


def test_shown_percentiles(bench: Bench) -> None:
    text = shown(bench, result(row(timed=latency(2.0, runs=300_000)))).stdout
    assert "2.400" in text
    assert "3.000" in text
    assert "needs" not in text


def test_where_it_ran(bench: Bench) -> None:
    fallen = tuple(Fallen(f"/layer{n}/NonZero", "NonZero", "CPUExecutionProvider", "no kernel") for n in range(12))
    placed = Placed({"CUDAExecutionProvider": 38, "CPUExecutionProvider": 14}, 2, fallen, 4, "not captured: 4 copies")
    found = result(row(provider="cuda", placed=placed), row("other"))
    text = " ".join(shown(bench, found).stdout.split())
    assert "model on cuda: nodes: CUDA 38, CPU 14; 2 of shape arithmetic stay on the processor by choice" in text
    assert "4 copies between devices in each run; CUDA graph not captured: 4 copies" in text
    assert "/layer7/NonZero (NonZero) runs on CPU: no kernel" in text
    assert "/layer8" not in text
    assert "and 4 more" in text
    assert "1 of 2 rows: all nodes on the provider asked for" in text
    assert "other on cpu: nodes: CPU 40" in " ".join(shown(bench, found, "-v").stdout.split())


def test_a_dry_run_shows_places_and_no_times(bench: Bench) -> None:
    placed = Placed({"CUDAExecutionProvider": 38, "CPUExecutionProvider": 2}, 2, (), 0, "captured")
    bare = row(provider="cuda", placed=placed, load_ms=None, first_run_ms=None, peak_bytes=None)
    bare.latency = None
    text = shown(bench, result(bare, options={"dry_run": True}), "--dry-run").stdout
    assert text.split("\n")[1] == "dry run, on cuda"
    assert ["model", "nodes", "by", "choice", "fallen", "back", "copies"] in [
        line.split() for line in text.splitlines()
    ]
    assert ["model", "CUDA", "38,", "CPU", "2", "2", "0", "0"] in [line.split() for line in text.splitlines()]
    assert "will run on model on cuda: nodes: CUDA 38, CPU 2; 2 of shape" in " ".join(text.split())
    assert "CUDA graph captured" in " ".join(text.split())
    assert "p50" not in text
    assert "load" not in text


def profiled(label: str, gelu: float) -> Profile:
    """Two layers, one of them with and one without a limit."""

    def node(name: str, operator: str, ms: float, origin: str, limit: float | None) -> NodeTime:
        work = {"flops": 10**9, "bytes": 10**6} if limit else {}
        layer = name.rpartition("/")[0]
        return NodeTime(
            name, operator, "CPUExecutionProvider", layer, origin, ms, ms / (4 + gelu), limit_ms=limit, **work
        )

    nodes = (
        node("/enc/fc", "MatMul", 3.0, "original", 1.5),
        node("/enc/act", "Gelu", gelu, "fuse/gelu_erf" if gelu < 1 else "original", None),
        node("/head/fc", "MatMul", 1.0, "original", 0.5),
    )
    return Profile(nodes, 6.5, 0.5, 20, Peaks(1e11, None, 2e10, None), trace=f"{label}.json")


def test_profiles_and_changes_are_shown(bench: Bench) -> None:
    found = result(row("base", profile=profiled("base", 2.0)), row("fast", profile=profiled("fast", 0.5)))
    found.changes = (
        Change(
            "base",
            "fast",
            "cpu",
            "/enc",
            5.0,
            3.5,
            {"MatMul": 1, "Erf": 2},
            {"MatMul": 1, "Gelu": 1},
            ("fuse/gelu_erf",),
        ),
    )
    assert max(map(len, shown(bench, found).stdout.splitlines())) <= 80
    text = shown(bench, found).stdout
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "MatMul 2 4.000 66.7 % 50 %" in lines
    assert "Gelu 1 2.000 33.3 % -" in lines
    assert "/head 1 1.000 16.7 % 50 %" in lines
    assert "fuse/gelu_erf 1 0.500 11.1 % -" in lines
    assert "/enc 5.000 3.500 +1.500" in lines
    assert "MatMul, 2 Erf -> MatMul, Gelu; made by fuse/gelu_erf" in lines
    assert "base.json" in text
    assert "between 0.500 ms of a run of 6.500 ms, profiling included" in lines
    for each in found.rows:
        each.profile = replace(each.profile, latency_ms=6.0) if each.profile else None
    again = " ".join(shown(bench, found).stdout.split())
    assert "profiled runs of 6.500 ms; times are corrected to add up" in again
    verbose = [" ".join(line.split()) for line in shown(bench, found, "-v").stdout.splitlines()]
    assert "MatMul 2 4.000 66.7 % 2 2 50 %" in verbose
    assert "100 GFLOP/s in float, 20 GB/s from memory" in " ".join(text.split())


# --- files and codes -------------------------------------------------------------------------------------------------


def test_reports_and_json(bench: Bench, folder: Path) -> None:
    names = ["out.json", "out.csv", "out.md"]
    done = run("bench", "model.onnx", "--json", *(part for name in names for part in ("--report", name)))
    printed = json.loads(done.stdout)
    assert printed["schema"] == "accelc.bench/1"
    assert json.loads((folder / "out.json").read_text(encoding="utf-8")) == printed
    assert len(list(csv.reader((folder / "out.csv").read_text(encoding="utf-8").splitlines()))) == 6
    assert (folder / "out.md").read_text(encoding="utf-8").startswith("**batch=1**")


@pytest.mark.parametrize(
    ("holds", "rows", "code"),
    [
        ((), (row(),), 0),
        (("no", "undecided"), (row(),), 0),
        (("no", "not compared"), (row(),), 2),
        (("not compared", "yes"), (row(),), 7),
        (("yes",), (row(), failed(code=2), failed(code=3)), 2),
        ((), (row(), failed(code=3), failed(code=2)), 3),
    ],
)
def test_exit_codes(bench: Bench, holds: tuple[Any, ...], rows: tuple[Any, ...], code: int) -> None:
    found = result(*rows)
    found.conditions = tuple(Condition("p50>+5%", "model on cpu", each, f"because {each}") for each in holds)
    done = shown(bench, found)
    assert done.exit_code == code
    for each in holds:
        assert f"p50>+5% for model on cpu: {each}, because {each}" in " ".join(done.stdout.split())


def test_where_all_fails_there_is_a_line_for_each_reason(bench: Bench) -> None:
    found = result(failed("a", "a.onnx: is broken"), failed("a", "a.onnx: is broken", threads=2), failed("b", "b: too"))
    done = shown(bench, found)
    assert done.stderr.splitlines() == ["accelc: error: a.onnx: is broken", "accelc: error: b: too"]
    assert done.stdout == ""
    assert json.loads(shown(bench, found, "--json").stdout)["rows"][2]["failure"] == "b: too"


def test_quiet_prints_what_fails(bench: Bench) -> None:
    assert "a.onnx: is broken" in one_line_error(shown(bench, result(row(), failed("a", "a.onnx: is broken")), "-q"), 3)
    found = result(row())
    found.conditions = tuple(Condition("p50>5ms", "model on cpu", each, "it is") for each in ("no", "yes", "undecided"))
    line = one_line_error(shown(bench, found, "-q"), 7)
    assert line == "accelc: --fail-if p50>5ms for model on cpu: yes, it is"


def test_a_missing_profile_leaves_the_figures_and_is_not_passed_over(bench: Bench) -> None:
    found = result(row(profile_failure="the trace is gone", exit_code=2))
    done = shown(bench, found)
    assert done.exit_code == 2
    assert "no profile" in done.stdout
    assert "model on cpu: the trace is gone" in done.stdout
    assert "the trace is gone" in one_line_error(shown(bench, found, "-q"), 2)
    assert "the trace is gone" in found.to_markdown()
    assert "the trace is gone" in found.to_html()


def test_what_is_said_of_several_rows_stands_once(bench: Bench) -> None:
    rows = [failed("a", "no such provider", provider="cuda", memory=each) for each in ("host", "device")]
    text = shown(bench, result(row("b", notes=["mind"]), row("c", notes=["mind"]), *rows)).stdout
    assert text.count("no such provider") == text.count("mind") == 1
    assert "a on cuda and 1 more: no such provider" in text
    assert "b on cpu and 1 more: mind" in text


def test_an_interval_without_an_end_is_not_known(bench: Bench) -> None:
    timed = replace(latency(2.0), p50_ms=Figure(2.0, 0.0, math.inf), loads=1)
    unsure = Versus(0, "model", 3.0, 0.0, math.inf, "same")
    found = result(row("a", timed=timed), row("b", timed=timed, versus=(unsure,)))
    text = shown(bench, found).stdout
    assert "[not known]" in text
    assert "b may be as fast as a: no difference that is certain" in " ".join(text.split())
    for each in (text, found.to_markdown(), found.to_html()):
        assert "inf" not in each.replace("infer", "")


# --- real runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A folder with models and base.json, and what the command that wrote it said."""
    path = tmp_path_factory.mktemp("measured")
    (path / "broken.onnx").write_text("this is no model, it is a line of text\n", encoding="utf-8")
    write(path / "model.onnx")
    write(path / "lean.onnx", LEAN)
    models = [path / f"{name}.onnx" for name in ("broken", "model", "lean")]
    return path, run("bench", *models, *QUICK, "--report", path / "base.json")


def test_two_models_are_measured(measured: tuple[Path, Result]) -> None:
    found = json.loads((measured[0] / "base.json").read_text(encoding="utf-8"))
    _, first, second = found["rows"]
    assert (first["label"], second["label"]) == ("model", "lean")
    assert first["latency"]["p50_ms"]["value"] > 0
    assert second["versus"][0]["against"] == 1
    assert second["error"]["relative"] == 0
    assert first["placed"]["nodes"] == {"CPUExecutionProvider": 3}


def test_a_broken_model_does_not_stop_the_others(measured: tuple[Path, Result]) -> None:
    done = measured[1]
    assert done.exit_code == 3
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "broken failed" in lines
    assert any(re.match(r"lean \d+\.\d+ \[", line) for line in lines), done.stdout
    assert "not an ONNX model" in " ".join(lines)
    assert done.stderr == ""


def test_a_shape_that_does_not_fit_fails_its_row(folder: Path) -> None:
    done = run("bench", "lean.onnx", *QUICK, "--shape", "x=1x4", "--shape", "x=1x5", "--json")
    fits, wrong = json.loads(done.stdout)["rows"]
    assert fits["failure"] == ""
    assert fits["latency"] is not None
    assert "x" in wrong["failure"]
    assert wrong["latency"] is None
    assert done.exit_code == wrong["exit_code"] != 0


def test_a_result_is_the_baseline_of_the_next(measured: tuple[Path, Result]) -> None:
    path, _ = measured
    conditions = [part for each in ("p50>+900%", "size>+0%", "size>-99%") for part in ("--fail-if", each)]
    held = run("bench", path / "lean.onnx", *QUICK, "--baseline", path / "base.json", *conditions)
    said = " ".join(held.stdout.split())
    assert held.exit_code == 7, said
    assert re.search(r"p50>\+900% for lean on cpu: (yes|no|undecided)", said), "how fast it is does not matter here"
    assert "size>+0% for lean on cpu: no" in said
    assert "size>-99% for lean on cpu: yes" in said
