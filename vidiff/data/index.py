"""One scan of a folder: what every file is, what will be used of it, or why it is refused.

The facts about each file are found once and kept (`data.scanning`); the verdict follows from the
facts, the configuration and what lies beside the file; the groups of near duplicates and the split
follow from all verdicts together. Nothing in the folder is changed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from vidiff.data.captions import Words, read_sidecar, read_table
from vidiff.data.examination import Facts
from vidiff.data.scanning import Known, find_facts, find_groups
from vidiff.data.splitting import Side, assign_sides
from vidiff.data.verdict import DataConfig, VideoEntry, clip_seconds, count_windows, judge
from vidiff.data.walk import Found, walk
from vidiff.data.weighting import running_odds
from vidiff.errors import DataError, RequestError

__all__ = ["DataConfig", "Index", "Side", "VideoEntry", "index_clips", "scan"]


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

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels under the name that class-conditional models use."""
        return self.labels

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
    def odds(self) -> tuple[float, ...]:
        """Running total of how likely each usable file is drawn, where not window by window."""
        return running_odds(self.usable, self.config)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that decides which frames a position shows."""
        rows = sorted((e.path, e.sha256, e.span, e.cuts, e.windows) for e in self.usable)
        keys = {"num_frames", "size", "fps", "stride", "flip", "crop", "held_out"}
        keys |= {"sampling", "weights"}
        chosen = self.config.model_dump(include=keys)
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
                windows = count_windows(span, entry.fps, self.config, entry.cuts)
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
            raise DataError(
                f"Only {len(self.usable)} of {met} videos in {root} are usable, under the share "
                f"data.min_usable={self.config.min_usable:g}; {self._told_reasons()}",
                f"See every verdict with: vidiff data check {root}",
            )
        if self.num_windows < min_windows:
            raise DataError(
                f"{root} has {self.num_windows} windows of {self.config.num_frames} frames on side "
                f"{self.side!r}; {min_windows} are needed.",
                "Add videos, or lower data.num_frames or data.stride.",
            )
        return self

    def reasons(self) -> list[tuple[str, int]]:
        """Why files are refused, and how many for each; numbers aside, the first one speaks."""
        refused = [e.reason for e in self.entries if not e.usable]
        kinds = [re.sub(r"[\d.]+", "#", reason) for reason in refused]
        first = dict(zip(reversed(kinds), reversed(refused), strict=True))
        return [(first[kind], count) for kind, count in Counter(kinds).most_common()]

    def _told_reasons(self, most: int = 8) -> str:
        lines = [f"{count:7d}  {reason}" for reason, count in self.reasons()]
        more = [f"and {len(lines) - most} more reasons"] if len(lines) > most else []
        return "\n".join(["the others, by reason:", *lines[:most], *more])

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
            "duplicates": sum(bool(e.resembles) for e in self.usable),
            "shots": sum(len(e.cuts) + 1 for e in self.usable),
            "train_windows": self.split("train").num_windows if self.side == "all" else None,
            "test_windows": self.split("test").num_windows if self.side == "all" else None,
            "labels": dict(Counter(e.label for e in self.usable if e.label)),
            "captions": sum(e.caption is not None for e in self.usable),
            "readers": dict(Counter(e.reader for e in self.usable)),
            "reasons": dict(self.reasons()),
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
            verdict += f", {len(e.cuts)} cuts" * bool(e.cuts and e.usable)
            verdict += f", resembles {e.resembles}" * bool(e.resembles)
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
    root = Path(config.root)
    found, ignored = walk(root)
    openable = [item for item in found if not item.refused]
    known = find_facts(config.root, openable, config.reader, progress)
    table = read_table(root)
    entries = [_verdict(config, item, known.get(item.name), table.get(item.name)) for item in found]
    if config.duplicates:
        entries = _group(entries, find_groups(known.values()))
    labels = tuple(sorted({e.label for e in entries if e.usable and e.label is not None}))
    return Index(config, seed, tuple(assign_sides(entries, config, seed)), labels, ignored)


def _group(entries: list[VideoEntry], groups: dict[str, str]) -> list[VideoEntry]:
    """The entries with their groups, and with the first file that each of them resembles."""
    grouped = [replace(e, group=groups.get(e.sha256, e.group)) for e in entries]
    first: dict[str, str] = {}
    for e in grouped:
        if e.usable:
            first.setdefault(e.group, e.path)
    return [
        replace(e, resembles=first[e.group]) if e.usable and first[e.group] != e.path else e
        for e in grouped
    ]


def _verdict(
    config: DataConfig, found: Found, known: Known | None, told: Words | None
) -> VideoEntry:
    """One file's verdict, its words among it."""
    content, facts = known or ("", Facts(reason=found.refused, remedy="Remove or rename it."))
    words = told or Words()
    try:
        beside = read_sidecar(Path(config.root) / found.name)
        words = Words(beside.caption or words.caption, beside.label or words.label)
    except DataError as error:
        facts = replace(facts, reason=error.cause, remedy=error.remedy)
    entry = judge(config, found, content, facts, words.caption)
    return replace(entry, label=words.label or entry.label)
