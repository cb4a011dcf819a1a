"""Clips as files that play everywhere and never lie half-written under their final name.

MP4: H.264 in yuv420p unless asked otherwise, the exact rational rate, index at the front. What was
encoded is read back before the file gets its name. The hash of the coded pictures can go into the
tags, so that a changed picture is told from a changed container.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from vidiff.data.codecs import Codec, find_codec, open_stream, to_frame
from vidiff.data.probe import open_video
from vidiff.errors import DataError, RequestError, VidiffError
from vidiff.runs.files import write_atomically

_EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""Without these flags FFmpeg's way back to RGB is up to 2 levels too dark."""

Words = Mapping[str, str] | Callable[[str], Mapping[str, str]]
"""Tags of a file, or a function from the hash of its coded pictures to them."""


def write_mp4(
    path: str | Path,
    frames: UInt8[Tensor, "t h w c"] | UInt8[np.ndarray, "t h w c"],
    fps: int | float | Fraction,
    *,
    metadata: Words | None = None,
    codec: str = "h264",
    crf: int | None = None,
    preset: str = "medium",
) -> Path:
    """Write one clip as MP4: encoded, read back, tagged, renamed.

    Args:
        frames: RGB bytes. An odd height or width gets its last row or column twice, because
            yuv420p knows even sizes only; `lossless` keeps odd sizes.
        fps: frames a second; a float becomes the nearest fraction with denominator <= 1001.
        metadata: words stored in the file, as `read_metadata` returns them. A function of
            `hash_stream`'s answer can store that hash among them.
        codec: a word of `codecs.CODECS`.
        crf: constant rate factor, smaller is better; by default that of the codec.
        preset: x264's and x265's speed.

    Raises:
        RequestError: frames of another shape or type, a rate that is not positive, a codec that
            is not there.
        VidiffError: the file could not be written (full disk, no permission), or did not read
            back as it was written.
    """
    pixels = _checked(frames, 4, "t h w c")
    rate, kind = _rational(fps), find_codec(codec)
    if not kind.rgb:
        height, width = pixels.shape[1:3]
        pixels = np.pad(pixels, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with write_atomically(path) as temporary, _as_os_errors():
        coded = _encode(pixels, rate, kind, kind.crf if crf is None else crf, preset)
        count, digest = hash_stream(coded)
        if count != len(pixels):
            raise VidiffError(
                f"{path}: {len(pixels)} frames were encoded and {count} read back.",
                "Choose another codec; a file with missing frames is not kept.",
            )
        words = metadata(digest) if callable(metadata) else metadata or {}
        _tag(coded, temporary, words, kind)
    return Path(path)


def _encode(
    pixels: UInt8[np.ndarray, "t h w c"], rate: Fraction, codec: Codec, crf: int, preset: str
) -> io.BytesIO:
    coded = io.BytesIO()
    with av.open(coded, "w", format="mp4") as container:
        stream = open_stream(container, codec, rate, pixels.shape[1:3], crf, preset)
        for k, image in enumerate(pixels):
            container.mux(stream.encode(to_frame(image, codec, k, rate)))
        container.mux(stream.encode(None))
    coded.seek(0)
    return coded


def hash_stream(file: str | Path | io.BytesIO) -> tuple[int, str]:
    """Number of coded pictures in a video and the SHA-256 of their bytes, in order of decoding.

    Raises:
        DataError: not a readable video.
    """
    digest, count = hashlib.sha256(), 0
    with contextlib.ExitStack() as stack:
        if isinstance(file, io.BytesIO):
            container = stack.enter_context(av.open(file))
        else:
            container, _ = stack.enter_context(open_video(file))
        for packet in container.demux(container.streams.video[0]):
            if packet.size:
                digest.update(bytes(packet))
                count += 1
    if isinstance(file, io.BytesIO):
        file.seek(0)
    return count, digest.hexdigest()


def _tag(coded: io.BytesIO, path: Path, words: Mapping[str, str], codec: Codec) -> None:
    """The same pictures in a container with the words in it and its index at the front."""
    options = {"movflags": "+faststart+use_metadata_tags"}
    with av.open(coded) as source, av.open(str(path), "w", format="mp4", options=options) as out:
        out.metadata.update(words)
        stream = out.add_stream_from_template(source.streams.video[0], opaque=True)
        if codec.tag:
            stream.codec_context.codec_tag = codec.tag
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)


def encoding_loss(
    path: str | Path, frames: UInt8[Tensor, "t h w c"] | UInt8[np.ndarray, "t h w c"]
) -> dict[str, float]:
    """What encoding cost: PSNR in dB (infinite where nothing), mean and largest error of 255.

    Raises:
        DataError: the file is not readable, or holds other frames.
    """
    pixels = _checked(frames, 4, "t h w c")
    with open_video(path) as (container, _):
        shown = [f.to_ndarray(format="rgb24", interpolation=_EXACT)
                 for f in container.decode(video=0)]  # fmt: skip
    height, width = pixels.shape[1:3]
    read = np.stack([image[:height, :width] for image in shown])
    if read.shape != pixels.shape:
        raise DataError(
            f"{path} holds frames of shape {list(read.shape)}, not {list(pixels.shape)}."
        )
    error = np.abs(read.astype(np.float64) - pixels)
    mse = float((error**2).mean())
    psnr = 10 * math.log10(255**2 / mse) if mse else math.inf
    return {"psnr": psnr, "mean": float(error.mean()), "worst": float(error.max())}


