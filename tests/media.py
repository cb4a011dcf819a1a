"""Real video files for tests, written with PyAV: each can be read by any player."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

BITS = 8


def clock_frames(num_frames: int, size: tuple[int, int] = (64, 96)) -> UInt8[np.ndarray, "t h w c"]:
    """Frames that show their own index as eight bars (least significant left), on grey.

    A red block marks the upper left corner, so that turning and mirroring are seen.
    """
    h, w = size
    frames = np.full((num_frames, h, w, 3), 100, np.uint8)
    for k in range(num_frames):
        for bit in range(BITS):
            left, right = bit * w // BITS, (bit + 1) * w // BITS
            frames[k, h // 2 :, left:right] = 230 if k >> bit & 1 else 20
    frames[:, : h // 4, : w // 4] = (220, 20, 20)
    return frames


def read_clock(frames: UInt8[np.ndarray, "t h w c"]) -> list[int]:
    """The index each clock frame shows."""
    t, h, w, _ = frames.shape
    low = frames[:, 5 * h // 8 : 7 * h // 8].mean(axis=(1, 3))
    lit = [low[:, w * (2 * bit + 1) // (2 * BITS)] > 125 for bit in range(BITS)]
    return [sum(1 << bit for bit in range(BITS) if lit[bit][k]) for k in range(t)]


def moving_square(
    num_frames: int, size: tuple[int, int] = (64, 64), seed: int = 0
) -> UInt8[np.ndarray, "t h w c"]:
    """A bright square that drifts and bounces over a still texture; the seed moves everything."""
    rng = np.random.default_rng(seed)
    h, w = size
    side = max(min(h, w) // 4, 2)
    coarse = rng.integers(30, 120, (h // 8 + 1, w // 8 + 1, 3), dtype=np.uint8)
    ground = coarse.repeat(8, 0).repeat(8, 1)[:h, :w]
    place = rng.uniform(0, 1, 2) * (h - side, w - side)
    speed = rng.uniform(0.01, 0.04, 2) * (h, w) * rng.choice((-1, 1), 2)
    colour = rng.integers(150, 255, 3)
    frames = np.repeat(ground[None], num_frames, axis=0)
    for k in range(num_frames):
        room = np.array((h - side, w - side))
        y, x = (room - np.abs((place + k * speed) % (2 * room) - room)).astype(int)
        frames[k, y : y + side, x : x + side] = colour
    return frames


def write_video(
    path: str | os.PathLike[str],
    frames: UInt8[np.ndarray, "t h w c"],
    fps: float | Fraction = 12,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    rotation: int = 0,
    stamps: Sequence[int] | None = None,
    aspect: Fraction | None = None,
) -> Path:
    """One video by the codec named; `stamps` (in milliseconds) make the rate variable."""
    options = {"x265-params": "log-level=none"} if codec == "libx265" else options or {}
    with av.open(os.fspath(path), "w") as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        if stamps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for k, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = stamps[k] if stamps is not None else k
            frame.time_base = Fraction(1, 1000) if stamps is not None else 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Path(path)


def write_clips(
    folder: str | os.PathLike[str],
    count: int,
    num_frames: int = 16,
    size: int | tuple[int, int] = 64,
    fps: float = 10,
) -> list[Path]:
    """`count` different moving-square MP4s in `folder`, named clip0000.mp4 and on.

    `size` is (h, w), or the side of a square.
    """
    size = (size, size) if isinstance(size, int) else size
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = [Path(folder) / f"clip{k:04d}.mp4" for k in range(count)]
    for k, path in enumerate(paths):
        frames = moving_square(num_frames, size, seed=k)
        write_video(path, frames, fps, options={"preset": "veryfast"})
    return paths


def write_audio_only(path: str | os.PathLike[str]) -> Path:
    """An MP4 with one second of silence and no picture."""
    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 16000), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Path(path)


def write_broken_download(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> Path:
    """The first 60 % of a file's bytes: a download that broke off."""
    data = Path(source).read_bytes()
    Path(path).write_bytes(data[: len(data) * 6 // 10])
    return Path(path)


def write_stream_copy(
    source: str | os.PathLike[str], path: str | os.PathLike[str], first: int, fps: int = 12
) -> Path:
    """A cut without re-encoding, from frame `first` on: an edit list hides the frames before."""
    options = {"avoid_negative_ts": "disabled"}
    with av.open(os.fspath(source)) as old, av.open(os.fspath(path), "w", options=options) as new:
        video = old.streams.video[0]
        stream = new.add_stream_from_template(video)
        shift = round(Fraction(first, fps) / video.time_base)
        old.seek(shift, stream=video)
        for packet in old.demux(video):
            if packet.size:
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = stream
                new.mux(packet)
    return Path(path)


def make_bad_files(folder: Path) -> dict[str, str]:
    """File name to a word of the sentence that refuses it."""
    good = write_video(folder / "good.mp4", clock_frames(60))
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("just some words " * 50)
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(4000))
    (folder / "list.mp4").write_text(f"ffconcat version 1.0\nfile {good}\n")
    (folder / "live.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\nfile://{good}\n#EXT-X-ENDLIST\n")
    (folder / "head.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + b"\0" * 2000)
    (folder / "dir.mp4").mkdir()
    write_audio_only(folder / "song.mp4")
    write_broken_download(good, folder / "cut.mp4")
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.mp4")
    return {
        "empty.mp4": "empty",
        "text.mp4": "container",
        "noise.mp4": "container",
        "list.mp4": "container",
        "live.mp4": "container",
        "head.mp4": "decoded",
        "dir.mp4": "folder",
        "song.mp4": "picture track",
        "cut.mp4": "decoded",
        "missing.mp4": "No such file",
    } | ({"pipe.mp4": "pipe"} if hasattr(os, "mkfifo") else {})
