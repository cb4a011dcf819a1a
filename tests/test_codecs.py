"""Encoders: what they keep, what they cost, and what survives other tools."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation
from media import clock_frames, moving_square, read_clock
from PIL import Image

from vidiff.data.codecs import CODECS, find_codec, have_encoder
from vidiff.data.export import (
    encoding_loss,
    hash_stream,
    read_metadata,
    write_mp4,
    write_pictures,
    write_webp,
)
from vidiff.data.video import probe, read_frames
from vidiff.errors import DataError, RequestError

HERE = [name for name, codec in CODECS.items() if have_encoder(codec.encoder)]


def remux(source: Path, target: Path) -> Path:
    """What `ffmpeg -c copy` does: other container, same coded pictures, the known tags."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        new.metadata.update(old.metadata)
        stream = new.add_stream_from_template(old.streams.video[0], opaque=True)
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    return target


def test_this_build_has_the_codecs_that_the_readme_names() -> None:
    assert {"h264", "h264-10bit", "hevc", "vp9", "av1", "lossless"} == set(HERE)


@pytest.mark.parametrize("name", HERE)
def test_every_codec_keeps_frames_times_and_words(name: str, tmp_path: Path) -> None:
    frames, fps = clock_frames(24), Fraction(24000, 1001)
    path = write_mp4(tmp_path / "a.mp4", frames, fps, codec=name, metadata={"comment": "hi"})
    info = probe(path)
    assert info.num_frames == 24
    assert info.fps == pytest.approx(float(fps), rel=1e-6)
    assert read_clock(read_frames(path, info.pts_seconds)) == list(range(24))
    assert read_metadata(path)["comment"] == "hi"
    loss = encoding_loss(path, frames)
    assert loss["mean"] < 2
    assert loss["psnr"] > 30


def test_lossless_keeps_every_bit_of_noise_and_odd_sizes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 33, 47, 3), dtype=np.uint8)
    path = write_mp4(tmp_path / "a.mp4", noise, 8, codec="lossless")
    assert encoding_loss(path, noise) == {"psnr": math.inf, "mean": 0.0, "worst": 0.0}
    assert probe(path).width == 47


@pytest.mark.parametrize("name", [n for n in HERE if n != "lossless"])
def test_flat_colours_come_back_within_three_of_255(name: str, tmp_path: Path) -> None:
    shades = np.array([[200, 30, 40], [30, 180, 60], [40, 50, 210], [128, 128, 128],
                       [255, 255, 255], [0, 0, 0], [250, 250, 5], [90, 160, 220]])  # fmt: skip
    patches = np.repeat(np.repeat(shades.reshape(1, 2, 4, 3), 32, 1), 32, 2)
    frames = np.repeat(patches, 4, 0).astype(np.uint8)
    path = write_mp4(tmp_path / "flat.mp4", frames, 8, codec=name)
    flags = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    with av.open(str(path)) as container:
        shown = next(container.decode(video=0)).to_ndarray(format="rgb24", interpolation=flags)
    error = np.abs(shown.astype(int) - frames[0])
    middles = error.reshape(2, 32, 4, 32, 3)[:, 8:24, :, 8:24]
    assert middles.max() <= 3
    assert middles.mean() <= 1.0


def test_one_frame_is_a_clip(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", clock_frames(1), 8)
    assert probe(path).num_frames == 1
    assert hash_stream(path)[0] == 1


def test_the_hash_of_the_pictures_and_the_known_tags_survive_a_remux(tmp_path: Path) -> None:
    words = {"comment": "made", "synopsis": '{"seed": 1}'}
    path = write_mp4(tmp_path / "a.mp4", moving_square(12), 8, metadata=words)
    for name in ("b.mp4", "b.mkv"):
        other = remux(path, tmp_path / name)
        assert hash_stream(other) == hash_stream(path)
        found = {key.lower(): value for key, value in read_metadata(other).items()}
        assert words.items() <= found.items()


def test_words_may_depend_on_the_hash_of_the_pictures(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", moving_square(6), 8, metadata=lambda h: {"comment": h})
    assert read_metadata(path)["comment"] == hash_stream(path)[1]


def test_equal_frames_give_equal_bytes_every_time(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    wide = np.kron(g.integers(0, 256, (16, 40, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    frames = np.stack([wide[:, 2 * k : 2 * k + 64] for k in range(48)])
    frames = (frames + g.integers(0, 9, frames.shape)).clip(0, 255).astype(np.uint8)
    made = {write_mp4(tmp_path / "a.mp4", frames, 8).read_bytes() for _ in range(12)}
    assert len(made) == 1


def test_unknown_codecs_name_the_known_ones() -> None:
    with pytest.raises(RequestError, match="divx") as raised:
        find_codec("divx")
    assert "h264-10bit" in raised.value.remedy


def test_the_loss_of_another_clip_is_refused(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", moving_square(6), 8)
    with pytest.raises(DataError, match=r"\[6, "):
        encoding_loss(path, moving_square(7))


def test_a_webp_is_lossless_endless_and_keeps_its_duration(tmp_path: Path) -> None:
    frames = moving_square(12)
    with Image.open(write_webp(tmp_path / "a.webp", frames, 12, scale=2)) as image:
        assert (image.n_frames, image.info["loop"]) == (12, 0)
        lasting = []
        for k in range(12):
            image.seek(k)
            image.load()
            lasting.append(image.info["duration"])
            shown = np.asarray(image.convert("RGB"))[::2, ::2]
            assert (shown == frames[k]).all()
    assert sum(lasting) == 1000


def test_pictures_are_the_frames_bit_for_bit(tmp_path: Path) -> None:
    frames = moving_square(3)
    for k, path in enumerate(write_pictures(tmp_path / "frames", frames)):
        assert path.name == f"{k:05d}.png"
        assert (np.asarray(Image.open(path)) == frames[k]).all()
