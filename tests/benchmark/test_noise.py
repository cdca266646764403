"""What disturbed a measurement, from invented counters of the system."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from bench_results import latency

from accelc.benchmark import noise
from accelc.benchmark.noise import Sample, Watch, megahertz, sample, sentences

HZ = os.sysconf("SC_CLK_TCK")


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def process(number: int, parent: int, seconds: float, ended: float = 0.0, name: str = "python") -> str:
    times = f"{round(seconds * HZ)} 0 0 {round(ended * HZ)}"
    return f"{number} ({name}) S {parent} 1 1 0 -1 0 0 0 0 0 {times} 20 0 1 0 100 1 1"


def counters(user: float, steal: float = 0.0, idle: float = 0.0) -> str:
    ticks = [round(each * HZ) for each in (user, 0, 0, idle, 0, 0, 0, steal)]
    return "cpu  " + " ".join(map(str, ticks)) + " 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"


def watched(begin: Sample, **later: float) -> Watch:
    watch = Watch(usable=2)
    watch.begin, watch.end = begin, replace(begin, at=begin.at + 10, **later)
    return watch


BEGIN = Sample(at=100.0, busy=50.0, stolen=1.0, own=20.0, throttled=3.0, load=0.5)


def test_own_time_counts_descendants_and_nobody_else(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/stat": process(10, 1, 1.0, ended=2.0),
            "proc/10/stat": process(10, 1, 1.0, ended=2.0),
            "proc/12/stat": process(12, 11, 4.0),
            "proc/11/stat": process(11, 10, 8.0, ended=16.0, name="a (b) c"),
            "proc/13/stat": process(13, 1, 100.0),
            "proc/stat": counters(7.0, steal=2.0, idle=99.0),
        },
    )
    found = sample(tmp_path)
    assert found.own == pytest.approx(31.0)
    assert (found.busy, found.stolen) == (7.0, 2.0)


def test_other_processes_are_named_and_own_work_is_not() -> None:
    assert watched(BEGIN, busy=70.0, own=40.0).causes() == ()
    (said,) = watched(BEGIN, busy=64.0, own=20.0, load=3.25).causes()
    assert said == "other processes kept 1.4 of 2 processor(s) busy (load average 3.2)"


def test_host_and_limits_are_named() -> None:
    said = watched(BEGIN, stolen=2.0, throttled=5.5).causes()
    assert said == (
        "the host gave 5 % of the processors' time to others (steal)",
        "the processor limit of the control group stopped it 25 % of the time",
    )


def test_load_average_where_nothing_else_is_told() -> None:
    assert watched(Sample(at=0.0), load=1.0).causes() == ()
    (said,) = watched(Sample(at=0.0), load=9.0).causes()
    assert "load average 9.0" in said


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    found = sample(tmp_path)
    assert found == Sample(at=found.at)
    with Watch(tmp_path) as watch:
        pass
    assert watch.causes() == ()


@pytest.mark.parametrize(
    ("member", "folder", "text"),
    [
        ("0::/jobs/one\n", "sys/fs/cgroup/jobs/one", "usage_usec 5\nnr_throttled 2\nthrottled_usec 1500000\n"),
        ("0::/elsewhere\n", "sys/fs/cgroup", "usage_usec 5\nthrottled_usec 1500000\n"),
        ("4:memory:/m\n3:cpu,cpuacct:/x\n", "sys/fs/cgroup/cpu,cpuacct/x", "nr_periods 9\nthrottled_time 1500000000\n"),
    ],
)
def test_limits_of_both_kinds_of_control_groups(tmp_path: Path, member: str, folder: str, text: str) -> None:
    write(tmp_path, {"proc/self/cgroup": member, f"{folder}/cpu.stat": text})
    assert sample(tmp_path).throttled == pytest.approx(1.5)


def test_frequency_is_that_of_the_fastest_processor(tmp_path: Path) -> None:
    write(tmp_path, {"proc/cpuinfo": "processor\t: 0\ncpu MHz\t\t: 1200.5\n\nprocessor\t: 1\ncpu MHz\t\t: 2400.0\n"})
    assert megahertz(tmp_path) == 2400.0
    write(tmp_path, {"sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "3100000\n"})
    assert megahertz(tmp_path) == 3100.0


def test_frequency_that_moves_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"proc/cpuinfo": "cpu MHz : 3200\n"})
    with Watch(tmp_path) as steady:
        pass
    with Watch(tmp_path) as watch:
        write(tmp_path, {"proc/cpuinfo": "cpu MHz : 1800\n"})
    assert steady.causes() == ()
    assert watch.causes() == ("the processors ran at 1.8 to 3.2 GHz",)


def test_it_is_sampled_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_EVERY_S", 0.001)
    values, done = iter((3000.0, 1500.0)), threading.Event()

    def look(root: Path) -> float:
        value = next(values, None)
        if value is None:
            done.set()
        return value or 3000.0

    monkeypatch.setattr(noise, "megahertz", look)
    with Watch(tmp_path) as watch:
        assert done.wait(60)
    assert watch.causes() == ("the processors ran at 1.5 to 3.0 GHz",)


def test_threads_and_rounds_are_told() -> None:
    quiet = watched(BEGIN)
    assert sentences(quiet, [latency(spread=0.001)], [None, 1, 2]) == ()
    said = sentences(quiet, [latency(spread=0.001), latency(spread=0.2), latency(loads=1)], [None, 4])
    assert said[0] == "4 threads ran on 2 processor(s)"
    assert "scatter by up to" in said[1]
    assert "one load only" in said[2]
    assert len(said) == 3


def test_here() -> None:
    with Watch() as watch:
        pass
    assert isinstance(watch.causes(), tuple)
    assert watch.usable >= 1
