"""Shapes are checked while the tests run; real clips and a trained run are at hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as many test processes run as there are cores

import pytest
from jaxtyping import install_import_hook

install_import_hook("vidiff", "checker.check")

import media  # noqa: E402

TINY_RUN = (
    "data.num_frames=8",
    "data.size=16",
    "model.widths=[16,32]",
    "model.patch=2",
    "train.steps=6",
    "train.batch_size=4",
    "train.checkpoint_every=2",
    "train.held_out_clips=4",
    "train.held_out_every=3",
    "train.log_every=1",
    "train.calibration_clips=8",
    "train.keep=9",
)
"""Words that make a run of seconds."""


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the tests learn of files is not kept among the user's things."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eight short real MP4 files, 32 x 32, 24 frames at 10 a second."""
    folder = tmp_path_factory.mktemp("clips")
    media.write_clips(folder, count=8, num_frames=24, size=32, fps=10)
    return folder


@pytest.fixture(scope="session")
def run(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run on `clips`."""
    from vidiff.training import train

    out = tmp_path_factory.mktemp("runs") / "tiny"
    return train(None, *TINY_RUN, data=clips, out=out, say=lambda text: None).folder
