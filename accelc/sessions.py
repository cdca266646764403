"""What the child process holds: sessions, feeds and what binds them; each public method answers one request."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from accelc.wire import EXTENDED_NAMES, EXTENDED_TYPES, RUNTIME_TYPES, decode, encode

if TYPE_CHECKING:
    from accelc.benchmark.pressure import Served, Window

_PEAK = "VmHWM:"
_NOW = "VmRSS:"


class Sessions:
    """Sessions and feeds by the number that the parent gave them."""

    def __init__(self, runtime: Any) -> None:
        self.runtime = runtime
        self.sessions: dict[int, Any] = {}
        self.feeds: dict[int, dict[str, Any]] = {}
        self.devices: dict[int, str] = {}
        self.bound: dict[tuple[int, int], _Bound] = {}
        self.options: dict[int, Any] = {}
        self.watch: Any = None
        self.preloaded = False

    def load(self, key: int, model: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        """Create a session. model: a path as str, or the bytes of the model as an array."""
        runtime = self.runtime
        providers = [tuple(provider) for provider in options["providers"]]
        if any(name == "CUDAExecutionProvider" for name, _ in providers) and not self.preloaded:
            self.preloaded = True
            if hasattr(runtime, "preload_dlls"):
                runtime.preload_dlls()
        settings = runtime.SessionOptions()
        settings.log_severity_level = 4
        levels = runtime.GraphOptimizationLevel
        settings.graph_optimization_level = levels.ORT_ENABLE_ALL if options["optimize"] else levels.ORT_DISABLE_ALL
        settings.enable_mem_pattern = options["memory_pattern"]
        if options["optimized"]:
            settings.optimized_model_filepath = options["optimized"]
        if options["profile"]:
            settings.enable_profiling = True
            settings.profile_file_prefix = options["profile"]
        if options["threads"] is not None:
            settings.intra_op_num_threads = options["threads"]
        for name, value in options["config"].items():
            settings.add_session_config_entry(name, value)
        external = {name: self._tensor(wire) for name, wire in options["external"].items()}
        if external:
            settings.add_external_initializers(list(external), list(external.values()))
        source = model if isinstance(model, str) else model.tobytes()
        begin = time.perf_counter()
        session = runtime.InferenceSession(source, settings, providers=providers, enable_fallback=0)
        seconds = time.perf_counter() - begin
        self.sessions[key] = session
        # A captured graph reads and writes at fixed places: runs without them are not to use it.
        self.options[key] = self._run_options(-1 if _captures(providers) else None)

        def describe(values: Sequence[Any]) -> list[tuple[str, str, list[int | str | None]]]:
            return [(value.name, value.type, list(value.shape)) for value in values]

        return {
            "inputs": describe(session.get_inputs()),
            "outputs": describe(session.get_outputs()),
            "overridable": describe(session.get_overridable_initializers()),
            "providers": list(session.get_providers()),
            "seconds": seconds,
        }

    def run(self, key: int, feeds: Mapping[str, Any], outputs: Sequence[str] | None) -> dict[str, Any]:
        """Run once; outputs by name, encoded."""
        return self._outputs(key, {name: self._feed(wire) for name, wire in feeds.items()}, outputs)

    def _outputs(self, key: int, given: Mapping[str, Any], outputs: Sequence[str] | None) -> dict[str, Any]:
        """Run once.

        When both a type that numpy lacks and a value that is no tensor are asked for, the model runs twice: no call
        of the runtime's Python interface returns both.
        """
        session, options = self.sessions[key], self.options[key]
        types = {value.name: value.type for value in session.get_outputs()}
        names = list(types) if outputs is None else list(outputs)
        if not names:
            return {}
        plain = [name for name in names if types.get(name, "") not in RUNTIME_TYPES]
        result: dict[str, Any] = {}
        if len(plain) < len(names):
            tensors = [name for name in names if types.get(name, "").startswith("tensor(")]
            plain = [name for name in plain if name not in tensors]
            values = session.run_with_ort_values(tensors, {name: self._value(given[name]) for name in given}, options)
            result = {name: _wire_tensor(value) for name, value in zip(tensors, values, strict=True)}
        if plain:
            result |= {name: _wire(v) for name, v in zip(plain, session.run(plain, given, options), strict=True)}
        return result

    def observe(
        self, key: int, feeds: Mapping[str, Any], wanted: Mapping[str, Mapping[str, Any]], sample: int
    ) -> dict[str, tuple[tuple[int, ...], str]]:
        """Run once and show each wanted input or output to its observer, which lives here.

        Observers take their time on a thread, beside the next run. wanted: the options of the observers, by name of the
        value. sample: the number of this feed set. Returns by name the shape, and NaN or Inf where this sample has an
        element that is not finite.
        """
        if self.watch is None:
            from accelc.calibration.observers import Watch

            self.watch = Watch()
        given = {name: self._feed(wire) for name, wire in feeds.items()}
        names = [name for name in wanted if name not in given]
        made = self.sessions[key].run(names, given) if names else ()
        values = {**{name: given[name] for name in wanted if name in given}, **dict(zip(names, made, strict=True))}
        return self.watch.look(key, values, wanted, sample)  # type: ignore[no-any-return]

    def observed(self, key: int) -> dict[str, dict[str, Any]]:
        """The states of the observers of a session, by name of the value."""
        return {} if self.watch is None else self.watch.states(key)

    def forget(self, key: int) -> None:
        """Drop the observers of a session."""
        if self.watch is not None:
            self.watch.forget(key)

    def hold(self, key: int, feeds: Mapping[str, Any], device: str | None) -> None:
        """Keep feeds under a number. device: where runs find them and leave their outputs; None: no fixed place."""
        given = {name: self._feed(wire) for name, wire in feeds.items()}
        # The runtime makes values of its own of all arrays but those of strings.
        numbers = [(isinstance(v, np.ndarray) and v.dtype != object) or self._is_value(v) for v in given.values()]
        if device is not None:
            if not all(numbers):
                raise TypeError("an input of text, sequences or absent values cannot lie on a device")
            self.devices[key] = device
        self.feeds[key] = {name: self._value(v) for name, v in given.items()} if all(numbers) else given

    def drop(self, key: int) -> None:
        """Forget feeds."""
        self._unbind(feeds=key)
        self.feeds.pop(key, None)
        self.devices.pop(key, None)

    def close(self, key: int) -> None:
        """Forget a session and what was observed in it."""
        self._unbind(session=key)
        self.sessions.pop(key, None)
        self.options.pop(key, None)
        self.forget(key)

    def fetch(self, key: int, feeds: int) -> dict[str, Any]:
        """Run once on held feeds; outputs by name, encoded."""
        session = self.sessions[key]
        names = [value.name for value in session.get_outputs()]
        if feeds not in self.devices or any(value.type in RUNTIME_TYPES for value in session.get_outputs()):
            return self._outputs(key, self.feeds[feeds], names)
        call = self._bind(key, feeds)
        call()
        return {name: _wire(v) for name, v in zip(names, call.binding.copy_outputs_to_cpu(), strict=True)}

    def block(self, key: int, feeds: int, runs: int, warm: int) -> NDArray[np.float64]:
        """Seconds of each of `runs` runs in a row, after `warm` runs that are not counted."""
        call = self._call(key, feeds)
        for _ in range(warm):
            call()
        clock = time.perf_counter
        marks = [clock()]
        for _ in range(runs):
            call()
            marks.append(clock())
        return np.diff(np.array(marks))

    def press(self, key: int, feeds: Sequence[int], window: Window) -> Served:
        """Queries from several threads on one session, the feeds in turn."""
        from accelc.benchmark.pressure import press

        if window.workers > 1 and any(each in self.devices for each in feeds):
            raise TypeError("queries at the same time cannot share fixed places on a device")
        calls = [self._call(key, each) for each in feeds]
        return press(lambda number: calls[number % len(calls)](), window)

    def end_profile(self, key: int) -> str:
        """End profiling; the path of the file."""
        return str(self.sessions[key].end_profiling())

    def assignment(self, key: int) -> list[tuple[str, str, str, str]] | None:
        """(provider, domain, operator, name) of each node; None where this runtime cannot tell."""
        tell = getattr(self.sessions[key], "get_provider_graph_assignment_info", None)
        if tell is None:
            return None
        return [(graph.ep_name, node.domain, node.op_type, node.name) for graph in tell() for node in graph.get_nodes()]

    def memory(self, reset: bool) -> tuple[int | None, int | None]:
        """Bytes that this process holds resident, now and at most. reset: the most is counted from now on."""
        if sys.platform == "win32":
            return None, None
        if sys.platform != "linux":
            import resource

            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return None, most * (1 if sys.platform == "darwin" else 1024)
        # Where the kernel does not allow it, the most is that of the whole life.
        with contextlib.suppress(OSError):
            if reset:
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        with open("/proc/self/status", encoding="ascii") as file:
            lines = dict(line.split(maxsplit=1) for line in file if line.startswith((_PEAK, _NOW)))
        now, most = (int(lines[name].split()[0]) * 1024 if name in lines else None for name in (_NOW, _PEAK))
        return now, most

    def _call(self, key: int, feeds: int) -> Callable[[], object]:
        """One run of a session on held feeds."""
        if feeds in self.devices:
            return self._bind(key, feeds)
        session, given, options = self.sessions[key], self.feeds[feeds], self.options[key]
        if not all(map(self._is_value, given.values())):
            return partial(session.run, None, given, options)
        from onnxruntime.capi.onnxruntime_pybind11_state import OrtValueVector

        values = OrtValueVector()
        for value in given.values():
            values.push_back(value._get_c_value())
        names = [output.name for output in session.get_outputs()]
        processors = [self.runtime.OrtDevice.make("cpu", 0)._get_c_device()] * len(names)

        def call() -> None:
            # Any type will do, and no copy is timed. Calls that make objects of the outputs take 0.1 ms for that.
            session.run_with_ortvaluevector(options, list(given), values, names, OrtValueVector(), processors)

        return call

    def _bind(self, key: int, feeds: int) -> _Bound:
        if (key, feeds) not in self.bound:
            # Each set of places has a captured graph of its own.
            options = self._run_options(feeds)
            self.bound[key, feeds] = _Bound(self.sessions[key], self.feeds[feeds], self.devices[feeds], options)
        return self.bound[key, feeds]

    def _unbind(self, session: int | None = None, feeds: int | None = None) -> None:
        for pair in [pair for pair in self.bound if session == pair[0] or feeds == pair[1]]:
            del self.bound[pair]

    def _run_options(self, graph: int | None) -> Any:
        options = self.runtime.RunOptions()
        if graph is not None:
            options.add_run_config_entry("gpu_graph_id", str(graph))
        return options

    def _tensor(self, wire: Any) -> Any:
        return self._value(self._feed(wire))

    def _is_value(self, value: Any) -> bool:
        return isinstance(value, self.runtime.OrtValue)

    def _value(self, value: Any) -> Any:
        if self._is_value(value):
            return value
        if not isinstance(value, np.ndarray):
            raise TypeError("the runtime takes no sequence or absent input beside an output of a type numpy lacks")
        return self.runtime.OrtValue.ortvalue_from_numpy(value)

    def _feed(self, wire: Any) -> Any:
        if wire[0] != "packed":
            return decode(wire)
        _, number, shape, raw = wire
        bits = EXTENDED_TYPES[EXTENDED_NAMES[number]][1]
        # The runtime takes the shape from the array, so packed bytes stand at the front of one byte per element.
        array = raw.view(np.uint16) if bits == 16 else raw
        if bits < 8:
            array = np.zeros(int(np.prod(shape, dtype=np.int64)), np.uint8)
            array[: raw.size] = raw
        return self.runtime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.reshape(shape), number)


class _Bound:
    """Runs of a session with its inputs and outputs at fixed places on a device."""

    def __init__(self, session: Any, values: Mapping[str, Any], device: str, options: Any) -> None:
        self.session, self.options, self.binding = session, options, session.io_binding()
        for name, value in values.items():
            # The runtime copies each to where it is first read, once.
            self.binding.bind_ortvalue_input(name, value)
        kind, _, index = device.partition(":")
        for output in session.get_outputs():
            self.binding.bind_output(output.name, kind, int(index or 0))
        self.binding.synchronize_inputs()

    def __call__(self) -> None:
        self.session.run_with_iobinding(self.binding, self.options)
        self.binding.synchronize_outputs()


def _captures(providers: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
    return any(str(options.get("enable_cuda_graph", "0")).lower() in ("1", "true") for _, options in providers)


def _wire_tensor(value: Any) -> Any:
    kind = value.data_type()
    if kind not in RUNTIME_TYPES:
        return _wire(value.numpy())
    import ctypes

    size = value.tensor_size_in_bytes()
    raw = np.empty(size, np.uint8)
    ctypes.memmove(raw.ctypes.data, value.data_ptr(), size)
    return ("packed", RUNTIME_TYPES[kind], tuple(value.shape()), raw)


def _wire(value: Any) -> Any:
    if value is None or isinstance(value, (np.ndarray, np.generic)):
        return encode(value)
    if isinstance(value, list):
        return ("sequence", [_wire(item) for item in value])
    if isinstance(value, (dict, str, int, float)):
        return ("object", value)
    raise TypeError(f"the runtime returned a {type(value).__name__}, which has no array form")
