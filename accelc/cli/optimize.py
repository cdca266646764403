"""`accelc optimize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from accelc.cli import job
from accelc.cli.common import data_fields, data_options, model_path
from accelc.errors import UsageError

EPILOG = """\b
Examples:
  accelc optimize model.onnx                      rounding-level fusion, verified
  accelc optimize model.onnx --measure            measure alternatives and the result; nothing slower
  accelc optimize model.onnx -O1 --portable       bit-equal, ai.onnx operators only
  accelc optimize model.onnx -O3 --max-drop 0.5%  lower precision inside a quality budget
  accelc optimize model.onnx --eval samples.npz   judge on your data (and labels)
  accelc optimize model.onnx -O3 --calibration train.npz --eval test.npz --metric top1
  accelc optimize model.onnx --shape ids=1x128    fix an input's dimensions
  accelc optimize model.onnx --passes "O2, prune{sparsity=0.5}"
  accelc optimize model.onnx --ep cpu --ep cuda   a file for each: model.O2.cpu.onnx, model.O2.cuda.onnx
  accelc optimize model.onnx --why attention      each block that stays in parts, and what stopped it
  accelc optimize model.onnx --why gelu_erf       the nearest thing to a match of a rule

\b
Levels:
  -O0  read, repair, check, write
  -O1  exact: folding, common subexpressions, dead code, shape chains; bit-equal outputs
  -O2  and fusion for the target: equal up to rounding
  -O3  and lower precision inside --max-drop, where it is measured faster

Without --passes the result is never larger and computes the same, and where latency is measured never slower; what
fails a check is undone and named in the report. The result goes to -o, by default MODEL.O2.cpu.onnx beside the model.
A target that does not work on this machine is compiled for all the same; the report says what could not be checked.
"""


@click.command(epilog=EPILOG, short_help="Make a model smaller and faster; it computes the same.")
@click.argument("model")
@click.option("-O", "--level", type=int, default=2, show_default=True, metavar="0..3", help="How much to do.")
@click.option("--passes", metavar="TEXT", help='Passes to run instead of a level, as "O2, prune{sparsity=0.5}".')
@click.option("--pipeline", metavar="FILE.toml", help="The same, from a file.")
@data_options
@job.job_options
@click.pass_context
def optimize(ctx: click.Context, /, model: str, **options: Any) -> None:
    """Make MODEL smaller and faster; it computes the same."""
    given = ctx.get_parameter_source("level") is click.core.ParameterSource.COMMANDLINE
    if given and (options["passes"] is not None or options["pipeline"]):
        raise UsageError("-O and --passes exclude each other", hint='name the level inside: --passes "O2, prune"')
    job.check(options)
    from accelc.options import Options
    from accelc.pipeline import Pipeline

    path = model_path(model)
    fields = job.shared(options)
    wanted = Options(
        level=options["level"],
        passes=options["passes"],
        pipeline=Pipeline.load(Path(options["pipeline"])) if options["pipeline"] else None,
        **data_fields(options),
        **fields,
    )
    job.execute(path, wanted, options)
