"""Verdicts, splits, digests and the sentences for folders that cannot be used."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path

import pytest
from media import (
    clock_frames,
    make_bad_files,
    moving_square,
    write_clips,
    write_stream_copy,
    write_video,
)

from vidiff.data.index import Index, index_clips, scan
from vidiff.data.verdict import DataConfig, count_windows, cover_size
from vidiff.data.video import have_decord
from vidiff.errors import DataError, RequestError


def look(root: Path, **keys: object) -> Index:
    """A scan by PyAV alone, which takes a third of the time, unless told otherwise."""
    return scan(DataConfig(root=str(root), **{"reader": "pyav", **keys}))


def verdict(root: Path, **keys: object) -> str:
    (entry,) = look(root, **keys).entries
    return entry.reason


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips of 20 frames at 10 frames a second."""
    root = tmp_path_factory.mktemp("clips")
    write_clips(root, 12, num_frames=20, size=(32, 48))
    return root


def test_every_frame_at_which_a_whole_clip_can_start_is_a_window(folder: Path) -> None:
    index = look(folder)
    assert [e.windows for e in index.entries] == [5] * 12
    assert index.num_windows == 60
    assert look(folder, stride=2, num_frames=10).num_windows == 24
    assert look(folder, fps=5.0, num_frames=10).num_windows == 24
    assert look(folder, num_frames=20).num_windows == 12


def test_windows_are_counted_on_rounded_and_broken_rates() -> None:
    config = DataConfig(root="", num_frames=16)
    for fps in (24000 / 1001, 30.12, 7.0):
        span = (1.4, 1.4 + 31 / fps)
        assert count_windows(span, fps, config) == 17
        assert count_windows((span[0], span[0] + 14 / fps), fps, config) == 0


def test_an_entry_tells_what_the_file_is(tmp_path: Path) -> None:
    (tmp_path / "dogs").mkdir()
    write_video(tmp_path / "dogs" / "a.mp4", clock_frames(24, (64, 96)), 12, rotation=90)
    (tmp_path / "dogs" / "a.txt").write_text("ein großer Hund\n", encoding="utf-8")
    (entry,) = look(tmp_path).entries
    assert (entry.path, entry.label, entry.caption) == ("dogs/a.mp4", "dogs", "ein großer Hund")
    assert (entry.width, entry.height, entry.rotation) == (64, 96, 90)
    assert (entry.container, entry.codec, entry.frames) == ("mp4", "h264", 24)
    assert entry.fps == pytest.approx(12)
    assert entry.duration == pytest.approx(2)
    assert len(entry.sha256) == 64


def test_labels_are_the_sub_folders_in_order_in_every_view(tmp_path: Path) -> None:
    for name in ("dogs", "cats"):
        write_clips(tmp_path / name, 3)
    index = look(tmp_path)
    assert index.labels == index.split("train").labels == ("cats", "dogs")


def test_every_bad_file_gets_a_verdict_with_a_way_out(tmp_path: Path) -> None:
    words = make_bad_files(tmp_path)
    words.pop("missing.mp4")
    index = look(tmp_path)
    refused = {e.path: e for e in index.entries if not e.usable}
    assert set(refused) == set(words)
    assert all(e.reason and e.remedy and not e.windows for e in refused.values())
    assert all(str(tmp_path) not in e.reason for e in refused.values())
    assert [e.path for e in index.usable] == ["good.mp4"]


def test_a_download_that_broke_off_is_told_by_its_frame_count(tmp_path: Path) -> None:
    options = {"movflags": "faststart"}
    whole = write_video(tmp_path / "a.mp4", moving_square(100, (96, 96)), options={"crf": "1"})
    front = tmp_path / "front.mp4"
    remux_with_index_in_front(whole, front, options)
    data = front.read_bytes()
    front.write_bytes(data[: len(data) // 2])
    whole.unlink()
    assert "cut off" in verdict(tmp_path) or "does not decode" in verdict(tmp_path)


def remux_with_index_in_front(source: Path, path: Path, options: dict[str, str]) -> None:
    import av

    with av.open(str(source)) as old, av.open(str(path), "w", options=options) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)


def test_a_clip_shorter_than_the_window_is_refused_with_both_figures(tmp_path: Path) -> None:
    write_clips(tmp_path, 1, num_frames=12)
    reason = verdict(tmp_path)
    assert "1.20 s (12 frames)" in reason
    assert "16 frames takes 1.60 s" in reason


def test_a_rate_above_the_files_own_is_refused_instead_of_repeating_frames(
    folder: Path,
) -> None:
    entry = look(folder, fps=12.0).entries[0]
    assert "10 frames a second" in entry.reason
    assert "data.fps=10" in entry.remedy
    assert look(folder, fps=10.1).entries[0].usable


def test_a_picture_like_a_ribbon_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "ribbon.mp4", moving_square(16, (16, 160)))
    assert "160x16" in verdict(tmp_path)


