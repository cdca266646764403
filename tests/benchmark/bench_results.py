"""Results of benchmarks as tests need them: figures by formula, nothing measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from accelc.benchmark.results import BenchResult, Error, Figure, Latency, Memory, Placed, Row, Setting, Versus
from accelc.measure import Verdict

NEEDED = {"p90": 23_886, "p99": 262_742}
ENVIRONMENT: dict[str, Any] = {
    "accelc": "0.1.0",
    "onnxruntime": "1.31.1",
    "processor": "Example CPU 3000",
    "cores": 2,
    "features": ["avx2", "avx512f"],
    "system": "Linux 6.1",
    "python": "3.11.9",
}


def latency(
    p50: float = 2.0,
    *,
    spread: float = 0.01,
    between: float = 0.005,
    loads: int = 5,
    rounds: int = 40,
    runs: int = 250,
    items: int = 1,
    seed: int = 0,
) -> Latency:
    """Latency of about p50 ms. spread, between: relative deviation inside a load, and from load to load."""
    random = np.random.default_rng(seed)
    load_of = np.arange(rounds) * loads // rounds
    moved = random.normal(0, between, loads)
    blocks = p50 * np.exp(moved[load_of] + random.normal(0, spread, rounds))
    half = 1.96 * float(np.hypot(between / loads**0.5, spread / rounds**0.5))
    known = {"p90": 1.2 * p50, "p99": 1.5 * p50}
    percentiles = {
        name: Figure(value, value * (1 - 2 * half), value * (1 + 2 * half))
        for name, value in known.items()
        if runs >= NEEDED[name]
    }
    return Latency(
        runs=runs,
        rounds=rounds,
        loads=loads,
        p50_ms=Figure(p50, p50 * (1 - half), p50 * (1 + half)),
        mean_ms=1.02 * p50,
        least_ms=0.95 * p50,
        p90_ms=known["p90"] if "p90" in percentiles else None,
        p99_ms=known["p99"] if "p99" in percentiles else None,
        needed=dict(NEEDED),
        throughput=Figure(1e3 * items / p50, 1e3 * items / (p50 * (1 + half)), 1e3 * items / (p50 * (1 - half))),
        items=items,
        spread=spread,
        blocks_ms=tuple(float(each) for each in blocks),
        load_of=tuple(int(each) for each in load_of),
        percentiles=percentiles,
    )


def row(
    label: str = "model",
    p50: float = 2.0,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    shape: str = "",
    memory: Memory = "host",
    versus: tuple[Versus, ...] = (),
    error: Error | None = None,
    timed: Latency | None = None,
    **more: Any,
) -> Row:
    """A row with figures."""
    return replace(
        Row(
            label=label,
            path=f"{label}.onnx",
            setting=Setting(provider, threads, shape, memory),
            bytes=1_250_000,
            nodes=40,
            load_ms=35.5,
            first_run_ms=4.25,
            peak_bytes=12_500_000,
            placed=Placed({f"{provider.partition(':')[0].upper()}ExecutionProvider": 40}),
            latency=timed or latency(p50),
            versus=versus,
            error=error,
        ),
        **more,
    )


def failed(label: str = "broken", text: str = "broken.onnx: not an ONNX model", code: int = 3, **setting: Any) -> Row:
    """A row without figures."""
    return Row(label, f"{label}.onnx", Setting(**{"provider": "cpu", **setting}), failure=text, exit_code=code)


def versus(against: int, ratio: float, half: float = 0.01, kind: str = "model") -> Versus:
    """A comparison whose verdict follows from its interval."""
    low, high = ratio * (1 - half), ratio * (1 + half)
    verdict: Verdict = "faster" if low > 1.02 else "slower" if high < 0.98 else "same"
    return Versus(against, "provider" if kind == "provider" else "model", ratio, low, high, verdict)


def result(*rows: Row, **more: Any) -> BenchResult:
    """A result of these rows on an example machine."""
    return replace(
        BenchResult(list(rows), dict(ENVIRONMENT), {"duration": 5.0, "seed": 0, "providers": ["cpu"]}, seconds=21.5),
        **more,
    )


def comparison() -> BenchResult:
    """Two models at two batch sizes, and one that does not run."""
    return result(
        row("base", 2.0, shape="batch=1", error=Error(0, text="the first model"), timed=latency(2.0, seed=1)),
        row(
            "fast",
            1.25,
            shape="batch=1",
            versus=(versus(0, 1.6),),
            error=Error(0, 0.99999, 1.5e-6, 1.0),
            timed=latency(1.25, seed=2),
            bytes=600_000,
        ),
        failed("broken", shape="batch=1"),
        row("base", 9.0, shape="batch=8", timed=latency(9.0, seed=3, items=8)),
        row(
            "fast",
            9.05,
            shape="batch=8",
            versus=(versus(3, 0.995),),
            error=Error(3, 0.9999, 2e-3, 0.995),
            timed=latency(9.05, seed=4, items=8),
            bytes=600_000,
        ),
        noise=("another process used 40 % of the processor",),
    )
