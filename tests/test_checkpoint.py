from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from disks import flip, leftovers, publish, seed_inside, weights

from vidiff.errors import RequestError, VidiffError
from vidiff.runs.checkpoint import (
    latest,
    load,
    save,
    weights_hash,
)
from vidiff.runs.values import flatten_optimizer, unflatten_optimizer


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    state = {
        "name": "Füße\u2028\ud800",
        "big": 2**200,
        "tiny": 5e-324,
        "third": 1 / 3,
        "minus_zero": -0.0,
        "best": math.inf,
        "worst": -math.inf,
        "betas": (0.9, (0.999, [True, None])),
        "by_step": {1: "a", (2, 3): {"$float": "not a float"}},
    }
    path = save(tmp_path / "checkpoints", 7, {"model": weights(1)}, state, keep=1)
    tensors, found = load(path)
    assert path.name == "step-00000007"
    assert found == {"step": 7, **state}
    assert repr(found) == repr({"step": 7, **state})
    for name, tensor in weights(1).items():
        assert tensors["model"][name].dtype == tensor.dtype
        assert torch.equal(tensors["model"][name], tensor)
    assert sorted(p.name for p in path.iterdir()) == [
        "manifest.json",
        "model.safetensors",
        "state.json",
    ]


def test_nan_in_the_state_comes_back_as_nan(tmp_path: Path) -> None:
    path = save(tmp_path, 1, {}, {"loss": math.nan}, keep=1)
    assert math.isnan(load(path)[1]["loss"])


def test_the_state_file_is_strict_json(tmp_path: Path) -> None:
    path = save(tmp_path, 1, {}, {"loss": math.inf}, keep=1)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads((path / "state.json").read_text(), parse_constant=refuse)


def test_tied_and_strided_weights_are_saved_whole(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    flat = {"a": base, "tied": base, "turned": base.T, "part": base[1], "column": base[:, 2]}
    tensors, _ = load(save(tmp_path, 1, {"model": flat}, {}, keep=1))
    for name, tensor in flat.items():
        assert torch.equal(tensors["model"][name], tensor), name


def test_only_the_wanted_files_are_read(tmp_path: Path) -> None:
    path = publish(tmp_path, 3)
    shutil.copy(path / "ema.safetensors", tmp_path / "ema.copy")
    flip(path / "optim.safetensors", 100)
    tensors, _ = load(path, only=["ema"])
    assert list(tensors) == ["ema"]
    with pytest.raises(RequestError, match=r"holds no ema_9"):
        load(path, only=["ema_9"])
    with pytest.raises(VidiffError, match="optim"):
        load(path)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"a": {"b": [torch.zeros(1)]}}, r"state\.a\.b\.0 is a Tensor"),
        ({"a": {1, 2}}, "is a set"),
        ({"step": 4}, "step 4"),
    ],
)
def test_a_state_that_cannot_be_kept_exactly_is_refused(
    tmp_path: Path, state: dict[str, Any], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        save(tmp_path / "c", 5, {}, state, keep=1)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("stem", ["../evil", "/abs", "a/b", "", ".hidden", "x\0y", "m" * 5000])
def test_a_stem_that_leaves_the_folder_is_refused(tmp_path: Path, stem: str) -> None:
    with pytest.raises(RequestError):
        save(tmp_path / "c", 5, {stem: weights(0)}, {}, keep=1)
    assert not (tmp_path / "c").exists()


def test_keeping_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="keep is 0"):
        publish(tmp_path, 1, keep=0)


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in range(1, 6):
        publish(tmp_path, step, keep=2)
    assert sorted(os.listdir(tmp_path)) == ["step-00000004", "step-00000005"]


def test_a_damaged_folder_does_not_count_as_kept_nor_outrank_a_new_one(tmp_path: Path) -> None:
    publish(tmp_path, 10, keep=3)
    (publish(tmp_path, 20, keep=3) / "ema.safetensors").unlink()
    flip(publish(tmp_path, 40, keep=3) / "model.safetensors", 200)
    publish(tmp_path, 30, keep=2)
    assert sorted(os.listdir(tmp_path)) == ["step-00000010", "step-00000030"]


