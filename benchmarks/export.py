"""Export one architecture: `python -m benchmarks.export NAME FILE`. Needs torch, transformers and onnxscript.

Weights are random, but the statistics of batch normalization are not the trivial ones that training starts from: with
those, folding it away would lose nothing, and would prove nothing.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import transformers


def _resnet50() -> tuple[Any, dict[str, Any]]:
    return transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=1000)), _image()


def _mobilenetv2() -> tuple[Any, dict[str, Any]]:
    return transformers.MobileNetV2ForImageClassification(transformers.MobileNetV2Config(num_labels=1000)), _image()


def _bert_base() -> tuple[Any, dict[str, Any]]:
    return transformers.BertModel(transformers.BertConfig()), _tokens("input_ids", "attention_mask", "token_type_ids")


def _gpt2() -> tuple[Any, dict[str, Any]]:
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(use_cache=False)), _tokens(
        "input_ids", "attention_mask"
    )


def _image() -> dict[str, Any]:
    return {"pixel_values": torch.randn(2, 3, 224, 224)}


def _tokens(*names: str) -> dict[str, Any]:
    made = {
        "input_ids": torch.randint(5, 20_000, (2, 64)),
        "attention_mask": torch.ones(2, 64, dtype=torch.int64),
        "token_type_ids": torch.zeros(2, 64, dtype=torch.int64),
    }
    return {name: made[name] for name in names}


_MAKERS = {"resnet50": _resnet50, "mobilenetv2": _mobilenetv2, "bert_base": _bert_base, "gpt2": _gpt2}
_OUTPUTS = {"bert_base": "last_hidden_state"}


class _Only(torch.nn.Module):
    """A model with one output."""

    def __init__(self, model: Any, inputs: list[str], output: str) -> None:
        super().__init__()
        self.model, self.inputs, self.output = model, inputs, output

    def forward(self, *values: Any) -> Any:
        return self.model(**dict(zip(self.inputs, values, strict=True)))[self.output]


def export(name: str, path: str) -> None:
    """Write the architecture with a dynamic batch, and a dynamic length for text."""
    torch.manual_seed(0)
    model, inputs = _MAKERS[name]()
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            for values, low, high in ((part.running_var, 0.5, 1.5), (part.weight, 0.8, 1.2), (part.bias, -0.1, 0.1)):
                torch.nn.init.uniform_(values, low, high)
            torch.nn.init.normal_(part.running_mean, std=0.1)
    only = _Only(model, list(inputs), _OUTPUTS.get(name, "logits")).eval()
    free = [{0: "batch"} if value.ndim == 4 else {0: "batch", 1: "sequence"} for value in inputs.values()]
    dims = dict.fromkeys(("batch", "sequence"), torch.export.Dim.DYNAMIC)
    with torch.no_grad():
        program = torch.onnx.export(
            only,
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=[only.output],
            dynamic_shapes=(tuple({axis: dims[text] for axis, text in each.items()} for each in free),),
        )
    program.save(path, external_data=False)


if __name__ == "__main__":
    export(sys.argv[1], sys.argv[2])
