"""Plugins that one test loads are unknown to the next."""

from __future__ import annotations

import pytest

from accelc import plugins


@pytest.fixture(autouse=True)
def _own_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_loaded", {"pass": {}, "backend": {}})
