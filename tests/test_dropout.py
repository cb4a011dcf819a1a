"""Masks of dropout belong to clips: not to the batch, the processes, or where a run stopped."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY_RUN
from test_training import LAST, losses, same_files, silent

from vidiff.models.dropout import Dropout, key_dropout
from vidiff.training import train


def masks(layer: Dropout, positions: list[int], frames: int = 3) -> torch.Tensor:
    key_dropout(layer, 0, positions)
    return layer(torch.ones(len(positions) * frames, 4, 8, 8))


def test_a_clip_has_its_mask_wherever_it_stands() -> None:
    layer = Dropout(0.3)
    together = masks(layer, [5, 6, 7])
    assert torch.equal(together[3:6], masks(layer, [6]))
    assert not torch.equal(together[:3], together[3:6])


def test_a_share_p_is_dropped_and_the_mean_stays() -> None:
    out = masks(Dropout(0.3), list(range(40)))
    count = out.numel()
    assert float((out == 0).float().mean()) == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / count))
    assert float(out.max()) == pytest.approx(1 / 0.7)


def test_layers_drop_apart_and_none_drops_outside_of_training() -> None:
    pair = torch.nn.ModuleList([Dropout(0.5), Dropout(0.5)])
    key_dropout(pair, 0, [1])
    x = torch.ones(2, 8, 8, 8)
    assert not torch.equal(pair[0](x), pair[1](x))
    assert torch.equal(pair.eval()[0](x), x)


def test_a_run_with_dropout_resumes_exactly_and_does_not_see_its_micro_batches(
    clips: Path, tmp_path: Path
) -> None:
    words = [*TINY_RUN, "model.dropout=0.2"]
    whole, cut, parts = (tmp_path / name for name in ("whole", "cut", "parts"))
    train(None, *words, data=clips, out=whole, say=silent)
    shutil.copytree(whole, cut)
    for step in (4, 6):
        shutil.rmtree(cut / "checkpoints" / f"step-{step:08d}")
    train(None, *words, data=clips, out=cut, say=silent)
    assert (cut / LAST).exists()
    assert same_files(whole, cut) == []
    train(None, *words, "train.micro_batch=1", data=clips, out=parts, say=silent)
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-5)
