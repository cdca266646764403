"""The child process that runs ONNX Runtime, and how messages travel between it and accelc.runner.

The parent starts this file by its path, so it may import only the standard library and numpy until the parent has sent
its own search path. A message is one pickle with its large buffers after it; a value is an encoded tuple (see
accelc.wire). Descriptors 0 and 1 of the child carry the messages; whatever the runtime prints goes to descriptor 2.
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
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

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
        from accelc.sessions import Sessions

        try:
            import onnxruntime as runtime
        except ImportError as error:
            send(replies, ("error", "ImportError", str(error)))
            return
        held = Sessions(runtime)
        about = {"version": runtime.__version__, "available": runtime.get_available_providers()}
        send(replies, ("ok", {**about, "build": runtime.get_build_info()}))
        while True:
            command, arguments = receive(requests)
            send(replies, _answer(getattr(held, command), arguments))
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
