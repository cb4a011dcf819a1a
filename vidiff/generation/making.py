"""A request becomes MP4 files, each with the certificate of how it was made.

The request names a run, a task word with its inputs, and seeds; clip i depends on its seed alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from vidiff import tasks
from vidiff.data.clips import read_start, read_whole
from vidiff.data.codecs import find_codec
from vidiff.data.export import (
    encoding_loss,
    write_gif,
    write_mp4,
    write_pictures,
    write_sheet,
    write_webp,
)
from vidiff.errors import RequestError
from vidiff.generation import rollout
from vidiff.generation.request import INPUTS, Request, check_task, make_condition
from vidiff.generation.upscaling import check_upscaler, upscale
from vidiff.generation.variation import vary
from vidiff.metrics.drift import LEAST_BLOCKS, measure_drift
from vidiff.pipeline import VideoDiffusion
from vidiff.records import Condition
from vidiff.runs.crew import Crew
from vidiff.runs.files import hash_file
from vidiff.runs.provenance import certificate, seal, to_metadata, write_sidecar
from vidiff.runs.signing import sign
from vidiff.sampling import Progress, Watch, chunk_of
from vidiff.saved import load


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
    progress: Progress | None = None,
    publishing: Publishing | None = None,
    preview: bool = False,
    then: str | Path | None = None,
) -> list[Path]:
    """Make the clips of a request; the processes of a torchrun launch share its seeds.

    Args:
        run: run folder, checkpoint folder, or a loaded model.
        out: folder for `TASK-seed0000.mp4`, its `.json`, and `TASK.png`, a sheet of all clips.
        request: what to make; one plain clip by default.
        weights: which weights of the run (see `vidiff.load`).
        progress: called with (denoiser calls done, calls in all).
        publishing: what the files tell of captions, and the certificate that signs them.
        preview: keep `preview.png` in the folder, the clips as they are guessed at present
            (of tasks that are one pass of the sampler).
        then: run folder of a second model that makes the clips larger.

    Returns:
        the files made, MP4s first.

    Raises:
        RequestError: an unknown task, missing or unfit inputs, no valid checkpoint.
    """
    request, publishing = request or Request(), publishing or Publishing()
    check_task(request)
    find_codec(request.codec)
    model = run if isinstance(run, VideoDiffusion) else load(run, weights)
    request = request.model_copy(update={"sample": model.settle(request.sample)})
    upscaler = None if then is None else load(then)
    if upscaler is not None:
        check_upscaler(upscaler, model.size)
    folder, fps, scale = Path(out), rate_of(model, request), max(1, 96 // model.size)
    seeds, chunk = request.seeds, chunk_of(model.device)
    batches = [seeds[i : i + chunk] for i in range(0, len(seeds), chunk)]

    def show(frames: UInt8[Tensor, "b t h w c"]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_sheet(folder / "preview.png", frames, scale)

    with Crew.of_launch() as crew:
        mine = len(batches[crew.rank :: crew.size])
        watch = show if preview and crew.leads else None

        def make(k: int) -> _Made:
            def tell(done: int, calls: int) -> None:
                if progress:
                    progress(k // crew.size * calls + done, mine * calls)

            clips = make_clips(model, request, batches[k], tell, watch)
            if upscaler is not None:
                clips = upscale(upscaler, clips, batches[k], request.sample, request.keep)
            folder.mkdir(parents=True, exist_ok=True)  # nothing is made for a refused request
            files: list[Path] = []
            for seed, frames in zip(batches[k], clips, strict=True):
                path = folder / f"{request.task}-seed{seed:04d}.mp4"
                about = _certificate(model, upscaler, request, seed, batches[k], frames, publishing)
                files += [path, *write_clip(path, frames, fps, about, request, publishing)]
            return clips, files

        made = crew.map(make, range(len(batches)))
        sheet = folder / f"{request.task}.png"
        if crew.leads:
            write_sheet(sheet, torch.cat([clips for clips, _ in made]), scale)
    files = [path for _, part in made for path in part]
    return [*sorted(files, key=lambda path: path.suffix != ".mp4"), sheet]


_Made = tuple[UInt8[Tensor, "b t h w c"], list[Path]]


def make_clips(
    model: VideoDiffusion,
    request: Request,
    seeds: Sequence[int],
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> UInt8[Tensor, "b t h w c"]:
    """The clips of a request, one for each seed: one pass of the sampler, or several."""
    sample, dt = request.sample, model.calibration.dt

    def tell(condition: Condition) -> Condition:
        return model.tell(condition, request.label, request.caption)

    match request.task:
        case "loop":
            start = None
            if request.clip:
                count = request.frames or model.num_frames
                start = read_start(request.clip, count, dt, model.size)[None]
            return rollout.loop(model, request.keep, seeds, sample, start, tell, progress)
        case "rollout":
            return _roll_out(model, request, seeds, tell, progress)
        case "vary":
            count = request.frames or model.num_frames
            clip = read_start(str(request.clip), count, dt, model.size)[None]
            told = tell(tasks.generate(1, count))
            return vary(model, clip, request.strength, seeds, sample, told, progress)
        case "upscale":
            clip = read_whole(str(request.clip), dt, request.frames)[None]
            return upscale(model, clip, seeds, sample, request.keep, tell, progress)
    return model.sample(make_condition(model, request), seeds, sample, progress, watch=watch)


def _roll_out(
    model: VideoDiffusion,
    request: Request,
    seeds: Sequence[int],
    tell: rollout.Shape,
    progress: Progress | None,
) -> UInt8[Tensor, "b t h w c"]:
    keep, sample, start = request.keep, request.sample, None
    total = request.frames or 4 * model.num_frames
    if request.method == "slide":
        if request.clip:
            start = read_start(request.clip, keep, model.calibration.dt, model.size)[None]
        return rollout.slide(model, total, keep, seeds, sample, start, tell, progress)
    if request.clip:
        raise RequestError(
            f"A rollout by {request.method} cannot continue a clip.", "Use --method slide."
        )
    if request.method == "roll":
        return rollout.roll(model, total, keep, seeds, sample, tell, progress)
    return rollout.keyframes(model, total, request.factor, keep, seeds, sample, tell, progress)


def rate_of(model: VideoDiffusion, request: Request) -> Fraction:
    """Frames a second of the clips of a request."""
    fps = Fraction(model.fps).limit_denominator(1001)
    return fps * request.factor if request.task == "upsample-time" else fps


def _certificate(
    model: VideoDiffusion,
    upscaler: VideoDiffusion | None,
    request: Request,
    seed: int,
    batch: Sequence[int],
    frames: UInt8[Tensor, "t h w c"],
    publishing: Publishing,
) -> dict[str, Any]:
    """Of the clip of one seed. Sums round differently in other batches and on other thread
    counts, so both are noted: `vidiff replay` needs them to meet every bit."""
    inputs = {name: hash_file(path) for name in INPUTS if (path := getattr(request, name))}
    then = {} if upscaler is None else {"then": {"weights_sha256": upscaler.weights_hash}}
    return certificate(
        request.model_dump(mode="json", exclude={"seeds", "gif", "webp", "png", "measure"}),
        weights_hash=model.weights_hash,
        data_digest=model.data_digest,
        seeds=[seed],
        keep_prompt=publishing.keep_prompt,
        frames_sha256=hash_frames(frames),
        batch=list(batch),
        threads=torch.get_num_threads(),
        device=model.device.type,
        inputs=inputs,
        **then,
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
