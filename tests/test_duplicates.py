"""Near duplicates planted among films of one world: found, and no others."""

from __future__ import annotations

import numpy as np
import pytest
from media import write_video

from vidiff.data.duplicates import find_pairs, group_films
from vidiff.data.index import index_clips, scan
from vidiff.data.survey import Traits, summarise
from vidiff.data.verdict import DataConfig


def scene(seed: int, num_frames: int = 30, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """Things that drift over a textured ground, as frames."""
    rng = np.random.default_rng(seed)
    h, w = size
    ground = rng.integers(0, 200, (h // 16, w // 16, 3), dtype=np.uint8)
    ground = ground.repeat(16, 0).repeat(16, 1)
    frames = np.repeat(ground[None], num_frames, axis=0)
    for _ in range(4):
        side, colour = rng.integers(10, 30), rng.integers(0, 255, 3)
        y, x = rng.uniform(0, 1, 2) * (h, w)
        dy, dx = rng.uniform(-3, 3, 2)
        for k in range(num_frames):
            top, left = int(y + k * dy) % (h - side), int(x + k * dx) % (w - side)
            frames[k, top : top + side, left : left + side] = colour
    return frames


def traits(frames: np.ndarray, first: float = 0.0) -> Traits:
    import cv2

    thumbs = np.stack([cv2.resize(f, (32, 32), interpolation=cv2.INTER_AREA) for f in frames])
    return summarise(thumbs, first + np.arange(len(frames)) / 10).traits


COPIES = {
    "mirrored": lambda f: f[:, :, ::-1],
    "cropped": lambda f: f[:, 10:88, 6:110],
    "square": lambda f: f[:, :, 16:112],
    "later": lambda f: f[9:],
    "shorter": lambda f: f[5:20],
    "darker": lambda f: (f * 0.7 + 5).astype(np.uint8),
    "all": lambda f: f[8:, 6:90, 9:120][:, :, ::-1],
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_found_among_others(kind: str) -> None:
    films = [scene(seed) for seed in range(12)]
    films.append(COPIES[kind](films[4]))
    (pair,) = find_pairs([traits(film) for film in films])
    assert {pair.whole, pair.part} == {4, 12}
    assert pair.mirrored == (kind in ("mirrored", "all"))


def test_the_alignment_of_a_crop_and_a_shift_is_found() -> None:
    film = scene(1)
    (pair,) = find_pairs([traits(film), traits(film[10:, 12:84, 16:112])])
    assert (pair.whole, pair.part) == (0, 1)
    assert pair.shift == pytest.approx(1.0, abs=0.3)
    assert np.abs(np.subtract(pair.box, (4, 4, 24, 24))).max() <= 1


def test_films_of_one_place_with_other_things_in_it_are_not_the_same() -> None:
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 200, (6, 8, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    films = []
    for seed in range(8):
        moving = scene(seed)
        still = moving[0]
        films.append(np.where(np.abs(moving.astype(int) - still) > 8, moving, ground))
    found = find_pairs([traits(film.astype(np.uint8)) for film in films])
    assert len(found) <= 1


def test_groups_are_what_is_connected() -> None:
    films = [traits(scene(seed)) for seed in (0, 1, 0, 2, 0)]
    assert group_films(5, find_pairs(films)) == [0, 1, 0, 3, 0]
    assert group_films(3, []) == [0, 1, 2]
    assert find_pairs([]) == []


def test_blank_films_are_not_each_others_copies() -> None:
    blank = [np.full((20, 96, 128, 3), grey, np.uint8) for grey in (0, 0, 255)]
    assert find_pairs([traits(film) for film in blank]) == []


def test_near_duplicates_stand_on_one_side_of_the_split(tmp_path) -> None:
    for seed in range(8):
        film = scene(seed)
        write_video(tmp_path / f"{seed}.mp4", film, 10)
        copy = film[:, 8:92, 8:120][:, ::2, ::2] if seed % 2 else film[6:, :, ::-1]
        write_video(tmp_path / f"{seed}-copy.mp4", copy, 10, options={"crf": "32"})
    for seed in range(3):
        index = scan(DataConfig(root=str(tmp_path), held_out=0.4), seed=seed)
        side = {e.path: e.split for e in index.entries}
        assert all(side[f"{k}.mp4"] == side[f"{k}-copy.mp4"] != "" for k in range(8))
        assert set(side.values()) == {"train", "test"}
    assert index.summary()["duplicates"] == 8
    assert index.summary()["groups"] == 8
    assert {e.resembles for e in index.entries if "copy" not in e.path} <= {
        "", *(f"{k}-copy.mp4" for k in range(8))
    }  # fmt: skip
    assert "resembles" in index.table()
    apart = index_clips(tmp_path, duplicates=False)
    assert apart.summary()["groups"] == 16


def test_films_that_resemble_one_another_are_not_split_in_time(tmp_path) -> None:
    film = scene(0, 120)
    write_video(tmp_path / "a.mp4", film[:90], 10)
    write_video(tmp_path / "b.mp4", film[30:], 10)
    write_video(tmp_path / "c.mp4", scene(5, 100), 10)
    sides = {e.path: e.split for e in index_clips(tmp_path).entries}
    assert sides == {"a.mp4": "train", "b.mp4": "train", "c.mp4": "both"}
