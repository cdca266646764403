"""What an execution provider has to say about itself. Backends are found through the entry points accelc.backends.

docs/writing-backends.md shows how to write one.
"""

from __future__ import annotations

import difflib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accelc.errors import BackendError, UsageError

if TYPE_CHECKING:
    from accelc.runner import Provider, Runner, Session
    from accelc.target import Target

ASKED = "asked of the runtime when a model is loaded"

_NAME = re.compile(r"[A-Za-z][\w.-]*")
_OPTION = re.compile(r"[A-Za-z][\w.-]*=[^,=]*")


@dataclass(frozen=True)
class Values:
    """What an option may be: what the pattern matches as a whole, and that in words."""

    pattern: str
    words: str


ANY = Values(".*", "any text")
FLAG = Values("[01]|[Tt]rue|[Ff]alse", "0 or 1")
WHOLE = Values("[0-9]{1,18}", "a whole number from 0 on")
NUMBER = Values("-?[0-9]{1,18}", "a whole number")


def one_of(*words: str) -> Values:
    """Exactly these texts."""
    return Values("|".join(map(re.escape, words)), f"one of {', '.join(words)}")


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

    Everything but `probe`, `require`, `load` and `measure` answers without starting the runtime. option_names: the
    options that the user may give; a mapping also tells what values each takes. options: (name, value) as the user gave
    them. Raises UsageError for an unknown option and for a value that the option does not take.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    option_names: ClassVar[tuple[str, ...] | Mapping[str, Values]] = ()

    options: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for key, value in self.options:
            if key not in self.option_names:
                near = difflib.get_close_matches(key, self.option_names, 1)
                known = ", ".join(self.option_names) or "none"
                hint = f"did you mean {near[0]}?" if near else f"its options: {known}"
                raise UsageError(f"backend {self.name} has no option {key!r}", hint=hint)
            values = self.option_names[key] if isinstance(self.option_names, Mapping) else ANY
            if not re.fullmatch(values.pattern, value):
                raise UsageError(f"option {key} of {self.name} cannot be {value!r}", hint=f"it is {values.words}")

    def option(self, name: str, default: str = "") -> str:
        """What the user gave for an option."""
        return dict(self.options).get(name, default)

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

    def session_options(self) -> dict[str, Any]:
        """How sessions are loaded: arguments of Runner.load. Override it for those that have no method of their own."""
        return {"providers": self.providers(), "config": self.config(), "threads": self.threads()}

    def capability_source(self) -> str:
        """Where the knowledge of what the provider runs comes from, in a few words."""
        table = self.target().kernels
        return ASKED if table is None else f"kernel table of onnxruntime {table.runtime}"

    def missing(self) -> str:
        """Why the backend cannot work, as far as that shows without starting the runtime; else an empty text."""
        return ""

    def details(self) -> dict[str, str]:
        """Facts about the provider on this machine, for `accelc doctor`."""
        return {}

    def explain(self, failure: str) -> str:
        """The reason that a user can act on, from the runtime's own."""
        return failure

    def probe(self, runner: Runner | None = None, *, dry: bool = False) -> Availability:
        """Find out by loading and running a small model in a child process (that of runner, when given).

        dry: load it only, for those who run nothing.
        """
        from accelc.runner import Runner, RuntimeFailure

        reason = self.missing()
        if reason:
            return Availability(False, reason, self.details())
        own = runner or Runner()
        try:
            session = self.load(own, _small_model())
            x = np.arange(4, dtype=np.float32).reshape(2, 2)
            right = dry or np.array_equal(own.run(session, {"x": x})["y"], x @ x)
            own.close(session)
            if not right:
                return Availability(False, f"{self.name} computes wrong results on this machine", self.details())
            return Availability(True, details={"onnxruntime": own.version, **self.details()})
        except RuntimeFailure as failure:
            return Availability(False, self.explain(str(failure)), self.details())
        finally:
            if runner is None:
                own.stop()

    def require(self, runner: Runner | None = None, *, dry: bool = False) -> None:
        """Raise BackendError with the reason unless the backend works here; dry: as in `probe`."""
        found = self.probe(runner, dry=dry)
        if not found.available:
            raise BackendError(f"backend {self.name} is not usable here", why=found.reason, hint="see accelc doctor")

    def load(self, runner: Runner, model: bytes | Path, **more: Any) -> Session:
        """Load a model on this backend. Raises RuntimeFailure.

        more: further arguments of Runner.load; None leaves what the backend says.
        """
        own, given = self.session_options(), {name: value for name, value in more.items() if value is not None}
        config = {**own.get("config", {}), **given.get("config", {})}
        return runner.load(model, **{**own, **given, "config": config})

    def memories(self) -> tuple[Literal["host", "device"], ...]:
        """Where inputs and outputs may lie: in the processor's memory, on the device that `device` names."""
        return ("host",)

    def device(self) -> str:
        """The device by the name that I/O binding takes, such as "cuda:0"."""
        return "cpu"

    def device_bytes(self) -> int | None:
        """Memory of the device that is in use now, by whomever; None where that is not known."""
        return None

    def hold(
        self, runner: Runner, feeds: Sequence[Mapping[str, Any]], memory: Literal["host", "device"] = "host"
    ) -> AbstractContextManager[list[int]]:
        """Keep feeds in the child for `measure`, in that memory, each under a number. Raises RuntimeFailure."""
        return runner.hold(feeds, device=self.device() if memory == "device" else None)

    def measure(self, runner: Runner, session: Session, held: int, runs: int, warm: int = 0) -> NDArray[np.float64]:
        """Seconds of each of `runs` runs in a row [runs], after `warm` that do not count, on feeds that `hold` keeps.

        A run ends when the device has finished. Raises RuntimeFailure.
        """
        return runner.block(session, held, runs, warm)

    def fetch(self, runner: Runner, session: Session, held: int) -> dict[str, Any]:
        """The outputs by name of one run such as `measure` makes. Raises RuntimeFailure."""
        return runner.fetch(session, held)


def _small_model() -> bytes:
    import onnx

    # Some providers multiply by constants only.
    text = """<ir_version: 8, opset_import: ["" : 13]>
        probe (float[2, 2] x) => (float[2, 2] y) <float[2, 2] w = {0, 1, 2, 3}> { y = MatMul(x, w) }"""
    model: bytes = onnx.parser.parse_model(text).SerializeToString()
    return model
