"""The network: identity starts, kept magnitudes, causality, image mode, independence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from vidiff.errors import RequestError
from vidiff.models.layers import Norm, Weighted
from vidiff.models.layout import ModelConfig
from vidiff.models.unet import Block, SpaceTimeUNet, hidden_matrix

SMALL: dict[str, Any] = {"widths": (16, 32), "blocks": 1, "patch": 2, "temporal_map": 8}
"""Temporal convolutions everywhere, temporal attention at 4 x 4, joint attention at 2 x 2."""


def build(size: int = 8, **settings: Any) -> SpaceTimeUNet:
    """A small network whose zero starts are lifted, so that every path matters."""
    torch.manual_seed(0)
    return awake(SpaceTimeUNet(ModelConfig(**(SMALL | settings)), size))


def awake(net: SpaceTimeUNet) -> SpaceTimeUNet:
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, Weighted):
                if module.gain is not None:
                    module.gain.fill_(0.7)
                elif not module.weight.any():
                    module.weight.normal_(0, module.fan_in**-0.5)
    return net


def draw(b: int = 2, t: int = 4, size: int = 8, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """A clip, a level for each frame, the usual rate."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(b, 3, t, size, size, generator=g)
    return x, 0.3 * torch.randn(b, t, generator=g), torch.ones(b)


def rms(x: Tensor) -> float:
    return float(x.detach().square().mean().sqrt())


@pytest.mark.parametrize("norm", ["mp", "group"])
def test_a_new_network_says_zero(norm: Norm) -> None:
    torch.manual_seed(0)
    net = SpaceTimeUNet(ModelConfig(**SMALL, norm=norm), 8)
    out, u = net(*draw())
    assert bool((out == 0).all())
    assert bool((u == 0).all())


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("norm", ["mp", "group"])
def test_at_angle_zero_a_clip_is_its_frames_bit_for_bit(norm: Norm, causal: bool) -> None:
    video = build(norm=norm, causal=causal, theta=0.0)
    image = build(norm=norm, temporal=False)
    weights = {n: p for n, p in video.state_dict().items() if n in image.state_dict()}
    image.load_state_dict(weights)
    assert torch.equal(video(*draw())[0], image(*draw())[0])
    assert torch.equal(video(*draw())[0], video(*draw(), image_mode=True)[0])


def magnitudes(net: SpaceTimeUNet) -> list[float]:
    found: list[float] = []
    hooks = [
        module.register_forward_hook(lambda module, args, out: found.append(rms(out)))
        for module in net.modules()
        if isinstance(module, Block)
    ]
    last = net.head.register_forward_pre_hook(lambda module, args: found.append(rms(args[0])))
    with torch.no_grad():
        net(*draw(t=8, size=16))
    for hook in [*hooks, last]:
        hook.remove()
    return found


def test_magnitudes_hold_at_the_start_and_after_1000_random_steps() -> None:
    grown = {}
    for norm in ("mp", "group"):
        torch.manual_seed(0)
        net = SpaceTimeUNet(ModelConfig(**(SMALL | {"widths": (32, 64)}), norm=norm), 16)
        if norm == "mp":
            assert all(0.5 < m < 2 for m in magnitudes(net))
        matrices = [p for p in net.parameters() if p.ndim > 1]
        before = sum(float(p.detach().square().sum()) for p in matrices)
        adam = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0, fused=True)
        weights = list(net.parameters())
        sizes = [p.numel() for p in weights]
        for _ in range(1000):
            for p, grad in zip(weights, torch.randn(sum(sizes)).split(sizes), strict=True):
                p.grad = grad.view_as(p)
            adam.step()
            net.normalize_weights()
        after = sum(float(p.detach().square().sum()) for p in matrices)
        grown[norm] = (after / before) ** 0.5
        if norm == "mp":
            assert all(0.5 < m < 2 for m in magnitudes(net))
        else:
            assert max(magnitudes(net)) > 4
    assert grown["mp"] == pytest.approx(1, abs=0.01)
    assert grown["group"] > 2


