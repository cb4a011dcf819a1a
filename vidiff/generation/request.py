"""What to make: a task word, its inputs and seeds, checked before anything is loaded.

Inputs are read at the size and rate of the model that gets them.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, UInt8
from pydantic import Field
from torch import Tensor

from vidiff import tasks
from vidiff.data.clips import read_picture, read_start
from vidiff.errors import DataError, RequestError
from vidiff.pipeline import VideoDiffusion
from vidiff.records import Condition
from vidiff.runs.config import Config
from vidiff.sampling import SampleConfig

TASKS = ("generate", "image-to-video", "predict", "backward", "interpolate", "upsample-time",
         "inpaint", "outpaint", "edit", "vary", "loop", "rollout",
         "upscale")  # fmt: skip
"""Task words that work now."""

INPUTS = ("image", "clip", "mask")
"""Fields of a request that name files."""

INPUTS = ("image", "clip", "mask")
"""Fields of a request that name files."""


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
    """How far an edit or a variation may go from the clip, 0..1."""
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


def check_task(request: Request) -> None:
    """Refuse unknown words and missing inputs before anything is loaded.

    Raises:
        RequestError: with the words there are, or the option that is missing.
    """
    task = request.task
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
