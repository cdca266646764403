"""Take quantization out of a model: QuantizeLinear, DequantizeLinear and integer operators become float."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from accelc import ir
from accelc.context import Context
from accelc.pass_base import Pass, PassResult
from accelc.pattern import MICROSOFT
from accelc.rewrite import remove_dead

from .quantization.strip import Grid, Restorer, Source
from .quantization.strip_integers import PRODUCTS, build_product, build_table, find_chain, find_table
from .quantization.strip_operators import FORMS, Rounded, given, needed
from .splice import can_substitute, substitute

_FAKE_DOMAINS = frozenset({"onnx.brevitas", "qonnx.custom_op.general", "finn.custom_op.general"})
_SHOWN = 3


@dataclass(frozen=True)
class StripQdq(Pass):
    """Take quantization out of a model: QuantizeLinear, DequantizeLinear and integer operators become float.

    Weights become the floats that their integers stand for. Inputs and outputs of the model that are integers stay so,
    with a DequantizeLinear or QuantizeLinear between. clamp: what becomes of the range that integers cut a tensor to.
    auto: a range from zero on stays as Relu (up to six as Clip) where nothing else keeps the tensor from being
    negative, for quantizers leave such activations out; always: every range stays, as Clip; never: none does.
    """

    name = "strip-qdq"
    exact = False
    keeps_function = False

    clamp: Literal["auto", "always", "never"] = "auto"

    @classmethod
    def rule_names(cls) -> tuple[str, ...]:
        return ("strip_*",)

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        work = _Strip(Restorer(model, self.clamp), ctx, model)
        for scope in list(ir.scopes(model)):
            for node in list(scope.graph):
                if node.graph is scope.graph:
                    work.visit(node, scope)
        work.finish()
        details = {"stripped": dict(work.done.most_common()), "kept": work.kept}
        if not work.done:
            reason = f"nothing could be brought back to float: {_reasons(work.kept)}" if work.kept else _NOTHING
            return PassResult(skipped=reason, details=details)
        notes = [f"{len(work.kept)} operator(s) stay quantized: {_reasons(work.kept)}"] if work.kept else []
        return PassResult(sum(work.done.values()), notes=tuple(notes), details=details)


_NOTHING = "nothing in the model is quantized"


def _reasons(kept: list[dict[str, str]]) -> str:
    count = Counter(each["reason"] for each in kept)
    return "; ".join(f"{reason} ({times})" for reason, times in count.most_common(_SHOWN))


@dataclass
class _Strip:
    """One walk over a model. done: operators brought to float. kept: the others, with the reason.

    pending: operators whose result is an integer, which others may still read.
    """

    restorer: Restorer
    ctx: Context
    model: ir.Model
    done: Counter[str] = field(default_factory=Counter)
    kept: list[dict[str, str]] = field(default_factory=list)
    pending: list[tuple[ir.Node, list[Rounded | ir.Value]]] = field(default_factory=list)

    def visit(self, node: ir.Node, scope: ir.Scope) -> None:
        """Bring one node to float, or note what its integers stand for."""
        form = FORMS.get((node.domain, node.op_type))
        if node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear") and node.domain in ("", MICROSOFT):
            self._note_source(node)
        elif node.op_type == "DequantizeLinear" and node.domain in ("", MICROSOFT):
            self._dequantize(node, scope)
        elif node.op_type == "Quant" and node.domain in _FAKE_DOMAINS:
            self._fake(node, scope)
        elif node.op_type in PRODUCTS and not node.domain:
            self._product(node, scope)
        elif node.op_type == "Gather" and not node.domain and (table := find_table(node)) is not None:
            self._replace(node, table.end, scope, lambda: build_table(self.restorer, table))
        elif node.op_type in ("Shape", "Size") and not node.domain:
            self._shape(node)
        elif form is not None:
            refusal = form.refusal(node) or self._foreign(node)
            if refusal:
                self._keep(node, refusal)
            elif self._spend(node):
                results = list(form.build(self.restorer, node))
                self._take(node, results, scope)

    def finish(self) -> None:
        """Let integers that somebody still reads come from a QuantizeLinear, and remove what is left over."""
        for node, results in self.pending:
            for old, result in zip(node.outputs, results, strict=False):
                if isinstance(result, Rounded) and (ir.use_count(old) or old.is_graph_output()):
                    grid = result.grid
                    new = self.restorer.node(node, "QuantizeLinear", [result.value, grid.scale, grid.zero], like=old)
                    new.type = old.type if old.type is not None else grid.zero.type if grid.zero is not None else None
                    substitute(old, new, self.restorer.names)
            remove_dead([node])

    # --- the forms

    def _note_source(self, node: ir.Node) -> None:
        dynamic = node.op_type == "DynamicQuantizeLinear"
        if dynamic:
            grid = Grid(node.outputs[1], node.outputs[2])
        else:
            scale = needed(node, 1)
            axis, block = int(ir.attribute(node, "axis", 1)), int(ir.attribute(node, "block_size", 0))
            grid = Grid(scale, given(node, 2), axis, block)
        self.restorer.sources[node.outputs[0]] = Source(needed(node, 0), grid, node, clamps=not dynamic)

    def _dequantize(self, node: ir.Node, scope: ir.Scope) -> None:
        axis, block = int(ir.attribute(node, "axis", 1)), int(ir.attribute(node, "block_size", 0))
        value, grid = needed(node, 0), Grid(needed(node, 1), given(node, 2), axis, block)
        if not self.restorer.can(value, grid):
            self._keep(node, "its integers come from outside or from an operator that is not known")
            return
        self._replace(node, node.outputs[0], scope, lambda: self.restorer.real(value, grid))

    def _fake(self, node: ir.Node, scope: ir.Scope) -> None:
        """Quantization that is simulated in floats: the tensor itself."""
        value = needed(node, 0)
        self._replace(node, node.outputs[0], scope, lambda: value)

    def _shape(self, node: ir.Node) -> None:
        """The shape of integers is that of the float that they were rounded from."""
        source = self.restorer.sources.get(needed(node, 0))
        if source is not None and self.ctx.spend(f"strip_{node.op_type}", ir.node_path(node)):
            node.replace_input_with(0, source.value)
            remove_dead([source.node])

    def _product(self, node: ir.Node, scope: ir.Scope) -> None:
        chain = find_chain(self.restorer, node)
        if isinstance(chain, str):
            self._keep(node, chain)
            return
        self._replace(node, chain.end, scope, lambda: build_product(self.restorer, chain))

    # --- putting floats into the graph

    def _foreign(self, node: ir.Node) -> str:
        """Whether a node's attributes are those of a function, which is not known here."""
        return "its attributes are a function's" if any(attr.is_ref() for attr in node.attributes.values()) else ""

    def _spend(self, node: ir.Node) -> bool:
        if not self.ctx.spend(f"strip_{node.op_type}", ir.node_path(node)):
            return False
        self.done[node.op_type] += 1
        return True

    def _keep(self, node: ir.Node, reason: str) -> None:
        self.kept.append({"node": ir.node_path(node), "reason": reason})

    def _replace(self, node: ir.Node, old: ir.Value, scope: ir.Scope, build: Callable[[], ir.Value]) -> None:
        """Let a float stand for a float."""
        refusal = self._foreign(node)
        if refusal:
            self._keep(node, refusal)
        elif self._spend(node):
            self._stand_for(old, build(), scope)

    def _take(self, node: ir.Node, results: list[Rounded | ir.Value], scope: ir.Scope) -> None:
        for old, result in zip(node.outputs, results, strict=False):
            if isinstance(result, Rounded):
                self.restorer.sources[old] = Source(result.value, result.grid, node)
            else:
                self._stand_for(old, result, scope)
        self.pending.append((node, results))

    def _stand_for(self, old: ir.Value, new: ir.Value, scope: ir.Scope) -> None:
        producer = old.producer()
        assert producer is not None
        if old.dtype is not None and new.dtype is not None and old.dtype != new.dtype:
            new = self.restorer.node(producer, "Cast", [new], {"to": old.dtype.value}, like=old)
            new.type = old.type
        if can_substitute(old, new, scope.opset):
            substitute(old, new, self.restorer.names)
            remove_dead([producer])
