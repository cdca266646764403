"""Constants in one form: initializers."""

from __future__ import annotations

from dataclasses import dataclass

from accelc import ir
from accelc.context import Context
from accelc.pass_base import Pass, PassResult
from accelc.passes.splice import set_constant
from accelc.rewrite import remove_dead


@dataclass(frozen=True)
class Constants(Pass):
    """Turn Constant nodes into initializers of the same name.

    Sparse constants, those that refer to a function's attribute, those in a function's own body (which can hold no
    initializers) and those that are an output of their graph stay nodes.
    """

    name = "constants"

    @classmethod
    def rule_names(cls) -> tuple[str, ...]:
        return ("lift_constant",)

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        names, changes = ir.names(model), 0
        for scope in ir.scopes(model):
            if scope.in_function:
                continue
            for node in [node for node in scope.graph if node.op_type == "Constant" and node.domain == ""]:
                value = node.outputs[0]
                tensor = ir.const_tensor(value)
                if tensor is None or value.is_graph_output() or not ctx.spend("lift_constant", ir.node_path(node)):
                    continue
                if value.uses():
                    set_constant(value, tensor, scope, names)
                remove_dead([node])
                changes += 1
        return PassResult(changes)
