"""`accelc.bench`: the Python API behind the command of the same name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from accelc.benchmark.options import BenchOptions
from accelc.benchmark.results import BenchResult

Shape = Sequence[int | str]
ModelPath = str | os.PathLike[str]
T = TypeVar("T", str, ModelPath)


def bench(
    models: ModelPath | Sequence[ModelPath],
    *,
    eps: str | Sequence[str] = ("cpu",),
    threads: int | Sequence[int | None] | None = None,
    batch: int | Sequence[int | None] | None = None,
    shapes: Mapping[str, Shape] | Sequence[Mapping[str, Shape]] | None = None,
    inputs: ModelPath | None = None,
    preprocess: str | None = None,
    duration: float | str = 5.0,
    scenario: str = "single-stream",
    concurrency: int = 1,
    qps: float | None = None,
    bound: float | str | None = None,
    profile: bool = False,
    trace: ModelPath | None = None,
    dry_run: bool = False,
    fallback: bool = False,
    memory_limit: int | None = None,
    baseline: ModelPath | None = None,
    fail_if: str | Sequence[str] = (),
    plugins: Sequence[str] = (),
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> BenchResult:
    """Measure models side by side: every model on every provider, with every shape and number of threads.

    Cases with the same shapes are timed in turn, in random order, over several loads of each model, all with the same
    inputs, so that what the machine does meanwhile falls on all of them. The first model is what the others are
    compared with: ratios of latency with 95 % intervals, and errors of the outputs.

    models: one .onnx file or several. eps: execution providers, "cpu" or with options "cuda:enable_cuda_graph=1"; one
    that does not work here is a failure of its rows, never figures of another provider. threads: of one operator; None
    is the runtime's default, a sequence measures each. batch: the size of the batch dimension of all inputs; None
    leaves it to the model. shapes: dimensions by input as {"ids": (1, 128)}, or the size of a symbol as
    {"sequence": (128,)}, where "?" leaves one open; a sequence of mappings measures each.
    inputs: data to run on, as for accelc.optimize; by default inputs are generated, of the sizes that models are used
    with. preprocess: how images become inputs, as for accelc.optimize. duration: of the measured runs of each case,
    in seconds or as "5s", "2min".
    scenario: "single-stream" times one run after the other; "offline" the throughput when all queries are there;
    "server" the latency when they arrive at random. concurrency: threads that ask the model at the same time. qps: of a
    server, queries per second; None searches the highest rate that is served within the bound. bound: of a server's
    latency, in seconds or as "20ms".
    profile: also find out, in separate runs, where the time goes. trace: a folder to keep the profiles in, a Chrome
    trace for each row. dry_run: load only, and tell where the nodes would run. fallback: allow nodes that the provider
    has no kernel for to run on the processor; without it they are a failure. memory_limit: bytes that a process of the
    runtime may hold. baseline: an earlier result as .json, for conditions. fail_if: conditions such as "p50>+5%", see
    docs/bench.md; what became of them is in the result. plugins: modules or files with more backends. seed: for
    everything random. progress: called with a few words whenever something else is done.

    What goes wrong with one row is in that row (`failure`, one line, and `exit_code`), and the others are measured. In
    the result times are milliseconds, sizes bytes, throughput items per second; a ratio above 1 is faster.

    Raises UsageError for a request that is wrong in itself, BackendError when no provider works here, PluginError.
    """
    options = BenchOptions(
        models=tuple(map(Path, _several(models))),
        providers=tuple(_several(eps)),
        threads=_counts(threads),
        batches=_counts(batch),
        shapes=_shapes(shapes),
        inputs=_path(inputs),
        preprocess=preprocess,
        duration=duration,
        scenario=scenario,
        concurrency=concurrency,
        qps=qps,
        bound=bound,
        profile=profile,
        trace=_path(trace),
        dry_run=dry_run,
        fallback=fallback,
        memory_limit=memory_limit,
        baseline=_path(baseline),
        fail_if=tuple(_several(fail_if)),
        plugins=tuple(_several(plugins)),
        seed=seed,
    )
    from accelc.benchmark.run import bench as measure

    return measure(options, progress)


def _several(given: T | Sequence[T]) -> list[T]:
    return [given] if isinstance(given, str | os.PathLike) else list(given)


def _counts(given: int | Sequence[int | None] | None) -> tuple[int | None, ...]:
    return (given,) if given is None or isinstance(given, int) else tuple(given)


def _shapes(given: Mapping[str, Shape] | Sequence[Mapping[str, Shape]] | None) -> tuple[Mapping[str, Shape], ...]:
    if given is None or isinstance(given, Mapping):
        return (dict(given or {}),)
    return tuple(dict(each) for each in given)


def _path(given: ModelPath | None) -> Path | None:
    return None if given is None else Path(given)
