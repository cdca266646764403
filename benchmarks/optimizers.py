"""What is compared: accelc's levels and the peers, each run in a process that is timed and watched."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.models import ROOT, Model
from benchmarks.peers import version

LEVELS = ("-O1", "-O2", "-O3")


@dataclass(frozen=True)
class Made:
    """seconds: of the whole run, the start of the interpreter included. peak_bytes: what the largest of its processes
    held resident at most, None where the system does not tell. failure: one line, or empty.
    """

    seconds: float
    peak_bytes: int | None
    failure: str = ""


def peers(python: str) -> dict[str, str]:
    """The peers that an interpreter has, with their versions."""
    told = subprocess.run([python, "-m", "benchmarks.peers"], cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(told.stdout)
    return found


def names(python: str) -> list[str]:
    """Every optimizer that can run here. python: the interpreter that has the peers."""
    return [*(f"accelc {level}" for level in LEVELS), *peers(python)]


def versions(python: str) -> dict[str, str]:
    """Of what made the results, by name."""
    own = {name: found for name in ("accelc", "onnxruntime", "onnx") if (found := version(name))}
    return own | peers(python)


def run(name: str, model: Model, target: Path, limit: float, python: str) -> Made:
    """Optimize a model with one of `names`. limit: seconds. python: the interpreter that has the peers."""
    kind, _, level = name.partition(" ")
    if kind == "accelc":
        data = ["--inputs", str(model.data)] if model.data else []
        command = [sys.executable, "-m", "accelc", "optimize", str(model.path), level, "-o", str(target), *data]
    else:
        command = [python, "-m", "benchmarks.peers", name, str(model.path), str(target)]
    watch = [sys.executable, "-S", str(Path(__file__).with_name("watch.py")), str(limit)]
    begin = time.perf_counter()
    ended = subprocess.run([*watch, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    status, peak = (None if word == "None" else int(word) for word in ended.stdout.split())
    if status is None:
        return Made(seconds, peak, f"not done after {limit:.0f} s")
    if status == 0 and target.exists():
        return Made(seconds, peak)
    return Made(seconds, peak, (ended.stderr.strip().splitlines() or [f"exit status {status}"])[-1])
