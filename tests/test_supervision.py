"""Helpers that die, hang, raise or eat memory: each item gets its answer, nothing is left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest

from vidiff.data import supervision
from vidiff.data.supervision import Death, supervise
from vidiff.errors import VidiffError


def work(item: str) -> str | int:
    """What an item's name says."""
    if item == "abort":
        os.abort()
    if item == "hang":
        while True:
            pass
    if item == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if item == "eat":
        return len(bytes(2**31))
    if item == "raise":
        raise LookupError("no such frame\nsecond line")
    if item == "who":
        return os.getpid()
    return item.upper()


def die_once(folder: Path, item: str) -> str:
    """Ends its process the first time an item is met."""
    mark = folder / item
    if item.startswith("d") and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def answers(*items: str, workers: int = 2, seconds: float = 60) -> dict[str, object]:
    return dict(supervise(work, items, workers, seconds, 800))


def test_every_item_gets_its_result() -> None:
    names = [f"item{k}" for k in range(40)]
    assert answers(*names) == {name: name.upper() for name in names}
    assert answers() == {}


@pytest.mark.parametrize(
    ("item", "word"),
    [("abort", "SIGABRT"), ("eat", "MemoryError"), ("raise", "LookupError: no such frame.")],
)
def test_a_death_is_told_and_the_others_are_done(item: str, word: str) -> None:
    found = answers("a", item, "b", "c")
    death = found.pop(item)
    assert isinstance(death, Death)
    assert word in death.reason
    assert found == {"a": "A", "b": "B", "c": "C"}


@pytest.mark.parametrize("item", ["hang", "stop"])
def test_an_endless_item_is_ended_at_its_limit(item: str) -> None:
    found = answers("a", item, "b", seconds=1.0)
    assert found == {"a": "A", item: Death("It gave no answer within 1 s."), "b": "B"}


def test_an_item_is_not_blamed_for_a_death_that_does_not_repeat(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d1", "d2", "e"]
    found = dict(supervise(partial(die_once, tmp_path), names, 1, 60, 800))
    assert found == {name: name for name in names} | {"d2": found["d2"]}


def test_helpers_are_used_again_and_end_with_their_caller() -> None:
    first, second = answers("who"), answers("who")
    assert first == second
    pid = int(str(first["who"]))
    assert psutil.pid_exists(pid)
    supervision.dismiss()
    assert not psutil.pid_exists(pid)


def test_a_caller_that_stops_early_leaves_no_busy_helper() -> None:
    running = supervise(work, ["a", "hang", "hang"], 2, 60, 800)
    assert next(running) == ("a", "A")
    before = {p.pid for p in psutil.Process().children()}
    running.close()
    idle = {helper.process.pid for helper in supervision._resting}
    assert {p.pid for p in psutil.Process().children()} <= idle
    assert before - idle


def test_items_are_taken_as_helpers_become_free() -> None:
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield f"n{len(taken)}"

    running = supervise(work, endless(), 2, 60, 800)
    for _ in range(5):
        next(running)
    running.close()
    assert len(taken) <= 8


def test_a_killed_caller_leaves_no_helper(tmp_path: Path) -> None:
    script = tmp_path / "caller.py"
    # Without `if __name__ == "__main__"`, as people write scripts.
    script.write_text(
        "from test_supervision import work\n"
        "from vidiff.data.supervision import supervise\n"
        "for _, pid in supervise(work, ['who', 'hang'], 1, 2, 800):\n"
        "    print(pid, flush=True)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    caller = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert caller.stdout is not None
    helper = psutil.Process(int(caller.stdout.readline()))
    caller.kill()
    caller.wait()
    caller.stdout.close()
    helper.wait(timeout=60)


def test_helpers_that_never_start_are_our_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    supervision.dismiss()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(VidiffError, match=r"could not be started.*exit code 1"):
        answers("a")
