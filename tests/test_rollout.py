"""Long clips: seams that keep the law, windows that see the past, ends that meet."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import exact
import pytest
import torch
from torch import Tensor

from vidiff.diffusion import samplers
from vidiff.errors import RequestError
from vidiff.generation import rollout
from vidiff.pipeline import VideoDiffusion
from vidiff.sampling import SampleConfig
from vidiff.saved import load

FEW = SampleConfig(steps=4)


@pytest.fixture(scope="module")
def model(run: Path) -> VideoDiffusion:
    return load(run)


def test_rolling_keeps_the_law_of_the_clips() -> None:
    """Rising levels along a window are a path like any other: AR(1) video stays AR(1)."""
    chains, keep, rho = 6000, 2, 0.9
    cov = exact.ar1(8, rho)
    law = torch.distributions.MultivariateNormal(torch.zeros(8).double(), cov)
    torch.manual_seed(0)
    window = law.sample((chains,))[:, None, :, None, None]

    def draw(frames: int) -> Tensor:
        return torch.randn(chains, 1, frames, 1, 1, dtype=torch.float64)

    grid = samplers.karras_grid(48, 0.002, 40.0)[:-1]
    frames = rollout.rolling(exact.gaussian(cov), window, keep, grid, draw)
    made = torch.cat([*islice(frames, 24)], dim=2)[:, 0, :, 0, 0]
    found = torch.cov(made[:, -6:].T)
    torch.testing.assert_close(found, exact.ar1(6, rho), rtol=0, atol=0.06)
    last = torch.stack([window[:, 0, keep - 1, 0, 0], made[:, 0]])
    assert float(torch.corrcoef(last)[0, 1]) == pytest.approx(rho, abs=0.02)


def test_levels_fall_along_the_turns_and_rise_along_the_window() -> None:
    seen: list[Tensor] = []

    def spy(noisy: Tensor, sigma: Tensor) -> Tensor:
        seen.append(sigma[0, 0, :, 0, 0].clone())
        return noisy

    grid = samplers.karras_grid(12, 0.01, 40.0)[:-1]
    frames = rollout.rolling(
        spy, torch.zeros(1, 1, 8, 1, 1), 2, grid, lambda n: torch.zeros(1, 1, n, 1, 1)
    )
    next(frames)
    assert torch.allclose(seen[0][:2], torch.tensor(rollout.HISTORY))
    assert (seen[0][2:].diff() > 0).all()
    assert float(seen[0][-1]) == pytest.approx(40.0)
    assert (seen[-1][2:] < seen[0][2:]).all()
    torch.testing.assert_close(seen[-1][3:], seen[0][2:-1])
    assert float(seen[-1][2]) == pytest.approx(0.01)


@pytest.mark.parametrize("total", [8, 9, 21])
def test_sliding_gives_as_many_frames_as_asked_and_keeps_what_it_was_given(
    model: VideoDiffusion, total: int
) -> None:
    start = torch.randint(0, 256, (1, 3, 16, 16, 3), dtype=torch.uint8)
    told: list[tuple[int, int]] = []
    made = rollout.slide(model, total, 3, [4, 5], FEW, start, progress=lambda *at: told.append(at))
    assert made.shape == (2, total, 16, 16, 3)
    assert torch.equal(made[:, :3], start.expand(2, 3, 16, 16, 3))
    assert not torch.equal(made[0], made[1])
    assert told[-1][0] == told[-1][1]


def test_a_rollout_depends_on_its_seed_alone(model: VideoDiffusion) -> None:
    both = rollout.slide(model, 14, 3, [4, 5], FEW)
    one = rollout.slide(model, 14, 3, [5], FEW)
    assert torch.equal(both[1:], one)
    assert torch.equal(rollout.roll(model, 11, 3, [1, 2], FEW)[1:],
                       rollout.roll(model, 11, 3, [2], FEW))  # fmt: skip


def test_a_loop_is_a_clip_and_a_bridge_that_saw_both_ends(model: VideoDiffusion) -> None:
    start = torch.randint(0, 256, (1, 6, 16, 16, 3), dtype=torch.uint8)
    made = rollout.loop(model, 2, [0], FEW, start)
    assert made.shape[1] == 6 + model.num_frames - 4
    assert torch.equal(made[:, :6], start)
    other = rollout.loop(model, 2, [0], FEW, start.flip(1))
    assert not torch.equal(made[:, 6:], other[:, 6:])


def test_keyframes_stay_where_they_were_made(model: VideoDiffusion) -> None:
    made = rollout.keyframes(model, 21, 4, 2, [3], FEW)
    keys = rollout.slide(model, 6, 2, [3], FEW, dt=4 * model.calibration.dt)
    assert made.shape[1] == 21
    assert torch.equal(made[:, ::4], keys)
    assert (made.flatten(2).float().std(dim=2) > 0).all()


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda m: rollout.slide(m, 20, 8, [0]), "keep 8 frames"),
        (lambda m: rollout.roll(m, 20, 0, [0]), "keep 0 frames"),
        (lambda m: rollout.loop(m, 4, [0]), "see 4 frames at each end"),
        (lambda m: rollout.keyframes(m, 20, 8, 2, [0]), "Every 8th frame"),
    ],
)
def test_windows_that_cannot_work_are_refused(
    model: VideoDiffusion, ask: object, words: str
) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        ask(model)  # type: ignore[operator]
    assert caught.value.remedy
