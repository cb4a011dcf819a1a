"""Attention: every back end and every split gives one answer; positions are differences in time."""

from __future__ import annotations

import importlib.util
import math
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from vidiff.errors import RequestError
from vidiff.models import attention
from vidiff.models.attention import Attention, Backend, Over, attend, require_backend, rotate
from vidiff.models.layers import Norm, frame_mask

KINDS: list[dict[str, Any]] = [
    {"over": over, "causal": causal}
    for over in ("time", "space", "joint")
    for causal in (False, True)
]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make(
    channels: int = 32,
    norm: Norm = "mp",
    theta: float = 0.7,
    over: Over = "time",
    causal: bool = False,
) -> Attention:
    return Attention(channels, norm, theta, over=over, causal=causal, backend="auto")


def answer(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, backend: Backend) -> list[Tensor]:
    """Output and gradients."""
    q, k, v = (x.detach().clone().requires_grad_() for x in (q, k, v))
    out = attend(q, k, v, mask, backend)
    weights = torch.arange(out.numel(), dtype=out.dtype).view_as(out).sin()
    return [out, *torch.autograd.grad((out * weights).sum(), (q, k, v))]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("masked", [False, True])
def test_sdpa_and_math_agree_in_output_and_gradient(
    dtype: torch.dtype, tolerance: float, masked: bool
) -> None:
    q, k, v = torch.randn(3, 5, 2, 12, 16, dtype=dtype)
    mask = frame_mask(4, 3, q.device) if masked else None
    expected = answer(q, k, v, mask, "math")
    for backend in ("sdpa", "auto"):
        for got, want in zip(answer(q, k, v, mask, backend), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def test_math_is_the_softmax_of_the_scaled_products() -> None:
    q, k, v = torch.randn(3, 1, 1, 4, 8, dtype=torch.float64)
    weights = torch.exp(q[0, 0] @ k[0, 0].T / math.sqrt(8))
    expected = weights / weights.sum(1, keepdim=True) @ v[0, 0]
    torch.testing.assert_close(attend(q, k, v, None, "math")[0, 0], expected)


@pytest.mark.parametrize("backend", ["sdpa", "math"])
@pytest.mark.parametrize("limit", [3, 7, 14, 100])
def test_splitting_the_batch_changes_nothing(
    backend: Backend, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = torch.randn(3, 7, 2, 6, 8)
    mask = frame_mask(6, 1, q.device)
    whole = answer(q, k, v, mask, backend)
    monkeypatch.setattr(attention, "GRID_LIMIT", limit)
    for got, want in zip(answer(q, k, v, mask, backend), whole, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batch x heads of every kernel launched."""
    sizes: list[int] = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def watched(q: Tensor, k: Tensor, v: Tensor, **words: Any) -> Tensor:
        sizes.append(q.shape[0] * q.shape[1])
        return kernel(q, k, v, **words)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    return sizes


@pytest.mark.parametrize(("sequences", "count"), [(65_535, 1), (65_536, 2), (131_072, 3)])
def test_no_launch_holds_more_sequences_than_a_grid(
    sequences: int, count: int, launches: list[int]
) -> None:
    q = torch.randn(sequences, 1, 2, 2)
    out = attend(q, q, q, None, "auto")
    assert max(launches) <= 65_535
    assert sum(launches) == sequences
    assert len(launches) == count
    torch.testing.assert_close(out[-3:], attend(q[-3:], q[-3:], q[-3:], None, "math"))


def test_heads_count_towards_the_grid(launches: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "GRID_LIMIT", 15)
    q = torch.randn(10, 4, 3, 8)
    attend(q, q, q, None, "auto")
    assert max(launches) <= 15
    assert sum(launches) == 40


@pytest.mark.skipif(
    importlib.util.find_spec("xformers") is not None, reason="xformers is installed here"
)
def test_missing_xformers_stops_at_the_start_in_one_sentence() -> None:
    with pytest.raises(RequestError) as caught:
        require_backend("xformers", torch.device("cpu"))
    assert caught.value.exit_code == 2
    assert "model.attention=xformers" in caught.value.cause
    assert caught.value.cause.count(". ") == 0
    assert "\n" not in caught.value.cause
    assert "model.attention=auto" in caught.value.remedy


@pytest.mark.parametrize("masked", [False, True])
def test_xformers_is_called_in_its_own_layout(
    masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stand_in(q: Tensor, k: Tensor, v: Tensor, attn_bias: Tensor | None) -> Tensor:
        logits = torch.einsum("nqhd,nkhd->nhqk", q, k) / math.sqrt(q.shape[-1])
        if attn_bias is not None:
            assert attn_bias.shape == logits.shape
            assert attn_bias.stride(-2) % 8 == 0
            logits = logits + attn_bias
        return torch.einsum("nhqk,nkhd->nqhd", logits.softmax(-1), v)

    ops = ModuleType("xformers.ops")
    ops.__dict__["memory_efficient_attention"] = stand_in
    monkeypatch.setitem(sys.modules, "xformers", ModuleType("xformers"))
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    require_backend("xformers", torch.device("cpu"))
    q, k, v = torch.randn(3, 5, 2, 12, 16, dtype=torch.float64)
    mask = frame_mask(4, 3, q.device) if masked else None
    want = answer(q, k, v, mask, "math")
    for got, expected in zip(answer(q, k, v, mask, "xformers"), want, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["auto", "sdpa", "math"])
def test_the_other_back_ends_need_nothing(backend: Backend) -> None:
    require_backend(backend, torch.device("cpu"))


@pytest.mark.parametrize("norm", ["mp", "group"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_gives_the_same_map_with_every_back_end(norm: Norm, kind: dict[str, Any]) -> None:
    layer = make(norm=norm, **kind).double()
    x, times = torch.randn(8, 32, 2, 3, dtype=torch.float64), torch.arange(4.0).expand(2, 4)
    maps = []
    for backend in ("math", "sdpa"):
        layer.backend = backend
        maps.append(layer(x, times))
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_adding_a_constant_to_all_times_changes_nothing(kind: dict[str, Any]) -> None:
    layer = make(**kind).double()
    x, times = torch.randn(8, 32, 2, 3, dtype=torch.float64), torch.arange(4.0).expand(2, 4)
    times = times.double()
    torch.testing.assert_close(layer(x, times + 5.3), layer(x, times), rtol=1e-9, atol=1e-9)


def logits(layer: Attention, q: Tensor, k: Tensor, times: Tensor) -> Tensor:
    angle = layer.angles(times, 1, 1).flatten(1, 3)[:, None, None]
    a, b = (rotate(x[None, None, None], angle)[0, 0, 0] for x in (q, k))
    return a @ b.T


def test_logits_depend_on_seconds_between_frames_alone() -> None:
    layer = make(64).double()
    q, k = torch.randn(2, 8, 64, dtype=torch.float64)
    frames = torch.arange(8, dtype=torch.float64)[None]
    base = logits(layer, q, k, frames)
    torch.testing.assert_close(logits(layer, q, k, frames + 100), base, rtol=1e-6, atol=1e-6)
    # Every second frame of a clip at twice the spacing.
    halved = logits(layer, q[::2], k[::2], 2.0 * torch.arange(4, dtype=torch.float64)[None])
    torch.testing.assert_close(halved, base[::2, ::2], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(logits(layer, q, k, 2 * frames), base, atol=1e-2)


def test_rotation_keeps_norms() -> None:
    x, angle = torch.randn(3, 2, 4, 5, 16), torch.randn(3, 1, 1, 5, 8)
    torch.testing.assert_close(rotate(x, angle).norm(dim=-1), x.norm(dim=-1))


@pytest.mark.parametrize("over", ["time", "joint"])
def test_time_order_matters(over: Over) -> None:
    layer = make(over=over)
    x, times = torch.randn(4, 32, 2, 2), torch.arange(4.0)[None]
    turned = layer(x.flip(0), times).flip(0)
    assert not torch.allclose(turned, layer(x, times), atol=1e-3)


@pytest.mark.parametrize(
    ("over", "reached"),
    [("time", (True, False, False)), ("space", (False, True, False)), ("joint", (True,) * 3)],
)
def test_content_moves_as_far_as_its_attention_spans(over: Over, reached: tuple[bool, ...]) -> None:
    x, times = torch.randn(4, 32, 2, 2), torch.arange(4.0)[None]
    other = x.clone()
    other[0, :, 0, 0] += 1
    layer = make(over=over)
    moved = (layer(x, times) - layer(other, times)).abs().amax(1) > 1e-6
    later, elsewhere, both = moved[3, 0, 0], moved[0, 1, 1], moved[3, 1, 1]
    assert (bool(later), bool(elsewhere), bool(both)) == reached


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["mp", "group"])
def test_attention_is_exactly_the_identity_at_angle_zero(norm: Norm, kind: dict[str, Any]) -> None:
    layer = make(norm=norm, theta=0.0, **kind)
    x = torch.randn(6, 32, 2, 2)
    assert torch.equal(layer(x, torch.arange(3.0).expand(2, 3)), x)


@pytest.mark.parametrize("over", ["time", "space", "joint"])
def test_image_mode_treats_every_frame_as_a_clip_of_one(over: Over) -> None:
    layer = make(over=over)
    x, times = torch.randn(6, 32, 2, 3), torch.arange(3.0).expand(2, 3)
    together = layer(x, times, image_mode=True)
    alone = torch.cat([layer(f[None], torch.zeros(1, 1), image_mode=True) for f in x])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_attention_output_never_exceeds_unit_magnitude() -> None:
    layer = make(128, theta=math.pi / 2, over="joint")
    y = layer(10 * torch.randn(8, 128, 4, 4), torch.arange(8.0)[None])
    assert float(y.detach().square().mean().sqrt()) <= 1


@pytest.mark.parametrize(
    ("channels", "heads"), [(24, 1), (64, 1), (128, 2), (192, 3), (200, 2), (130, 1), (1024, 16)]
)
def test_heads_are_64_wide_or_wide_enough_to_divide_the_channels(channels: int, heads: int) -> None:
    with torch.device("meta"):
        assert make(channels).heads == heads
