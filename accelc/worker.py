"""The child process that runs ONNX Runtime, and the wire format it shares with accelc.runner.

The parent starts this file by its path, so it may import only the standard library, numpy and, in the child when they
are needed, onnxruntime and accelc.calibration.observers. A message is one pickle with its large buffers after it; a
value is an encoded tuple (see `encode`). Descriptors 0 and 1 of the child carry the messages; whatever the runtime
prints goes to descriptor 2.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# ml_dtypes name -> (ONNX element type, bits). numpy itself knows the other ONNX types.
EXTENDED_TYPES: Mapping[str, tuple[int, int]] = {
    "bfloat16": (16, 16),
    "float8_e4m3fn": (17, 8),
    "float8_e4m3fnuz": (18, 8),
    "float8_e5m2": (19, 8),
    "float8_e5m2fnuz": (20, 8),
    "uint4": (21, 4),
    "int4": (22, 4),
    "float4_e2m1fn": (23, 4),
    "float8_e8m0fnu": (24, 8),
    "uint2": (25, 2),
    "int2": (26, 2),
}
EXTENDED_NAMES: Mapping[int, str] = {number: name for name, (number, _) in EXTENDED_TYPES.items()}
_RUNTIME_NAMES = (  # as the runtime writes them inside tensor(...), in the order of EXTENDED_TYPES
    "bfloat16 float8e4m3fn float8e4m3fnuz float8e5m2 float8e5m2fnuz uint4 int4 float4e2m1 float8e8m0 uint2 int2"
)
RUNTIME_TYPES: Mapping[str, int] = {
    f"tensor({name})": number for name, (number, _) in zip(_RUNTIME_NAMES.split(), EXTENDED_TYPES.values(), strict=True)
}
_FRAME = struct.Struct("<QI")
_LARGE = 1 << 16
_PIPE_BYTES = 1 << 20


class Closed(Exception):
    """The other end of the pipe is gone."""


def send(stream: io.RawIOBase, message: object) -> None:
    """Write one message to an unbuffered stream. Raises Closed when the reader is gone."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    head = _FRAME.pack(len(body), len(views)) + struct.pack(f"<{len(views)}Q", *(view.nbytes for view in views))
    parts: list[bytes | memoryview] = [head + body] if len(body) < _LARGE else [head, body]
    try:
        for part in (*parts, *views):
            rest = memoryview(part)
            while rest:
                rest = rest[stream.write(rest) or 0 :]
    except (BrokenPipeError, ConnectionResetError, ValueError) as error:
        raise Closed from error


def receive(stream: io.RawIOBase) -> Any:
    """Read one message from an unbuffered stream; its arrays own fresh memory. Raises Closed at the end."""
    body_bytes, count = _FRAME.unpack(_read(stream, _FRAME.size))
    sizes = struct.unpack(f"<{count}Q", _read(stream, 8 * count))
    body = _read(stream, body_bytes)
    return pickle.loads(body, buffers=[_read(stream, size) for size in sizes])


def _read(stream: io.RawIOBase, size: int) -> memoryview:
    data = np.empty(size, np.uint8).data
    view = data
    while view:
        try:
            count = stream.readinto(view)
        except ValueError as error:
            raise Closed from error
        if not count:
            raise Closed
        view = view[count:]
    return data


def widen_pipe(stream: io.RawIOBase) -> None:
    """Ask for a larger pipe buffer, so that large arrays need fewer turns; without effect where there is none."""
    if sys.platform == "linux":
        import fcntl

        try:
            fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        except PermissionError:
            return  # the user's quota of pipe memory is used up; the default size works too


def encode(value: Any) -> Any:
    """A value as the wire carries it: (kind, ...) tuples of plain numpy arrays and Python objects.

    Kinds: none; array (a type numpy knows); packed (ONNX type, shape, bytes as the runtime lays them out);
    sequence; object (maps and scalars). Raises TypeError for a type ONNX does not have.
    """
    if value is None:
        return ("none",)
    if isinstance(value, (list, tuple)):
        return ("sequence", [encode(item) for item in value])
    if isinstance(value, dict):
        return ("object", value)
    array = np.asarray(value)
    if array.dtype.name in EXTENDED_TYPES:
        number, bits = EXTENDED_TYPES[array.dtype.name]
        return ("packed", number, array.shape, _pack(array, bits))
    if array.dtype.kind in "VMm":
        raise TypeError(f"{array.dtype.name} is not a type of ONNX")
    if array.dtype.kind == "U":
        array = array.astype(object)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return ("array", array)


def decode(wire: Any) -> Any:
    """The value of an encoded tuple; 4-bit to bfloat16 tensors come as arrays of the ml_dtypes type."""
    kind = wire[0]
    if kind == "none":
        return None
    if kind == "sequence":
        return [decode(item) for item in wire[1]]
    if kind == "packed":
        return _unpack(*wire[1:])
    return wire[1]


