"""The processor with a pause before each run, as in a device that looks at one picture at a time."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accelc import Backend, Target
from accelc.backend_base import WHOLE
from accelc.plugins import find_backend
from accelc.runner import CPU, Provider, Runner, Session


@dataclass(frozen=True)
class Paced(Backend):
    """ONNX Runtime on the processor, which rests for pause_ms before each run.

    In a pause caches go cold and clocks go down, so runs may take longer than those of a loop.
    """

    name = "paced"
    summary = "ONNX Runtime on the processor, with a pause before each run"
    option_names = {"pause_ms": WHOLE}

    def target(self) -> Target:
        return dataclasses.replace(find_backend("cpu")().target(), name=self.name)

    def providers(self) -> list[Provider]:
        return list(CPU)

    def config(self) -> dict[str, str]:
        return {"session.intra_op.allow_spinning": "0"}

    def measure(self, runner: Runner, session: Session, held: int, runs: int, warm: int = 0) -> NDArray[np.float64]:
        pause = int(self.option("pause_ms", "20")) / 1000
        seconds = []
        for _ in range(warm + runs):
            time.sleep(pause)
            seconds.append(runner.block(session, held, 1)[0])
        return np.array(seconds[warm:])
