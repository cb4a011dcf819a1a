"""A request becomes MP4 files, each with the certificate of how it was made.

The request names a run, a task word with its inputs, and seeds; clip i depends on its seed alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, UInt8
from pydantic import Field
from torch import Tensor

from vidiff import rollout, tasks
from vidiff.data.clips import read_picture, read_start
from vidiff.data.codecs import find_codec
from vidiff.data.export import (
    encoding_loss,
    write_gif,
    write_mp4,
    write_pictures,
    write_sheet,
    write_webp,
)
from vidiff.errors import DataError, RequestError
from vidiff.metrics.drift import LEAST_BLOCKS, measure_drift
from vidiff.pipeline import VideoDiffusion
from vidiff.records import Condition
from vidiff.runs.config import Config
from vidiff.runs.files import hash_file
from vidiff.runs.provenance import certificate, seal, to_metadata, write_sidecar
from vidiff.runs.signing import sign
from vidiff.sampling import CHUNK, SampleConfig
from vidiff.saved import load

TASKS = ("generate", "image-to-video", "predict", "backward", "interpolate", "upsample-time",
         "inpaint", "outpaint", "edit", "loop", "rollout")  # fmt: skip
"""Task words that work now."""

INPUTS = ("image", "clip", "mask")
"""Fields of a request that name files."""

LATER = ("upscale", "vary")
"""Task words of the contract that are not there yet."""


class Request(Config):
    """What to make."""

    task: str = "generate"
    """Task word."""
    seeds: tuple[int, ...] = (0,)
    """One clip for each."""
    image: str | None = None
    """Picture file, for image-to-video."""
    clip: str | None = None
    """Video file, for every other task with an input."""
    mask: str | None = None
    """Picture or video whose white pixels are to be filled, for inpaint."""
    feather: int = Field(0, ge=0)
    """Pixels beside the hole that may change too, so that no edge is seen."""
    inner: float = Field(0.75, gt=0, lt=1)
    """Share of each side that the given clip takes up, for outpaint."""
    keep: int = Field(4, ge=1)
    """Frames of the clip that are kept, for predict, backward and interpolate (at each end)."""
    label: str | None = None
    """Class, by name or number; for models that were trained with model.classes."""
    caption: str | None = None
    """Text; for models that were trained with model.text."""
    frames: int | None = Field(None, ge=2)
    """Frames to make; by default as many as the model was trained on."""
    factor: int = Field(2, ge=2)
    """Times as many frames, for upsample-time; distance of keyframes, for rollout by keyframes."""
    method: Literal["slide", "roll", "keyframes"] = "slide"
    """How a rollout goes on: window after window, rolling noise levels, or keyframes first."""
    strength: float = Field(0.5, gt=0, le=1)
    """How far an edit may go from the clip: 1 forgets it."""
    sample: SampleConfig = SampleConfig()
    """Sampler, steps, guidance."""
    codec: str = "h264"
    """How the video is encoded: h264, h264-10bit, hevc, vp9, av1 or lossless."""
    gif: bool = False
    """Write a GIF beside each MP4."""
    webp: bool = False
    """Write an animated WebP, without loss, beside each MP4."""
    png: bool = False
    """Write each frame as PNG, into a folder beside each MP4."""
    measure: bool = False
    """Measure what encoding lost, and write it into the sidecar."""


@dataclass(frozen=True)
class Publishing:
    """How much a clip tells, and who vouches for it."""

    keep_prompt: bool = False
    """Put captions into the files too."""
    chain: str | None = None
    """PEM file of the signer's certificates."""
    key: str | None = None
    """PEM file of the signer's private key."""


