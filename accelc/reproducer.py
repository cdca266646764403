"""A failure in a folder: the model, the pipeline, the options and versions; `accelc reproduce FOLDER` runs it again."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx

from accelc.api import optimize
from accelc.data.functions import is_function
from accelc.errors import AccelcError, UsageError
from accelc.importer import read_model
from accelc.options import Options
from accelc.pipeline import Pipeline
from accelc.plugins import load_plugin
from accelc.source import Source

SCHEMA = "accelc.reproducer/1"
_FACTS = "reproducer.json"
_MODEL = "model.onnx"
_OPTIONS = (
    "target", "verify", "portable", "max_drop", "metric_output", "calibration_method", "search_time", "isa", "seed",
    "measure",
)  # fmt: skip
_DATA = ("inputs", "calibration", "ranges")


@dataclass(frozen=True)
class Outcome:
    """What re-running showed. same: the failure occurs again. now: what happened instead, or the same text."""

    same: bool
    before: str
    now: str


def write_reproducer(
    folder: Path,
    source: Source,
    pipeline: Pipeline,
    options: Options,
    off: Iterable[str],
    limit: int | None,
    error: AccelcError,
) -> Path:
    """Write everything that is needed to see the failure again. Returns the folder.

    folder: a new or empty one; when it holds a failure already, a number is added to its name. off: passes and rules
    that were switched off. limit: how many changes were made. Raises UsageError when it cannot be written.
    """
    target = _free(folder)
    facts = {
        "schema": SCHEMA,
        "error": {"type": type(error).__name__, "where": error.where, "text": str(error)},
        "pipeline": str(pipeline),
        "options": {name: getattr(options, name) for name in _OPTIONS}
        | {"preprocess": None if options.preprocessing is None else str(options.preprocessing)},
        "shapes": {name: list(dims) for name, dims in options.shapes.items()},
        "disable": sorted(off),
        "bisect_limit": options.bisect_limit if limit is None else limit,
        "versions": _versions(),
    }
    try:
        target.mkdir(parents=True, exist_ok=True)
        _copy_model(source, target)
        facts |= {name: _copy_data(getattr(options, name), target, name) for name in _DATA}
        metric = options.metric
        is_code = metric is not None and is_function(metric)
        facts["metric"] = _copy_data(Path(str(metric)), target, "metric") if is_code else metric
        facts["plugins"] = [_copy_plugin(each, target) for each in options.plugins]
        (target / _FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        (target / "README.md").write_text(_readme(facts), encoding="utf-8")
    except OSError as failure:
        raise UsageError(
            "cannot write the reproducer", where=str(target), why=failure.strerror or str(failure)
        ) from failure
    return target


def reproduce(folder: Path, progress: Callable[[str], None] | None = None) -> Outcome:
    """Run a reproducer again. Raises UsageError for a folder that holds none."""
    facts = _read(folder)
    before = facts["error"]["text"]
    for plugin in facts["plugins"]:
        load_plugin(_inside(folder, plugin))
    data: dict[str, Any] = {name: _data(folder, facts.get(name, "")) for name in _DATA}
    metric = facts.get("metric")
    if metric is not None and is_function(str(folder / metric)):
        metric = str(_data(folder, metric))
    with tempfile.TemporaryDirectory(prefix="accelc-") as scratch:
        try:
            result = optimize(
                folder / _MODEL,
                pipeline=Pipeline.parse(facts["pipeline"]),
                output=Path(scratch) / _MODEL,
                metric=metric,
                **data,
                shapes=facts["shapes"],
                disable=facts["disable"],
                bisect_limit=facts["bisect_limit"],
                progress=progress,
                **facts["options"],
            )
        except AccelcError as error:
            return Outcome(_alike(facts["error"], error.where, str(error)), before, str(error))
    for refusal in result.report.refused:
        if _alike(facts["error"], "", refusal.reason):
            return Outcome(True, before, str(refusal))
    return Outcome(False, before, "it ran without this failure")


def _alike(error: Mapping[str, str], where: str, now: str) -> bool:
    """Whether the same place fails. The numbers in the message may differ from machine to machine."""
    if error["where"]:
        return where == error["where"] or now.startswith(error["where"])
    return now == error["text"]


def _inside(folder: Path, plugin: str) -> str:
    return str(folder / plugin) if plugin.endswith(".py") else plugin


def _free(folder: Path) -> Path:
    for number in range(1, 1000):
        target = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise UsageError("is not a folder", where=str(target), hint="name a new folder with --reproducer")
        if not target.exists() or not any(target.iterdir()):
            return target
        if not (target / _FACTS).exists():
            raise UsageError("is not empty", where=str(target), hint="name a new folder with --reproducer")
    raise UsageError("holds too many failures already", where=str(folder), hint="name a new folder with --reproducer")


def _versions() -> dict[str, str]:
    return {
        **{name: version(name) for name in ("accelc", "onnx", "onnx-ir", "numpy")},
        "python": platform.python_version(),
    }


def _copy_model(source: Source, target: Path) -> None:
    """The model as it was handed in, with the data files it refers to."""
    if source.path is None:
        (target / _MODEL).write_bytes(source.proto().SerializeToString())
        return
    shutil.copyfile(source.path, target / _MODEL)
    for location in _locations(read_model(source.path).proto):
        (target / location).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.base_dir / location, target / location)


def _locations(proto: onnx.ModelProto) -> list[str]:
    """Data files of a checked model, relative to its folder."""
    found: dict[str, None] = {}
    stack: list[Any] = [proto]
    while stack:
        message = stack.pop()
        if isinstance(message, onnx.TensorProto):
            found.update({each.value: None for each in message.external_data if each.key == "location"})
            continue
        for field, value in message.ListFields():
            if field.message_type is not None:
                stack.extend(value if isinstance(value, Iterable) else [value])
    return list(found)


def _copy_data(given: Path | None, target: Path, kind: str) -> str:
    """Where data or a function are in the folder, under their own name; empty without any.

    A function of an installed module is named only.
    """
    if given is None:
        return ""
    home, _, function = str(given).rpartition(":") if is_function(str(given)) else (str(given), "", "")
    if function and not home.endswith(".py"):
        return str(given)
    path = Path(home)
    name = f"{kind}/{path.resolve().name}"
    (target / kind).mkdir()
    if path.is_dir():
        shutil.copytree(path, target / name)
    else:
        shutil.copyfile(path, target / name)
    return f"{name}:{function}" if function else name


def _data(folder: Path, name: str) -> Path | None:
    """The path, or the function, that `_copy_data` named."""
    if not name:
        return None
    is_installed = is_function(name) and not name.rpartition(":")[0].endswith(".py")
    return Path(name) if is_installed else folder / name


def _copy_plugin(plugin: str, target: Path) -> str:
    if not plugin.endswith(".py"):
        return plugin
    name = Path(plugin).name
    shutil.copyfile(plugin, target / name)
    return name


def _readme(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    limit = facts["bisect_limit"]
    lines = [
        "# A failure of accelc",
        "",
        f"    {facts['error']['type']}: {facts['error']['text']}",
        "",
        "Run it again, from inside this folder:",
        "",
        "    accelc reproduce .",
        "",
        f"- pipeline: `{facts['pipeline']}`",
        f"- switched off: {', '.join(facts['disable']) or 'nothing'}",
        f"- changes made: {'all' if limit is None else limit}",
        f"- options: {', '.join(f'{name}={value}' for name, value in facts['options'].items())}",
        f"- versions: {versions}",
        "",
        f"`{_MODEL}` is the model as it was handed in. Look at what it contains before you share this folder.",
    ]
    return "\n".join(lines) + "\n"


def _read(folder: Path) -> dict[str, Any]:
    path = folder / _FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            "holds no reproducer", where=str(folder), why=f"{_FACTS}: {error.strerror}", hint="name the folder"
        ) from None
    except ValueError as error:
        raise UsageError("is damaged", where=str(path), why=str(error)) from None
    expected = {"error", "pipeline", "options", "shapes", "disable", "bisect_limit", "inputs", "plugins"}
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA or not expected <= facts.keys():
        raise UsageError("is not a reproducer of this version", where=str(path), hint=f"its schema must be {SCHEMA}")
    unknown = set(facts["options"]) - {each.name for each in dataclasses.fields(Options)}
    if unknown:
        raise UsageError("has unknown options", where=str(path), why=", ".join(sorted(unknown)))
    return facts
