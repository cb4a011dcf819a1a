"""A request becomes MP4 files, each with the certificate of how it was made.

The request names a run, a task word with its inputs, and seeds; clip i depends on its seed alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import torch
from jaxtyping import Bool, UInt8
from pydantic import Field
from torch import Tensor

from vidiff import tasks
from vidiff.data.clips import read_picture, read_start
from vidiff.data.export import write_gif, write_mp4, write_sheet
from vidiff.errors import RequestError
from vidiff.pipeline import VideoDiffusion, load
from vidiff.records import Condition
from vidiff.runs.config import Config
from vidiff.runs.provenance import certificate, to_metadata, write_sidecar
from vidiff.sampling import SampleConfig

TASKS = ("generate", "image-to-video", "predict", "backward", "interpolate", "upsample-time",
         "inpaint", "edit")  # fmt: skip
"""Task words that work now."""

LATER = ("outpaint", "loop", "rollout", "upscale", "vary")
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
    """Picture whose white pixels are to be filled, for inpaint."""
    keep: int = Field(4, ge=1)
    """Frames of the clip that are kept, for predict, backward and interpolate (at each end)."""
    frames: int | None = Field(None, ge=2)
    """Frames to make; by default as many as the model was trained on."""
    factor: int = Field(2, ge=2)
    """Times as many frames, for upsample-time."""
    strength: float = Field(0.5, gt=0, le=1)
    """How far an edit may go from the clip: 1 forgets it."""
    sample: SampleConfig = SampleConfig()
    """Sampler, steps, guidance."""
    gif: bool = False
    """Write a GIF beside each MP4."""


def generate(
    run: str | Path | VideoDiffusion,
    out: str | Path,
    request: Request | None = None,
    *,
    weights: str = "ema",
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Make the clips of a request.

    Args:
        run: run folder, checkpoint folder, or a loaded model.
        out: folder for `TASK-seed0000.mp4`, its `.json`, and `TASK.png`, a sheet of all clips.
        request: what to make; one plain clip by default.
        weights: which weights of the run (see `vidiff.load`).
        progress: called with (denoiser calls done, calls in all).

    Returns:
        the files made, MP4s first.

    Raises:
        RequestError: an unknown task, missing or unfit inputs, no valid checkpoint.
    """
    request = request or Request()
    check_task(request)
    model = run if isinstance(run, VideoDiffusion) else load(run, weights)
    condition = make_condition(model, request)
    clips = model.sample(condition, request.seeds, request.sample, progress)
    fps = Fraction(model.fps).limit_denominator(1001)
    if request.task == "upsample-time":
        fps *= request.factor
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    made, beside = [], []
    asked = request.model_dump(mode="json", exclude={"seeds", "gif"})
    for seed, frames in zip(request.seeds, clips, strict=True):
        about = certificate(
            asked, weights_hash=model.weights_hash, data_digest=model.data_digest, seeds=[seed]
        )
        path = folder / f"{request.task}-seed{seed:04d}.mp4"
        made.append(write_mp4(path, frames, fps, metadata=to_metadata(about)))
        beside.append(write_sidecar(path, about))
        if request.gif:
            scale = max(1, 192 // frames.shape[1])
            beside.append(write_gif(path.with_suffix(".gif"), frames, float(fps), scale))
    sheet = folder / f"{request.task}.png"
    beside.append(write_sheet(sheet, clips, scale=max(1, 96 // model.size)))
    return made + beside


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
    needed = {"generate": (), "image-to-video": ("image",), "inpaint": ("clip", "mask")}
    for name in needed.get(task, ("clip",)):
        value = getattr(request, name)
        if value is None:
            raise RequestError(f"The task {task!r} needs --{name}.", f"Add --{name} FILE.")
        if not Path(value).is_file():
            raise RequestError(f"--{name} {value}: there is no such file.", "Check the path.")


def make_condition(model: VideoDiffusion, request: Request) -> Condition:
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
            return tasks.inpaint(frames(total), _hole(str(request.mask), size))
    top, low = model.calibration.sigma_max, 0.1
    level = low * (top / low) ** request.strength
    return tasks.edit(frames(total), level)


def _hole(path: str, size: int) -> Bool[Tensor, "1 1 h w"]:
    hole = read_picture(path, size).float().mean(-1) > 127
    if not bool(hole.any()) or bool(hole.all()):
        raise RequestError(
            f"--mask {path} marks {'nothing' if not hole.any() else 'everything'}.",
            "White pixels are filled, black ones kept: the mask needs both.",
        )
    return hole[None, None]


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
