"""One case in a process of its own: load time, first run, memory, placement, outputs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from accelc.benchmark.placing import CAPTURED, name_of, place, wants_graphs
from accelc.benchmark.plan import Case
from accelc.benchmark.results import Placed
from accelc.benchmark.words import copies_of
from accelc.data import Feed
from accelc.errors import BackendError, ModelError
from accelc.runner import Runner, RuntimeFailure

_SHOWN = 3
_CHUNK = 1 << 24
_BOUND = "CUDA graphs read and write at fixed places on the device: there are no figures with copies from the host"


class NodesElsewhere(BackendError):
    """Nodes would run on another provider than the one asked for; placed tells which."""

    def __init__(self, placed: Placed) -> None:
        count, fallen = len(placed.fallen), placed.fallen
        providers = ", ".join(dict.fromkeys(each.provider for each in fallen))
        copies = f", with {copies_of(placed)} in each run" if placed.copies else ""
        shown = ", ".join(f"{name_of(each)} ({each.reason})" for each in fallen[:_SHOWN])
        super().__init__(
            f"{count} node{'s' if count > 1 else ''} would run on {providers}{copies}",
            why=shown + (f" and {count - _SHOWN} more" if count > _SHOWN else ""),
            hint="--fallback measures the model all the same",
        )
        self.placed = placed


@dataclass(frozen=True)
class Probed:
    """See Row. outputs: for each feed set the outputs by name."""

    load_ms: float
    first_run_ms: float | None
    peak_bytes: int | None
    device_bytes: int | None
    placed: Placed | None
    outputs: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()


def probe(
    case: Case,
    feeds: Sequence[Feed],
    *,
    dry_run: bool = False,
    fallback: bool = False,
    memory_limit: int | None = None,
) -> Probed:
    """Load and run a case in a fresh process.

    dry_run: load it and tell where its nodes are; nothing runs. fallback: nodes may run on another provider than the
    one asked for. memory_limit: bytes that the process may hold resident. Raises AccelcError, one line, for whatever
    goes wrong: BackendError where the provider does not work here, NodesElsewhere where it does not run all nodes,
    RuntimeFailure where the model cannot be loaded or run.
    """
    backend = case.backend
    values = [] if dry_run else [feed.values for feed in feeds]
    with Runner(memory=memory_limit) as runner:
        backend.require(runner, dry=dry_run)
        try:
            ran = _run(runner, case, values)
        except RuntimeFailure as failure:
            if failure.kind == "load" and wants_graphs(backend):
                _require_graphs(place(runner, case)[0])
            raise
        placed, notes = place(runner, case, values)
    if placed is not None and placed.fallen and not fallback:
        raise NodesElsewhere(placed)
    if wants_graphs(backend):
        _require_graphs(placed)
        notes = (*notes, _BOUND)
    return replace(ran, placed=placed, notes=notes)


def _run(runner: Runner, case: Case, values: Sequence[Mapping[str, Any]]) -> Probed:
    """Load and run; without values nothing runs. Where the nodes are is not known yet."""
    backend = case.backend
    _read_once(case)
    with backend.hold(runner, values, case.setting.memory) as held:
        before, _ = runner.memory(reset=True)
        device = backend.device_bytes()
        session = backend.load(runner, case.path, threads=case.setting.threads)
        first = 1e3 * float(backend.measure(runner, session, held[0], 1)[0]) if held else None
        _, most = runner.memory()
        device = _more(device, backend.device_bytes())
        outputs = tuple(backend.fetch(runner, session, each) for each in held)
        runner.close(session)
    return Probed(1e3 * session.load_s, first, _more(before, most), device, None, outputs)


def _more(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else max(0, after - before)


def _read_once(case: Case) -> None:
    """Have the system read the files of a model, so that loading it does not measure the disk."""
    for path in _files(case):
        try:
            with open(path, "rb", buffering=0) as file:
                while file.read(_CHUNK):
                    pass
        except OSError as error:
            raise ModelError("cannot be read", where=str(path), why=error.strerror or str(error)) from error


def _files(case: Case) -> set[Path]:
    external = onnx.TensorProto.EXTERNAL
    names = {
        entry.value
        for tensor in case.source.imported.proto.graph.initializer
        if tensor.data_location == external
        for entry in tensor.external_data
        if entry.key == "location" and not os.path.isabs(entry.value)
    }
    return {case.path, *filter(Path.is_file, (case.source.base_dir / name for name in names))}


def _require_graphs(placed: Placed | None) -> None:
    if placed is not None and placed.graph and placed.graph != CAPTURED:
        why = placed.graph.removeprefix("refused: ")
        raise BackendError("the runtime captures no CUDA graph", why=why, hint="leave out enable_cuda_graph")
