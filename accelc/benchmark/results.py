"""What a benchmark found, as typed data. The JSON form is versioned: fields are added, never renamed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from accelc.measure import Verdict
from accelc.plain import plain

if TYPE_CHECKING:
    from accelc.benchmark.baseline import Condition
    from accelc.benchmark.profile import Change, Profile
    from accelc.benchmark.scenarios import Load

SCHEMA = "accelc.bench/1"

Memory = Literal["host", "device"]
Kind = Literal["model", "provider"]


@dataclass(frozen=True)
class Setting:
    """What one model was run with.

    provider: as it was asked for, cuda:enable_cuda_graph=1. threads: of one operator; None is the runtime's default.
    shape: what was fixed of the inputs, "batch=8" or "ids=1x128"; empty where nothing was. memory: whether inputs and
    outputs lie in the processor's memory, copies to the device included, or on the device (I/O binding).
    """

    provider: str
    threads: int | None = None
    shape: str = ""
    memory: Memory = "host"

    def __str__(self) -> str:
        parts = [self.provider, *([f"threads={self.threads}"] if self.threads else [])]
        return " ".join([*parts, *filter(None, [self.shape]), *(["on the device"] if self.memory == "device" else [])])


@dataclass(frozen=True)
class Figure:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Latency:
    """Times of single runs, one after the other.

    runs: how many were timed, in `rounds` interleaved rounds, over `loads` loads of the model. p50_ms: the median with
    its interval. p90_ms, p99_ms: None where the runs are too few to support them; needed: how many each would take;
    percentiles: those that are supported, "p90", in ms with their intervals.
    throughput: items per second, an item being one of the batch. items: of one run. blocks_ms: the median of each
    round, in order; load_of: which load each was made in. spread: half the distance of the 10th and 90th percentile of
    blocks_ms over their median.
    """

    runs: int
    rounds: int
    loads: int
    p50_ms: Figure
    mean_ms: float
    least_ms: float
    p90_ms: float | None
    p99_ms: float | None
    needed: Mapping[str, int]
    throughput: Figure
    items: int
    spread: float
    blocks_ms: tuple[float, ...] = ()
    load_of: tuple[int, ...] = ()
    percentiles: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True)
class Versus:
    """A row against another, of the same rounds. ratio: above 1 this row is faster. low, high: 95 % interval.

    against: the number of the other row. kind: model, the first model with the same setting; provider, the same model
    with the first setting of the same shape.
    """

    against: int
    kind: Kind
    ratio: float
    low: float
    high: float
    verdict: Verdict


@dataclass(frozen=True)
class Fallen:
    """A node that another provider runs than the one asked for, and why. copied: of its values, in each run."""

    node: str
    operator: str
    provider: str
    reason: str
    copied: int = 0


@dataclass(frozen=True)
class Placed:
    """Where the runtime really put the nodes.

    nodes: by provider, as the runtime reports them. by_choice: nodes of shape arithmetic that the runtime keeps on the
    processor on purpose. fallen: nodes without a kernel on the provider. copies: nodes that copy between devices in
    every run, None where they cannot be counted. graph: whether a CUDA graph is captured: "captured", else the reason
    why not; empty where there are none.
    """

    nodes: Mapping[str, int]
    by_choice: int = 0
    fallen: tuple[Fallen, ...] = ()
    copies: int | None = 0
    graph: str = ""


@dataclass(frozen=True)
class Error:
    """Outputs against those of the first model that ran on the same inputs.

    cosine: the lowest over outputs and inputs; relative: the highest max|a-b| / max|a|; top1: the lowest agreement of
    the largest elements, None without rows. text: why there is nothing to compare, else empty.
    """

    against: int
    cosine: float | None = None
    relative: float | None = None
    top1: float | None = None
    text: str = ""


@dataclass
class Row:
    """One model with one setting.

    label: the model's short name, unlike the others'. bytes: of the file and its data. nodes: in the file. load_ms,
    first_run_ms: in a process of its own, the file already read once. peak_bytes: what that process held resident at
    most, less what it held before the load. device_bytes: the same on the device, None where that is not known.
    failure: one line, where there are no figures; profile_failure: the same where only the profile is missing;
    exit_code: of either. notes: what a reader must know.
    """

    label: str
    path: str
    setting: Setting
    bytes: int = 0
    nodes: int = 0
    failure: str = ""
    exit_code: int = 0
    load_ms: float | None = None
    first_run_ms: float | None = None
    peak_bytes: int | None = None
    device_bytes: int | None = None
    placed: Placed | None = None
    latency: Latency | None = None
    versus: tuple[Versus, ...] = ()
    error: Error | None = None
    load: Load | None = None
    profile: Profile | None = None
    profile_failure: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass
class BenchResult:
    """rows: models within settings, in the order asked for. changes: profiles of two models side by side.

    environment: what the figures depend on: processor, its features, runtime and its build, drivers. noise: what
    disturbed the measurement, a sentence each. scenario: single-stream, offline or server. conditions: of --fail-if,
    with what became of them.
    """

    rows: list[Row]
    environment: Mapping[str, Any]
    options: Mapping[str, Any]
    scenario: str = "single-stream"
    noise: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    conditions: tuple[Condition, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def failures(self) -> list[Row]:
        """Rows without figures."""
        return [row for row in self.rows if row.failure]

    def to_dict(self) -> dict[str, Any]:
        """Plain data. Numbers that are not finite become null."""
        return {"schema": SCHEMA, **plain(self)}

    def to_json(self) -> str:
        """The result as JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """A line for each row, with a head."""
        from accelc.benchmark.tables import to_csv

        return to_csv(self)

    def to_markdown(self) -> str:
        """A table for each shape, as GitHub shows it."""
        from accelc.benchmark.tables import to_markdown

        return to_markdown(self)

    def to_html(self) -> str:
        """One page that needs nothing else."""
        from accelc.pages.bench import page

        return page(self)

    def write(self, path: str | Path) -> None:
        """Write as the name's ending says: .json, .csv, .md or .html. Raises UsageError."""
        from accelc.benchmark.tables import write

        write(self, Path(path))
