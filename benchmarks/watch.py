"""Run a command and print its exit status and most memory: `python watch.py LIMIT COMMAND...`.

A process starts with the memory of the one that started it on its account, so this one imports next to nothing.
"""

import os
import subprocess
import sys
import time

_UNIT = 1 if sys.platform == "darwin" else 1024


def watch(limit: float, command: list[str]) -> tuple[int | None, int | None]:
    """Exit status, None where the command was ended after `limit` seconds; bytes that the largest of its processes held
    resident at most, None where this system does not tell.
    """
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    if not hasattr(os, "wait4"):
        try:
            return child.wait(limit), None
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            return None, None
    end = time.monotonic() + limit
    late = False
    while True:
        pid, status, usage = os.wait4(child.pid, 0 if late else os.WNOHANG)
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return None if late else child.returncode, usage.ru_maxrss * _UNIT
        if time.monotonic() > end:
            child.kill()
            late = True
        time.sleep(0.01)


if __name__ == "__main__":
    print(*watch(float(sys.argv[1]), sys.argv[2:]))
