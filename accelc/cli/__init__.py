"""The command `accelc`. Nothing heavy is imported before a command runs, so that `--help` answers at once."""

from __future__ import annotations

import os
import sys
import warnings
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line of this process and exit with its code (docs/cli.md lists them)."""
    try:
        from accelc.cli.app import program

        if not sys.warnoptions:
            warnings.simplefilter("ignore")  # of libraries, to their developers
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        program.main(prog_name="accelc")
    except KeyboardInterrupt:  # so early that nothing has begun
        sys.exit(130)
    except SystemExit as end:
        if end.code not in (None, 0):
            raise
        _leave()
    raise AssertionError("a command ends by exiting")


def _leave() -> NoReturn:
    """End the process at once: taking a large graph apart piece by piece would take seconds for nothing."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        sys.exit(0)  # the usual way reports what went wrong with the streams
    os._exit(0)
