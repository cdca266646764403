"""What tests of passes share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from accelc.runner import Runner


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as one:
        yield one


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test does not find what another one measured."""
    monkeypatch.setenv("ACCELC_CACHE", str(tmp_path))
