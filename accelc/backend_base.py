"""What an execution provider has to say about itself. Backends are found through the entry points accelc.backends."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from accelc.errors import BackendError, UsageError

if TYPE_CHECKING:
    from accelc.runner import Provider, Runner, Session
    from accelc.target import Target

_NAME = re.compile(r"[A-Za-z][\w.-]*")
_OPTION = re.compile(r"[A-Za-z][\w.-]*=[^,=]*")


@dataclass(frozen=True)
class Availability:
    """Whether a backend works on this machine, and if not the reason in one line. details: facts to show."""

    available: bool
    reason: str = ""
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BackendSpec:
    """A backend as the user asks for it: `cuda:enable_cuda_graph=1,device_id=0`."""

    name: str
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> BackendSpec:
        """Read `NAME` or `NAME:OPTION=VALUE,...`. Raises UsageError."""
        name, colon, rest = text.strip().partition(":")
        parts = [part.strip() for part in rest.split(",")] if colon else []
        if not _NAME.fullmatch(name) or not all(_OPTION.fullmatch(part) for part in parts):
            raise UsageError(f"{text!r} names no backend", hint="write NAME or NAME:OPTION=VALUE,OPTION=VALUE")
        pairs = [(key, value) for key, _, value in (part.partition("=") for part in parts)]
        if len(dict(pairs)) < len(pairs):
            raise UsageError(f"an option is given twice in {text!r}")
        return cls(name, tuple(pairs))

    def __str__(self) -> str:
        return self.name + ":" * bool(self.options) + ",".join(f"{key}={value}" for key, value in self.options)


@dataclass(frozen=True)
class Backend(ABC):
    """One execution provider. A subclass names itself and its options, and says what to load sessions with.

    options: (name, value) as the user gave them. Raises UsageError for one that is not in option_names.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    option_names: ClassVar[tuple[str, ...]] = ()

    options: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for key, _ in self.options:
            if key not in self.option_names:
                known = ", ".join(self.option_names) or "none"
                raise UsageError(f"backend {self.name} has no option {key!r}", hint=f"its options: {known}")

    @abstractmethod
    def target(self) -> Target:
        """What models for this backend may contain."""

    @abstractmethod
    def providers(self) -> list[Provider]:
        """The runtime's execution providers in order of preference, with their options."""

    def config(self) -> dict[str, str]:
        """Session configuration entries."""
        return {}

    def threads(self) -> int | None:
        """Threads for one operator; None leaves the runtime's default."""
        return None

    def missing(self) -> str:
        """Why the backend cannot work, as far as that shows without starting the runtime; else an empty text."""
        return ""

    def details(self) -> dict[str, str]:
        """Facts about the provider on this machine, for `accelc doctor`."""
        return {}

    def explain(self, failure: str) -> str:
        """The reason that a user can act on, from the runtime's own."""
        return failure

    def probe(self, runner: Runner | None = None) -> Availability:
        """Find out by loading and running a small model in a child process (that of runner, when given)."""
        from accelc.runner import Runner, RuntimeFailure

        reason = self.missing()
        if reason:
            return Availability(False, reason, self.details())
        own = runner or Runner()
        try:
            session = self.load(own, _small_model())
            x = np.arange(4, dtype=np.float32).reshape(2, 2)
            y = own.run(session, {"x": x})["y"]
            own.close(session)
            if not np.array_equal(y, x @ x):
                return Availability(False, f"{self.name} computes wrong results on this machine", self.details())
            return Availability(True, details={"onnxruntime": own.version, **self.details()})
        except RuntimeFailure as failure:
            return Availability(False, self.explain(str(failure)), self.details())
        finally:
            if runner is None:
                own.stop()

    def require(self, runner: Runner | None = None) -> None:
        """Raise BackendError with the reason unless the backend works here."""
        found = self.probe(runner)
        if not found.available:
            raise BackendError(f"backend {self.name} is not usable here", why=found.reason, hint="see accelc doctor")

    def load(self, runner: Runner, model: bytes | Path, **more: Any) -> Session:
        """Load a model on this backend; more: further arguments of Runner.load. Raises RuntimeFailure."""
        settings = {"providers": self.providers(), "threads": self.threads(), **more}
        settings["config"] = {**self.config(), **(more.get("config") or {})}
        return runner.load(model, **settings)


def _small_model() -> bytes:
    import onnx

    text = '<ir_version: 8, opset_import: ["" : 13]> probe (float[2, 2] x) => (float[2, 2] y) { y = MatMul(x, x) }'
    model: bytes = onnx.parser.parse_model(text).SerializeToString()
    return model
