"""What is to be measured: models, providers, shapes and threads as cases."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from accelc.backend_base import Backend, BackendSpec
from accelc.benchmark.options import BenchOptions, shape_text
from accelc.benchmark.results import Setting
from accelc.errors import AccelcError, BackendError, UsageError
from accelc.plugins import find_backend, load_plugin
from accelc.runner import Runner
from accelc.source import Source

Opened = Source | AccelcError
"""A model, or why it cannot be had."""


@dataclass(frozen=True)
class Case:
    """One model with one setting. group: cases of one group take the same inputs and are compared."""

    label: str
    path: Path
    source: Source
    backend: Backend
    setting: Setting
    group: str
    shapes: Mapping[str, Sequence[int | str]]
    batch: int | None = None


@dataclass(frozen=True)
class Refused:
    """What cannot be measured, at its place among the cases. source: None where the model is why."""

    label: str
    path: Path
    source: Source | None
    setting: Setting
    group: str
    error: AccelcError


def cases(options: BenchOptions, runner: Runner | None = None) -> list[Case | Refused]:
    """Every model with every setting: shapes, then batches, providers, threads and memories, then models.

    A model or a provider that does not work is refused in each of its cases, and the others go on. runner: the child to
    try the providers in. Raises UsageError for a provider that there is not and for a setting that is asked for twice,
    PluginError, and BackendError when no provider works here.
    """
    for plugin in options.plugins:
        load_plugin(plugin)
    backends = [(spec, find_backend(spec.name)(spec.options)) for spec in options.specs]
    broken = _broken(backends, runner, dry=options.dry_run)
    if len(broken) == len(backends):
        raise _none_works(broken)
    once = [backend for _, backend in backends] if options.dry_run else broken
    found: list[Case | Refused] = []
    named = list(zip(labels(options.models), options.models, _opened(options.models), strict=True))
    for shapes, batch in [(shapes, batch) for shapes in options.shapes for batch in options.batches]:
        group = shape_text(shapes, batch)
        for setting, backend in _settings(backends, options.threads, group, once):
            for label, path, source in named:
                if isinstance(source, AccelcError):
                    found.append(Refused(label, path, None, setting, group, source))
                elif backend in broken:
                    found.append(Refused(label, path, source, setting, group, broken[backend]))
                else:
                    found.append(Case(label, path, source, backend, setting, group, shapes, batch))
    return found


def _opened(paths: Sequence[Path]) -> list[Opened]:
    """Import each file, once; one that is missing, broken or refused is the error that says so."""
    known: dict[Path, Opened] = {}
    for path in paths:
        if path not in known:
            try:
                known[path] = Source.of(path)
            except AccelcError as error:
                known[path] = error
    return [known[path] for path in paths]


def labels(paths: Sequence[Path]) -> list[str]:
    """Short names of files, unlike each other: the stem, as much of its folders as it takes, a number for the rest.

    Numbers are for one file that is given several times: a, a #2.
    """
    whole = [path.absolute().with_suffix("") if path.suffix == ".onnx" else path.absolute() for path in paths]
    found = [_shortest(path, set(whole) - {path}) for path in whole]
    counts = [found[: at + 1].count(name) for at, name in enumerate(found)]
    return [name if count == 1 else f"{name} #{count}" for name, count in zip(found, counts, strict=True)]


def _shortest(path: Path, others: set[Path]) -> str:
    """The fewest last parts of a path that no other ends with."""
    for length in range(1, len(path.parts)):
        tail = path.parts[-length:]
        if all(other.parts[-length:] != tail for other in others):
            return "/".join(tail)
    return str(path)


def _settings(
    backends: Sequence[tuple[BackendSpec, Backend]],
    threads: Sequence[int | None],
    shape: str,
    once: Collection[Backend],
) -> list[tuple[Setting, Backend]]:
    """The number of threads is a part of the setting also where it stands among the options of the provider.

    once: backends for which it does not matter where inputs lie.
    """
    found: list[tuple[Setting, Backend]] = []
    for spec, backend in backends:
        name = str(BackendSpec(spec.name, tuple(pair for pair in spec.options if pair[0] != "threads")))
        for count in dict.fromkeys(backend.threads() if each is None else each for each in threads):
            for memory in backend.memories()[: 1 if backend in once else None]:
                found.append((Setting(name, count, shape, memory), backend))
    made = [setting for setting, _ in found]
    twice = next((each for at, each in enumerate(made) if each in made[:at]), None)
    if twice is not None:
        raise UsageError(f"{twice} is asked for twice", hint="give each provider and number of threads once")
    return found


def _broken(
    backends: Sequence[tuple[BackendSpec, Backend]], runner: Runner | None, *, dry: bool
) -> dict[Backend, AccelcError]:
    """The backends that do not work on this machine, with the reason."""
    found: dict[Backend, AccelcError] = {}
    for _, backend in backends:
        try:
            backend.require(runner, dry=dry)
        except AccelcError as error:
            found[backend] = error
    return found


def _none_works(broken: Mapping[Backend, AccelcError]) -> AccelcError:
    errors = list(broken.values())
    if len(errors) == 1:
        return errors[0]
    reasons = "; ".join(f"{backend.name}: {error.why or error.what}" for backend, error in broken.items())
    return BackendError("none of the providers is usable here", why=reasons, hint="see accelc doctor")
