"""Tasks with one right answer: held-out clips with a part withheld, beside the trivial answers.

    predict        the first `keep` frames are given, the rest is judged; trivial: repeat the last
    backward       the last `keep` frames are given; trivial: repeat the first of them
    interpolate    `keep` frames at both ends are given; trivial: dissolve between them
    upsample-time  every second frame and the last are given; trivial: dissolve
    reconstruct    the whole clip under noise of level 1 is given; trivial: half the pixels, bicubic

Also for two folders, `pairs` judges files of one name: the answers of any other model, an upscaler
or an autoencoder. A diffusion model draws one answer of many: with several samples a clip the
mean of them is the fair comparison with regressors, the best of them tells what it can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from pydantic import Field

from vidiff import tasks
from vidiff.errors import DataError, RequestError, VidiffError
from vidiff.evaluation.cache import hash_clips
from vidiff.evaluation.card import TENSORS, digest_card, make_card
from vidiff.evaluation.instruments import load_instruments
from vidiff.evaluation.report import as_json
from vidiff.evaluation.scoring import EvalConfig
from vidiff.evaluation.sources import SAMPLES_AT_ONCE, HeldOut, number_sources
from vidiff.metrics import distribution as dist
from vidiff.metrics.paired import blend, enlarge_bicubic, measure_pairs, repeat_last
from vidiff.metrics.perceptual import measure_psnr, measure_ssim
from vidiff.metrics.vmaf import measure_vmaf
from vidiff.metrics.warping import measure_own_warp_error
from vidiff.pipeline import VideoDiffusion
from vidiff.records import Condition
from vidiff.runs.crew import Crew
from vidiff.runs.plots import show_number

FrameArray = UInt8[np.ndarray, "b t h w c"]
Rows = dict[str, Float[np.ndarray, "b"]]

HIGHER = ("psnr", "ssim", "vmaf")
RECONSTRUCT_LEVEL = 1.0


class PairConfig(EvalConfig):
    """An evaluation with right answers."""

    keep: int = Field(4, ge=1)
    """Given frames, at each end for interpolate."""
    samples: int = Field(1, ge=1, le=100)
    """Answers drawn for each clip."""
    num_clips: int = Field(64, ge=2)
    """Most clips."""


@dataclass(frozen=True)
class Trial:
    """What is given, what is judged, and what the trivial answer would be."""

    condition: Condition
    judged: list[int]
    """Frames of the clip that are judged."""
    trivial: dict[str, FrameArray]
    """Whole clips, by name."""


@dataclass(frozen=True)
class PairedReport:
    """Answers against the right ones; prints as a table."""

    protocol: dict[str, Any]
    scores: dict[str, dict[str, Any]]
    """Name to value, interval, n, and the same of each trivial answer with the difference."""
    missing: tuple[str, ...] = ()
    clips: dict[str, FrameArray] = field(default_factory=dict, repr=False, compare=False)
    """Target, answer and trivial answers; for the page, not in the JSON."""

    def to_json(self) -> dict[str, Any]:
        """One object, ready for `json.dumps`."""
        return as_json(
            {
                "protocol": {**self.protocol, "missing": self.missing},
                "scores": self.scores,
                "warnings": self.warnings(),
            }
        )

    def warnings(self) -> list[str]:
        """A sentence for every line on which a trivial answer is as good."""
        out = []
        for name, score in self.scores.items():
            for trivial, other in score["trivial"].items():
                if not other["beaten"]:
                    out.append(f"{name} does not beat {trivial}: nothing is shown to be learnt.")
        return out

    def __str__(self) -> str:
        p = self.protocol
        lines = [f"{p['task']}: {p['n']} clips, frames {p['judged']}", ""]
        for name, s in self.scores.items():
            span = f"{show_number(s['low'])} to {show_number(s['high'])}"
            lines.append(f"{name:18}{show_number(s['value']):>10}  ({span})")
            for trivial, other in s["trivial"].items():
                verdict = "beaten" if other["beaten"] else "NOT beaten"
                lines.append(f"  {trivial:16}{show_number(other['value']):>10}  {verdict}")
        lines += [f"warning: {sentence}" for sentence in self.warnings()]
        lines += [f"missing: {sentence}" for sentence in self.missing]
        return "\n".join(lines)


def score_task(
    model: VideoDiffusion, task: str, held_out: HeldOut, config: PairConfig, crew: Crew
) -> PairedReport:
    """Let a model answer a task on held-out clips and judge the answers.

    Args:
        model: samples the answers.
        task: see the head of this file.
        held_out: the clips, whole.
        config: how many, how much is given.
        crew: processes that share the sampling.

    Raises:
        RequestError: more frames given than the clips have.
    """
    clips = held_out.clips[: config.num_clips]
    count, k = len(clips), config.samples
    starts = range(0, count * k, SAMPLES_AT_ONCE)

    def answer(start: int) -> FrameArray:
        numbers = range(start, min(start + SAMPLES_AT_ONCE, count * k))
        given = clips[[number // k for number in numbers]]
        trial = set_trial(task, given, config.keep)
        out = model.sample(trial.condition, list(numbers), config.sample, chunk=SAMPLES_AT_ONCE)
        return out.numpy()

    answers = np.concatenate(crew.map(answer, starts)).reshape(count, k, *clips.shape[1:])
    trial = set_trial(task, clips, config.keep)
    made = {"one sample": answers[:, 0]}
    if k > 1:
        made["mean of samples"] = np.rint(answers.mean(axis=1)).astype(np.uint8)
    report = judge(clips, made, trial.trivial, trial.judged, held_out, config, task)
    if k > 1:
        _add_best(report, clips, answers, trial.judged, config)
    return report


def score_pairs(
    made: FrameArray, held_out: HeldOut, config: PairConfig, factor: int = 2
) -> PairedReport:
    """Judge clips of any origin against the right answers, file by file.

    Args:
        made: the answers, in the order of the targets.
        held_out: the targets.
        config: seed and draws.
        factor: of the trivial answer, which has 1 / factor of the pixels on each side.
    """
    target = held_out.clips
    trivial = {"bicubic": _through_small(target, factor)}
    everything = _frames(0, target.shape[1])
    _require_pairs(made, target)
    return judge(target, {"given": made}, trivial, everything, held_out, config, "pairs")


def set_trial(task: str, clips: FrameArray, keep: int) -> Trial:
    """One task on given clips.

    Raises:
        RequestError: an unknown task, or more frames given than leave four to judge.
    """
    t = clips.shape[1]
    used = {"predict": keep, "backward": keep, "interpolate": 2 * keep}.get(task, 0)
    used = t // 2 + 1 if task == "upsample-time" else used
    if t - used < 4:
        raise RequestError(
            f"keep={keep} leaves {t - used} of {t} frames to judge; four are needed.",
            "Lower keep, or use longer clips.",
        )
    known = torch.from_numpy(clips)
    match task:
        case "predict":
            made = repeat_last(clips[:, :keep], t - keep)
            whole = np.concatenate([clips[:, :keep], made], axis=1)
            return Trial(
                tasks.predict(known[:, :keep], t), _frames(keep, t), {"repeat last": whole}
            )
        case "backward":
            made = repeat_last(clips[:, : t - keep - 1 : -1], t - keep)
            whole = np.concatenate([made, clips[:, t - keep :]], axis=1)
            condition = tasks.backward(known[:, -keep:], t)
            return Trial(condition, _frames(0, t - keep), {"repeat first": whole})
        case "interpolate":
            made = blend(clips[:, keep - 1], clips[:, t - keep], t - 2 * keep)
            whole = np.concatenate([clips[:, :keep], made, clips[:, t - keep :]], axis=1)
            condition = tasks.interpolate(known[:, :keep], known[:, -keep:], t)
            return Trial(condition, _frames(keep, t - keep), {"dissolve": whole})
        case "upsample-time":
            places = sorted({*range(0, t, 2), t - 1})
            condition = tasks.subset(known[:, places], places, t)
            between = [k for k in range(t) if k not in places]
            return Trial(condition, between, {"dissolve": _dissolve(clips, places)})
        case "reconstruct":
            condition = tasks.edit(known, RECONSTRUCT_LEVEL)
            return Trial(condition, _frames(0, t), {"bicubic": _through_small(clips, 2)})
    raise RequestError(
        f"There is no paired task {task!r}.",
        "Choose predict, backward, interpolate, upsample-time or reconstruct.",
    )


def judge(
    target: FrameArray,
    made: Mapping[str, FrameArray],
    trivial: Mapping[str, FrameArray],
    judged: list[int],
    held_out: HeldOut,
    config: PairConfig,
    task: str,
) -> PairedReport:
    """Paired numbers of the answers and of the trivial ones, with paired intervals."""
    instruments = load_instruments("none", config.perceptual)
    perceptual, missing = instruments.perceptual, list(instruments.missing[:-1])
    aim = target[:, judged]
    answers = {**made, **trivial}
    rows = {n: measure_pairs(c[:, judged], aim, perceptual) for n, c in answers.items()}
    try:
        for name, clips in answers.items():
            rows[name]["vmaf"] = measure_vmaf(clips[:, judged], aim)
    except VidiffError as error:
        missing.append(f"vmaf: {error.cause} {error.remedy}")
    card = make_card(
        (int(target.shape[1]), *(int(s) for s in target.shape[2:])),  # type: ignore[arg-type]
        n=len(target),
        dt=held_out.dt,
        seed=config.seed,
        neighbours=config.neighbours,
        reference=hash_clips(target),
        features=instruments.features,
        codec=TENSORS,
        split=held_out.index.digest,
    )
    protocol = {
        **card,
        "card": digest_card(card | {"task": task, "keep": config.keep}),
        "task": task,
        "judged": f"{judged[0]} to {judged[-1]}",
        "keep": config.keep,
        "samples": config.samples,
        "config": config.model_dump(exclude={"cache", "batch"}),
    }
    groups = np.array(number_sources(held_out.batch))[: len(target)]
    own = {"warp_error": measure_own_warp_error(aim)}
    scores = _compare_rows(rows, own, list(made), list(trivial), groups, config)
    shown = {"target": target, **made, **trivial}
    return PairedReport(protocol, scores, tuple(missing), shown)


def _frames(first: int, end: int) -> list[int]:
    return list(range(first, end))


def _require_pairs(made: FrameArray, target: FrameArray) -> None:
    if made.shape != target.shape:
        raise DataError(
            f"The answers are {list(made.shape)} and the targets {list(target.shape)} "
            "(b t h w c); pairs must agree.",
            "Give one answer per target, of its length, rate and size.",
        )


def _compare_rows(
    rows: Mapping[str, Rows], own: Rows, made: Sequence[str], trivial: Sequence[str],
    groups: Int[np.ndarray, "b"], config: PairConfig,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    rng = np.random.default_rng(config.seed)
    weights = dist.draw_weights(rng, len(groups), groups, config.draws)
    weights = weights / weights.sum(axis=1, keepdims=True)
    out: dict[str, dict[str, Any]] = {}
    for kind in made:
        for name, values in rows[kind].items():
            label = name if kind == made[0] else f"{name}, {kind}"
            low, high = np.percentile(weights @ np.nan_to_num(values), [2.5, 97.5])
            others = {}
            for other in trivial:
                x, y = values, rows[other][name]
                if name in own:
                    # Neither high nor low is good: blur lowers it below the target's own.
                    x, y = np.abs(x - own[name]), np.abs(y - own[name])
                difference = np.nan_to_num(x - y)
                down, up = np.percentile(weights @ difference, [2.5, 97.5])
                others[other] = {
                    "value": float(np.nanmean(rows[other][name])),
                    "difference": float(difference.mean()),
                    "low": float(down),
                    "high": float(up),
                    "beaten": bool(down > 0 if name in HIGHER else up < 0),
                }
            value = float(np.nanmean(values))
            out[label] = {"value": value, "low": float(low), "high": float(high),
                          "n": len(values), "trivial": others}  # fmt: skip
            if name in own:
                out[label]["target"] = float(np.nanmean(own[name]))
    return out


def _add_best(
    report: PairedReport, target: FrameArray, answers: UInt8[np.ndarray, "b k t h w c"],
    judged: list[int], config: PairConfig,
) -> None:  # fmt: skip
    """Best of the samples, clip by clip, in the numbers that are usually told so."""
    for name, measure in (("psnr", measure_psnr), ("ssim", measure_ssim)):
        values = np.array(
            [
                max(float(measure(a[judged], clip[judged]).mean()) for a in several)
                for clip, several in zip(target, answers, strict=True)
            ]
        )
        spread = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
        value = float(values.mean())
        report.scores[f"{name}, best of {config.samples}"] = {
            "value": value, "low": value - spread, "high": value + spread, "n": len(values),
            "trivial": {},
        }  # fmt: skip


def _dissolve(clips: FrameArray, places: Sequence[int]) -> FrameArray:
    out = clips.copy()
    for a, b in pairwise(places):
        if b - a > 1:
            out[:, a + 1 : b] = blend(clips[:, a], clips[:, b], b - a - 1)
    return out


def _through_small(clips: FrameArray, factor: int) -> FrameArray:
    b, t, h, w, c = clips.shape
    size = (max(1, w // factor), max(1, h // factor))
    frames = clips.reshape(b * t, h, w, c)
    small = [cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in frames]
    return enlarge_bicubic(np.stack(small).reshape(b, t, size[1], size[0], c), (h, w))
