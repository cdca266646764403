"""Results to draw, made up: the figures have the sizes of real ones, and names are as hostile as files allow."""

from __future__ import annotations

import random
from typing import Literal

from accelc.benchmark.baseline import Condition
from accelc.benchmark.profiled import Change, NodeTime, Peaks, Profile
from accelc.benchmark.results import (
    BenchResult,
    Error,
    Fallen,
    Figure,
    Kind,
    Latency,
    Memory,
    Placed,
    Row,
    Setting,
    Versus,
)
from accelc.benchmark.scenarios import Load, Seen
from accelc.measure import Verdict

HOSTILE = '<script>alert("1")</script> & \x1b[31mred\u202e'
ENVIRONMENT = {
    "processor": "Xeon Platinum 8488C",
    "cores": 2,
    "features": ["avx2", "avx512f", "avx512_vnni", "amx_int8"],
    "memory": 8_000_000_000,
    "system": "Linux 6.1",
    "python": "3.11.7",
    "accelc": "0.1.0",
    "onnxruntime": "1.31.1",
    "build": "git-commit-id=a1b2c3, build type=Release",
    "packages": {"onnx": "1.20.0", "numpy": "2.1.0"},
    "date": "2026-01-02T03:04:05+00:00",
}


def latency(median: float, *, runs: int = 4000, items: int = 1, noise: float = 0.04, seed: int = 0) -> Latency:
    """Times around a median in milliseconds."""
    chance = random.Random(f"{median} {seed}")
    blocks = tuple(median * chance.lognormvariate(0, noise) for _ in range(64))
    enough = runs >= 23_886
    p50 = Figure(median, median * (1 - noise / 2), median * (1 + noise / 2))
    return Latency(
        runs=runs,
        rounds=64,
        loads=6,
        p50_ms=p50,
        mean_ms=median * 1.03,
        least_ms=median * 0.93,
        p90_ms=median * 1.2 if enough else None,
        p99_ms=None,
        needed={"p90": 23_886, "p99": 262_742},
        throughput=Figure(1e3 * items / median, 1e3 * items / p50.high, 1e3 * items / p50.low),
        items=items,
        spread=noise,
        blocks_ms=blocks,
        load_of=tuple(index // 11 for index in range(64)),
    )


def versus(against: int, ratio: float, kind: Kind = "model") -> Versus:
    """A comparison whose verdict follows from the ratio."""
    verdict: Verdict = "faster" if ratio > 1.04 else "slower" if ratio < 0.96 else "same"
    return Versus(against, kind, ratio, ratio * 0.97, ratio * 1.03, verdict)


def row(label: str, setting: Setting, median: float, number: int, ratio: float | None = None) -> Row:
    """A row with every figure."""
    batch = 8 if "8" in setting.shape else 1
    return Row(
        label,
        f"models/{label}.onnx",
        setting,
        bytes=1_736_468 - 37_728 * number,
        nodes=348 - 296 * number,
        load_ms=12.4 - 3 * number,
        first_run_ms=median * 2.6,
        peak_bytes=9_400_000 - 900_000 * number,
        placed=Placed({"CPUExecutionProvider": 52}),
        latency=latency(median, items=batch, seed=number, runs=30_000 if number else 4000),
        versus=() if ratio is None else (versus(0, ratio),),
        error=None if ratio is None else Error(0, 0.9999999, 1.1e-7, 1.0),
    )


def two(*, profile: bool = False) -> BenchResult:
    """Two models with one setting."""
    setting = Setting("cpu", 1, "batch=1")
    rows = [row("text_encoder", setting, 2.052, 0), row("text_encoder.O2", setting, 1.396, 1, 1.47)]
    changes: tuple[Change, ...] = ()
    if profile:
        rows[0].profile = profiled(rows[0].label, 2.052, fused=False)
        rows[1].profile = profiled(rows[1].label, 1.396, fused=True)
        changes = tuple(_changes(rows[0], rows[1]))
    return BenchResult(
        rows,
        ENVIRONMENT,
        {"models": ["models/text_encoder.onnx", "models/text_encoder.O2.onnx"], "duration": "5s", "seed": 0},
        noise=("other processes used 38 % of the processor's time while rounds ran",),
        changes=changes,
        seconds=31.2,
    )


def many() -> BenchResult:
    """Models, providers, shapes and threads; a failure, a fallback and hostile names among them."""
    rows: list[Row] = []
    for shape, factor in (("batch=1", 1.0), ("batch=8", 6.2)):
        first = len(rows)
        rows.append(row("text_encoder", Setting("cpu", 1, shape), 2.05 * factor, 0))
        for label, ratio in (("text_encoder.O2", 1.47), ("text_encoder.int8", 0.81), (HOSTILE, 1.005)):
            made = row(label, Setting("cpu", 1, shape), 2.05 * factor / ratio, 1)
            made.versus = (versus(first, ratio),)
            made.error = Error(first, 0.9991, {0.81: 1.3e-2, 1.005: 0.0}.get(ratio, 2e-7), 0.985)
            rows.append(made)
        for memory, ratio in (("host", 3.4), ("device", 5.9)):
            rows.append(_on_device(shape, memory, 2.05 * factor / ratio, first, ratio))
    lost = Row("text_encoder.fp16", "models/text_encoder.fp16.onnx", Setting("cpu", 1, "batch=1"))
    lost.failure, lost.exit_code = f"node {HOSTILE}: no kernel for float16 on this provider; give --fallback", 5
    rows.append(lost)
    rows[1].notes.append("loads differ by 6 % from each other")
    conditions = (
        Condition("p50>+5%", f"{HOSTILE} on cpu", "yes", "p50 is 2.4 ms, 17 % more [12, 22]"),
        Condition("memory>300MB", "text_encoder on cpu", "no", "memory is 9.40 MB"),
        Condition("p99>20ms", "text_encoder on cpu", "not compared", "p99 needs 262,742 runs"),
    )
    options = {"models": ["a", "b"], "fail_if": ["p50>+5%"]}
    noise = ("the clock fell from 3.5 to 2.1 GHz",)
    return BenchResult(rows, ENVIRONMENT, options, noise=noise, conditions=conditions, seconds=90)


def _on_device(shape: str, memory: Memory, median: float, first: int, ratio: float) -> Row:
    made = row("text_encoder", Setting("cuda:enable_cuda_graph=1", None, shape, memory), median, 1)
    made.device_bytes = 412_000_000
    made.versus = (versus(first, ratio, "provider"),)
    fallen = (Fallen("/encoder/Unique", "Unique", "CPUExecutionProvider", "no kernel for int64 on CUDA"),)
    nodes = {"CUDAExecutionProvider": 40, "CPUExecutionProvider": 12}
    made.placed = Placed(nodes, by_choice=11, fallen=fallen, copies=2, graph="not captured: nodes on the processor")
    return made


def served() -> BenchResult:
    """The server scenario at several rates."""
    result = two()
    result.scenario = "server"
    for index, each in enumerate(result.rows):
        each.load = _load(1.0 + index / 2, 4, "server")
    return result


def _load(speed: float, threads: int, scenario: Literal["server", "offline"]) -> Load:
    windows = [
        Seen(
            load=number // 4,
            queries=400,
            offered=100.0 * (1 + number),
            achieved=min(100.0 * (1 + number), 640 * speed),
            p50_ms=2.0 / speed * (1 + 0.08 * 1.6 ** (number / speed)),
            within=max(0.0, 1 - 0.001 * 2**number),
            overloaded=100.0 * (1 + number) > 640 * speed,
        )
        for number in range(10)
    ]
    return Load(
        scenario,
        threads,
        queries=4000,
        window_s=1.0,
        achieved=Figure(500 * speed, 480 * speed, 515 * speed),
        resolution_ms=0.06,
        offered=500 * speed,
        waiting_ms=0.4,
        bound_ms=10.0,
        within=Figure(0.993, 0.991, 0.995),
        valid=speed > 1,
        most=Figure(520 * speed, 500 * speed, 540 * speed),
        overloaded=2,
        windows=tuple(windows),
    )


_PLAIN = (
    # operator, share of the time, nodes, origin, GFLOP/s, FLOP/byte
    ("MatMul", 0.4, 24, "original", 31.0, 14.0),
    ("Transpose", 0.12, 30, "original", 0.9, 0.12),
    ("Softmax", 0.08, 3, "original", 4.0, 1.1),
    ("Add", 0.15, 31, "original", 1.4, 0.16),
    ("LayerNormalization", 0.1, 7, "original", 3.1, 0.8),
    ("Erf", 0.08, 3, "original", 6.5, 2.2),
    ("Mul", 0.04, 8, "original", 1.2, 0.15),
    ("Div", 0.02, 7, "original", 1.1, 0.14),
    ("Reshape", 0.01, 12, "runtime", 0.2, 0.1),
)
_FUSED = (
    ("MatMul", 0.52, 9, "original", 52.0, 21.0),
    ("Attention", 0.2, 3, "attention/attention_of_projections", 38.0, 9.0),
    ("LayerNormalization", 0.14, 7, "original", 3.6, 0.8),
    ("BiasGelu", 0.12, 3, "epilogue/bias_gelu", 11.0, 2.6),
    ("Gather", 0.02, 2, "original", 0.4, 0.2),
)
_FUSION, _GELU = ("attention/attention_of_projections",), ("epilogue/bias_gelu", "gelu/gelu_erf")
_APART = {"MatMul": 6, "Transpose": 10, "Softmax": 1}
_REGIONS = (
    ("layers.0/attention", 0.31, 0.14, _APART, {"Attention": 1}, _FUSION),
    ("layers.1/attention", 0.29, 0.13, _APART, {"Attention": 1}, _FUSION),
    ("layers.0/mlp", 0.24, 0.21, {"MatMul": 2, "Erf": 1, "Mul": 2}, {"MatMul": 2, "BiasGelu": 1}, _GELU),
    ("embeddings", 0.05, 0.055, {"Gather": 2, "Add": 2}, {"Gather": 2, "Add": 1}, ()),
)


def profiled(label: str, wall: float, *, fused: bool) -> Profile:
    """A profile whose nodes take nine tenths of the time."""
    nodes = []
    for operator, share, count, origin, speed, intensity in _FUSED if fused else _PLAIN:
        for index in range(count):
            ms = 0.9 * wall * share / count
            flops = int(ms * speed * 1e6)
            moved = int(flops / intensity) or 1
            part = "attention" if operator in ("Attention", "Softmax", "Transpose") else "mlp"
            nodes.append(
                NodeTime(
                    f"/layers.{index % 3}/{operator}_{index}",
                    operator,
                    "CPUExecutionProvider",
                    f"layers.{index % 3}/{part}",
                    origin,
                    ms,
                    share / count,
                    flops,
                    moved,
                    limit_ms=max(flops / 9e10, moved / 1.1e10) * 1e3,
                )
            )
    nodes.sort(key=lambda node: -node.ms)
    peaks = Peaks(9e10, 3.2e11, 1.1e10, 6e10, 2_000_000)
    return Profile(
        tuple(nodes), wall, 0.1 * wall, runs=200, peaks=peaks, notes=("profiling itself added 4 %",) if fused else ()
    )


def _changes(first: Row, second: Row) -> list[Change]:
    return [
        Change(
            first=first.label,
            second=second.label,
            setting=str(first.setting),
            region=region,
            before_ms=was,
            after_ms=now,
            before=before,
            after=after,
            why=why,
        )
        for region, was, now, before, after, why in _REGIONS
    ]
