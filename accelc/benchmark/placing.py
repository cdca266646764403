"""Where the runtime really put the nodes of a model, from what it says when it loads it; nothing is run for that."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelc import ir
from accelc.backend_base import Backend
from accelc.benchmark.plan import Case
from accelc.benchmark.results import Fallen, Placed
from accelc.benchmark.words import copies_of
from accelc.infer import infer_model
from accelc.placement import kept_on_processor
from accelc.runner import Assigned, Runner, RuntimeFailure, Session
from accelc.target import Target

CAPTURED = "captured"
GRAPHS = "enable_cuda_graph"
_COPIES = frozenset({"MemcpyFromHost", "MemcpyToHost"})
_LEFT = "there is a kernel, which the provider does not take"
_UNKNOWN = "the provider does not take it"
_TOO_OLD = "onnxruntime {} tells where nodes are placed only in a run"
_UNCOUNTED = "copies between devices cannot be counted: the provider compiles parts of the graph"
_SUFFIX = "_kernel_time"


def place(runner: Runner, case: Case, feeds: Sequence[Mapping[str, Any]] = ()) -> tuple[Placed | None, tuple[str, ...]]:
    """Load a case and tell where its nodes are, with notes on what could not be found out.

    feeds: to run the model once where this release of the runtime does not tell otherwise; without them nothing runs,
    and the placement may be None. Raises RuntimeFailure.
    """
    backend = without_graphs(case.backend)
    with tempfile.TemporaryDirectory(prefix="accelc-") as folder:
        dump = Path(folder) / "placed.onnx"
        session, notes = _load(runner, replace(case, backend=backend), dump)
        assigned = runner.assignment(session)
        runner.close(session)
        if assigned is None:
            if not feeds:
                return None, (*notes, _TOO_OLD.format(runner.version))
            assigned = _profiled(runner, replace(case, backend=backend), feeds[0], Path(folder))
        graphs = [_read(dump)] if dump.exists() else []
    asked = backend.providers()[0][0]
    elsewhere = [each for each in assigned if each[0] != asked]
    fallen, by_choice = _judge(elsewhere, graphs, case, backend.target())
    counted = sum(node.op_type in _COPIES for model in graphs for graph in ir.all_graphs(model) for node in graph)
    copies = None if _UNCOUNTED in notes else counted
    nodes = Counter(provider for provider, *_ in assigned)
    ordered = {name: nodes[name] for name in sorted(nodes, key=lambda name: (name != asked, name))}
    found = Placed(ordered, by_choice, fallen, copies)
    return replace(found, graph=_graph_verdict(runner, case, found)), notes


def wants_graphs(backend: Backend) -> bool:
    """Whether runs are asked for as CUDA graphs."""
    return dict(backend.options).get(GRAPHS, "0").lower() in ("1", "true")


def without_graphs(backend: Backend) -> Backend:
    """The same backend without CUDA graphs."""
    return replace(backend, options=tuple(option for option in backend.options if option[0] != GRAPHS))


def _load(runner: Runner, case: Case, dump: Path) -> tuple[Session, tuple[str, ...]]:
    """A session that tells where its nodes are. dump: where the graph that it runs goes, if there are providers."""
    backend, threads = case.backend, case.setting.threads
    if len(backend.providers()) == 1:
        return backend.load(runner, case.path, record=True, threads=threads), ()
    try:
        return backend.load(runner, case.path, record=True, optimized=dump, threads=threads), ()
    except RuntimeFailure as failure:
        # Graphs with parts that a provider compiled cannot be written.
        if failure.kind != "load" or "compiled" not in str(failure):
            raise
    return backend.load(runner, case.path, record=True, threads=threads), (_UNCOUNTED,)


def _read(dump: Path) -> ir.Model:
    import onnx

    model = ir.from_proto(onnx.load(dump, load_external_data=False), dump.parent)
    infer_model(model)
    return model


def _profiled(runner: Runner, case: Case, feeds: Mapping[str, Any], folder: Path) -> list[Assigned]:
    """The same from the profile of one run; nodes that did not run are not in it."""
    session = case.backend.load(runner, case.path, profile=folder / "run", threads=case.setting.threads)
    try:
        runner.run(session, feeds, timeout=600)
        profile = runner.end_profile(session)
    finally:
        runner.close(session)
    events = json.loads(profile.read_text(encoding="utf-8"))
    found: dict[Assigned, None] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            told = event["args"]
            found[told["provider"], "", told["op_name"], event["name"].removesuffix(_SUFFIX)] = None
    return [each for each in found if each[2] not in _COPIES]


# ------------------------------------------------------------------------------------------- why nodes are elsewhere


@dataclass(frozen=True)
class _Known:
    """A node of a graph. reason: why the target cannot run it. by_choice: the runtime keeps it on the processor.

    copied: how many of its values are copied between devices.
    """

    reason: str
    by_choice: bool
    copied: int


def _judge(
    elsewhere: Sequence[Assigned], graphs: Sequence[ir.Model], case: Case, target: Target
) -> tuple[tuple[Fallen, ...], int]:
    """Nodes that the provider does not run, and the number of those that the runtime keeps from it on purpose."""
    if not elsewhere:
        return (), 0
    # The graph that runs is nearest to what was placed; a node that was fused since then is still in the model.
    unnamed = case.source.imported.generated_names
    known = [_Nodes(model, target) for model in graphs] + [_Nodes(case.source.fresh(), target, unnamed)]
    fallen, by_choice = [], 0
    for provider, domain, operator, name in elsewhere:
        found = next(filter(None, (nodes.take(domain, operator, name) for nodes in known)), None)
        if found is not None and found.by_choice:
            by_choice += 1
        else:
            reason, copied = (found.reason, found.copied) if found else (_UNKNOWN, 0)
            fallen.append(Fallen(name, operator, provider, reason, copied))
    return tuple(fallen), by_choice


class _Nodes:
    """What is known about the nodes of one graph, to be found by what the runtime calls them."""

    def __init__(self, model: ir.Model, target: Target, generated: frozenset[str] = frozenset()) -> None:
        kept = (
            {id(node): reason for node, reason in kept_on_processor(model, target)}
            if target.kernels is not None
            else {}
        )
        self.by_name: dict[tuple[str, str], _Known] = {}
        unnamed: defaultdict[tuple[str, str], list[_Known]] = defaultdict(list)
        for graph in ir.all_graphs(model):
            for node in graph:
                known = _known(node, ir.opset(graph, model, node.domain), kept, target)
                if node.name and node.name not in generated:
                    self.by_name[node.op_type, node.name] = known
                else:
                    unnamed[_domain(node.domain), node.op_type].append(known)
        # Of nodes without a name, those that have to be elsewhere are most likely the ones that are.
        self.unnamed = {
            key: iter(sorted(each, key=lambda known: (not known.reason, not known.by_choice)))
            for key, each in unnamed.items()
        }

    def take(self, domain: str, operator: str, name: str) -> _Known | None:
        """The node of a name; of those without one, the next of its operator."""
        if name:
            return self.by_name.get((operator, name))
        return next(self.unnamed.get((_domain(domain), operator), iter(())), None)


def _known(node: ir.Node, opset: int, kept: Mapping[int, str], target: Target) -> _Known:
    """What is known about a node, should it turn out to be elsewhere."""
    reason, copied = kept.get(id(node)), _copied(node)
    if reason is not None:
        return _Known(reason, not reason, copied)
    if target.kernels is not None and not target.has_kernel(node.domain, node.op_type, opset):
        return _Known(f"no kernel at opset {opset}", False, copied)
    types = [value.dtype for value in node.outputs]
    whole = all(dtype is not None and (dtype.is_integer() or dtype == ir.DataType.BOOL) for dtype in types)
    return _Known(_LEFT if target.kernels is not None else _UNKNOWN, whole, copied)


def _copied(node: ir.Node) -> int:
    makers = {value: value.producer() for value in node.inputs if value is not None}
    before = sum(maker is not None and maker.op_type in _COPIES for maker in makers.values())
    return before + sum(any(user.op_type in _COPIES for user in value.consumers()) for value in node.outputs)


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


# ------------------------------------------------------------------------------------------------------- CUDA graphs


def _graph_verdict(runner: Runner, case: Case, placed: Placed) -> str:
    """Whether the runtime captures a CUDA graph: "captured", the reason why not, or empty without such graphs."""
    backend = case.backend
    if GRAPHS not in backend.option_names:
        return ""
    captured = replace(backend, options=(*without_graphs(backend).options, (GRAPHS, "1")))
    try:
        session = captured.load(runner, case.path, threads=case.setting.threads)
    except RuntimeFailure as failure:
        if failure.kind != "load":
            raise
        return f"refused: {_obstacle(placed, str(failure))}"
    with contextlib.suppress(RuntimeFailure):
        runner.close(session)
    return CAPTURED


def _obstacle(placed: Placed, said: str) -> str:
    """What stands in the way of a CUDA graph, in few words."""
    return "; ".join(_obstacles(placed, said)) or said


def _obstacles(placed: Placed, said: str) -> Iterator[str]:
    if "control flow" in said:
        yield "the model has control flow"
    if placed.copies:
        yield f"{copies_of(placed)} between devices in each run"
    if placed.fallen:
        first = placed.fallen[0]
        more = f" and {len(placed.fallen) - 1} more" if len(placed.fallen) > 1 else ""
        yield f"not on the provider: {name_of(first)}{more}"


def name_of(node: Fallen) -> str:
    """A node as messages name it."""
    return f"{node.operator} {node.node!r}" if node.node else node.operator
