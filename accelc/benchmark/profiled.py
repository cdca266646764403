"""What a profile says, as typed data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Peaks:
    """What the machine reaches through the runtime, on the provider and the threads of the profile.

    float_flops, int8_flops: operations per second of large matrix products; None where the provider has no kernel.
    bandwidth: bytes per second from and to memory; cache_bandwidth: the same for what stays in the caches.
    cache_bytes: how much may be moved before `bandwidth` holds.
    """

    float_flops: float | None
    int8_flops: float | None
    bandwidth: float | None
    cache_bandwidth: float | None
    cache_bytes: int = 0


@dataclass(frozen=True)
class NodeTime:
    """One node as the runtime runs it, in one run of the model.

    name: of the node in the file that it stands for, else the runtime's. operator: as it runs, FusedConv. provider:
    CPUExecutionProvider. layer: its name scope. origin: `PASS/RULE` of accelc, `runtime` for what the runtime made, or
    `original`; `PASS/RULE + runtime` where the runtime fused nodes that accelc made. parts: the file's nodes that it
    stands for as `operator: origin`, where the runtime fused several. ms: of one run. share: of the sum over all nodes.
    flops, bytes: of one run; None where shapes or counts are unknown. limit_ms: the time that the machine's peaks
    allow, ms at most; None without flops and bytes. calls: in one run, more than one in loops. inputs, outputs: names
    of computed values; those that the runtime made up begin with `~`.
    """

    name: str
    operator: str
    provider: str
    layer: str
    origin: str
    ms: float
    share: float
    flops: int | None = None
    bytes: int | None = None
    limit_ms: float | None = None
    parts: tuple[str, ...] = ()
    calls: int = 1
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Share:
    """Nodes that have something in common. ms: their sum; share: of the sum over all nodes; count: how many.

    flops, bytes: of those nodes for which they are known. limit_ms: the sum of their limits, None where no node has
    one; limited_ms: what the nodes with a limit took.
    """

    key: str
    ms: float
    share: float
    count: int
    flops: int = 0
    bytes: int = 0
    limit_ms: float | None = None
    limited_ms: float = 0.0

    @property
    def of_limit(self) -> float | None:
        """How near the limit: 1 is as fast as the machine's peaks allow, 0.1 a tenth of it."""
        return None if self.limit_ms is None or not self.limited_ms else self.limit_ms / self.limited_ms


@dataclass(frozen=True)
class Profile:
    """Of one row. nodes: the slowest first. wall_ms: of a whole run while profiling, which takes longer than without.

    latency_ms: of a run without profiling, where it is known. The times of nodes are then corrected, see `corrected`,
    and add up to it, with what lies between the nodes. overhead_ms: otherwise what lies between the nodes while
    profiling: choosing the next one, memory, writing the profile. runs: how many were counted. peaks: None where they
    could not be measured. trace: the Chrome trace, if it was kept.
    """

    nodes: tuple[NodeTime, ...]
    wall_ms: float
    overhead_ms: float
    runs: int
    peaks: Peaks | None = None
    trace: str = ""
    notes: tuple[str, ...] = ()
    latency_ms: float | None = None

    @property
    def nodes_ms(self) -> float:
        """The sum over all nodes."""
        return sum(node.ms for node in self.nodes)

    @property
    def total(self) -> Share:
        """All nodes together."""
        return _share("total", self.nodes, self.nodes_ms)

    @property
    def by_operator(self) -> tuple[Share, ...]:
        """Grouped by operator, the slowest first."""
        return self.grouped(lambda node: node.operator)

    @property
    def by_layer(self) -> tuple[Share, ...]:
        """Grouped by layer, the slowest first."""
        return self.grouped(lambda node: node.layer)

    @property
    def by_origin(self) -> tuple[Share, ...]:
        """Grouped by what made the nodes, the slowest first."""
        return self.grouped(lambda node: node.origin)

    @property
    def by_provider(self) -> tuple[Share, ...]:
        """Grouped by provider, the slowest first."""
        return self.grouped(lambda node: node.provider)

    def grouped(self, key: Callable[[NodeTime], str]) -> tuple[Share, ...]:
        """Grouped by anything, the slowest first."""
        groups: dict[str, list[NodeTime]] = {}
        for node in self.nodes:
            groups.setdefault(key(node), []).append(node)
        total = self.nodes_ms
        found = [_share(name, members, total) for name, members in groups.items()]
        return tuple(sorted(found, key=lambda each: (-each.ms, each.key)))


@dataclass(frozen=True)
class Change:
    """A part of two models side by side.

    first, second: labels of the rows; setting: as both were run. region: where it is, in layers. places: how many parts
    of the models look like this; they are taken together. before_ms, after_ms: their nodes in the first and in the
    second. before, after: operators of all places with how often they stand there. why: the origins of the second's
    nodes that none of the first has, most first; empty where nothing was made anew.
    """

    first: str
    second: str
    setting: str
    region: str
    before_ms: float
    after_ms: float
    before: Mapping[str, int] = field(default_factory=dict)
    after: Mapping[str, int] = field(default_factory=dict)
    why: tuple[str, ...] = ()
    places: int = 1

    @property
    def gain_ms(self) -> float:
        """What the second saves here; negative where it is slower."""
        return self.before_ms - self.after_ms


def _share(key: str, nodes: Iterable[NodeTime], total: float) -> Share:
    members = list(nodes)
    limited = [node for node in members if node.limit_ms is not None]
    ms = sum(node.ms for node in members)
    return Share(
        key=key,
        ms=ms,
        share=ms / total if total else 0.0,
        count=len(members),
        flops=sum(node.flops or 0 for node in members),
        bytes=sum(node.bytes or 0 for node in members),
        limit_ms=sum(node.limit_ms or 0.0 for node in limited) if limited else None,
        limited_ms=sum(node.ms for node in limited),
    )
