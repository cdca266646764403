"""Models from the wild: whatever ONNX Runtime loads is accepted, and importing twice repairs nothing more."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import onnx
import pytest
from import_helpers import loads

from accelc.errors import ModelError
from accelc.importer import import_proto, read_model

_FOLDER = os.environ.get("ACCELC_CORPUS")
_FILES = sorted(Path(_FOLDER).glob("**/*.onnx")) if _FOLDER else []


@pytest.mark.skipif(not _FOLDER, reason="ACCELC_CORPUS is not set")
def test_the_corpus_is_there() -> None:
    assert _FILES


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.stem)
def test_every_model_that_runs_is_accepted(path: Path) -> None:
    runs = loads(onnx.load(path, load_external_data=False))
    if not runs:
        pytest.skip("ONNX Runtime does not load it")
    result = read_model(path)
    assert import_proto(result.proto, result.base_dir).repairs == ()
    assert loads(result.proto)


def _cases() -> list[Any]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return collect_testcases(None)


def test_every_operator_test_of_onnx_that_runs_is_accepted() -> None:
    """Over 1,800 small models, most operators at most opsets."""
    refused = []
    cases = _cases()
    for case in cases:
        try:
            result = import_proto(case.model)
        except ModelError as error:
            if loads(case.model):
                refused.append(f"{case.name}: {error}")
            continue
        assert import_proto(result.proto).repairs == (), case.name
    assert not refused
    assert len(cases) > 1000
