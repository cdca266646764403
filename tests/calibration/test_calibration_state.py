"""Calibration files: saved, loaded, merged, and used for the graph that they were made for."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from accelc import ir
from accelc.calibration import Calibration, Observe
from accelc.calibration.collect import statistics_of
from accelc.calibration.graph import fingerprint
from accelc.calibration.job import merged
from accelc.calibration.observers import Seen
from accelc.calibration.state import Shard, State
from accelc.errors import UsageError
from accelc.runner import Runner

TEXT = "(float[N, 4] x) => (float[N, 4] y) { a = Relu(x) y = Neg(a) }"


def state(samples: range, shard: Shard, mark: str = "m", name: str = "a", **wishes: object) -> State:
    seen = Seen(**{"histogram": True, "rows": 3, "channels": 1, "gram": True, **wishes})  # type: ignore[arg-type]
    for sample in samples:
        seen.add(np.random.default_rng(sample).standard_normal((3, 4)).astype(np.float32), sample)
    return State(mark, "a model", [shard], {name: seen}, f"{shard.index}.cal")


def same(one: State, two: State) -> bool:
    states = [each.seen["a"].state() for each in (one, two)]
    return states[0].keys() == states[1].keys() and all(
        np.allclose(states[0][name], states[1][name]) if isinstance(states[0][name], np.ndarray) else True
        for name in states[0]
    )


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    before = state(range(4), Shard("src", done=4, complete=True))
    before.save(tmp_path / "all.cal")
    after = State.load(tmp_path / "all.cal")
    assert (after.fingerprint, after.model, after.shards) == ("m", "a model", [Shard("src", 1, 1, 4, True)])
    assert after.seen["a"].wish == Observe(True, 1, 3, True)
    assert same(before, after)
    assert after.label.endswith("all.cal")
    assert [each.name for each in tmp_path.iterdir()] == ["all.cal"]


def test_shards_merge_to_the_whole_in_any_order() -> None:
    parts = [state(range(i, 12, 3), Shard("src", i + 1, 3, 4, True)) for i in range(3)]
    whole = state(range(12), Shard("src", done=12, complete=True))
    for order in ([0, 1, 2], [2, 0, 1]):
        total = merged([parts[i] for i in order])
        assert same(total, whole)
        assert [str(each) for each in total.shards] == [f"4 samples of src, shard {i}/3" for i in (1, 2, 3)]
    assert parts[0].seen["a"].feeds == 4


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (state(range(2), Shard("src", 2, 2, 2), mark="n"), "2.cal: was made for another graph"),
        (state(range(2), Shard("src", 1, 2, 2)), "1.cal: 2 samples of src, shard 1/2, not complete would be counted"),
        (state(range(2), Shard("src", 3, 4, 2)), "3.cal: .*shard 3/4, not complete would be counted twice"),
        (state(range(2), Shard("src", 2, 2, 2), name="b"), "2.cal: is of other tensors"),
        (state(range(2), Shard("src", 2, 2, 2), rows=1), "2.cal: does not fit: not the same is kept"),
    ],
)
def test_what_cannot_be_merged(other: State, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        merged([state(range(2), Shard("src", 1, 2, 2)), other])


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06", b"no such thing", None])
def test_files_that_are_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.cal"
    if content is None:
        with open(path, "wb") as file:
            np.savez(file, other=np.ones(3))
    else:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"bad\.cal: is no calibration file"):
        State.load(path)


def test_files_that_are_missing_or_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        State.load(tmp_path / "none.cal")
    with pytest.raises(UsageError, match="cannot write: No such file"):
        state(range(1), Shard("src")).save(tmp_path / "no" / "a.cal")


def test_known_ranges_serve_their_own_graph_only() -> None:
    model = ir.parse(TEXT)
    known = state(range(3), Shard("src", done=3, complete=True), fingerprint(model))

    def runner() -> object:
        raise AssertionError("nothing is to be run")

    calibration = Calibration(None, runner, known=known)  # type: ignore[arg-type]
    found = calibration.statistics(model, {"a": Observe(histogram=True), "y": Observe()})
    assert found["a"].low == known.seen["a"].low
    assert set(found) == {"a"}
    assert "hold less about y than was asked for" in calibration.notes[0]
    other = ir.parse(TEXT.replace("Relu", "Abs"))
    assert calibration.statistics(other, {"a": Observe()}) == {}
    assert any("another graph" in note for note in calibration.notes)
    with pytest.raises(UsageError, match=r"1\.cal: the ranges were made for another graph"):
        Calibration(None, runner, known=known).statistics(other, {"a": Observe()})  # type: ignore[arg-type]


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "a.cal"
    state(range(4), Shard("src", done=4, complete=True)).save(path)
    raw = path.read_bytes()
    for begin in range(0, len(raw), 97):
        path.write_bytes(raw[:begin] + bytes(60) + raw[begin + 60 :])
        with suppress(UsageError):  # what lies between the members of the archive is not read
            State.load(path)


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write: Not a directory"):
        state(range(1), Shard("src")).save(tmp_path / "file" / "a.cal")


def test_statistics_of_other_graphs_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelc.calibration.collect._KEPT_BYTES", 0)
    calibration = Calibration(None, Runner)
    found = statistics_of(state(range(2), Shard("src")).seen["a"])
    for mark in ("mine", "other", "mine"):
        calibration._keep(mark, "a", Observe(), found)
    assert list(calibration._kept) == [("mine", "a")]
