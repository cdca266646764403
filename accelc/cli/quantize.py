"""`accelc quantize`."""

from __future__ import annotations

from typing import Any

import click

from accelc.cli import job
from accelc.cli.common import data_fields, data_options, model_path
from accelc.errors import UsageError

EPILOG = """\b
Examples:
  accelc quantize model.onnx                             no data: dynamic int8 and weights, checked on generated inputs
  accelc quantize model.onnx --calibration train.npz     static int8 as well; what is fastest inside the budget
  accelc quantize model.onnx --calibration train.npz --eval test.npz --metric top1 --max-drop 0.3%
  accelc quantize model.onnx --calibration photos/ --preprocess "resize=256,crop=224,scale=1/255"
  accelc quantize llm.onnx --scheme weights --bits 4     weights in blocks of 4 bits: for decoding token by token
  accelc quantize model.onnx --calibration train.npz --scheme static --method equalize --method bias-correct
  accelc quantize model.onnx --calibration train.npz --calibration-method percentile=99.99
  accelc quantize model.onnx --ranges model.cal          ranges that accelc calibrate found
  accelc quantize model.onnx --keep "*/head/*" --why quantize    what stays in float, and why
  accelc quantize model.onnx --pareto curve.html         the whole trade-off, the chosen point marked
  accelc quantize old.int8.onnx --requantize --calibration train.npz

\b
Schemes:
  auto     the fastest mix of all forms and float inside --max-drop; nothing that is not faster than the original
  dynamic  int8; activations are rounded while the model runs. Needs no data. For transformers
  static   int8; activations by ranges from data. For convolutions, and where a model is bound by memory
  weights  float activations; weights in blocks of 4 or 8 bits. For products with few rows, and for size

A scheme that is named is made where it can be, and the report says so when the result is slower than the original or
outside the budget. The result goes to -o, by default MODEL.quantized.cpu.onnx beside the model. The pipeline in the
report makes the same again with accelc optimize --passes. docs/quantization.md is the guide.
"""


@click.command(epilog=EPILOG, short_help="Store and compute in int8 or less, inside a quality budget.")
@click.argument("model")
@click.option(
    "--scheme",
    type=click.Choice(["auto", "dynamic", "static", "weights"]),
    default="auto",
    show_default=True,
    help="The form of the layers; see below.",
)
@click.option(
    "--bits",
    type=click.Choice(["8", "7", "4"]),
    help="Of weights: 8; 7 where products of the processor saturate; 4 for weights alone.  [default: what is exact]",
)
@click.option(
    "--block-size", type=int, metavar="N", help="Weights that share a scale, of weights alone.  [default: 32]"
)
@click.option(
    "--per-channel/--per-tensor", default=None, help="A scale for each output channel, or one.  [default: per channel]"
)
@click.option(
    "--symmetric/--asymmetric",
    default=None,
    help="Weights alone without zero points, or with them.  [default: symmetric]",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="NAME[{OPTION=VALUE,...}]",
    help="Raise quality first by equalize, smooth, clip, adaround, gptq or bias-correct; again for more. "
    "accelc passes NAME lists the options.",
)
@click.option("--keep", multiple=True, metavar="GLOB", help="Leave nodes of these names in float; again for more.")
@click.option("--embeddings/--no-embeddings", default=None, help="Whether tables are quantized.  [default: they are]")
@click.option(
    "--islands/--no-islands",
    default=None,
    help="Whether sensitive layers stay in float when the budget is exceeded.  [default: they do]",
)
@click.option("--requantize", is_flag=True, help="Take out the quantization that the model has first.")
@click.option(
    "-O", "--level", type=int, default=2, show_default=True, metavar="0..2", help="What runs around it, as in optimize."
)
@data_options
@job.job_options
def quantize(model: str, **options: Any) -> None:
    """Store and compute MODEL in int8 or less where that is faster and the quality stays inside a budget."""
    job.check(options)
    if options["scheme"] == "static" and not options["calibration"] and not options["ranges"]:
        hint = "give --calibration or --ranges, or choose --scheme dynamic"
        raise UsageError("static int8 needs calibration data", hint=hint)
    from accelc.options import Options
    from accelc.quantize_api import named, quantize_pipeline

    path = model_path(model)
    fields = job.shared(options)
    pipeline = quantize_pipeline(
        **{name: options[name] for name in _OF_THE_PIPELINE},
        bits=int(options["bits"]) if options["bits"] else None,
    )
    fields["output"] = named(path, options["output"])
    job.execute(path, Options(pipeline=pipeline, **data_fields(options), **fields), options)


_OF_THE_PIPELINE = (
    "level",
    "scheme",
    "block_size",
    "per_channel",
    "symmetric",
    "methods",
    "keep",
    "embeddings",
    "islands",
    "requantize",
)
