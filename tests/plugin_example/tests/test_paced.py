import time

import numpy as np
import onnx
import pytest
from acme_passes.paced import Paced

from accelc import UsageError
from accelc.runner import Runner

MODEL = onnx.parser.parse_model(
    '<ir_version: 8, opset_import: ["": 17]> double (float[N] x) => (float[N] y) { y = Add(x, x) }'
)


def test_it_works_here() -> None:
    found = Paced().probe()
    assert found.available, found.reason


def test_it_rests_before_each_run() -> None:
    backend = Paced((("pause_ms", "10"),))
    with Runner() as runner, backend.hold(runner, [{"x": np.ones(3, np.float32)}]) as held:
        session = backend.load(runner, MODEL.SerializeToString())
        start = time.perf_counter()
        seconds = backend.measure(runner, session, held[0], runs=4, warm=1)
        assert time.perf_counter() - start >= 5 * 0.010
    assert seconds.shape == (4,)
    assert (seconds > 0).all()


def test_the_pause_is_a_number() -> None:
    with pytest.raises(UsageError, match="option pause_ms of paced cannot be 'long'; it is a whole number"):
        Paced((("pause_ms", "long"),))


def test_what_it_knows_of_the_processor() -> None:
    assert Paced().capability_source().startswith("kernel table of onnxruntime")
    assert str(Paced().target()).startswith("paced")