def read_metadata(path: str | Path) -> dict[str, str]:
    """The words stored in a video's container, `write_mp4`'s metadata among them.

    Raises:
        DataError: not a readable video.
    """
    with open_video(path) as (container, _):
        return dict(container.metadata)


def write_gif(
    path: str | Path,
    frames: UInt8[Tensor, "t h w c"] | UInt8[np.ndarray, "t h w c"],
    fps: int | float,
    scale: int = 1,
) -> Path:
    """Write one clip as an endless GIF, each pixel `scale` times as large (nearest neighbour).

    GIF counts time in hundredths of a second: each frame's end is rounded, not its length, so
    that the whole keeps its duration.
    """
    pixels = _checked(frames, 4, "t h w c")
    rate = _rational(fps)
    lasting = [10 * hundredths for hundredths in _lasting(len(pixels), rate, 100)]
    images = [_image(image, scale) for image in pixels]
    # One palette for the whole clip: a palette per frame flickers.
    palette = Image.fromarray(np.concatenate(list(pixels))).quantize(256)
    still = [image.quantize(palette=palette) for image in images]
    with write_atomically(path) as temporary:
        still[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=still[1:],
            duration=lasting,
            loop=0,
            optimize=False,
        )
    return Path(path)


def write_webp(
    path: str | Path,
    frames: UInt8[Tensor, "t h w c"] | UInt8[np.ndarray, "t h w c"],
    fps: int | float,
    scale: int = 1,
) -> Path:
    """Write one clip as an endless animated WebP without loss, pixels `scale` times as large.

    WebP counts time in milliseconds: each frame's end is rounded, so the whole keeps its duration.
    """
    pixels = _checked(frames, 4, "t h w c")
    lasting = _lasting(len(pixels), _rational(fps), 1000)
    images = [_image(image, scale) for image in pixels]
    with write_atomically(path) as temporary:
        images[0].save(
            temporary,
            format="WEBP",
            save_all=True,
            append_images=images[1:],
            duration=lasting,
            loop=0,
            lossless=True,
        )
    return Path(path)


def write_pictures(
    folder: str | Path, frames: UInt8[Tensor, "t h w c"] | UInt8[np.ndarray, "t h w c"]
) -> list[Path]:
    """Write each frame of a clip as `folder/00000.png`, `folder/00001.png`, ..."""
    made = []
    for k, image in enumerate(_checked(frames, 4, "t h w c")):
        made.append(Path(folder) / f"{k:05d}.png")
        with write_atomically(made[-1]) as temporary:
            Image.fromarray(image).save(temporary, format="PNG")
    return made


def write_sheet(
    path: str | Path,
    frames: UInt8[Tensor, "b t h w c"] | UInt8[np.ndarray, "b t h w c"],
    scale: int = 1,
    columns: int | None = None,
) -> Path:
    """Write a PNG contact sheet: one row a clip, `columns` frames of it evenly spread.

    Frames lie two pixels apart on white, so that a jump between neighbours is seen.
    """
    pixels = _checked(frames, 5, "b t h w c")
    b, t, h, w, _ = pixels.shape
    shown = np.linspace(0, t - 1, min(columns or t, t)).round().astype(int)
    gap = 2
    high, wide = h * scale + gap, w * scale + gap
    sheet = Image.new("RGB", (len(shown) * wide - gap, b * high - gap), "white")
    for row in range(b):
        for column, k in enumerate(shown):
            sheet.paste(_image(pixels[row, k], scale), (column * wide, row * high))
    with write_atomically(path) as temporary:
        sheet.save(temporary, format="PNG")
    return Path(path)


@contextmanager
def _as_os_errors() -> Iterator[None]:
    """FFmpeg's own errors as the OSError that the file system meant."""
    try:
        yield
    except av.FFmpegError as error:
        number = error.errno if error.errno in errno.errorcode else errno.EIO
        raise OSError(number, os.strerror(number)) from error


def _lasting(count: int, rate: Fraction, ticks: int) -> list[int]:
    """How many of `ticks` a second each frame is shown: ends are rounded, not lengths."""
    ends = [round(ticks * (k + 1) / rate) for k in range(count)]
    return [max(end - start, 1) for start, end in zip([0, *ends], ends, strict=False)]


def _rational(fps: int | float | Fraction) -> Fraction:
    if not 0 < fps < 1000:
        raise RequestError(f"fps is {fps}; it must be above 0 and below 1000 frames a second.")
    return Fraction(fps).limit_denominator(1001)


def _checked(frames: Any, ndim: int, axes: str) -> UInt8[np.ndarray, "..."]:
    pixels = frames.detach().cpu().numpy() if isinstance(frames, Tensor) else np.asarray(frames)
    if pixels.dtype != np.uint8 or pixels.ndim != ndim or pixels.shape[-1] != 3 or not pixels.size:
        raise RequestError(
            f"frames are {pixels.dtype} of shape {list(pixels.shape)}; needed: uint8 {axes} with "
            "3 channels and at least one pixel."
        )
    return pixels


def _image(pixels: UInt8[np.ndarray, "h w c"], scale: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if scale < 1:
        raise RequestError(f"scale is {scale}; it must be 1 or more.")
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
