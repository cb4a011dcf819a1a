from __future__ import annotations

import math

import exact
import pytest
import torch
from torch import Tensor

from vidiff.diffusion import calibration, samplers
from vidiff.diffusion.calibration import Calibration, calibrate
from vidiff.diffusion.process import SIGMA_DATA
from vidiff.errors import DataError


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def over_time(cov: Tensor, count: int = 64, size: int = 16) -> Tensor:
    """Clips of independent pixels, each a Gaussian walk over time with covariance `cov`."""
    root = torch.linalg.cholesky(cov + 1e-9 * torch.eye(len(cov)).double())
    white = normal(count, 3, size, size, len(cov))
    return 0.2 * (white @ root.T).movedim(-1, 2).float()


def test_mean_and_spread_are_those_of_the_channels() -> None:
    x = over_time(exact.ar1(4))
    x = x * torch.tensor([1.0, 2.0, 0.5]).view(1, 3, 1, 1, 1) + torch.tensor([0.1, -0.4, 0.0]).view(
        1, 3, 1, 1, 1
    )
    found = calibrate(x.split(7), 0.1)
    channels = x.double().movedim(1, 0).flatten(1)
    assert found.mean == pytest.approx(channels.mean(1).tolist(), abs=1e-7)
    assert found.std == pytest.approx(channels.std(1, correction=0).tolist(), rel=1e-6)
    scaled = found.scale(x).movedim(1, 0).flatten(1)
    torch.testing.assert_close(scaled.mean(1), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(scaled.std(1), torch.full((3,), SIGMA_DATA), rtol=1e-4, atol=0)
    torch.testing.assert_close(found.unscale(found.scale(x)), x)
    assert (found.num_clips, found.dt) == (64, 0.1)


@pytest.mark.parametrize(("rho", "t", "known"), [(0.9, 8, 6.2), (0.9, 16, 9.9), (0.98, 8, 7.6)])
def test_redundancy_of_ar1_clips_is_the_known_eigenvalue(rho: float, t: int, known: float) -> None:
    found = calibrate([over_time(exact.ar1(t, rho))], 0.1)
    expected = float(torch.linalg.eigvalsh(exact.ar1(t, rho))[-1])
    assert expected == pytest.approx(known, abs=0.05)
    assert found.redundancy == pytest.approx(expected, rel=0.02)


def test_frozen_clips_count_all_their_frames_and_noise_counts_one() -> None:
    still = over_time(exact.ar1(1)).expand(64, 3, 8, 16, 16)
    noise = over_time(torch.eye(8).double())
    assert calibrate([still], 0.1).redundancy == pytest.approx(8, rel=1e-3)
    assert calibrate([noise], 0.1).redundancy == pytest.approx(1, abs=0.05)


def test_the_noise_shift_grows_with_pixels_and_redundancy() -> None:
    small, large = (over_time(exact.ar1(4), 16, size) for size in (16, 32))
    a, b = calibrate([small], 0.1), calibrate([large], 0.1)
    assert a.p_mean == pytest.approx(-0.8 + math.log(16 / 64) + 0.5 * math.log(a.redundancy))
    assert b.p_mean - a.p_mean == pytest.approx(math.log(2), abs=0.02)


def brightness(count: int, size: int, sd: float = 0.3) -> Tensor:
    """Clips that differ by one brightness for all pixels, and by a little noise."""
    level = sd * normal(count, 1, 1, 1, 1)
    return (level + 0.05 * normal(count, 3, 4, size, size, seed=1)).float()


def test_the_principal_component_is_that_of_the_whole_covariance() -> None:
    x = brightness(40, 4) + torch.linspace(-0.4, 0.4, 4)  # a background that all clips share
    found = calibrate(x.split(9), 0.1)
    rows = found.scale(x).flatten(1).double()
    values = torch.linalg.svdvals(rows - rows.mean(0)) / math.sqrt(len(rows))
    assert found.principal == pytest.approx(float(values[0]), rel=1e-4)
    assert found.sigma_max == pytest.approx(max(20, 5 * float(values[0])), rel=1e-4)


def test_less_memory_measures_the_same_smooth_component(monkeypatch: pytest.MonkeyPatch) -> None:
    x = brightness(40, 32)
    whole = calibrate(x.split(9), 0.1)
    monkeypatch.setattr(calibration, "MEMORY_LIMIT", x.nbytes // 10)
    thin = calibrate(x.split(9), 0.1)
    assert thin.principal == pytest.approx(whole.principal, rel=0.02)
    assert thin.redundancy == pytest.approx(whole.redundancy, rel=0.02)
    assert thin.p_mean == pytest.approx(whole.p_mean, abs=0.02)
    assert thin.std == whole.std


def brightness_ratio(sigma_max: float, sd: float) -> float:
    """The sd of the brightness component of samples over that of the clips."""
    d = 8
    cov = 0.05 * torch.eye(d).double() + (sd**2 - 0.05) / d * torch.ones(d, d).double()
    levels = exact.together(samplers.log_grid(64, 0.01, sigma_max), d)
    matrix = exact.transfer(samplers.dpm2m, exact.gaussian(cov), levels, (d, 1, 1))
    bright = torch.full((d,), d**-0.5).double() @ matrix * sigma_max
    return float(bright.norm()) / sd


def test_samples_lose_brightness_by_the_known_factor_when_sigma_max_is_too_low() -> None:
    sd = 12.0
    for low in (6.0, 12.0, 24.0):
        factor = low / math.sqrt(sd**2 + low**2)
        assert brightness_ratio(low, sd) == pytest.approx(factor, rel=0.01)
    assert brightness_ratio(5 * sd, sd) == pytest.approx(1, abs=0.03)


def test_one_clip_is_not_enough() -> None:
    with pytest.raises(DataError, match=r"1 clip\(s\)"):
        calibrate([brightness(1, 8)], 0.1)


def test_no_clips_are_refused() -> None:
    with pytest.raises(DataError, match=r"0 clip\(s\)"):
        calibrate([], 0.1)


def test_a_channel_that_never_changes_is_refused() -> None:
    x = brightness(4, 8)
    x[:, 1] = 0.25
    with pytest.raises(DataError, match="never changes"):
        calibrate([x], 0.1)


def test_a_calibration_survives_json_and_shows_its_numbers() -> None:
    found = calibrate([brightness(8, 8)], 0.125)
    assert Calibration(**found.model_dump(mode="json")) == found
    assert "0.1250" in found.table()
    with pytest.raises(ValueError, match="never changes"):
        Calibration(**(found.model_dump() | {"std": (0.1, 0.0, 0.1)}))
