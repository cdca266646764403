"""What `accelc doctor` finds out about the execution providers."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from accelc import doctor
from accelc.backend_base import ASKED, Availability
from accelc.backends.directml import DirectmlBackend
from accelc.doctor import Diagnosis, diagnose
from accelc.errors import BackendError
from accelc.plugins import Entry
from accelc.runner import Runner
from accelc.target import Target


@dataclass(frozen=True)
class Broken(DirectmlBackend):
    """A backend whose target cannot be told."""

    name = "broken"

    def target(self) -> Target:
        raise BackendError("no table of it")


class Listing(Runner):
    """A runner whose runtime has some providers; nothing runs."""

    def __init__(self) -> None:
        super().__init__()
        self.available = ("DmlExecutionProvider", "QNNExecutionProvider", "CPUExecutionProvider")


@pytest.fixture(scope="module")
def found() -> Diagnosis:
    return diagnose()


def test_every_backend_is_there_once_with_a_reason_of_one_line(found: Diagnosis) -> None:
    names = [each.name for each in found.providers]
    assert {"coreml", "cpu", "cuda", "directml", "openvino", "tensorrt"} <= set(names)
    assert len(names) == len(set(names))
    for each in found.providers:
        assert each.available != bool(each.reason)
        assert "\n" not in each.reason
    assert found.usable


def test_where_the_knowledge_of_what_runs_comes_from(found: Diagnosis) -> None:
    told = {each.name: (each.runtime_name, each.capabilities) for each in found.providers}
    assert told["directml"] == ("DmlExecutionProvider", ASKED)
    assert told["cpu"][1].startswith("kernel table of onnxruntime")


def test_a_provider_without_a_backend_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "Runner", Listing)
    monkeypatch.setattr(DirectmlBackend, "probe", lambda self, runner: Availability(True))
    backends = {"directml": Entry("directml", "accelc", lambda: DirectmlBackend)}
    monkeypatch.setattr(doctor, "entries", lambda kind: backends if kind == "backend" else {})
    others = [each for each in diagnose().providers if not each.available]
    assert [each.name for each in others] == ["qnn", "cpu"]
    assert {each.reason for each in others} == {"accelc has no backend for it"}


def test_a_backend_that_fails_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "Runner", Listing)
    backends = {"broken": Entry("broken", "acme 1.0", lambda: Broken)}
    monkeypatch.setattr(doctor, "entries", lambda kind: backends if kind == "backend" else {})
    broken = diagnose().providers[0]
    assert (broken.name, broken.available, broken.reason, broken.origin) == (
        "broken",
        False,
        "no table of it",
        "acme 1.0",
    )
