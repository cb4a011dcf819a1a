"""When a run is ill: rules over its numbers, each with what to try.

One cause raises one alarm. A cause hides its consequences: frames converted twice also come out
saturated, clips that stand still also flicker against real ones; while the cause stands, the
consequence is not raised. An alarm is raised once and again only after it was over. What counts is
always the distance to the data, never a number by itself: clips that hardly move are right where
the data hardly move.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Values = Mapping[str, float]

SAME = 0.003
"""Error ratio, less 1, below which a frame gains nothing from its neighbours. Layers that do
nothing give 0; healthy runs were seen to pass through 0.007."""

GRAINY = 0.2
"""Held-out error above which samples carry grain, and so flicker, in healthy runs too."""

LEARNED = 0.45
"""Held-out error below which samples are judged by their motion: noise, which is all that a young
model makes, flickers rightly. On hard clips the error stays higher: there samples are judged once
it is below `BEGUN` and no longer falls by `SETTLED` from one measurement to the next."""
BEGUN = 0.9
SETTLED = 0.05

REMEDIES = {
    "nan": "Lower optimizer.lr, lengthen optimizer.warmup, or set train.precision=fp32.",
    "spike": "Lower optimizer.lr by 3 to 10 or lengthen optimizer.warmup; the last checkpoint "
    "before it is intact.",
    "range": "The frames are not in the range that the calibration measured: check that "
    "calibration.json belongs to these clips, and that no frame is converted twice.",
    "constant": "Look at the clips with a player; `vidiff data check` lists them. Remove those "
    "that show one flat colour.",
    "static": "The clips hardly move: raise the time between frames (data.stride or data.fps), or "
    "remove the still ones.",
    "time": "The temporal layers do nothing: check model.temporal, model.theta and "
    "train.image_share (1 trains pictures only).",
    "black": "Check calibration.json, and sample with --weights model: if those clips are well, "
    "the averaged weights are not.",
    "saturated": "Check calibration.json and the frames' range; sample with more steps or less "
    "guidance.",
    "frozen": "Lower train.image_share, raise process.motion_emphasis, and check that the clips "
    "move (`vidiff data check`).",
    "flicker": "Train longer; if it stays, check model.temporal, and give the model more temporal "
    "attention (model.temporal_map).",
    "colour": "Compare samples/ with the clips; raise process.sigma_max or check calibration.json: "
    "a start that is not noisy enough keeps a wrong mean colour.",
    "memorisation": "Stop here and use an earlier checkpoint, add clips, or set model.dropout=0.1 "
    "to 0.2; more steps make it worse.",
}
"""What to try, for each alarm there is."""

_HIDES = {
    "nan": ("spike",),
    "spike": ("black", "saturated", "frozen", "flicker", "colour", "memorisation", "time"),
    "range": ("black", "saturated", "frozen", "flicker", "colour", "spike"),
    "constant": ("static", "frozen", "flicker", "colour", "black", "saturated", "time"),
    "static": ("frozen", "flicker", "colour", "time"),
    "time": ("flicker", "frozen", "colour"),
    "black": ("frozen", "flicker", "colour", "saturated"),
    "saturated": ("frozen", "flicker", "colour"),
    "flicker": ("colour",),
}
"""Cause to the alarms that merely follow from it."""


@dataclass(frozen=True)
class Alarm:
    """Something to look at, and what to try."""

    name: str
    step: int
    text: str

    @property
    def remedy(self) -> str:
        """What to try."""
        return REMEDIES[self.name]

    def __str__(self) -> str:
        return f"ALARM ({self.name}) at step {self.step}: {self.text}\n  {self.remedy}"


class Watch:
    """Judges the numbers of a run as they come.

    Args:
        batch_size: clips a step; sets over how many steps errors are averaged.
        standing: alarms that stand already, of a run that resumes.
    """

    def __init__(self, batch_size: int = 8, standing: Sequence[str] = ()) -> None:
        self.standing = set(standing)
        self.window = max(20, math.ceil(160 / batch_size))
        self._errors: list[float] = []
        self._best = math.inf
        self._bands: list[dict[str, float]] = []
        self._learned, self._error = False, math.inf
        self._alike = False
        self._suspected: set[str] = set()
        self._seen: dict[str, float] = {}

    def after_step(self, step: int, values: Values) -> list[Alarm]:
        """`nan` and `spike`, from the numbers of one step."""
        bad = [n for n in ("loss", "error", "grad_norm") if not math.isfinite(values[n])]
        said = {"nan": f"{' and '.join(bad)} not finite; the step was skipped." if bad else ""}
        if not bad:
            self._errors = [*self._errors, values["error"]][-self.window :]
        spike = ""
        if len(self._errors) == self.window:
            now = statistics.fmean(self._errors)
            self._best = min(self._best, now)
            if now > 1.25 or now > max(0.3, 3 * self._best):
                spike = (
                    f"the training error is {now:.2f} over {self.window} steps, where 1 is the "
                    f"error of saying nothing and {self._best:.2f} was the best."
                )
        return self._judge(step, said | {"spike": spike})

    def after_bands(self, step: int, values: Values) -> list[Alarm]:
        """`memorisation` and `time`, from errors at fixed levels with fixed noise.

        Args:
            values: `held_out.LEVEL`, `train.LEVEL` and `held_out`; where the network has temporal
                layers, `alone` and `together`: the error at one level with each frame seen
                alone, and with its neighbours.
        """
        before = self._bands[-1]["held_out"] if self._bands else math.inf
        self._bands.append(dict(values))
        now = self._error = values["held_out"]
        settled = now < BEGUN and now > (1 - SETTLED) * before
        self._learned = self._learned or now < LEARNED or settled
        said = {"memorisation": self._memorisation(), "time": ""}
        if values.get("together", 1.0) < 0.8:
            ratio = values["alone"] / values["together"]
            alike = abs(ratio - 1) < SAME
            twice, self._alike = alike and self._alike, alike
            if twice:
                said["time"] = (
                    "each frame is denoised as well alone as among its neighbours "
                    f"(error ratio {ratio:.3f}): the model makes pictures, not clips."
                )
        return self._judge(step, said)

    def after_data(self, step: int, values: Values) -> list[Alarm]:
        """`range`, `constant` and `static`, from training clips.

        Args:
            values: `mean` and `sd` of the clips in model range (0 and 0.5 are right), `contrast`
                (median over clips of the sd of a frame's pixels, grey levels) and `still` (median
                share of frame pairs in which nothing moves).
        """
        said = dict.fromkeys(("range", "constant", "static"), "")
        if abs(values["mean"]) > 0.35 or not 0.2 <= values["sd"] <= 0.9:
            said["range"] = (
                f"the network is given clips of mean {values['mean']:.2f} and sd "
                f"{values['sd']:.2f}; 0 and 0.5 are right."
            )
        if values["contrast"] < 2:
            said["constant"] = (
                f"half of the clips are one flat colour (contrast {values['contrast']:.1f} grey "
                "levels): there is nothing to learn."
            )
        if values["still"] > 0.9:
            said["static"] = (
                f"in half of the clips nothing moves in {values['still']:.0%} of the frame pairs: "
                "a model of them stands still."
            )
        return self._judge(step, said)

    def after_pictures(self, step: int, made: Values, real: Values) -> list[Alarm]:
        """`black`, `saturated`, `frozen`, `flicker` and `colour`: samples against held-out clips.

        The last three are raised where they show at two looks in a row.

        Args:
            made: `luma`, `contrast`, `clipped`, `motion`, `flicker`, `change`, `drift`, `red`,
                `green`, `blue`, as health.py measures them.
            real: the same of real clips, and `spread`: the sd of a clip's mean colour.
        """
        names = ("black", "saturated", "frozen", "flicker", "colour")
        said = dict.fromkeys(names, "")
        if (made["luma"] < 10 and real["luma"] > 20) or made["contrast"] < 0.15 * real["contrast"]:
            said["black"] = (
                f"the samples are black or flat: brightness {made['luma']:.0f} (data "
                f"{real['luma']:.0f}), contrast {made['contrast']:.1f} (data "
                f"{real['contrast']:.1f})."
            )
        if made["clipped"] > real["clipped"] + 0.25:
            said["saturated"] = (
                f"{made['clipped']:.0%} of the samples' values are fully dark or bright (data "
                f"{real['clipped']:.0%})."
            )
        now = _over_time(made, real) if self._learned else {}
        # A healthy young model flickers less at every look; an ill one twice alike.
        calmer = made["change"] < 0.85 * self._seen.get("change", 0.0)
        for name, text in now.items():
            young = name == "flicker" and (calmer or self._error > GRAINY)
            if name in self._suspected and not young:
                said[name] = text
        self._suspected = {name for name, text in now.items() if text}
        self._seen = dict(made)
        return self._judge(step, said)

    def _memorisation(self) -> str:
        """A band whose held-out error has risen twice from its best while training's fell."""
        for name in self._bands[-1]:
            if not name.startswith("held_out.") or len(self._bands) < 3:
                continue
            own = name.replace("held_out.", "train.")
            held = [b[name] for b in self._bands if name in b and own in b]
            seen = [b[own] for b in self._bands if name in b and own in b]
            best = min(range(len(held)), key=held.__getitem__)
            risen = best < len(held) - 2 and min(held[-2:]) > 1.1 * held[best]
            if risen and seen[-1] < 0.95 * seen[best]:
                level = name.removeprefix("held_out.")
                return (
                    f"at noise {level} the error on held-out clips rose from {held[best]:.3f} to "
                    f"{held[-1]:.3f} while that on training clips fell from {seen[best]:.3f} to "
                    f"{seen[-1]:.3f}: the clips are being learnt by heart."
                )
        return ""

    def _judge(self, step: int, said: Mapping[str, str]) -> list[Alarm]:
        """The alarms that are new; those with an empty text are over."""
        self.standing -= {name for name, text in said.items() if not text}
        raised = []
        for name, text in said.items():
            hidden = any(name in _HIDES.get(cause, ()) for cause in self._causes(said))
            if text and not hidden and name not in self.standing:
                raised.append(Alarm(name, step, text))
                self.standing.add(name)
        return raised

    def _causes(self, said: Mapping[str, str]) -> set[str]:
        return self.standing | {name for name, text in said.items() if text}


def _over_time(made: Values, real: Values) -> dict[str, str]:
    """Texts of `frozen`, `flicker` and `colour`."""
    said = dict.fromkeys(("frozen", "flicker", "colour"), "")
    if made["motion"] < 0.25 * real["motion"]:
        said["frozen"] = (
            f"the samples move {made['motion']:.3f} frame widths a second (data "
            f"{real['motion']:.3f})."
        )
    jumpy = made["change"] > 3 * real["change"] + 4
    if jumpy or made["flicker"] > 4 * real["flicker"] + 2:
        said["flicker"] = (
            f"the samples flicker: brightness {made['flicker']:.1f} grey levels (data "
            f"{real['flicker']:.1f}), change between frames {made['change']:.1f} (data "
            f"{real['change']:.1f})."
        )
    cast = max(abs(made[c] - real[c]) for c in ("red", "green", "blue"))
    if made["drift"] > 3 * real["drift"] + 12 or cast > 24 + 2 * real["spread"]:
        said["colour"] = (
            f"the samples' colour is off by {cast:.0f} grey levels on average (clips differ by "
            f"{real['spread']:.0f}) and drifts by {made['drift']:.0f} within a clip (data "
            f"{real['drift']:.0f})."
        )
    return said
