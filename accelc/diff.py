"""Two models side by side: what a caller sees, what is inside, and whether they compute the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from accelc import ir
from accelc.budget import Budget
from accelc.data.preprocessing import Preprocessing
from accelc.data.specs import output_signature, signature
from accelc.inspection import PortInfo, port_info
from accelc.runner import Runner
from accelc.size import Size
from accelc.source import Source
from accelc.verdict import Judge, Verdict
from accelc.verify import Verifier

SCHEMA = "accelc.diff/1"


@dataclass(frozen=True)
class Difference:
    """B against A.

    contract: how inputs, outputs and metadata differ, one sentence each. opsets: (A, B) of domains that differ.
    operators: (A, B) counts that differ. weights_removed, weights_added: names of weights whose content is only in A or
    only in B. numbers: A's outputs against B's; None when the inputs differ.
    """

    a: str
    b: str
    before: Size
    after: Size
    contract: tuple[str, ...]
    opsets: Mapping[str, tuple[int, int]]
    operators: Mapping[str, tuple[int, int]]
    weights_removed: tuple[str, ...]
    weights_added: tuple[str, ...]
    weights_shared: int
    numbers: Verdict | None

    @property
    def identical(self) -> bool:
        """Whether nothing differs inside either, as far as counting operators and comparing weights can tell."""
        return not (self.contract or self.opsets or self.operators or self.weights_removed or self.weights_added)

    @property
    def same(self) -> bool:
        """Whether B can stand in for A: nothing in the contract differs, and the numbers were found to be the same."""
        return not self.contract and self.numbers is not None and self.numbers.status in ("same", "within budget")


def diff_models(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    inputs: Path | None = None,
    preprocess: str | None = None,
    exact: bool = False,
    max_drop: float | None = None,
    seed: int = 0,
) -> Difference:
    """Compare two model files. inputs: data to run them on instead of generated inputs. preprocess: how images become
    inputs. exact: outputs must have the same bits. max_drop: the share of quality that B may lose; None for equality to
    rounding.

    Raises: UsageError when a file is missing; ModelError when a model is broken or the runtime refuses it.
    """
    first, second = Source.of(Path(a)), Source.of(Path(b))
    before, after = first.size(), second.size()
    contract = _contract(first, second)
    numbers = None
    if not _names_differ(first, second):
        with Runner() as runner:
            budget = Budget() if max_drop is None else Budget(max_drop)
            steps = None if preprocess is None else Preprocessing.parse(preprocess)
            verifier = Verifier(first, runner, inputs, seed, preprocessing=steps, budget=budget)
            numbers = verifier.judge(Path(b), Judge(exact=exact, lossy=max_drop is not None))
    weights = _weights(first), _weights(second)
    shared = weights[0].keys() & weights[1].keys()
    return Difference(
        str(a),
        str(b),
        before,
        after,
        contract,
        _changed(_opsets(first), _opsets(second)),
        _changed(before.operators, after.operators),
        tuple(name for key, name in weights[0].items() if key not in shared),
        tuple(name for key, name in weights[1].items() if key not in shared),
        len(shared),
        numbers,
    )


def _changed(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    names = dict.fromkeys([*before, *after])
    pairs = {name: (before.get(name, 0), after.get(name, 0)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _opsets(source: Source) -> dict[str, int]:
    return {each.domain or "ai.onnx": each.version for each in source.imported.proto.opset_import}


def _ports(source: Source) -> tuple[tuple[PortInfo, ...], tuple[PortInfo, ...]]:
    proto = source.imported.proto
    return tuple(map(port_info, signature(proto))), tuple(map(port_info, output_signature(proto)))


def _names_differ(first: Source, second: Source) -> bool:
    """Whether B cannot be run on A's inputs or its outputs cannot be set against A's."""
    return any(
        [(port.name, port.type) for port in left] != [(port.name, port.type) for port in right]
        for left, right in zip(_ports(first), _ports(second), strict=True)
    )


def _contract(first: Source, second: Source) -> tuple[str, ...]:
    found: list[str] = []
    for kind, left, right in zip(("input", "output"), _ports(first), _ports(second), strict=True):
        olds, news = {port.name: port for port in left}, {port.name: port for port in right}
        found += [f"{kind} {name} is missing" for name in olds if name not in news]
        found += [f"{kind} {name} is new" for name in news if name not in olds]
        for name in (each for each in olds if each in news):
            if (old := describe_port(olds[name])) != (new := describe_port(news[name])):
                found.append(f"{kind} {name} is {new}, was {old}")
        if sorted(olds) == sorted(news) and list(olds) != list(news):
            found.append(f"the {kind}s stand in another order")
    old_meta, new_meta = _metadata(first), _metadata(second)
    found += [f"metadata {key!r} is missing" for key in old_meta if key not in new_meta]
    found += [f"metadata {key!r} differs" for key in old_meta if key in new_meta and old_meta[key] != new_meta[key]]
    return tuple(found)


def describe_port(port: PortInfo) -> str:
    """float32[batch, 3, ?]"""
    if port.dims is None:
        return f"{port.type}[...]"
    return f"{port.type}[{', '.join('?' if dim is None else str(dim) for dim in port.dims)}]"


def _metadata(source: Source) -> dict[str, str]:
    return {each.key: each.value for each in source.imported.proto.metadata_props}


def _weights(source: Source) -> dict[str, str]:
    """Names of weights by what is in them: type, shape and bytes. External data is read one weight at a time."""
    found: dict[str, str] = {}
    model = source.fresh()
    for graph in ir.all_graphs(model):
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                found.setdefault(_digest(value.const_value), name)
        for node in graph:
            tensor = ir.const_tensor(node.outputs[0]) if node.op_type == "Constant" and node.outputs else None
            if tensor is not None:
                found.setdefault(_digest(tensor), str(node.outputs[0].name))
    return found


def _digest(tensor: ir.TensorProtocol) -> str:
    head = f"{tensor.dtype.name} {tuple(tensor.shape.numpy())} "
    if tensor.dtype == ir.DataType.STRING:
        return head + hashlib.sha256(repr(tensor.numpy().tolist()).encode()).hexdigest()
    return head + hashlib.sha256(tensor.tobytes()).hexdigest()