def test_a_newer_valid_checkpoint_is_never_pruned(tmp_path: Path) -> None:
    publish(tmp_path, 20)
    publish(tmp_path, 10)
    assert sorted(os.listdir(tmp_path)) == ["step-00000010", "step-00000020"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    publish(tmp_path, 5, seed=1)
    path = publish(tmp_path, 5, seed=2)
    assert seed_inside(path) == 2
    assert os.listdir(tmp_path) == ["step-00000005"]


def test_the_earlier_save_of_a_step_counts_until_its_successor_stands(tmp_path: Path) -> None:
    aside = publish(tmp_path, 5, seed=1).rename(tmp_path / "step-00000005~ab12")
    assert latest(tmp_path) == (aside, [])
    publish(tmp_path, 5, seed=2)
    assert os.listdir(tmp_path) == ["step-00000005"]


def test_leftovers_of_dead_saves_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".tmp-dead").mkdir()
    (tmp_path / ".tmp-dead" / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".tmp-file").write_bytes(b"half")
    assert latest(tmp_path) is None
    publish(tmp_path, 1)
    assert leftovers(tmp_path) == []


def test_no_folder_and_an_empty_folder_have_no_checkpoint(tmp_path: Path) -> None:
    assert latest(tmp_path / "none") is None
    assert latest(tmp_path) is None


class Muon(torch.optim.Optimizer):
    """A custom optimizer with a momentum buffer, an odd state and a tensor learning rate."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": torch.tensor(lr), "betas": (0.9, 0.95), "best": math.inf})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                    state["calls"], state["history"] = 0, []
                state["momentum_buffer"].mul_(0.9).add_(p.grad)
                state["calls"] += 1
                state["history"].append(1 / (state["calls"] + 2))
                p.data.sub_(group["lr"] * state["momentum_buffer"])


def adamw(params: Any) -> torch.optim.Optimizer:
    groups = [{"params": params[:2], "lr": 1e-3}, {"params": params[2:], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1 / 3, amsgrad=True)


def _train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for i in steps:
        generator = torch.Generator().manual_seed(i)
        optimizer.zero_grad()
        model(torch.randn(4, 3, generator=generator)).square().mean().backward()
        optimizer.step()


def _bits(state: dict[str, Any]) -> tuple[str, str]:
    tensors, plain = flatten_optimizer(state)
    return weights_hash(tensors), repr(plain)


@pytest.mark.parametrize("make", [adamw, lambda p: Muon(p, 0.1)], ids=["AdamW", "Muon"])
def test_an_optimizer_goes_on_bit_for_bit_after_a_checkpoint(
    tmp_path: Path, make: Callable[[Any], torch.optim.Optimizer]
) -> None:
    def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
        return model, make(list(model.parameters()))

    straight, whole = build()
    _train(straight, whole, range(6))
    model, optimizer = build()
    _train(model, optimizer, range(3))
    flat, plain = flatten_optimizer(optimizer.state_dict())
    path = save(tmp_path, 3, {"model": model.state_dict(), "optim": flat}, {"o": plain}, keep=1)
    tensors, state = load(path)
    resumed, fresh = build()
    resumed.load_state_dict(tensors["model"])
    fresh.load_state_dict(unflatten_optimizer(tensors["optim"], state["o"]))
    assert _bits(fresh.state_dict()) == _bits(optimizer.state_dict())
    _train(resumed, fresh, range(3, 6))
    assert weights_hash(resumed.state_dict()) == weights_hash(straight.state_dict())
    assert _bits(fresh.state_dict()) == _bits(whole.state_dict())


def test_an_optimizer_whose_tensors_are_missing_is_refused() -> None:
    _, plain = flatten_optimizer({"state": {0: {"exp_avg": torch.zeros(2)}}})
    with pytest.raises(VidiffError, match=r"state\.0\.exp_avg is missing"):
        unflatten_optimizer({}, plain)


def test_the_weights_hash_sees_names_types_shapes_and_every_bit() -> None:
    base = {"a": torch.zeros(4), "b": torch.ones(2)}
    others = [
        {"a": torch.zeros(4), "c": torch.ones(2)},
        {"a": torch.zeros(4, dtype=torch.int32), "b": torch.ones(2)},
        {"a": torch.zeros(2, 2), "b": torch.ones(2)},
        {"a": torch.tensor([0.0, 0.0, 0.0, -0.0]), "b": torch.ones(2)},
        {"a": torch.zeros(4)},
    ]
    hashes = {weights_hash(tensors) for tensors in [base, *others]}
    assert len(hashes) == 6
    assert weights_hash({"b": torch.ones(2), "a": torch.zeros(4)}) == weights_hash(base)
    strided = {"a": torch.zeros(4), "b": torch.ones(4)[::2]}
    assert weights_hash(strided) == weights_hash(base)