def generate(
    run: str | Path | VideoDiffusion,
    out: str | Path,
    request: Request | None = None,
    *,
    weights: str = "ema",
    progress: Callable[[int, int], None] | None = None,
    publishing: Publishing | None = None,
) -> list[Path]:
    """Make the clips of a request.

    Args:
        run: run folder, checkpoint folder, or a loaded model.
        out: folder for `TASK-seed0000.mp4`, its `.json`, and `TASK.png`, a sheet of all clips.
        request: what to make; one plain clip by default.
        weights: which weights of the run (see `vidiff.load`).
        progress: called with (denoiser calls done, calls in all).
        publishing: what the files tell of captions, and the certificate that signs them.

    Returns:
        the files made, MP4s first.

    Raises:
        RequestError: an unknown task, missing or unfit inputs, no valid checkpoint.
    """
    request, publishing = request or Request(), publishing or Publishing()
    check_task(request)
    find_codec(request.codec)
    model = run if isinstance(run, VideoDiffusion) else load(run, weights)
    clips = make_clips(model, request, request.seeds, progress)
    fps = rate_of(model, request)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    made, beside = [], []
    for k, frames in enumerate(clips):
        path = folder / f"{request.task}-seed{request.seeds[k]:04d}.mp4"
        about = _certificate(model, request, k, frames, publishing)
        more = write_clip(path, frames, fps, about, request, publishing)
        made.append(path)
        beside += more
    sheet = folder / f"{request.task}.png"
    beside.append(write_sheet(sheet, clips, scale=max(1, 96 // model.size)))
    return made + beside


def rate_of(model: VideoDiffusion, request: Request) -> Fraction:
    """Frames a second of the clips of a request."""
    fps = Fraction(model.fps).limit_denominator(1001)
    return fps * request.factor if request.task == "upsample-time" else fps


def _certificate(
    model: VideoDiffusion,
    request: Request,
    k: int,
    frames: UInt8[Tensor, "t h w c"],
    publishing: Publishing,
) -> dict[str, Any]:
    """Of the clip of seed number k. Sums round differently in other batches and on other thread
    counts, so both are noted: `vidiff replay` needs them to meet every bit."""
    first = k - k % CHUNK
    inputs = {name: hash_file(path) for name in INPUTS if (path := getattr(request, name))}
    return certificate(
        request.model_dump(mode="json", exclude={"seeds", "gif", "webp", "png", "measure"}),
        weights_hash=model.weights_hash,
        data_digest=model.data_digest,
        seeds=[request.seeds[k]],
        keep_prompt=publishing.keep_prompt,
        frames_sha256=hash_frames(frames),
        batch=list(request.seeds[first : first + CHUNK]),
        threads=torch.get_num_threads(),
        device=model.device.type,
        inputs=inputs,
    )


def hash_frames(frames: UInt8[Tensor, "t h w c"]) -> str:
    """SHA-256 of a clip's shape and bytes."""
    shape = ",".join(map(str, frames.shape)).encode()
    return hashlib.sha256(shape + frames.contiguous().numpy().tobytes()).hexdigest()


def write_clip(
    path: Path,
    frames: UInt8[Tensor, "t h w c"],
    fps: Fraction,
    about: dict[str, Any],
    request: Request,
    publishing: Publishing | None = None,
) -> list[Path]:
    """One clip with its certificate `about`, and what belongs to it; the files beside it."""
    sealed: dict[str, Any] = {}

    def words(stream_hash: str) -> dict[str, str]:
        sealed.update(seal(about, stream_hash))
        return to_metadata(sealed)

    write_mp4(path, frames, fps, metadata=words, codec=request.codec)
    if publishing and publishing.chain and publishing.key:
        sign(path, publishing.chain, publishing.key, sealed)
    facts: dict[str, Any] = {}
    if request.measure:
        facts["encoding_loss"] = encoding_loss(path, frames)
    if request.task == "rollout" and len(frames) >= 8 * LEAST_BLOCKS:
        drift = measure_drift(frames.numpy(), float(1 / fps))
        facts["drift"] = {"found": str(drift), "series": drift.series, "seconds": drift.seconds}
    beside = [write_sidecar(path, sealed, **facts)]
    scale = max(1, 192 // frames.shape[1])
    if request.gif:
        beside.append(write_gif(path.with_suffix(".gif"), frames, float(fps), scale))
    if request.webp:
        beside.append(write_webp(path.with_suffix(".webp"), frames, float(fps)))
    if request.png:
        beside += write_pictures(path.with_suffix(""), frames)
    return beside


def check_task(request: Request) -> None:
    """Refuse unknown words and missing inputs before anything is loaded.

    Raises:
        RequestError: with the words there are, or the option that is missing.
    """
    task = request.task
    if task in LATER:
        raise RequestError(
            f"The task {task!r} is not there yet.", f"There are: {', '.join(TASKS)}."
        )
    if task not in TASKS:
        raise RequestError(f"There is no task {task!r}.", f"There are: {', '.join(TASKS)}.")
    needed = {"generate": (), "image-to-video": ("image",), "inpaint": ("clip", "mask"),
              "loop": (), "rollout": ()}  # fmt: skip
    for name in INPUTS:
        value = getattr(request, name)
        if value is None and name not in needed.get(task, ("clip",)):
            continue
        if value is None:
            raise RequestError(f"The task {task!r} needs --{name}.", f"Add --{name} FILE.")
        if not Path(value).is_file():
            raise RequestError(f"--{name} {value}: there is no such file.", "Check the path.")


def make_clips(
    model: VideoDiffusion,
    request: Request,
    seeds: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> UInt8[Tensor, "b t h w c"]:
    """The clips of a request, one for each seed: one pass of the sampler, or a rollout of many."""
    if request.task not in ("loop", "rollout"):
        return model.sample(make_condition(model, request), seeds, request.sample, progress)
    keep, sample, dt = request.keep, request.sample, model.calibration.dt
    start = None
    if request.task == "loop":
        if request.clip:
            count = request.frames or model.num_frames
            start = read_start(request.clip, count, dt, model.size)[None]
        return rollout.loop(model, keep, seeds, sample, start, progress=progress)
    total = request.frames or 4 * model.num_frames
    if request.method == "slide":
        if request.clip:
            start = read_start(request.clip, keep, dt, model.size)[None]
        return rollout.slide(model, total, keep, seeds, sample, start, progress=progress)
    if request.clip:
        raise RequestError(
            f"A rollout by {request.method} cannot continue a clip.", "Use --method slide."
        )
    if request.method == "roll":
        return rollout.roll(model, total, keep, seeds, sample, progress=progress)
    return rollout.keyframes(model, total, request.factor, keep, seeds, sample, progress=progress)


def make_condition(model: VideoDiffusion, request: Request) -> Condition:
    """The task of a request with its label and caption.

    Raises:
        RequestError: no such label, or a model that was trained without.
    """
    return model.tell(_read_task(model, request), request.label, request.caption)


def _read_task(model: VideoDiffusion, request: Request) -> Condition:
    """The task of a request, inputs read at the model's size and rate."""
    size, total = model.size, request.frames or model.num_frames
    keep, dt = request.keep, model.calibration.dt

    def frames(count: int, spacing: float = dt) -> UInt8[Tensor, "1 t h w c"]:
        return read_start(str(request.clip), count, spacing, size)[None]

    match request.task:
        case "generate":
            return tasks.generate(1, total)
        case "image-to-video":
            return tasks.image_to_video(read_picture(str(request.image), size)[None], total)
        case "predict":
            return tasks.predict(frames(keep), total)
        case "backward":
            return tasks.backward(frames(keep), total)
        case "interpolate":
            clip = frames(total)
            return tasks.interpolate(clip[:, :keep], clip[:, -keep:], total)
        case "upsample-time":
            given = (total - 1) // request.factor + 1
            condition = tasks.upsample_time(frames(given), request.factor)
            return replace(condition, dt=torch.tensor([dt / request.factor]))
        case "inpaint":
            hole = _hole(str(request.mask), total, dt, size)
            return tasks.inpaint(frames(total), hole, request.feather)
        case "outpaint":
            inner = max(1, round(size * request.inner))
            clip = read_start(str(request.clip), total, dt, inner)[None]
            return tasks.outpaint(clip, size, request.feather)
    top, low = model.calibration.sigma_max, 0.1
    level = low * (top / low) ** request.strength
    return tasks.edit(frames(total), level)


def _hole(path: str, count: int, dt: float, size: int) -> Bool[Tensor, "1 t h w"]:
    """What a picture marks in all frames, or a video in each."""
    try:
        picture = read_picture(path, size)[None]
    except DataError:
        picture = read_start(path, count, dt, size)
    hole = picture.float().mean(-1) > 127
    if not bool(hole.any()) or bool(hole.all()):
        raise RequestError(
            f"--mask {path} marks {'nothing' if not hole.any() else 'everything'}.",
            "White pixels are filled, black ones kept: the mask needs both.",
        )
    return hole[None]


def parse_seeds(text: str) -> tuple[int, ...]:
    """`0-7`, `3`, or `0,2,5-6` to seeds.

    Raises:
        RequestError: with the form it should have.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise RequestError(
                f"--seeds {text}: {part!r} is no seed and no range.",
                "Write a number, a range such as 0-7, or a list such as 0,2,5-6.",
            )
        seeds += range(int(match[1]), int(match[2] or match[1]) + 1)
    if len(set(seeds)) != len(seeds) or len(seeds) > 100_000:
        raise RequestError(f"--seeds {text} repeats a seed, or asks for more than 100,000.")
    return tuple(seeds)
