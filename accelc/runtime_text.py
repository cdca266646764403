"""What ONNX Runtime says when it fails, as one readable line, and what it means."""

from __future__ import annotations

import re

_LONGEST = 400
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_LOG_PREFIX = re.compile(r"\d{4}-\d\d-\d\d [\d:.]+ (?:\([^)]*\) )?\[[A-Z]:onnxruntime:[^\]]*\] ?")
_STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_LOADING = re.compile(r"Load model from .*? failed: ?")
_SOURCE = re.compile(r"(?:\b[A-Za-z]:)?[^\s:]*\.(?:cc|cpp|cuh|cu|hpp|h):\d+ ")
_SIGNATURE_TAIL = re.compile(
    r"(?:::<lambda\([^)]*\)>(?:\([^)]*\))?)?(?: const)?(?: noexcept)?(?: \[with [^\]]*(?:\[[^\]]*\][^\]]*)*\])? ?"
)
_NODE = re.compile(r"Non-zero status code returned while running (\S+) node\. Name:'([^']*)' Status Message: ")
_MEMORY = re.compile(
    r"bad_alloc|failed to allocate memory|out of memory|available memory of|BFCArena::AllocateRawInternal", re.I
)
_UNSUPPORTED = re.compile(
    r"NOT_IMPLEMENTED|Could not find an implementation for|is not a registered function/op|No Op registered for"
    r"|is under development and support for this is limited|Unsupported model IR version"
    r"|is not currently registered or supported|No schema registered for"
)
_LIBRARY = re.compile(r"(lib[\w.+-]+\.so[\w.]*): cannot open shared object|\"([\w.+-]+\.dll)\" which is missing")


def clean(message: str) -> str:
    """One line without colour codes, log prefixes, and the runtime's source files and C++ signatures."""
    text = _LOG_PREFIX.sub("", _ANSI.sub("", message))
    text = _LOADING.sub("", _STATUS.sub("", text), count=1)
    while found := _SOURCE.search(text):
        text = text[: found.start()] + text[_signature_end(text, found.end()) :]
    text = _NODE.sub(lambda m: f"{m[1]} node {m[2]!r}: " if m[2] else f"{m[1]} node: ", text)
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _signature_end(text: str, start: int) -> int:
    """Where the C++ function signature that begins at start ends; start itself when there is none."""
    depth = angle = 0
    for position in range(start, min(len(text), start + 2000)):
        char = text[position]
        if char == "\n":
            return start
        if char == "<":
            angle += 1
        elif char == ">" and text[position - 1] != "-":
            angle = max(0, angle - 1)
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
            if depth <= 0 and angle == 0 and not text.startswith("(", position + 1):
                tail = _SIGNATURE_TAIL.match(text, position + 1)
                return tail.end() if tail else position + 1
    return start


def is_memory(message: str) -> bool:
    """The message speaks of exhausted memory."""
    return _MEMORY.search(message) is not None


def is_unsupported(message: str) -> bool:
    """The message says that this build of the runtime lacks a kernel, operator, domain, type or version."""
    return _UNSUPPORTED.search(message) is not None


def missing_library(printed: str) -> str:
    """The shared library that the dynamic loader did not find, or an empty text."""
    found = _LIBRARY.search(printed)
    return (found[1] or found[2]) if found else ""
