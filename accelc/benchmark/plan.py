"""What is to be measured: models, providers, shapes and threads as cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from accelc.backend_base import Backend, BackendSpec
from accelc.benchmark.options import BenchOptions, shape_text
from accelc.benchmark.results import Setting
from accelc.errors import AccelcError, BackendError, PluginError, UsageError
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


@dataclass(frozen=True)
class _Provider:
    """What was asked for. error: why it cannot be used; there is no backend where its name or an option is unknown."""

    spec: BackendSpec
    backend: Backend | None
    error: AccelcError | None


def cases(options: BenchOptions, runner: Runner | None = None) -> list[Case | Refused]:
    """Every model with every setting: shapes, then batches, providers, threads and memories, then models.

    A model or a provider that is unknown or does not work is refused in each of its cases, and the others go on.
    runner: the child to try the providers in. Raises UsageError for a setting that is asked for twice, PluginError, and
    the reason when there is no provider that works here.
    """
    for plugin in options.plugins:
        load_plugin(plugin)
    providers = [_tried(spec, runner, dry=options.dry_run) for spec in options.specs]
    if all(each.error is not None for each in providers):
        raise _none_works(providers)
    found: list[Case | Refused] = []
    named = list(zip(labels(options.models), options.models, _opened(options.models), strict=True))
    for shapes, batch in [(shapes, batch) for shapes in options.shapes for batch in options.batches]:
        group = shape_text(shapes, batch)
        for setting, provider in _settings(providers, options.threads, group, dry=options.dry_run):
            for label, path, source in named:
                if isinstance(source, AccelcError):
                    found.append(Refused(label, path, None, setting, group, source))
                elif provider.error is not None:
                    found.append(Refused(label, path, source, setting, group, provider.error))
                else:
                    assert provider.backend is not None
                    found.append(Case(label, path, source, provider.backend, setting, group, shapes, batch))
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
    providers: Sequence[_Provider], threads: Sequence[int | None], shape: str, *, dry: bool
) -> list[tuple[Setting, _Provider]]:
    """The number of threads is a part of the setting also where it stands among the options of the provider.

    Where nothing will be timed it does not matter where inputs lie.
    """
    found: list[tuple[Setting, _Provider]] = []
    for provider in providers:
        spec, backend = provider.spec, provider.backend
        name = str(BackendSpec(spec.name, tuple(pair for pair in spec.options if pair[0] != "threads")))
        own = None if backend is None else backend.threads()
        once = dry or provider.error is not None
        memories = ("host",) if backend is None else backend.memories()[: 1 if once else None]
        for count in dict.fromkeys(own if each is None else each for each in threads):
            found += [(Setting(name, count, shape, memory), provider) for memory in memories]
    made = [setting for setting, _ in found]
    twice = next((each for at, each in enumerate(made) if each in made[:at]), None)
    if twice is not None:
        raise UsageError(f"{twice} is asked for twice", hint="give each provider and number of threads once")
    return found


def _tried(spec: BackendSpec, runner: Runner | None, *, dry: bool) -> _Provider:
    """A provider, and whether it works on this machine. Raises PluginError."""
    backend: Backend | None = None
    try:
        backend = find_backend(spec.name)(spec.options)
        backend.require(runner, dry=dry)
    except PluginError:
        raise
    except AccelcError as error:
        return _Provider(spec, backend, error)
    return _Provider(spec, backend, None)


def _none_works(providers: Sequence[_Provider]) -> AccelcError:
    errors = [(each.spec, each.error) for each in providers if each.error is not None]
    if len(errors) == 1:
        return errors[0][1]
    reasons = "; ".join(f"{spec}: {error.why or error.what}" for spec, error in errors)
    return BackendError("none of the providers is usable here", why=reasons, hint="see accelc doctor")
