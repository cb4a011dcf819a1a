"""Folders of numbered pictures and animated pictures as films like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from media import clock_frames, read_clock, write_clips
from PIL import Image

from vidiff.data.clips import fixed_windows, read_clip
from vidiff.data.index import Index, index_clips, scan
from vidiff.data.pictures import hash_film, numbered
from vidiff.data.verdict import DataConfig
from vidiff.data.video import probe, read_frames


def write_pictures(folder: Path, frames: np.ndarray, name: str = "frame{}.png") -> Path:
    folder.mkdir(parents=True)
    for k, image in enumerate(frames):
        Image.fromarray(image).save(folder / name.format(k + 8))
    return folder


def write_animation(path: Path, frames: np.ndarray, lasting: list[int]) -> Path:
    images = [Image.fromarray(image) for image in frames]
    options = {"lossless": True} if path.suffix == ".webp" else {}
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=lasting, loop=0, **options
    )
    return path


def look(root: Path, **keys: object) -> Index:
    return scan(DataConfig(root=str(root), num_frames=8, cuts=False, **keys))


def test_a_folder_of_numbered_pictures_is_one_film_in_the_order_of_its_numbers(
    tmp_path: Path,
) -> None:
    write_pictures(tmp_path / "walks" / "one", clock_frames(20))
    (tmp_path / "walks" / "one" / "notes.md").write_text("-")
    (tmp_path / "walks" / "one.txt").write_text("a walk")
    index = look(tmp_path)
    (entry,) = index.entries
    assert (entry.path, entry.label, entry.caption) == ("walks/one", "walks", "a walk")
    assert (entry.frames, entry.fps, entry.windows) == (20, 8.0, 13)
    assert index.ignored == 2
    frames = read_frames(tmp_path / "walks" / "one", [0.06, 1.3, 2.44])
    assert read_clock(frames) == [0, 10, 19]
    whole = look(tmp_path, size=32, held_out=0.0)
    clips = [read_clip(whole, w) for w in fixed_windows(whole, 4)]
    assert all(clip.dt == pytest.approx(1 / 8) for clip in clips)
    assert clips[0].frames.shape == (8, 32, 32, 3)


def test_a_folder_tells_its_rate_in_a_file(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "film", clock_frames(20), "{}.jpg")
    before = hash_film(folder)
    (folder / "fps.txt").write_text("24\n")
    assert probe(folder).fps == pytest.approx(24)
    assert hash_film(folder) != before
    (folder / "fps.txt").write_text("fast")
    (entry,) = look(tmp_path).entries
    assert "fast" in entry.reason


@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_an_animation_is_read_by_its_own_times(tmp_path: Path, suffix: str) -> None:
    lasting = [40, 120, 80, 200] * 5
    path = write_animation(tmp_path / f"film{suffix}", clock_frames(20), lasting)
    Image.fromarray(clock_frames(1)[0]).save(tmp_path / f"still{suffix}")
    index = look(tmp_path)
    (entry,) = index.entries
    assert (entry.path, entry.frames, entry.vfr) == (path.name, 20, True)
    assert entry.duration == pytest.approx(2.2)
    assert index.ignored == 1
    starts = np.concatenate([[0], np.cumsum(lasting)[:-1]]) / 1000
    assert read_clock(read_frames(path, starts + 0.02)) == list(range(20))


def test_pictures_that_make_no_film_are_left_alone(tmp_path: Path) -> None:
    assert numbered(["a1.png", "a2.png", "a10.png"]) == ["a1.png", "a2.png", "a10.png"]
    assert numbered(["a1.png"]) == numbered(["a.png", "b.png"]) == []
    assert numbered(["a1.png", "a2.jpg"]) == []
    write_clips(tmp_path / "clips", 1)
    for k in range(3):
        Image.fromarray(clock_frames(1)[0]).save(tmp_path / "clips" / f"thumb{k}.png")
    index = look(tmp_path)
    assert ([e.path for e in index.entries], index.ignored) == (["clips/clip0000.mp4"], 3)


def test_bad_pictures_refuse_their_film_with_the_reason(tmp_path: Path) -> None:
    mixed = write_pictures(tmp_path / "mixed", clock_frames(12))
    Image.fromarray(clock_frames(1, (32, 32))[0]).save(mixed / "frame99.png")
    broken = write_pictures(tmp_path / "broken", clock_frames(12))
    (broken / "frame12.png").write_bytes((broken / "frame12.png").read_bytes()[:60])
    outside = write_pictures(tmp_path.parent / "outside", clock_frames(2))
    linked = tmp_path / "linked"
    linked.mkdir()
    for picture in outside.iterdir():
        (linked / picture.name).symlink_to(picture)
    write_pictures(tmp_path / "good", clock_frames(12))
    reasons = {e.path: e.reason for e in look(tmp_path).entries}
    assert "pictures of 2 sizes" in reasons["mixed"]
    assert "cannot be read as a folder of pictures" in reasons["broken"]
    assert reasons["good"] == ""
    assert "linked" not in reasons


def test_a_changed_picture_is_seen_by_the_next_scan(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "film", clock_frames(12))
    before = index_clips(tmp_path, num_frames=8).entries[0].sha256
    Image.fromarray(255 - clock_frames(1)[0]).save(folder / "frame9.png")
    assert index_clips(tmp_path, num_frames=8).entries[0].sha256 != before