def test_a_caption_that_is_no_text_is_refused(tmp_path: Path) -> None:
    write_clips(tmp_path, 1)
    (tmp_path / "clip0000.txt").write_bytes(b"\xff\xfe\xfa")
    assert "clip0000.txt" in verdict(tmp_path)


def test_other_files_are_counted_and_hidden_ones_are_not(tmp_path: Path) -> None:
    write_clips(tmp_path, 1)
    for name in ("readme.txt", "x.json", "y.csv", "still.jpg", "strange"):
        (tmp_path / name).write_text("-")
    (tmp_path / ".hidden.mp4").write_text("-")
    index = look(tmp_path)
    assert (len(index.entries), index.ignored) == (1, 5)


def test_a_video_without_its_suffix_is_found_by_its_first_bytes(tmp_path: Path) -> None:
    (path,) = write_clips(tmp_path, 1)
    path.rename(tmp_path / "download")
    assert look(tmp_path).entries[0].usable


def test_links_are_followed_inside_the_folder_only_and_circles_end(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    write_clips(inside / "real", 1)
    write_clips(outside, 1)
    (inside / "circle").symlink_to(inside)
    (inside / "escape.mp4").symlink_to(outside / "clip0000.mp4")
    (inside / "away").symlink_to(outside)
    (inside / "second.mp4").symlink_to(inside / "real" / "clip0000.mp4")
    (inside / "self.mp4").symlink_to(inside / "self.mp4")
    index = look(inside)
    reasons = {e.path: e.reason for e in index.entries}
    assert set(reasons) == {"escape.mp4", "real/clip0000.mp4", "second.mp4", "self.mp4"}
    assert reasons["real/clip0000.mp4"] == ""
    assert "leaves the folder" in reasons["escape.mp4"]
    assert "second name" in reasons["second.mp4"]
    assert "cannot be reached" in reasons["self.mp4"]


@pytest.mark.skipif(not have_decord(), reason="decord has no wheel for this machine")
def test_decord_reads_only_where_its_frames_are_proven_right(tmp_path: Path) -> None:
    hostile = {"x264-params": "open-gop=1:keyint=20:bframes=5:scenecut=0"}
    write_video(tmp_path / "plain.mp4", clock_frames(60), 12)
    write_video(tmp_path / "old.avi", clock_frames(60), 12, codec="mpeg4")
    write_video(tmp_path / "open.mp4", clock_frames(60), 12, options=hostile)
    write_stream_copy(tmp_path / "plain.mp4", tmp_path / "cut.mp4", first=30)
    write_video(tmp_path / "anim.gif", clock_frames(30), 10, codec="gif", pix_fmt="rgb8")
    readers = {e.path: e.reader for e in look(tmp_path, reader="auto").entries}
    assert readers == {
        "old.avi": "decord",
        "plain.mp4": "pyav",
        "open.mp4": "pyav",
        "cut.mp4": "pyav",
        "anim.gif": "pyav",
    }
    asked = {e.path: e.usable for e in look(tmp_path, reader="decord").entries}
    assert [path for path, usable in asked.items() if usable] == ["old.avi", "plain.mp4"]


def test_no_content_stands_on_both_sides_of_the_split(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        shutil.copy(path, tmp_path / path.name)
        shutil.copy(path, tmp_path / f"copy-of-{path.name}")
    for seed in range(2):
        index = scan(DataConfig(root=str(tmp_path), held_out=0.3, reader="pyav"), seed=seed)
        train = {e.sha256 for e in index.split("train").usable}
        test = {e.sha256 for e in index.split("test").usable}
        assert train
        assert test
        assert not train & test
        assert len(train | test) == 12


def test_the_side_of_a_group_depends_on_the_seed_and_its_content_alone(
    folder: Path, tmp_path: Path
) -> None:
    def sides(root: Path, seed: int) -> dict[str, str]:
        index = scan(DataConfig(root=str(root), held_out=0.4, reader="pyav"), seed=seed)
        return {e.sha256: e.split for e in index.entries}

    before = sides(folder, 3)
    for path in sorted(folder.iterdir())[2:]:
        shutil.copy(path, tmp_path / f"renamed-{path.name}")
    after = sides(tmp_path, 3)
    assert after.items() <= before.items()
    assert sides(folder, 4) != before


@pytest.mark.parametrize("held_out", [0.001, 0.999])
def test_both_sides_have_something_whatever_the_share(folder: Path, held_out: float) -> None:
    index = look(folder, held_out=held_out)
    assert index.split("train").num_windows > 0
    assert index.split("test").num_windows > 0


def test_one_film_is_split_in_time_with_a_gap_of_one_window(tmp_path: Path) -> None:
    write_video(tmp_path / "film.mp4", moving_square(200), 10)
    index = look(tmp_path)
    train, test = index.split("train"), index.split("test")
    assert index.entries[0].split == "both"
    (before,), (behind,) = train.usable, test.usable
    assert behind.span[1] == pytest.approx(19.9)
    assert behind.span[0] == pytest.approx(17.9, abs=0.2)
    assert behind.span[0] - before.span[1] == pytest.approx(1.6)
    assert (train.num_windows, test.num_windows) == (149, 6)
    assert index.num_windows == 185


def test_few_short_clips_are_split_by_clip(tmp_path: Path) -> None:
    write_clips(tmp_path, 3)
    index = look(tmp_path)
    assert (index.split("train").num_windows, index.split("test").num_windows) == (2, 1)


def test_nothing_is_held_out_when_nothing_is_asked(folder: Path) -> None:
    index = look(folder, held_out=0.0)
    assert index.split("train").num_windows == index.num_windows
    assert index.split("test").num_windows == 0


def test_a_side_cannot_be_taken_from_the_other_side(folder: Path) -> None:
    with pytest.raises(RequestError, match="train"):
        look(folder).split("train").split("test")


def test_the_digest_follows_content_and_choices_but_not_place_or_order(
    folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    base = look(folder).digest
    assert look(copy, workers=2, cache_mb=1).digest == base
    assert look(folder, num_frames=8).digest != base
    assert look(folder, flip=False).digest != base
    assert scan(DataConfig(root=str(folder)), seed=1).digest != base
    os.replace(copy / "clip0000.mp4", copy / "another.mp4")
    assert look(copy).digest != base


def test_json_csv_and_table_have_one_entry_for_every_video_met(tmp_path: Path) -> None:
    make_bad_files(tmp_path)
    index = look(tmp_path)
    told = json.loads(json.dumps(index.to_json()))
    assert told["summary"]["videos"] == len(told["files"]) == len(index.entries)
    assert {"path", "usable", "windows", "reason", "remedy"} <= told["files"][0].keys()
    assert len(list(csv.DictReader(io.StringIO(index.to_csv())))) == len(index.entries)
    assert len(index.table().splitlines()) == len(index.entries) + 1


def test_progress_is_told_file_by_file(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    scan(DataConfig(root=str(folder)), progress=lambda done, met: seen.append((done, met)))
    assert seen == [(k, 12) for k in range(1, 13)]


def test_a_missing_root_is_a_bad_request(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="does not exist"):
        index_clips(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="not a folder"):
        index_clips(tmp_path / "file")


def test_an_empty_folder_and_one_without_videos_are_unusable_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no video files"):
        index_clips(tmp_path)
    (tmp_path / "notes.txt").write_text("-")
    with pytest.raises(DataError, match=r"no video files \(1 other") as caught:
        index_clips(tmp_path)
    assert caught.value.exit_code == 3
    assert "data.root" in caught.value.remedy


def test_too_short_videos_are_told_with_the_longest_and_what_is_needed(tmp_path: Path) -> None:
    write_clips(tmp_path, 3, num_frames=8)
    with pytest.raises(DataError, match=r"clip\d{4}\.mp4, lasts 0\.80 s, and 16 frames take 1\.60"):
        index_clips(tmp_path)


def test_too_small_a_usable_share_names_the_commonest_reason(tmp_path: Path) -> None:
    write_clips(tmp_path, 1)
    for k in range(3):
        (tmp_path / f"bad{k}.mp4").write_text("no video at all")
    with pytest.raises(DataError, match=r"Only 1 of 4 .*min_usable=0\.5(.|\n)* 3  .*container"):
        index_clips(tmp_path)
    assert index_clips(tmp_path, min_usable=0.2).num_windows == 1


def test_too_few_windows_are_told_with_both_figures(folder: Path) -> None:
    with pytest.raises(DataError, match="60 windows of 16 frames on side 'all'; 61 are needed"):
        look(folder).require(61)


def test_the_covering_picture_keeps_the_shape_that_is_seen(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving_square(16, (36, 64)))
    (entry,) = look(tmp_path).entries
    assert cover_size(entry, 32) == (32, 57)
    assert cover_size(entry, 36) == (36, 64)
