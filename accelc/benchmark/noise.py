"""What disturbed a measurement, as far as the system tells: other processes, the host, limits, frequencies."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from accelc.benchmark.results import Latency
from accelc.target import usable_processors

_EVERY_S = 1.0
_MOST_READ = 16
_OTHERS, _STEAL, _THROTTLED, _FREQUENCY = 0.1, 0.01, 0.01, 0.1
_SPREAD = 0.1


@dataclass(frozen=True)
class Sample:
    """The machine's counters; None where the system does not tell.

    at, busy, stolen, own, throttled: seconds since some moment. busy, stolen: of all processors together, what was
    worked and what the host gave to others. own: of this process and its children, ended ones included. throttled: how
    long a limit of the control group stopped it. load: of the last minute.
    """

    at: float
    busy: float | None = None
    stolen: float | None = None
    own: float | None = None
    throttled: float | None = None
    load: float | None = None


class Watch:
    """Watches the machine while something is measured in it (a context manager).

    root: where proc and sys are found. usable: processors that this process may use.
    """

    def __init__(self, root: Path = Path("/"), usable: int | None = None) -> None:
        self.root, self.usable = root, usable or usable_processors()
        self.begin: Sample | None = None
        self.end: Sample | None = None
        self._megahertz: list[float] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Watch:
        self.begin = sample(self.root)
        if self._look():
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._look()
        self.end = sample(self.root)

    def causes(self) -> tuple[str, ...]:
        """A sentence for everything that disturbed it enough to matter."""
        if self.begin is None or self.end is None:
            return ()
        return tuple(filter(None, (*_changes(self.begin, self.end, self.usable), _frequency(self._megahertz))))

    def _sample(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self._look()

    def _look(self) -> bool:
        found = megahertz(self.root)
        if found is not None:
            self._megahertz.append(found)
        return found is not None


def sentences(watch: Watch, latencies: Iterable[Latency], threads: Iterable[int | None] = ()) -> tuple[str, ...]:
    """What a reader must know about the noise of a measurement, its causes first.

    latencies: what was found. threads: what the models were run with.
    """
    most = max((each for each in threads if each is not None), default=0)
    crowded = f"{most} threads ran on {watch.usable} processor(s)" if most > watch.usable else ""
    return tuple(filter(None, (*watch.causes(), crowded, *_rounds(list(latencies)))))


def sample(root: Path = Path("/")) -> Sample:
    """The counters now."""
    busy, stolen = _processors(root)
    return Sample(time.monotonic(), busy, stolen, _own(root), _throttled(root), _load(root))


def megahertz(root: Path = Path("/")) -> float | None:
    """The frequency of the fastest processor now, as idle ones may be slow; None where the system does not tell."""
    folders = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))[:_MOST_READ]
    values = [float(text) / 1000 for each in folders if (text := _read(each / "scaling_cur_freq"))]
    if not values:
        lines = _read(root / "proc/cpuinfo").splitlines()
        values = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return max(values, default=None)


def _changes(begin: Sample, end: Sample, usable: int) -> list[str]:
    elapsed = max(end.at - begin.at, 1e-9)

    def rate(first: float | None, last: float | None) -> float:
        return 0.0 if first is None or last is None else (last - first) / elapsed

    found = []
    load = "" if end.load is None else f" (load average {end.load:.1f})"
    if begin.busy is not None and begin.own is not None:
        others = rate(begin.busy, end.busy) - rate(begin.own, end.own)
        if others > _OTHERS:
            found.append(f"other processes kept {others:.1f} of {usable} processor(s) busy{load}")
    elif end.load is not None and end.load > usable + 1:
        found.append(f"more was running than {usable} processor(s) can do{load}")
    stolen = rate(begin.stolen, end.stolen) / usable
    if stolen > _STEAL:
        found.append(f"the host gave {100 * stolen:.0f} % of the processors' time to others (steal)")
    throttled = rate(begin.throttled, end.throttled)
    if throttled > _THROTTLED:
        found.append(f"the processor limit of the control group stopped it {100 * throttled:.0f} % of the time")
    return found


def _frequency(seen: Sequence[float]) -> str:
    if not seen or max(seen) - min(seen) <= _FREQUENCY * max(seen):
        return ""
    return f"the processors ran at {min(seen) / 1000:.1f} to {max(seen) / 1000:.1f} GHz"


def _rounds(latencies: Sequence[Latency]) -> list[str]:
    found = []
    spread = max((each.spread for each in latencies), default=0.0)
    if spread > _SPREAD:
        found.append(f"rounds of one model scatter by up to {100 * spread:.0f} %")
    if any(each.loads == 1 for each in latencies):
        found.append("there was time for one load only: the intervals leave out what differs from load to load")
    return found


def _processors(root: Path) -> tuple[float | None, float | None]:
    """Seconds that all processors were busy, and that the host gave to others."""
    head = _read(root / "proc/stat").partition("\n")[0].split()
    if len(head) < 9 or head[0] != "cpu":
        return None, None
    user, nice, system, _, _, interrupts, soft, stolen = (int(each) / _ticks() for each in head[1:9])
    return user + nice + system + interrupts + soft, stolen


def _own(root: Path) -> float | None:
    """Seconds of this process, its descendants, and those of them that ended."""
    me = _process(root / "proc/self/stat")
    if me is None:
        return None
    known = [each for path in (root / "proc").glob("[0-9]*/stat") if (each := _process(path)) is not None]
    family, total = {me[0]}, me[2]
    while grown := [each for each in known if each[1] in family and each[0] not in family]:
        family |= {each[0] for each in grown}
        total += sum(each[2] for each in grown)
    return total


def _process(path: Path) -> tuple[int, int, float] | None:
    """A process: its number, its parent's, and the seconds of it and its ended children."""
    text = _read(path)
    if not text:
        return None
    # The name stands in brackets and may hold blanks and brackets.
    fields = text.rpartition(")")[2].split()
    return int(text.partition(" ")[0]), int(fields[1]), sum(int(each) for each in fields[11:15]) / _ticks()


def _throttled(root: Path) -> float | None:
    """Seconds that a processor limit of the control group, of either version, stopped it."""
    folders = [root / "sys/fs/cgroup"]
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            folders.insert(0, root / "sys/fs/cgroup" / controllers / path.strip("/"))
    for folder in folders:
        pairs = dict(line.split() for line in _read(folder / "cpu.stat").splitlines())
        for name, unit in (("throttled_usec", 1e-6), ("throttled_time", 1e-9)):
            if name in pairs:
                return int(pairs[name]) * unit
    return None


def _load(root: Path) -> float | None:
    text = _read(root / "proc/loadavg")
    if text:
        return float(text.split()[0])
    return os.getloadavg()[0] if root == Path("/") and hasattr(os, "getloadavg") else None


def _ticks() -> int:
    return os.sysconf("SC_CLK_TCK")


def _read(path: Path) -> str:
    """The text of a file, empty where there is none; a process may end while it is read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