def _pack(array: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    raw: NDArray[np.uint8] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if bits >= 8:
        return raw
    per_byte = 8 // bits
    raw = np.concatenate([raw & ((1 << bits) - 1), np.zeros(-raw.size % per_byte, np.uint8)]).reshape(-1, per_byte)
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(raw << shifts, axis=1).astype(np.uint8)
    return packed


def _unpack(number: int, shape: Sequence[int], raw: NDArray[np.uint8]) -> NDArray[Any]:
    import ml_dtypes

    name = EXTENDED_NAMES[number]
    bits = EXTENDED_TYPES[name][1]
    dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    if bits >= 8:
        whole: NDArray[Any] = raw.view(dtype)
        return whole.reshape(shape)
    shifts = np.arange(8 // bits, dtype=np.uint8) * np.uint8(bits)
    codes: NDArray[np.uint8] = ((raw[:, None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(-1)
    codes = codes[: int(np.prod(shape, dtype=np.int64))]
    return codes.view(dtype).reshape(shape)


# ------------------------------------------------------------------------------------------------- the child


class Worker:
    """The child's state: sessions and feeds by the number that the parent gave them."""

    def __init__(self, runtime: Any) -> None:
        self.runtime = runtime
        self.sessions: dict[int, Any] = {}
        self.feeds: dict[int, dict[str, Any]] = {}
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
        if options.get("optimized"):
            settings.optimized_model_filepath = options["optimized"]
        if options["threads"] is not None:
            settings.intra_op_num_threads = options["threads"]
        for name, value in options["config"].items():
            settings.add_session_config_entry(name, value)
        external = {name: self._tensor(wire) for name, wire in options["external"].items()}
        if external:
            settings.add_external_initializers(list(external), list(external.values()))
        source = model if isinstance(model, str) else model.tobytes()
        session = runtime.InferenceSession(source, settings, providers=providers, enable_fallback=0)
        self.sessions[key] = session

        def describe(values: Sequence[Any]) -> list[tuple[str, str, list[int | str | None]]]:
            return [(value.name, value.type, list(value.shape)) for value in values]

        return {
            "inputs": describe(session.get_inputs()),
            "outputs": describe(session.get_outputs()),
            "overridable": describe(session.get_overridable_initializers()),
            "providers": list(session.get_providers()),
        }

    def run(self, key: int, feeds: Mapping[str, Any], outputs: Sequence[str] | None) -> dict[str, Any]:
        """Run once; outputs by name, encoded.

        When both a type that numpy lacks and a value that is no tensor are asked for, the model runs twice: no call
        of the runtime's Python interface returns both.
        """
        session = self.sessions[key]
        types = {value.name: value.type for value in session.get_outputs()}
        names = list(types) if outputs is None else list(outputs)
        if not names:
            return {}
        plain = [name for name in names if types.get(name, "") not in RUNTIME_TYPES]
        given = {name: self._feed(wire) for name, wire in feeds.items()}
        result: dict[str, Any] = {}
        if len(plain) < len(names):
            tensors = [name for name in names if types.get(name, "").startswith("tensor(")]
            plain = [name for name in plain if name not in tensors]
            values = session.run_with_ort_values(tensors, {name: self._value(given[name]) for name in given})
            result = {name: _wire_tensor(value) for name, value in zip(tensors, values, strict=True)}
        if plain:
            result |= {name: _wire(v) for name, v in zip(plain, session.run(plain, given), strict=True)}
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

    def hold(self, key: int, feeds: Mapping[str, Any]) -> None:
        """Keep feeds under a number, for `block`."""
        given = {name: self._feed(wire) for name, wire in feeds.items()}
        # The runtime makes values of its own of all arrays but those of strings.
        numbers = [(isinstance(v, np.ndarray) and v.dtype != object) or self._is_value(v) for v in given.values()]
        self.feeds[key] = {name: self._value(v) for name, v in given.items()} if all(numbers) else given

    def drop(self, key: int) -> None:
        """Forget feeds."""
        self.feeds.pop(key, None)

    def close(self, key: int) -> None:
        """Forget a session and what was observed in it."""
        self.sessions.pop(key, None)
        self.forget(key)

    def block(self, key: int, feeds: int, runs: int, warm: int) -> NDArray[np.float64]:
        """Seconds of each of `runs` runs in a row, after `warm` runs that are not counted."""
        session, given = self.sessions[key], self.feeds[feeds]
        tensors = all(map(self._is_value, given.values()))
        # Outputs stay the runtime's own values: any type will do, and no copy is timed.
        call = session.run_with_ort_values if tensors else session.run
        for _ in range(warm):
            call(None, given)
        clock = time.perf_counter
        marks = [clock()]
        for _ in range(runs):
            call(None, given)
            marks.append(clock())
        return np.diff(np.array(marks))

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


def _watch_parent(folder: str) -> None:
    """End the process as soon as the parent's end of the pipe closes, even while the runtime is busy."""
    import select

    if not hasattr(select, "poll"):
        return

    def wait() -> None:
        poll = select.poll()
        poll.register(0, 0)
        while not any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll()):
            pass
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _harden() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "win32":
        import msvcrt

        for descriptor in (0, 1):
            msvcrt.setmode(descriptor, os.O_BINARY)
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # When memory runs out, the kernel must end this process and not the user's.
        try:
            with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
                file.write("1000")
        except OSError:
            return  # a container may forbid it; the memory limit of the parent still holds


def serve(folder: str) -> None:
    """Answer requests (command, arguments) with ("ok", result) or ("error", type, message) until the pipe closes."""
    _harden()
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    os.chdir(folder)
    _watch_parent(folder)
    try:
        sys.path[:] = receive(requests)
        try:
            import onnxruntime as runtime

            worker = Worker(runtime)
        except ImportError as error:
            send(replies, ("error", "ImportError", str(error)))
            return
        names = ("load", "run", "observe", "observed", "forget", "hold", "drop", "close", "block")
        commands: dict[str, Callable[..., Any]] = {name: getattr(worker, name) for name in names}
        send(replies, ("ok", {"version": runtime.__version__, "available": runtime.get_available_providers()}))
        while True:
            command, arguments = receive(requests)
            send(replies, _answer(commands[command], arguments))
    except Closed:
        return
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _answer(command: Callable[..., Any], arguments: Sequence[Any]) -> tuple[Any, ...]:
    # Every failure of the runtime, whatever its class, is data for the parent, which gives it a type of ours.
    try:
        return ("ok", command(*arguments))
    except Exception as error:
        return ("error", type(error).__name__, str(error))


if __name__ == "__main__":
    serve(sys.argv[1])
