"""How often each file is drawn, where not every window is to come equally often.

The share of file e, with W_e windows, weight w_e, in a set of files U (the folder of clips, a
sub-folder, a class), before all shares are divided by their sum:

    window   w_e W_e                                                                         (1)
    file     w_e                                                                             (2)
    folder   w_e W_e / sum of W over e's folder                                              (3)
    class    w_e W_e / sum of W over e's class                                               (4)

Inside a file every window is as likely as another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import accumulate

from vidiff.data.verdict import DataConfig, VideoEntry
from vidiff.errors import RequestError


def running_odds(entries: Sequence[VideoEntry], config: DataConfig) -> tuple[float, ...]:
    """Running total of the files' shares; the last one is 1.

    Raises:
        RequestError: a weight names no class, folder or file, or nothing is left to draw.
    """
    _check_names(entries, config)
    homes = [_home(entry, config.sampling) for entry in entries]
    total: Counter[str] = Counter()
    for home, entry in zip(homes, entries, strict=True):
        total[home] += entry.windows
    shares = []
    for home, entry in zip(homes, entries, strict=True):
        share = 1.0 if config.sampling == "file" else float(entry.windows)
        shares.append(_weight(entry, config) * share / (total[home] if home else 1))
    whole = sum(shares)
    if whole <= 0:
        raise RequestError("data.weights leave nothing to draw.", "Give a weight above zero.")
    return tuple(accumulate(share / whole for share in shares))


def _home(entry: VideoEntry, sampling: str) -> str:
    """The set that shares its turns; empty where there is none."""
    if sampling == "folder":
        return entry.path.rpartition("/")[0] or "."
    return (entry.label or ".") if sampling == "class" else ""


def _names(entry: VideoEntry) -> list[str]:
    """What a weight may call the file, nearest first: its path, its folders, its class."""
    parts = entry.path.split("/")
    places = ["/".join(parts[:end]) for end in range(len(parts), 0, -1)]
    return [*places, *([entry.label] if entry.label else [])]


def _weight(entry: VideoEntry, config: DataConfig) -> float:
    return next((config.weights[n] for n in _names(entry) if n in config.weights), 1.0)


def _check_names(entries: Sequence[VideoEntry], config: DataConfig) -> None:
    known = {name for entry in entries for name in _names(entry)} if config.weights else set()
    for name in config.weights:
        if name not in known:
            near = get_close_matches(name, known, 1)
            raise RequestError(
                f"data.weights names {name!r}, which is no class, folder or file with clips.",
                f"Did you mean {near[0]!r}?" if near else "Use names below data.root.",
            )