@pytest.mark.parametrize(("gains", "held"), [("held", True), ("free", False)])
def test_gains_aligned_with_the_embedding_outgrow_no_feature_where_they_are_held(
    gains: str, held: bool
) -> None:
    torch.manual_seed(0)
    net = SpaceTimeUNet(ModelConfig(**SMALL | {"widths": (32, 64)}, gains=gains), 16)
    with torch.no_grad():
        level = net.embedding(draw(t=8)[1], torch.ones(2), None, None)[0].mean((0, 1))
        for block in net.modules():
            if isinstance(block, Block):
                block.scale.weight.copy_(level + 0.3 * torch.randn_like(block.scale.weight))
                block.scale.gain.fill_(0.3)  # type: ignore[union-attr]
    assert all(0.5 < m < 2 for m in magnitudes(net)) is held


def test_the_learned_weight_of_the_loss_tells_a_picture_from_a_clip() -> None:
    net = build()
    x, _, dt = draw()
    levels = torch.zeros(2, 4)
    as_clip, as_pictures = (net(x, levels, dt, image_mode=mode)[1] for mode in (False, True))
    assert bool(((as_clip - as_pictures).abs() > 1e-3).all())


def test_seven_times_any_weight_changes_nothing() -> None:
    net = build(classes=3)
    inputs, label = draw(), torch.tensor([0, 2])
    before, u = net(*inputs, label=label)
    for module in net.modules():
        if isinstance(module, Weighted):
            with torch.no_grad():
                module.weight.mul_(7)
            after, u_after = net(*inputs, label=label)
            assert rms(after - before) < 1e-5 * rms(before)
            assert rms(u_after - u) < 1e-5 * rms(u)
            with torch.no_grad():
                module.weight.div_(7)


COARSE = pytest.mark.parametrize("coarse", ["joint", "factorised"])


@COARSE
@pytest.mark.parametrize("norm", ["mp", "group"])
def test_by_gradient_a_causal_network_sees_no_later_frame(norm: Norm, coarse: str) -> None:
    for causal in (True, False):
        net = build(norm=norm, causal=causal, coarse=coarse)
        x, levels, dt = draw(b=1)
        x.requires_grad_()
        out = net(x, levels, dt)[0]
        for f in range(4):
            weights = torch.randn(out[:, :, f].shape)
            (grad,) = torch.autograd.grad((out[:, :, f] * weights).sum(), x, retain_graph=True)
            sees = (grad != 0).any(dim=(0, 1, 3, 4)).tolist()
            assert sees == [g <= f or not causal for g in range(4)]


@pytest.mark.parametrize("norm", ["mp", "group"])
@pytest.mark.parametrize("frame", [1, 3])
def test_by_perturbation_earlier_frames_stay_bit_for_bit(norm: Norm, frame: int) -> None:
    net = build(norm=norm, causal=True)
    x, levels, dt = draw()
    before = net(x, levels, dt)[0]
    other, later = x.clone(), levels.clone()
    other[:, :, frame] += 1e3
    later[:, frame] += 0.5
    for after in (net(other, levels, dt)[0], net(x, later, dt)[0]):
        assert torch.equal(after[:, :, :frame], before[:, :, :frame])
        assert not torch.equal(after[:, :, frame], before[:, :, frame])


