"""Sets of clips with all that is measured of each clip, and the instruments that measure.

Flow and features are computed once per clip, here, and cached by the content of the set; whatever
compares sets afterwards works on these arrays alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from vidiff.evaluation.cache import Shelf, key_of
from vidiff.evaluation.card import REVISION
from vidiff.metrics.copies import shrink_clips
from vidiff.metrics.features import Features
from vidiff.metrics.motion import STATISTICS, measure_motion
from vidiff.metrics.perceptual import PerceptualDistance
from vidiff.metrics.vbench import FORMULAS, measure_vbench
from vidiff.runs.crew import Crew

STATISTIC, SPACE = "statistic/", "space/"
"""Prefixes of the names under which a set's arrays are kept."""

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Instruments:
    """What a clip is measured with besides flow; None stands for absent weights."""

    network: Features | None = None
    """For the spaces `appearance` and `change`."""
    perceptual: PerceptualDistance | None = None
    """For `flicker.perceptual`."""
    missing: tuple[str, ...] = ()
    """Sentences on what is absent and how to get it."""

    @property
    def features(self) -> dict[str, Any]:
        """What the card says of each network in use: name, package, SHA-256, resize."""
        used = {"network": self.network, "perceptual": self.perceptual}
        return {kind: network.card for kind, network in used.items() if network is not None}


@dataclass(frozen=True)
class ClipSet:
    """Clips with all that is measured of them, row i of every array belonging to clip i."""

    clips: UInt8[np.ndarray, "b t h w c"]
    spaces: dict[str, Float[np.ndarray, "b _"]]
    """Features by space: `motion`, and `appearance` and `change` where there is a network."""
    statistics: dict[str, Float[np.ndarray, "b"]]
    """Statistics of single clips; NaN = undefined, nothing moves."""
    thumbnails: Float[np.ndarray, "b d"]
    groups: Int[np.ndarray, "b"] | None = None
    """Source video of each clip; None: every clip is its own."""

    def take(self, rows: Int[np.ndarray, "a"] | slice) -> ClipSet:
        """The same of some of the clips."""
        return ClipSet(
            self.clips[rows],
            {name: values[rows] for name, values in self.spaces.items()},
            {name: values[rows] for name, values in self.statistics.items()},
            self.thumbnails[rows],
            None if self.groups is None else self.groups[rows],
        )

    def __len__(self) -> int:
        return len(self.clips)


@dataclass(frozen=True)
class Bench:
    """Where clips are measured: with which instruments, by which processes, kept on which shelf."""

    dt: float
    """Seconds between frames."""
    instruments: Instruments = Instruments()
    crew: Crew = field(default_factory=Crew)
    shelf: Shelf = field(default_factory=Shelf)
    batch: int = 16
    """Clips between two calls of the progress, the share a process takes at a time."""

    def measure(
        self,
        clips: UInt8[np.ndarray, "b t h w c"],
        groups: Int[np.ndarray, "b"] | None,
        advance: Advance,
        keep: bool = False,
    ) -> ClipSet:
        """Everything about every clip; `advance` is told the number of clips done.

        Args:
            clips: the set.
            groups: source video of each.
            keep: look on the shelf first, and put the result there.
        """
        key = key_of(clips, self._facts())
        arrays = self._look_up(key) if keep else None
        if arrays is None:
            arrays = self._measure(clips, advance)
            if keep and self.crew.leads:
                self.shelf.put(key, arrays)
        else:
            advance(len(clips))
        return _assemble(clips, arrays, groups)

    def _look_up(self, key: str) -> dict[str, Shaped[np.ndarray, "..."]] | None:
        return self.crew.agree(self.shelf.get(key) if self.crew.leads else None)

    def _facts(self) -> dict[str, Any]:
        return {
            "dt": self.dt,
            "revision": REVISION,
            "features": self.instruments.features,
            "statistics": [*STATISTICS, *FORMULAS],
        }

    def _measure(
        self, clips: UInt8[np.ndarray, "b t h w c"], advance: Advance
    ) -> dict[str, Shaped[np.ndarray, "..."]]:
        def work(start: int) -> dict[str, Shaped[np.ndarray, "..."]]:
            chunk = clips[start : start + self.batch]
            arrays = _measure_chunk(chunk, self.dt, self.instruments)
            advance(len(chunk) * self.crew.size)
            return arrays

        parts = self.crew.map(work, range(0, len(clips), self.batch))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _measure_chunk(
    clips: UInt8[np.ndarray, "b t h w c"], dt: float, instruments: Instruments
) -> dict[str, Shaped[np.ndarray, "..."]]:
    motion = measure_motion(clips, dt)
    arrays = {STATISTIC + name: values for name, values in motion.statistics.items()}
    arrays |= {STATISTIC + name: values for name, values in measure_vbench(clips, dt).items()}
    arrays[SPACE + "motion"] = motion.histograms
    arrays["thumbnails"] = shrink_clips(clips)
    if instruments.network is not None:
        embedding = instruments.network.embed(clips)
        arrays[SPACE + "appearance"] = embedding.appearance
        arrays[SPACE + "change"] = embedding.change
    if instruments.perceptual is not None:
        arrays[STATISTIC + "flicker.perceptual"] = instruments.perceptual.flicker(clips)
    return arrays


def _assemble(
    clips: UInt8[np.ndarray, "b t h w c"],
    arrays: Mapping[str, Shaped[np.ndarray, "..."]],
    groups: Int[np.ndarray, "b"] | None,
) -> ClipSet:
    def part(prefix: str) -> dict[str, Any]:
        return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}

    return ClipSet(clips, part(SPACE), part(STATISTIC), arrays["thumbnails"], groups)
