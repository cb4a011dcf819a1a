from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from vidiff.errors import RequestError
from vidiff.models.ema import PowerEma, gamma_of, profile_product, reconstruction, width_of


class Point(nn.Module):
    """A network of one parameter tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(3))


@pytest.mark.parametrize(("width", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_the_usual_widths_have_their_known_exponents(width: float, gamma: float) -> None:
    assert gamma_of(width) == pytest.approx(gamma, abs=0.005)


@pytest.mark.parametrize("width", [0.01, 0.05, 0.2, 0.28])
def test_width_and_exponent_are_inverse(width: float) -> None:
    gamma = gamma_of(width)
    assert width_of(gamma) == pytest.approx(width, rel=1e-9)
    # Equation (3) is the standard deviation of the profile (2) over its length.
    tau = (np.arange(200_000) + 0.5) / 200_000
    profile = (gamma + 1) * tau**gamma
    mean = float((tau * profile).mean())
    spread = float((tau**2 * profile).mean() - mean**2)
    assert np.sqrt(spread) == pytest.approx(width, rel=1e-3)


@pytest.mark.parametrize("width", [0.0, -0.1, 0.29, 1.0])
def test_a_width_without_an_exponent_is_refused(width: float) -> None:
    with pytest.raises(RequestError, match="relative width"):
        gamma_of(width)


def test_the_track_of_a_constant_is_that_constant() -> None:
    network = Point()
    ema = PowerEma(network)
    constant = torch.tensor([0.1, -2.7, 1e4])
    for step in range(1, 200):
        ema.update([constant], step)
    for width in (0.05, 0.10):
        assert torch.equal(ema.state(width)["place"], constant)


def test_the_weights_of_an_average_follow_the_power_profile_and_sum_to_one() -> None:
    steps, width = 400, 0.10
    gamma = gamma_of(width)
    beta = [(1 - 1 / t) ** (gamma + 1) for t in range(1, steps + 1)]
    weights = [(1 - b) * float(np.prod(beta[t + 1 :])) for t, b in enumerate(beta)]
    assert sum(weights) == pytest.approx(1, abs=1e-12)
    network = Point()
    ema = PowerEma(network, [width])
    for step in range(1, steps + 1):
        ema.update([torch.tensor([float(step), 1.0, float(step == 300)])], step)
    tracked = ema.state(width)["place"].tolist()
    assert tracked[0] == pytest.approx(np.dot(weights, range(1, steps + 1)), rel=1e-5)
    assert tracked[2] == pytest.approx(weights[299], rel=1e-5)
    profile = (gamma + 1) * 299.5**gamma / steps ** (gamma + 1)
    assert weights[299] == pytest.approx(profile, rel=0.02)


@pytest.mark.parametrize(("t", "a", "s", "b"), [(10, 6.94, 10, 16.97), (7, 3.0, 10, 8.0),
                                                (10, 3.0, 7, 8.0)])  # fmt: skip
def test_the_product_of_profiles_is_their_integral(t: float, a: float, s: float, b: float) -> None:
    tau = (np.arange(400_000) + 0.5) * 10 / 400_000
    first = np.where(tau <= t, (a + 1) * tau**a / t ** (a + 1), 0)
    second = np.where(tau <= s, (b + 1) * tau**b / s ** (b + 1), 0)
    integral = float((first * second).sum() * 10 / 400_000)
    assert profile_product(t, a, s, b) == pytest.approx(integral, rel=1e-4)


@pytest.mark.parametrize("wanted", [0.05, 0.07, 0.12, 0.15])
def test_any_width_is_rebuilt_from_snapshots_of_two_tracks(wanted: float) -> None:
    steps, every = 1024, 64
    path = torch.stack([
        torch.tensor([np.sin(t / 150), np.exp(-t / 400), (t / 1000) ** 0.5]) for t in range(steps)
    ])  # fmt: skip
    ema, direct = PowerEma(Point()), PowerEma(Point(), [wanted])
    stored, snapshots = [], []
    for step in range(1, steps + 1):
        ema.update([path[step - 1]], step)
        direct.update([path[step - 1]], step)
        if step % every == 0:
            for width, gamma in ema.gammas.items():
                stored.append((step, gamma))
                snapshots.append(ema.state(width)["place"].clone().double())
    coefficients = reconstruction(stored, steps, wanted)
    rebuilt = torch.from_numpy(coefficients) @ torch.stack(snapshots)
    expected = direct.state(wanted)["place"].double()
    assert coefficients.sum() == pytest.approx(1, abs=1e-3)
    assert float((rebuilt - expected).norm() / expected.norm()) < 1e-3


def test_a_stored_snapshot_is_rebuilt_from_itself() -> None:
    stored = [(500, gamma_of(0.05)), (500, gamma_of(0.10)), (1000, gamma_of(0.10))]
    coefficients = reconstruction(stored, 1000, 0.10)
    assert coefficients == pytest.approx([0, 0, 1], abs=1e-8)


def test_a_stored_track_comes_back() -> None:
    ema, other = PowerEma(Point()), PowerEma(Point())
    ema.update([torch.tensor([1.0, 2.0, 3.0])], 1)
    stored = {name: value.clone() for name, value in ema.state(0.05).items()}
    other.load(0.05, stored)
    ema.update([torch.tensor([5.0, 5.0, 5.0])], 2)
    other.update([torch.tensor([5.0, 5.0, 5.0])], 2)
    assert torch.equal(ema.state(0.05)["place"], other.state(0.05)["place"])