@COARSE
@pytest.mark.parametrize("norm", ["mp", "group"])
def test_image_mode_permutes_with_its_frames_and_equals_single_frames(
    norm: Norm, coarse: str
) -> None:
    net = build(norm=norm, coarse=coarse)
    x, levels, dt = draw()
    out, u = net(x, levels, dt, image_mode=True)
    order = torch.tensor([2, 0, 3, 1])
    turned, u_turned = net(x[:, :, order], levels[:, order], dt, image_mode=True)
    torch.testing.assert_close(turned, out[:, :, order], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(u_turned, u[:, order], rtol=1e-5, atol=1e-5)
    for f in range(4):
        one, u_one = net(x[:, :, f : f + 1], levels[:, f : f + 1], dt, image_mode=True)
        torch.testing.assert_close(one, out[:, :, f : f + 1], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(u_one, u[:, f : f + 1], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(net(x, levels, dt)[0], out, atol=1e-3)


@pytest.mark.parametrize("norm", ["mp", "group"])
def test_a_clip_does_not_depend_on_its_batch(norm: Norm) -> None:
    net = build(norm=norm, causal=True)
    x, levels, dt = draw(b=3)
    out, u = net(x, levels, dt)
    for i in range(3):
        one, u_one = net(x[i : i + 1], levels[i : i + 1], dt[i : i + 1])
        torch.testing.assert_close(one[0], out[i], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(u_one[0], u[i], rtol=1e-5, atol=1e-5)


def gradients(net: SpaceTimeUNet, inputs: tuple[Tensor, ...], parts: int) -> list[Tensor]:
    net.zero_grad()
    for piece in zip(*(y.chunk(parts) for y in inputs), strict=True):
        out, u = net(*piece)
        ((out - 1).square().mean((1, 3, 4)) / u.exp() + u).mean().div(parts).backward()
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


@pytest.mark.parametrize("norm", ["mp", "group"])
def test_gradients_do_not_depend_on_how_a_batch_is_cut(norm: Norm) -> None:
    net = build(norm=norm).double()
    inputs = tuple(y.double() for y in draw(b=8))
    whole = gradients(net, inputs, 1)
    for parts in (2, 4):
        for got, want in zip(gradients(net, inputs, parts), whole, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_recomputing_blocks_changes_neither_output_nor_gradient(dropout: float) -> None:
    found = []
    for checkpointing in (False, True):
        net = build(checkpointing=checkpointing, dropout=dropout)
        torch.manual_seed(7)
        found.append(gradients(net, draw(), 1))
    for plain, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("norm", ["mp", "group"])
def test_with_circular_borders_a_shift_by_the_stride_is_a_shift(
    norm: Norm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def circular(self: Weighted, x: Tensor) -> Tensor:
        weight, (rows, columns) = self.effective_weight(), self.padding
        if weight.ndim == 2:
            return functional.linear(x, weight, self.bias)
        # Over time the borders are real; over space the picture becomes a torus.
        wrapped = functional.pad(x, (columns, columns, 0, 0), mode="circular")
        if columns:
            wrapped = functional.pad(wrapped, (0, 0, rows, rows), mode="circular")
            rows = 0
        return functional.conv2d(wrapped, weight, self.bias, padding=(rows, 0))

    net = build(size=16, norm=norm, joint_map=0).double()
    x, levels, dt = (v.double() for v in draw(size=16))
    monkeypatch.setattr(Weighted, "forward", circular)
    stride = net.layout.patch * 2 ** (len(net.layout.widths) - 1)
    shift = {"shifts": (stride, 2 * stride), "dims": (3, 4)}
    shifted = net(x.roll(**shift), levels, dt)[0]
    torch.testing.assert_close(shifted, net(x, levels, dt)[0].roll(**shift), rtol=1e-9, atol=1e-9)
    one = net(x.roll(1, 3), levels, dt)[0]
    assert not torch.allclose(one, net(x, levels, dt)[0].roll(1, 3), atol=1e-3)


def test_a_frames_level_alters_its_own_output_and_its_neighbours() -> None:
    net = build()
    x, levels, dt = draw()
    before = net(x, levels, dt)[0]
    other = levels.clone()
    other[:, 2] += 0.5
    changed = (net(x, other, dt)[0] - before).abs().amax(dim=(0, 1, 3, 4))
    assert bool((changed > 1e-4).all())
    assert int(changed.argmax()) == 2


def test_the_rate_matters_and_half_the_frames_at_twice_the_spacing_stand_where_they_stood() -> None:
    net = build()
    x, levels, dt = draw()
    assert not torch.allclose(net(x, levels, 2 * dt)[0], net(x, levels, dt)[0], atol=1e-3)
    seen: list[Tensor] = []
    attention = next(b.attention for b in net.modules() if isinstance(b, Block) and b.attention)
    attention.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    net(x, levels, dt)
    net(x[:, :, ::2], levels[:, ::2], 2 * dt)
    assert torch.equal(seen[1], seen[0][:, ::2])


TEMPORAL = ("over_time", "attention")


@pytest.mark.parametrize("norm", ["mp", "group"])
@pytest.mark.parametrize("settings", [{}, {"causal": True}, {"temporal": False}])
def test_in_plain_training_every_weight_gets_a_gradient(
    norm: Norm, settings: dict[str, Any]
) -> None:
    told: dict[str, Any] = {"classes": 3, "text": "words", "hint": {}, "pixel_levels": True}
    net = SpaceTimeUNet(ModelConfig(**SMALL | settings | told, norm=norm), 8)
    out, u = net(*draw())
    (out.sum() + u.sum()).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_in_image_mode_only_layers_over_time_go_without_a_gradient() -> None:
    net = build(joint_map=0)
    out, u = net(*draw(), image_mode=True)
    (out.sum() + u.sum()).backward()
    without = {name for name, p in net.named_parameters() if p.grad is None}
    over_time = {n for n, _ in net.named_parameters() if set(TEMPORAL) & set(n.split("."))}
    assert without == over_time
    assert over_time


def test_labels_and_text_alter_the_output_and_none_is_none() -> None:
    net = build(classes=3, text="given", text_width=5)
    inputs = draw()
    plain = net(*inputs)[0]
    none = net(*inputs, label=torch.tensor([3, -1]), text=torch.zeros(2, 5))[0]
    assert torch.equal(none, plain)
    for given in ({"label": torch.tensor([0, 1])}, {"text": torch.ones(2, 5)}):
        assert not torch.allclose(net(*inputs, **given)[0], plain, atol=1e-3)


def test_hint_and_pixel_levels_enter_where_the_network_was_built_for_them() -> None:
    net = build(hint={}, pixel_levels=True)
    x, levels, dt = draw()
    plain = net(x, levels, dt)[0]
    pixel = torch.zeros(2, 1, 4, 8, 8)
    same = net(x, levels, dt, hint=torch.zeros_like(x), pixel_noise=pixel)[0]
    assert torch.equal(same, plain)
    pixel[..., :4] = -1
    for given in ({"hint": x}, {"pixel_noise": pixel}):
        assert not torch.allclose(net(x, levels, dt, **given)[0], plain, atol=1e-3)


@pytest.mark.parametrize(("given", "field"), [("hint", "hint"), ("pixel_noise", "pixel_levels")])
def test_an_input_the_network_was_not_built_for_is_an_error(given: str, field: str) -> None:
    x, levels, dt = draw()
    extra = x if given == "hint" else x[:, :1]
    with pytest.raises(RequestError, match=f"model.{field}"):
        build()(x, levels, dt, **{given: extra})


class Counter(TorchDispatchMode):
    """Counts ATen calls."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def test_a_forward_of_ten_million_parameters_makes_few_calls() -> None:
    config = ModelConfig(widths=(80, 160, 240, 320), blocks=1, patch=2, temporal_map=16)
    with torch.device("meta"):
        net = SpaceTimeUNet(config, 32)
        assert sum(p.numel() for p in net.parameters()) == pytest.approx(10e6, rel=0.1)
        x, levels, dt = torch.empty(2, 3, 8, 32, 32), torch.empty(2, 8), torch.empty(2)
        with torch.no_grad(), Counter() as counter:
            net(x, levels, dt)
    assert counter.calls <= 2500


def test_muon_moves_the_matrices_inside_blocks_alone() -> None:
    net = build(classes=3)
    hidden = {name for name, p in net.named_parameters() if hidden_matrix(name, p)}
    ends = {"embedding", "stem", "head", "uncertainty"}
    assert not {name.split(".")[0] for name in hidden} & ends
    assert not any(name.endswith(("gain", "theta")) for name in hidden)
    assert not any(".scale." in name for name in hidden)
    kinds = ("conv1", "conv2", "fit", "over_time", "qkv", "out", "joins")
    assert all(any(kind in name for kind in kinds) for name in hidden)
    assert all(any(kind in name for name in hidden) for kind in kinds)
