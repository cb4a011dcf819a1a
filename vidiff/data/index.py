"""One scan of a folder: what every file is, what will be used of it, or why it is refused.

Held-out clips share no file content with training clips: files with the same SHA-256 form one
group, and whole groups go to one side, chosen by a hash of (seed, group). A folder of few films
cannot spare one, so below five groups each film is split in time instead: its end is held out,
behind a gap of one window.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from vidiff.data.verdict import DataConfig, VideoEntry, clip_seconds, count_windows, judge
from vidiff.data.walk import walk
from vidiff.errors import DataError, RequestError
from vidiff.records import derive_seed

__all__ = ["DataConfig", "Index", "VideoEntry", "index_clips", "scan"]

FEW_GROUPS = 5

Side = Literal["train", "test", "all"]


@dataclass(frozen=True)
class Index:
    """All verdicts on a folder, or one side of its split. Immutable."""

    config: DataConfig
    seed: int
    entries: tuple[VideoEntry, ...]
    labels: tuple[str, ...]
    """Sub-folder names in order; a clip's label is its place here. The same in every view."""
    ignored: int = 0
    """Files met that do not claim to be videos."""
    side: Side = "all"

    @cached_property
    def usable(self) -> tuple[VideoEntry, ...]:
        """Entries with at least one window in this view."""
        return tuple(e for e in self.entries if e.usable and e.windows)

    @cached_property
    def num_windows(self) -> int:
        return sum(e.windows for e in self.usable)

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Running total of windows: `usable[i]` owns the window numbers below `ends[i]`."""
        return tuple(accumulate(e.windows for e in self.usable))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that decides which frames a position shows."""
        rows = sorted((e.path, e.sha256, e.span, e.windows) for e in self.usable)
        keys = ("num_frames", "size", "fps", "stride", "flip", "crop", "held_out")
        chosen = self.config.model_dump(include=set(keys))
        text = json.dumps([rows, chosen, self.seed, self.side, self.labels], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def split(self, side: Side) -> Index:
        """The windows of one side; "all" keeps every window, across the border too."""
        if side == "all":
            return self
        if side not in ("train", "test") or self.side not in ("all", side):
            raise RequestError(f"This index shows side {self.side!r}; it has no side {side!r}.")
        seen = []
        for entry in self.usable:
            span = entry.train if side == "train" else entry.test
            if span is not None:
                windows = count_windows(span, entry.fps, self.config)
                seen.append(replace(entry, span=span, windows=windows))
        return replace(self, entries=tuple(seen), side=side)

    def require(self, min_windows: int = 1) -> Index:
        """This index, if it is enough to work with.

        Raises:
            DataError: no videos, none usable, too small a usable share, or too few windows.
        """
        root, met = self.config.root, len(self.entries)
        if not met:
            raise DataError(
                f"{root} holds no video files ({self.ignored} other files).",
                "Point data.root at a folder of videos: MP4, MOV, MKV, WebM, AVI or GIF.",
            )
        if not self.usable:
            raise self._none_usable()
        if self.side == "all" and len(self.usable) < self.config.min_usable * met:
            reason, count = Counter(e.reason for e in self.entries if not e.usable).most_common()[0]
            raise DataError(
                f"Only {len(self.usable)} of {met} videos in {root} are usable, under the share "
                f"data.min_usable={self.config.min_usable:g}; most often ({count}): {reason}",
                f"See every verdict with: vidiff data check {root}",
            )
        if self.num_windows < min_windows:
            raise DataError(
                f"{root} has {self.num_windows} windows of {self.config.num_frames} frames on side "
                f"{self.side!r}; {min_windows} are needed.",
                "Add videos, or lower data.num_frames or data.stride.",
            )
        return self

    def _none_usable(self) -> DataError:
        short = [e for e in self.entries if e.fps and not e.windows]
        if len(short) == len(self.entries):
            longest = max(short, key=lambda e: e.duration)
            needed = clip_seconds(longest.fps, self.config)
            return DataError(
                f"Every video in {self.config.root} is shorter than a clip: the longest, "
                f"{longest.path}, lasts {longest.duration:.2f} s, and "
                f"{self.config.num_frames} frames take {needed:.2f} s.",
                "Lower data.num_frames or data.stride, raise data.fps, or add longer videos.",
            )
        first = next((e for e in self.entries if e.reason), None)
        why = f" the first, {first.path}: {first.reason}" if first else ""
        return DataError(
            f"None of the {len(self.entries)} videos in {self.config.root} can be used;{why}",
            f"See every verdict with: vidiff data check {self.config.root}",
        )

    def summary(self) -> dict[str, Any]:
        """Counts and totals, JSON-ready."""
        return {
            "root": self.config.root,
            "side": self.side,
            "videos": len(self.entries),
            "usable": len(self.usable),
            "refused": sum(not e.usable for e in self.entries),
            "ignored": self.ignored,
            "windows": self.num_windows,
            "seconds": round(sum(e.duration for e in self.usable), 3),
            "groups": len({e.group for e in self.usable}),
            "train_windows": self.split("train").num_windows if self.side == "all" else None,
            "test_windows": self.split("test").num_windows if self.side == "all" else None,
            "labels": dict(Counter(e.label for e in self.usable if e.label)),
            "readers": dict(Counter(e.reader for e in self.usable)),
            "reasons": dict(Counter(e.reason for e in self.entries if not e.usable)),
            "digest": self.digest,
        }

    def to_json(self) -> dict[str, Any]:
        """`{"files": [one object for every video met], "summary": {...}}`, JSON-ready."""
        return {"files": [asdict(e) for e in self.entries], "summary": self.summary()}

    def to_csv(self) -> str:
        """The same verdicts as comma-separated values, one line for every video met."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [f.name for f in fields(VideoEntry)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(e) for e in self.entries)
        return text.getvalue()

    def table(self) -> str:
        """One line a file for the terminal."""
        wide = max([len(e.path) for e in self.entries] + [4])
        lines = [f"{'file':{wide}}  windows  seconds    fps       size  codec  reader  verdict"]
        for e in self.entries:
            verdict = " ".join(filter(None, (e.reason, e.remedy))) or e.split or "usable"
            lines.append(
                f"{e.path:{wide}}  {e.windows:7d}  {e.duration:7.2f}  {e.fps:5.2f}  "
                f"{f'{e.width}x{e.height}':>9}  {e.codec or '-':5}  {e.reader:6}  {verdict}"
            )
        return "\n".join(lines)


def index_clips(root: str | os.PathLike[str], **data_keys: Any) -> Index:
    """Scan a folder and refuse it unless there is something to train on.

    Args:
        root: folder of videos.
        data_keys: any field of `DataConfig`, and `seed` (0) for the split.

    Raises:
        RequestError: the folder does not exist.
        DataError: nothing in it, or too little, is usable.
    """
    seed = data_keys.pop("seed", 0)
    return scan(DataConfig(root=os.fspath(root), **data_keys), seed=seed).require()


def scan(
    config: DataConfig,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Index:
    """Give every file under `config.root` a verdict; never raises for what a file is.

    Args:
        seed: decides which groups are held out.
        progress: called with (files done, files met).

    Raises:
        RequestError: the root is not a folder.
    """
    found, ignored = walk(Path(config.root))
    entries: list[VideoEntry] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for entry in pool.map(lambda item: judge(config, item), found):
            entries.append(entry)
            if progress is not None:
                progress(len(entries), len(found))
    labels = tuple(sorted({e.label for e in entries if e.usable and e.label is not None}))
    return Index(config, seed, tuple(_assign(entries, config, seed)), labels, ignored)


def _assign(entries: Sequence[VideoEntry], config: DataConfig, seed: int) -> list[VideoEntry]:
    """Fills `split`, `train` and `test` of the usable entries."""
    usable = [e for e in entries if e.usable]
    groups = sorted({e.group for e in usable})
    if config.held_out == 0 or not groups:
        return [_on_side(e, "train") for e in entries]
    by_time = [_split_in_time(e, config) for e in entries]
    if len(groups) < FEW_GROUPS and any(e.test for e in by_time):
        return by_time
    if len(groups) == 1:
        return [_on_side(e, "train") for e in entries]
    ranks = {g: derive_seed(seed, 0, f"split/{g}") / 2**63 for g in groups}
    held = {g for g in groups if ranks[g] < config.held_out}
    order = sorted(groups, key=ranks.__getitem__)
    held |= {order[0]}
    held -= {order[-1]}
    return [_on_side(e, "test" if e.group in held else "train") for e in entries]


def _on_side(entry: VideoEntry, side: Literal["train", "test"]) -> VideoEntry:
    if not entry.usable:
        return entry
    if side == "test":
        return replace(entry, split=side, test=entry.span)
    return replace(entry, split=side, train=entry.span)


def _split_in_time(entry: VideoEntry, config: DataConfig) -> VideoEntry:
    """Holds out the end of one film; a film too short for both sides is for training."""
    if not entry.usable:
        return entry
    first, last = entry.span
    frame = 1 / entry.fps
    reach = clip_seconds(entry.fps, config) - frame
    border = min(last - reach, last - config.held_out * (last - first))
    border = first + math.floor((border - first) / frame + 1e-6) * frame
    train = (first, border - reach - frame)
    if not count_windows(train, entry.fps, config):
        return _on_side(entry, "train")
    return replace(entry, split="both", train=train, test=(border, last))
