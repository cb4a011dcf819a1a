"""Which windows are held out for evaluation: by source, never by window.

Files of one group (equal content, near duplicates) go to one side together, chosen by a hash of
(seed, group), so that a file's side does not depend on the other files. A folder of few films
cannot spare one, so below five groups each film is split in time instead: its end is held out,
behind a gap of one window. Films that resemble one another cannot be split so: what is the end of
one may be the middle of the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from vidiff.data.verdict import DataConfig, VideoEntry, clip_seconds, count_windows
from vidiff.records import derive_seed

FEW_GROUPS = 5

Side = Literal["train", "test", "all"]


def assign_sides(entries: Sequence[VideoEntry], config: DataConfig, seed: int) -> list[VideoEntry]:
    """Fills `split`, `train` and `test` of the usable entries."""
    usable = [e for e in entries if e.usable]
    groups = sorted({e.group for e in usable})
    if config.held_out == 0 or not groups:
        return [_on_side(e, "train") for e in entries]
    several = {g for g in groups if len({e.sha256 for e in usable if e.group == g}) > 1}
    by_time = [
        _on_side(e, "train") if e.group in several else _split_in_time(e, config) for e in entries
    ]
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
    if not count_windows(train, entry.fps, config, entry.cuts):
        return _on_side(entry, "train")
    return replace(entry, split="both", train=train, test=(border, last))
