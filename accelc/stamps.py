"""Who made a node: `PASS/RULE`, kept with the node and written into the file as its metadata `accelc`.

Nodes that the model came with have none, unless an earlier accelc stamped them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import onnx

from accelc import ir

KEY = "accelc"
RULE = "accelc.rule"
"""Where the driver leaves the rule's name in the node's memory."""

_SEEN = "accelc.seen"


def begin(model: ir.Model) -> None:
    """Take every node that stands in a model now as one that it came with; once for each model."""
    if _SEEN not in model.meta:
        model.meta[_SEEN] = True
        for node in ir.walk(model):
            node.meta[_SEEN] = True


def stamp(model: ir.Model, pass_name: str) -> None:
    """Stamp the nodes that a pass has just made. `begin` was called before it ran."""
    for node in ir.walk(model):
        meta = node.meta
        if _SEEN in meta:
            continue
        meta[_SEEN] = True
        rule = str(meta.get(RULE, ""))
        name = f"{pass_name}/{rule}" if rule and rule != pass_name else pass_name
        node.metadata_props.setdefault(KEY, name)


def copy(node: ir.Node, to: ir.Node) -> None:
    """Let a copy of a node count as that node."""
    if _SEEN in node.meta:
        to.meta[_SEEN] = True
    if KEY in node.metadata_props:
        to.metadata_props[KEY] = node.metadata_props[KEY]


def origin(node: onnx.NodeProto) -> str:
    """The stamp of a node in a file; empty for the original's."""
    return next((each.value for each in node.metadata_props if each.key == KEY), "")


def tally(proto: onnx.ModelProto) -> Mapping[str, int]:
    """How many nodes of a file each pass or rule made, most first."""
    return dict(Counter(filter(None, map(origin, ir.proto_nodes(proto)))).most_common())


def remove(proto: onnx.ModelProto) -> None:
    """Take the stamps off, in place."""
    for node in ir.proto_nodes(proto):
        for index in reversed(range(len(node.metadata_props))):
            if node.metadata_props[index].key == KEY:
                del node.metadata_props[index]
