"""The command `accelc`. Nothing heavy is imported before a command runs, so that `--help` answers at once."""

from __future__ import annotations

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
