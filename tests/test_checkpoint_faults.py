from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from disks import file_size_limit, flip, leftovers, publish, seed_inside
from safetensors.torch import save_file
from torch import Tensor

from vidiff.errors import RequestError, VidiffError
from vidiff.runs import checkpoint, files
from vidiff.runs.checkpoint import latest, load, save

NAMES = ["model.safetensors", "ema.safetensors", "optim.safetensors", "state.json", "manifest.json"]


@pytest.mark.parametrize("name", NAMES)
def test_one_flipped_byte_is_found_and_the_previous_checkpoint_chosen(
    tmp_path: Path, name: str
) -> None:
    old, new = publish(tmp_path, 1, keep=2), publish(tmp_path, 2, keep=2)
    whole = (new / name).read_bytes()
    step = 1 if name.endswith("json") else 37
    for position in range(0, len(whole), step):
        flip(new / name, position)
        found = latest(tmp_path)
        assert found is not None
        assert found[0] == old, position
        assert name in found[1][0] or name == "manifest.json"
        with pytest.raises(VidiffError, match="damaged"):
            load(new)
        (new / name).write_bytes(whole)
    assert latest(tmp_path) == (new, [])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["missing", "empty", "cut", "longer", "folder"])
def test_a_missing_or_cut_file_is_found(tmp_path: Path, name: str, how: str) -> None:
    old, new = publish(tmp_path, 1, keep=2), publish(tmp_path, 2, keep=2)
    whole = (new / name).read_bytes()
    (new / name).unlink()
    if how == "folder":
        (new / name).mkdir()
    elif how != "missing":
        (new / name).write_bytes({"empty": b"", "cut": whole[:-1], "longer": whole + b" "}[how])
    found = latest(tmp_path)
    assert found is not None
    assert found[0] == old
    assert str(new) in found[1][0]


def test_when_all_checkpoints_are_damaged_the_run_does_not_start_anew(tmp_path: Path) -> None:
    flip(publish(tmp_path, 1) / "model.safetensors", 300)
    with pytest.raises(VidiffError, match=r"model\.safetensors is not what was written") as caught:
        latest(tmp_path)
    assert "Restore" in caught.value.remedy


def test_files_swapped_between_checkpoints_are_found(tmp_path: Path) -> None:
    old, new = publish(tmp_path, 1, keep=2), publish(tmp_path, 2, keep=2)
    shutil.copy(old / "model.safetensors", new / "model.safetensors")
    found = latest(tmp_path)
    assert found is not None
    assert found[0] == old


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {os.environ['VIDIFF_BOMB']}",)


@pytest.fixture
def bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[bytes]:
    """A pickle that leaves a file when it is read; the test fails if the file is there."""
    trace = tmp_path / "executed"
    monkeypatch.setenv("VIDIFF_BOMB", str(trace))
    data = pickle.dumps(Bomb())
    pickle.loads(data)
    assert trace.exists()
    trace.unlink()
    yield data
    assert not trace.exists()


def _manifest_for(path: Path) -> None:
    entries = {
        file.name: {"bytes": file.stat().st_size, "sha256": files.hash_file(file)}
        for file in path.iterdir()
        if file.name != "manifest.json"
    }
    text = json.dumps({"format": 1, "files": entries}, indent=1, sort_keys=True)
    (path / "manifest.json").write_text(text)


@pytest.mark.parametrize("name", NAMES)
def test_a_pickle_under_any_name_is_not_executed(tmp_path: Path, bomb: bytes, name: str) -> None:
    folder = tmp_path / "checkpoints"
    path = publish(folder, 1)
    (path / name).write_bytes(bomb)
    with pytest.raises(VidiffError):
        load(path)
    if name != "manifest.json":
        _manifest_for(path)
        with pytest.raises(VidiffError, match="step-00000001"):
            load(path)


@pytest.mark.parametrize("name", ["optim.bin", "custom_checkpoint_0.pkl", "random_states_0.pt"])
def test_a_manifest_that_names_a_pickle_is_refused(tmp_path: Path, bomb: bytes, name: str) -> None:
    path = publish(tmp_path / "checkpoints", 1)
    (path / name).write_bytes(bomb)
    assert load(path)[1]["seed"] == 1
    _manifest_for(path)
    with pytest.raises(VidiffError, match="not a manifest"):
        load(path)


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".ckpt", ".pth", ".pkl", ".PT"])
def test_pickle_files_are_refused_in_a_clear_sentence(
    tmp_path: Path, bomb: bytes, suffix: str
) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(bomb)
    with pytest.raises(RequestError, match="foreign code"):
        load(path)


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a\0b", "x" * 300, "state.json/x"])
def test_a_manifest_cannot_point_out_of_its_folder(tmp_path: Path, name: str) -> None:
    path = publish(tmp_path, 1)
    content = json.loads((path / "manifest.json").read_text())
    content["files"][name] = {"bytes": 1, "sha256": ""}
    (path / "manifest.json").write_text(json.dumps(content, indent=1, sort_keys=True))
    with pytest.raises(VidiffError, match="not a manifest"):
        load(path)


@pytest.mark.parametrize("text", ["[" * 100_000, "{}", '{"files": 3}', "null", "\xff", "9" * 9999])
def test_a_nonsense_manifest_is_only_damage(tmp_path: Path, text: str) -> None:
    path = publish(tmp_path, 1)
    (path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(VidiffError, match="manifest"):
        load(path)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VidiffError, match="manifest"):
        load(tmp_path)
    with pytest.raises(RequestError, match="not a checkpoint folder"):
        load(tmp_path / "nowhere")


