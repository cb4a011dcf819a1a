"""Golden numbers: the losses of one fixed tiny run. Who moves them ships the new file and says why.

    python tests/test_golden.py        writes tests/golden/losses.json anew

The clips are written without loss into AVI files, so that no encoder has a say and no container
adds a random name (Matroska does, and the split goes by content); the tolerance is wider than what
another number of threads changes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import media
import pytest

from vidiff.runs.tracking import read_metrics
from vidiff.training import train

GOLDEN = Path(__file__).parent / "golden" / "losses.json"
WORDS = (
    "data.num_frames=8", "data.size=16", "model.widths=[16,32]", "model.patch=2", "train.steps=10",
    "train.batch_size=4", "train.held_out_clips=4", "train.held_out_every=5", "train.log_every=1",
    "train.calibration_clips=8", "train.image_share=0.2", "optimizer.warmup=3", "optimizer.lr=0.02",
    "train.preview_every=100000", "data.reader=pyav",
)  # fmt: skip


def run(folder: Path) -> dict[str, list[float]]:
    """Losses, gradient norms and held-out losses of the run."""
    clips = folder / "clips"
    clips.mkdir()
    for k in range(6):
        frames = media.moving_square(20, (16, 16), seed=k)
        media.write_video(clips / f"{k}.avi", frames, 10, codec="ffv1", pix_fmt="bgr0")
    done = train(None, *WORDS, data=clips, out=folder / "run", say=lambda text: None)
    lines = read_metrics(done.folder / "metrics.jsonl")
    names = ("loss", "error", "grad_norm", "held_out")
    return {name: [line[name] for line in lines if name in line] for name in names}


def test_a_fixed_run_gives_the_losses_it_gave(tmp_path: Path) -> None:
    golden, own = json.loads(GOLDEN.read_text()), run(tmp_path)
    assert own.keys() == golden.keys()
    assert len(own["loss"]) == 10
    for name, values in own.items():
        tolerance = 2e-2 if name == "grad_norm" else 1e-4
        assert values == pytest.approx(golden[name], rel=tolerance), name


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(run(Path(scratch)), indent=1) + "\n")
    sys.stdout.write(f"{GOLDEN.name} written\n")
