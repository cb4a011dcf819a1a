"""Muon's singular values and step sizes, the division of labour with Adam, the schedules."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from vidiff.models.optimizers import (
    Muon,
    OptimizerConfig,
    learning_rate,
    make_optimizers,
    orthogonalize,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("shape", [(64, 128), (64, 576), (128, 1152), (576, 64)])
def test_a_convolutions_update_has_singular_values_near_one(shape: tuple[int, int]) -> None:
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
    assert float(values.min()) >= 0.68
    assert float(values.max()) <= 1.14


def test_nearly_all_singular_values_of_a_square_update_are_near_one() -> None:
    values = torch.linalg.svdvals(orthogonalize(torch.randn(256, 256)))
    assert float(((values > 0.6) & (values < 1.25)).float().mean()) >= 0.98


def test_the_singular_directions_are_kept() -> None:
    matrix = torch.randn(48, 96)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    core = u.T @ orthogonalize(matrix) @ v.T
    assert float((core - core.diag().diag()).abs().max()) < 1e-4


def test_an_orthogonal_matrix_comes_back_aligned() -> None:
    matrix = torch.linalg.qr(torch.randn(128, 128))[0]
    scale = 1 / math.sqrt(128)
    for _ in range(5):
        scale = 3.4445 * scale - 4.7750 * scale**3 + 2.0315 * scale**5
    assert 0.68 < scale < 1.14
    torch.testing.assert_close(orthogonalize(matrix), scale * matrix, rtol=0, atol=1e-4)


def test_a_zero_gradient_moves_nothing() -> None:
    assert not orthogonalize(torch.zeros(4, 6)).any()


def stepped(shape: tuple[int, ...], **settings: float) -> Tensor:
    p = nn.Parameter(torch.zeros(shape))
    muon = Muon([p], **settings)  # type: ignore[arg-type]
    p.grad = torch.randn(shape)
    muon.step()
    return p.detach()


@pytest.mark.parametrize("shape", [(64, 128), (128, 64, 1, 1), (64, 64, 3, 3), (192, 64, 3, 1)])
def test_a_step_has_the_size_of_the_learning_rate(shape: tuple[int, ...]) -> None:
    moved = float(stepped(shape, lr=0.01, unit_rms=True).square().mean().sqrt())
    assert moved == pytest.approx(0.01, rel=0.25)
    usual = float(stepped(shape, lr=0.01, unit_rms=False).square().mean().sqrt())
    assert usual == pytest.approx(0.2 * 0.01, rel=0.25)


def test_steps_do_not_depend_on_the_size_of_the_gradient() -> None:
    start = torch.randn(16, 32)
    moved = []
    for scale in (1.0, 1e-3):
        p = nn.Parameter(start.clone())
        muon = Muon([p], lr=0.1)
        p.grad = scale * start.flip(0)
        muon.step()
        moved.append(p.detach() - start)
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-3, atol=1e-5)


def test_a_parameter_without_a_gradient_stays() -> None:
    p = nn.Parameter(torch.randn(4, 6))
    before = p.detach().clone()
    Muon([p], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(p, before)


def test_weight_decay_is_decoupled() -> None:
    p = nn.Parameter(torch.ones(4, 6))
    p.grad = torch.zeros(4, 6)
    Muon([p], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(p.detach(), torch.full((4, 6), 0.95))


def test_a_stored_and_loaded_muon_goes_on_bit_for_bit() -> None:
    grads = torch.randn(6, 8, 12)
    p = nn.Parameter(torch.randn(8, 12))
    muon = Muon([p], lr=0.1)
    for grad in grads[:3]:
        p.grad = grad
        muon.step()
    q = nn.Parameter(p.detach().clone())
    resumed = Muon([q], lr=0.5)
    resumed.load_state_dict(copy.deepcopy(muon.state_dict()))
    for grad in grads[3:]:
        p.grad, q.grad = grad, grad
        muon.step()
        resumed.step()
    assert torch.equal(p, q)


class Net(nn.Module):
    """One hidden matrix, one end, one gain."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 8, bias=False)
        self.hidden = nn.Linear(8, 8)
        self.gain = nn.Parameter(torch.ones([]))
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def owners(name: str) -> dict[str, str]:
    net = Net()
    optimizers = make_optimizers(
        OptimizerConfig.model_validate({"name": name}),
        net,
        lambda name, p: name.startswith("hidden") and p.ndim > 1,
        mp=True,
    )
    names = {id(p): name for name, p in net.named_parameters()}
    return {
        names[id(p)]: type(optimizer).__name__
        for optimizer in optimizers
        for group in optimizer.param_groups
        for p in group["params"]
    }


def test_muon_moves_hidden_matrices_and_adam_the_rest_each_weight_once() -> None:
    assert owners("muon") == {
        "hidden.weight": "Muon",
        "stem.weight": "AdamW",
        "hidden.bias": "AdamW",
        "gain": "AdamW",
    }


def test_adam_alone_moves_everything_that_learns() -> None:
    assert set(owners("adam").values()) == {"AdamW"}
    assert len(owners("adam")) == 4


def test_a_linear_schedule_warms_up_and_ends_at_zero() -> None:
    config = OptimizerConfig(lr=0.02, warmup=10)
    rates = [learning_rate(config, step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.002)
    assert max(rates) == rates[9]
    assert rates[50] == pytest.approx(0.01)
    assert rates[100] == 0
    assert all(a > b for a, b in pairwise(rates[9:]))


def test_an_inverse_square_root_schedule_can_stop_at_any_time() -> None:
    config = OptimizerConfig(lr=0.02, warmup=0, schedule="inverse_sqrt", decay_from=100)
    assert learning_rate(config, 100, 10) == pytest.approx(0.02)
    for steps in (10, 10_000):
        assert learning_rate(config, 400, steps) == pytest.approx(0.01)
    assert learning_rate(config, 10_000, 0) == pytest.approx(0.02 / math.sqrt(100))
