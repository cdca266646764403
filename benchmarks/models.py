"""The models: files of this project, and architectures that PyTorch exports, with random weights."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ("digits_mlp", "digits_cnn", "text_encoder")
EXPORTED = ("mobilenetv2", "resnet50", "bert_base", "gpt2")
NAMES = (*SHIPPED, *EXPORTED)
_NEEDED = ("torch", "transformers", "onnxscript")


@dataclass(frozen=True)
class Model:
    """A file to optimize. data: what it is judged and measured on; None: generated inputs."""

    name: str
    path: Path
    data: Path | None = None


def find(name: str, work: Path) -> Model | str:
    """The model of a name, exported into `work` unless it is there; or, in a sentence, why it cannot be had."""
    if name in SHIPPED:
        return Model(name, ROOT / "models" / f"{name}.onnx", ROOT / "models" / f"{name}.eval.npz")
    path = work / f"{name}.onnx"
    if not path.exists():
        missing = [each for each in _NEEDED if importlib.util.find_spec(each) is None]
        if missing:
            return f"{name} is left out: to export it, install {', '.join(missing)}"
        part = path.with_name(f"part.{name}.onnx")
        command = [sys.executable, "-m", "benchmarks.export", name, str(part)]
        made = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        if made.returncode:
            return f"{name} is left out: the export failed ({(made.stderr.strip().splitlines() or ['no reason'])[-1]})"
        part.rename(path)
    return Model(name, path)
