"""Probes are nodes that engineers put into a model to look at a value. They return it unchanged."""

from __future__ import annotations

from dataclasses import dataclass

from accelc import Context, Pass, PassResult, ir
from accelc.rewrite import remove_dead, replace_value


@dataclass(frozen=True)
class DropProbes(Pass):
    """Remove the nodes of a domain that only look at a value."""

    name = "drop-probes"
    domain: str = "acme.debug"

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        changes = 0
        for node in list(ir.walk(model)):
            if node.domain != self.domain or len(node.inputs) != 1 or len(node.outputs) != 1:
                continue
            (seen,), (shown,) = node.inputs, node.outputs
            if seen is None or shown.is_graph_output():
                ctx.note(f"kept {ir.node_path(node)}, which makes an output of the model")
                continue
            if not ctx.spend(self.name, ir.node_path(node)):
                break
            replace_value(shown, seen)
            remove_dead([node])
            changes += 1
        return PassResult(changes)
