"""Settings for all tests."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

collect_ignore = ["plugin_example"]
"""A package of its own; tests/plugins installs it and runs its tests."""

settings.register_profile("accelc", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("accelc")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs so, and the processes that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
