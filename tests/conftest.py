"""Settings for all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

collect_ignore = ["plugin_example"]
"""A package of its own; tests/plugins installs it and runs its tests."""

settings.register_profile("accelc", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("accelc")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs so, and the processes that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is read from or written into the user's cache, by child processes neither."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
