"""Layers keep magnitudes, ignore the size of their weights, and are the identity at gate 0."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vidiff.models.conditioning import Embedding
from vidiff.models.layers import (
    Fourier,
    Gate,
    Norm,
    TemporalConvolution,
    Weighted,
    double,
    frame_mask,
    halve,
    mp_cat,
    mp_silu,
    mp_sum,
    residual,
    unit_rms,
)


def rms(x: Tensor) -> float:
    return float(x.detach().square().mean().sqrt())


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (3, 1)])
def test_a_convolution_of_unit_noise_has_unit_magnitude(kernel: tuple[int, int]) -> None:
    layer = Weighted(128, 192, kernel)
    assert rms(layer(torch.randn(8, 128, 12, 12))) == pytest.approx(1, abs=0.03)


def test_linear_activation_sum_and_gate_keep_unit_magnitude() -> None:
    x, y = torch.randn(2, 4, 128, 16, 16)
    assert rms(Weighted(128, 256)(torch.randn(512, 128))) == pytest.approx(1, abs=0.03)
    assert rms(mp_silu(x)) == pytest.approx(1, abs=0.03)
    assert rms(unit_rms(7 * x, 1)) == pytest.approx(1, abs=0.03)
    for t in (0.1, 0.3, 0.5):
        assert rms(mp_sum(x, y, t)) == pytest.approx(1, abs=0.03)
    for theta in (0.3, 0.8, 2.0):
        assert rms(Gate(128, theta)(x, y)) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("channels", [128, 16])
def test_joined_maps_have_unit_magnitude_and_weigh_alike_whatever_their_width(
    channels: int,
) -> None:
    a, b = torch.randn(4, 128, 16, 16), torch.randn(4, channels, 16, 16)
    joined = mp_cat(a, b)
    assert rms(joined) == pytest.approx(1, abs=0.03)
    energy = joined.square().flatten(2).mean((0, 2))
    assert float(energy[:128].sum() / energy[128:].sum()) == pytest.approx(1, abs=0.05)


def test_features_of_a_number_have_unit_magnitude() -> None:
    features = Fourier(256)(torch.linspace(-2, 2, 101))
    assert rms(features) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("shape", [(), (1, 1), (3, 3)])
def test_seven_times_the_weight_is_the_same_layer(shape: tuple[int, ...]) -> None:
    layer = Weighted(24, 40, shape)
    x = torch.randn(3, 24) if not shape else torch.randn(3, 24, 6, 6)
    before = layer(x)
    with torch.no_grad():
        layer.weight.mul_(7)
    torch.testing.assert_close(layer(x), before, rtol=1e-5, atol=1e-6)


def test_forced_normalisation_restores_the_rows_and_changes_no_output() -> None:
    layer = Weighted(24, 40, (3, 3))
    x = torch.randn(3, 24, 6, 6)
    with torch.no_grad():
        layer.weight.mul_(torch.rand(40, 1, 1, 1) + 0.1)
    before = layer(x)
    layer.normalize()
    rows = layer.weight.flatten(1).norm(dim=1)
    torch.testing.assert_close(rows, torch.full([40], math.sqrt(24 * 9)), rtol=1e-5, atol=0)
    torch.testing.assert_close(layer(x), before, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_normalised_weight_is_orthogonal_to_its_row() -> None:
    layer = Weighted(24, 40, (3, 3))
    layer(torch.randn(3, 24, 6, 6)).square().sum().backward()
    assert layer.weight.grad is not None
    along = (layer.weight.grad * layer.weight.detach()).flatten(1).sum(1)
    size = layer.weight.grad.flatten(1).norm(dim=1) * layer.weight.detach().flatten(1).norm(dim=1)
    assert float((along / size).abs().max()) < 1e-5


@pytest.mark.parametrize("norm", ["mp", "group"])
def test_a_zero_layer_starts_at_zero_and_learns(norm: Norm) -> None:
    layer = Weighted(24, 40, (1, 1), norm, zero=True)
    y = layer(torch.randn(3, 24, 6, 6))
    assert bool((y == 0).all())
    y.sum().backward()
    grads = [p.grad for p in layer.parameters() if p.grad is not None]
    assert any(bool((g != 0).any()) for g in grads)


@pytest.mark.parametrize("norm", ["mp", "group"])
@pytest.mark.parametrize("causal", [False, True])
def test_a_temporal_layer_is_exactly_the_identity_at_angle_zero(norm: Norm, causal: bool) -> None:
    layer = TemporalConvolution(16, norm, 0.0, causal=causal)
    x = torch.randn(10, 16, 3, 4)
    assert torch.equal(layer(x, 5), x)
    layer(x, 5).sum().backward()
    assert layer.gate.theta.grad is not None
    assert bool((layer.gate.theta.grad != 0).all())


def test_a_temporal_convolution_equals_a_three_tap_sum_over_frames() -> None:
    layer = TemporalConvolution(16, "mp", math.pi / 2, causal=False)
    x = torch.randn(2, 5, 16, 3, 4)
    y = layer(x.flatten(0, 1), 5).unflatten(0, (2, 5))
    w = layer.weight.effective_weight()[..., 0]
    padded = torch.nn.functional.pad(mp_silu(x), (0, 0, 0, 0, 0, 0, 1, 1))
    taps = [torch.einsum("oi,btihw->btohw", w[..., k], padded[:, k : k + 5]) for k in range(3)]
    torch.testing.assert_close(y, sum(taps), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("causal", "reach"), [(True, (2, 3, 4)), (False, (1, 2, 3))])
def test_a_temporal_convolution_reaches_three_frames(causal: bool, reach: tuple[int, ...]) -> None:
    layer = TemporalConvolution(8, "mp", 0.3, causal=causal)
    x = torch.randn(5, 8, 2, 2)
    other = x.clone()
    other[2] += 1
    changed = (layer(x, 5) != layer(other, 5)).flatten(1).any(1)
    assert changed.nonzero().flatten().tolist() == list(reach)


def test_halving_undoes_doubling_and_both_keep_the_mean() -> None:
    x = torch.randn(2, 3, 4, 6)
    torch.testing.assert_close(halve(double(x)), x)
    assert float(double(x).mean()) == pytest.approx(float(x.mean()), abs=1e-6)


def test_the_group_setting_adds_where_the_magnitude_setting_mixes() -> None:
    x, y = torch.randn(2, 3, 4, 2, 2)
    assert torch.equal(residual("group", x, y), x + y)
    assert torch.equal(residual("mp", x, y), mp_sum(x, y, 0.3))


def test_the_frame_mask_opens_own_and_earlier_frames() -> None:
    mask = frame_mask(3, 2, torch.device("cpu"))
    assert mask.int().tolist() == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1],
    ]


class TestEmbedding:
    """What a frame is told."""

    levels = torch.tensor([[-0.5, 0.0, 0.4], [0.1, 0.1, 0.1]])
    dt = torch.tensor([1.0, 2.0])

    def test_it_has_unit_magnitude_with_every_condition_given(self) -> None:
        embed = Embedding(512, "mp", 10, 64)
        label, text = torch.tensor([3, 7]), torch.randn(2, 64)
        emb, _ = embed(self.levels, self.dt, label, text)
        assert rms(emb) == pytest.approx(1, abs=0.06)

    @pytest.mark.parametrize("norm", ["mp", "group"])
    def test_no_label_equals_the_label_none_however_it_is_written(self, norm: Norm) -> None:
        embed = Embedding(64, norm, 10, 8)
        without, _ = embed(self.levels, self.dt, None, None)
        for none in (10, -1):
            label = torch.full((2,), none)
            emb, _ = embed(self.levels, self.dt, label, torch.zeros(2, 8))
            assert torch.equal(emb, without)
        other, _ = embed(self.levels, self.dt, torch.tensor([0, 1]), None)
        assert not torch.allclose(other, without, atol=1e-2)

    def test_a_label_beyond_the_classes_is_an_error(self) -> None:
        with pytest.raises(IndexError):
            Embedding(64, "mp", 10, 0)(self.levels, self.dt, torch.tensor([0, 11]), None)

    def test_every_weight_gets_a_gradient_where_nothing_is_known(self) -> None:
        embed = Embedding(64, "mp", 10, 8)
        embed(self.levels, self.dt, None, None)[0].sum().backward()
        assert all(p.grad is not None for p in embed.parameters())

    def test_a_frame_is_told_its_own_level_and_the_clip_its_rate(self) -> None:
        embed = Embedding(64, "mp", 0, 0)
        emb, _ = embed(self.levels, self.dt, None, None)
        assert not torch.allclose(emb[0, 0], emb[0, 1], atol=1e-2)
        torch.testing.assert_close(emb[1, 0], emb[1, 1])
        faster, _ = embed(self.levels, self.dt / 2, None, None)
        assert not torch.allclose(faster, emb, atol=1e-2)

    def test_level_features_hold_own_and_mean_level_unless_frames_stand_apart(self) -> None:
        embed = Embedding(64, "mp", 0, 0)
        own, mean = embed(self.levels, self.dt, None, None)[1].chunk(2, dim=-1)
        assert torch.equal(mean[0, 0], mean[0, 2])
        assert not torch.allclose(own[0, 0], own[0, 2], atol=1e-2)
        _, apart = embed(self.levels, self.dt, None, None, apart=True)
        alone, together = apart.chunk(2, dim=-1)
        assert torch.equal(alone, own)
        assert bool((together == 0).all())
