"""Messages of the runtime become one readable line."""

from __future__ import annotations

import pytest

from accelc.runtime_text import clean, is_memory, is_unsupported, missing_library

SRC = "/onnxruntime_src/onnxruntime/core"


ADD = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Add node. Name:'add_1' "
    f"Status Message: {SRC}/providers/cpu/element_wise_ops.h:563 void onnxruntime::BroadcastIterator::Init(ptrdiff_t, "
    "ptrdiff_t) axis == 1 was false. Attempting to broadcast. 2 by 3\n"
)
INPUT = (
    f"{SRC}/framework/op_kernel_context.h:45 const T* onnxruntime::OpKernelContext::Input(int) const "
    "[with T = onnxruntime::Tensor] Missing Input: x"
)
VERSION = (
    f"{SRC}/graph/model.cc:256 onnxruntime::Model::Model(onnx::ModelProto&&, const onnxruntime::PathString&, "
    "const std::unordered_map<std::string, int, std::hash<int(int)>>&) Unsupported model IR version: 99"
)
LAMBDA = f"{SRC}/x.cc:4 onnxruntime::python::add(pybind11::module&)::<lambda(const OrtValue*)> value was false"
LOG = "\x1b[1;31m2026-11-22 01:17:56.66 [E:onnxruntime:Default, provider.cc:2 operator()] Failed to load\n\x1b[m"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : No graph was found.", "No graph was found."),
        (ADD, "Add node 'add_1': axis == 1 was false. Attempting to broadcast. 2 by 3"),
        (INPUT, "Missing Input: x"),
        (VERSION, "Unsupported model IR version: 99"),
        (LAMBDA, "value was false"),
        (LAMBDA.replace("*)>", "*)>(int) const"), "value was false"),
        (f"{SRC}/x.cc:4 onnxruntime::Op::operator()(int) const failed here", "failed here"),
        ("C:\\a\\src\\x.cc:4 void f(int) failed", "failed"),
        (f"{SRC}/x.cc:12 no signature follows", "no signature follows"),
        (f"Load model from /a b/m.onnx failed:{SRC}/x.cc:4 void f(int) Tensor 'w'", "Tensor 'w'"),
        (LOG, "Failed to load"),
        ("", ""),
    ],
)
def test_clean(message: str, expected: str) -> None:
    assert clean(message) == expected


def test_clean_is_short() -> None:
    assert len(clean("word " * 1000)) <= 400
    assert clean("word " * 1000).endswith("...")


def test_kinds() -> None:
    assert is_memory("std::bad_alloc")
    assert is_memory("Failed to allocate memory for requested buffer of size 4")
    assert not is_memory("No graph was found")
    assert is_unsupported("Could not find an implementation for Relu(14) node with name ''")
    assert not is_unsupported("This is an invalid model. Node input 'z' is not a graph input")


def test_missing_library() -> None:
    linux = "error: libcublasLt.so.13: cannot open shared object file: No such file or directory"
    windows = 'Error loading "x\\onnxruntime_providers_cuda.dll" which depends on "cublasLt64_13.dll" which is missing.'
    assert missing_library(linux) == "libcublasLt.so.13"
    assert missing_library(windows) == "cublasLt64_13.dll"
    assert missing_library("all is well") == ""
