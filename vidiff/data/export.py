"""Clips as files that play everywhere and never lie half-written under their final name.

MP4: H.264, yuv420p, the exact rational rate, index at the front. Colours are converted to BT.709
*and* tagged so: either half alone shifts them by up to a sixth of the range in some players.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from vidiff.data.probe import open_video
from vidiff.errors import RequestError
from vidiff.runs.files import write_atomically

_BT709 = 1
"""AVCOL_SPC_BT709: the matrix as a codec context tags it (swscale counts differently)."""


def write_mp4(
    path: str | Path,
    frames: UInt8[Tensor, "t h w c"] | UInt8[np.ndarray, "t h w c"],
    fps: int | float | Fraction,
    *,
    metadata: Mapping[str, str] | None = None,
    crf: int = 16,
    preset: str = "medium",
) -> Path:
    """Write one clip as H.264 MP4.

    Args:
        frames: RGB bytes. An odd height or width gets its last row or column twice, because
            yuv420p knows even sizes only.
        fps: frames a second; a float becomes the nearest fraction with denominator <= 1001.
        metadata: words stored in the file, as `read_metadata` returns them.
        crf: x264's constant rate factor; 0 is lossless but for the colour conversion.
        preset: x264's speed.

    Raises:
        RequestError: frames of another shape or type, a rate that is not positive.
        VidiffError: the file could not be written (full disk, no permission).
    """
    pixels = _checked(frames, 4, "t h w c")
    rate = _rational(fps)
    height, width = pixels.shape[1:3]
    pixels = np.pad(pixels, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with write_atomically(path) as temporary, _as_os_errors():
        options = {"movflags": "+faststart+use_metadata_tags"}
        with av.open(str(temporary), "w", format="mp4", options=options) as container:
            container.metadata.update(metadata or {})
            stream = _h264_stream(container, rate, pixels.shape, crf, preset)
            for k, image in enumerate(pixels):
                container.mux(stream.encode(_bt709_frame(image, k, rate)))
            container.mux(stream.encode(None))
    return Path(path)


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
    ends = [round(100 * (k + 1) / rate) for k in range(len(pixels))]
    lasting = [10 * max(end - start, 1) for start, end in zip([0, *ends], ends, strict=False)]
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


def _h264_stream(
    container: Any, rate: Fraction, shape: tuple[int, ...], crf: int, preset: str
) -> Any:
    options = {"crf": str(crf), "preset": preset}
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.height, stream.width = shape[1:3]
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.thread_count = 1
    context.time_base = 1 / rate
    context.colorspace = _BT709
    context.color_range = int(ColorRange.MPEG)
    context.color_primaries = int(ColorPrimaries.BT709)
    context.color_trc = int(ColorTrc.BT709)
    return stream


def _bt709_frame(image: UInt8[np.ndarray, "h w c"], index: int, rate: Fraction) -> Any:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        threads=1,
    )
    frame.colorspace = _BT709
    frame.color_primaries = int(ColorPrimaries.BT709)
    frame.color_trc = int(ColorTrc.BT709)
    frame.pts = index
    frame.time_base = 1 / rate
    return frame


@contextmanager
def _as_os_errors() -> Iterator[None]:
    """FFmpeg's own errors as the OSError that the file system meant."""
    try:
        yield
    except av.FFmpegError as error:
        number = error.errno if error.errno in errno.errorcode else errno.EIO
        raise OSError(number, os.strerror(number)) from error


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