def test_too_little_space_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = publish(tmp_path, 1)
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=500))
    with pytest.raises(VidiffError, match="500 bytes is free") as caught:
        publish(tmp_path, 2)
    assert "Free some space" in caught.value.remedy
    assert latest(tmp_path) == (old, [])
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("limit", [0, 10, 300, 600, 1000])
def test_writes_that_fail_half_way_leave_the_older_checkpoint(tmp_path: Path, limit: int) -> None:
    old = publish(tmp_path, 1)
    large = {"model": {"w": torch.zeros(100_000)}}
    with file_size_limit(limit), pytest.raises(VidiffError, match="step-00000002 could not"):
        save(tmp_path, 2, large, {}, keep=1)
    assert latest(tmp_path) == (old, [])
    assert os.listdir(tmp_path) == ["step-00000001"]


CALLS = ["mkdir", "open", "fsync", "rename", "replace", "unlink", "rmdir", "write", "close"]


class Faults:
    """Counts file-system calls and breaks the n-th; after a death every later call fails too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, n: int, death: bool) -> None:
        self.left, self.death, self.dead = n, death, False
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrap(getattr(os, name)))
        monkeypatch.setattr(checkpoint, "save_file", self._wrap(save_file, _half))
        monkeypatch.setattr(Path, "write_text", self._wrap(Path.write_text, _half_text))
        monkeypatch.setattr(Path, "write_bytes", self._wrap(Path.write_bytes, _half_text))

    @property
    def struck(self) -> bool:
        return self.left < 0

    def _wrap(
        self, real: Callable[..., Any], half: Callable[..., None] | None = None
    ) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left == -1 or (self.struck and self.death):
                if half and self.left == -1:
                    half(*args)
                raise OSError(errno.EIO, "injected")
            return real(*args, **kwargs)

        return call


def _half(tensors: dict[str, Tensor], path: Path) -> None:
    with open(path, "wb") as file:
        file.write(b"\x10\0\0\0half")


def _half_text(path: Path, data: str | bytes) -> None:
    with open(path, "wb") as file:
        file.write((data if isinstance(data, bytes) else data.encode())[: len(data) // 2])


@pytest.mark.parametrize("death", [False, True], ids=["an error", "death"])
@pytest.mark.parametrize("again", [False, True], ids=["a new step", "the same step"])
def test_a_save_broken_at_any_system_call_leaves_the_old_or_the_new(
    tmp_path: Path, death: bool, again: bool
) -> None:
    outcomes, causes = [], []
    for n in range(200):
        folder = tmp_path / str(n)
        publish(folder, 1)
        step = 1 if again else 2
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, n, death)
            try:
                publish(folder, step, seed=2)
            except VidiffError as error:
                causes.append(error.cause)
        if not faults.struck:
            break
        found = latest(folder)
        assert found is not None
        outcomes.append(seed_inside(found[0]))
        publish(folder, 3)
        assert os.listdir(folder) == ["step-00000003"]
    assert len(outcomes) > 20
    assert all("could not be written: injected" in cause for cause in causes)
    assert not death or outcomes == sorted(outcomes)
    assert set(outcomes) == {1, 2}


KILLS = """
import os, random, sys, time, torch
from pathlib import Path
from vidiff.runs.checkpoint import latest, load, save

folder, kills = Path(sys.argv[1]), int(sys.argv[2])

def save_for_ever(pipe):
    found = latest(folder)
    step = int(found[0].name[5:13]) if found else 0
    while True:
        step += 1
        flat = {"w": torch.full((100_000,), float(step))}
        os.write(pipe, b"(%d\\n" % step)
        save(folder, step, {"model": flat, "ema": flat, "optim": flat}, {}, keep=1)
        os.write(pipe, b")%d\\n" % step)

rng, inside = random.Random(0), 0
for _ in range(kills):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        save_for_ever(writing)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        lines = [pipe.readline() for _ in range(rng.randrange(2, 6))]
        time.sleep(rng.random() * 0.03)
        os.kill(child, 9)
        lines += pipe.readlines()
    os.waitpid(child, 0)
    inside += lines[-1].startswith("(")
    acknowledged = max(int(line[1:]) for line in lines if line.startswith(")"))
    tensors, state = load(latest(folder)[0])
    assert state["step"] >= acknowledged, (state, lines)
    for flat in tensors.values():
        assert torch.equal(flat["w"], torch.full((100_000,), float(state["step"])))
print(inside)
"""


def _kill_in_a_loop(folder: Path, kills: int) -> int:
    """Kill a saving process `kills` times; returns how many kills landed inside a save."""
    command = [sys.executable, "-W", "error", "-c", KILLS, str(folder), str(kills)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    save(folder, 10**6, {}, {}, keep=1)
    assert os.listdir(folder) == ["step-01000000"]
    return int(done.stdout)


def test_kill_9_while_saving_loses_nothing(tmp_path: Path) -> None:
    assert _kill_in_a_loop(tmp_path, 5) >= 1


@pytest.mark.slow
def test_kill_9_fifty_times_loses_nothing(tmp_path: Path) -> None:
    assert _kill_in_a_loop(tmp_path, 50) >= 15
