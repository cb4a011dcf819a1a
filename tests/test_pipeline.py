"""The parts together: bytes in, bytes out, one clip a seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import vidiff
from vidiff import tasks
from vidiff.errors import RequestError
from vidiff.models.unet import SpaceTimeUNet
from vidiff.pipeline import VideoDiffusion
from vidiff.runs import checkpoint
from vidiff.sampling import SampleConfig
from vidiff.saved import describe, load, rebuild

QUICK = SampleConfig(steps=4)


@pytest.fixture(scope="module")
def model(run: Path) -> VideoDiffusion:
    return load(run)


def test_a_clip_depends_on_its_seed_alone(model: VideoDiffusion) -> None:
    together = model.sample(seeds=[3, 5, 7], config=QUICK)
    alone = model.sample(seeds=[5], config=QUICK)
    backwards = model.sample(seeds=[7, 5, 3], config=QUICK, chunk=2)
    assert torch.equal(together[1], alone[0])
    assert torch.equal(together.flip(0), backwards)
    assert not torch.equal(together[0], together[1])


def test_bytes_survive_the_way_to_model_range_and_back(model: VideoDiffusion) -> None:
    frames = torch.randint(0, 256, (2, 8, 16, 16, 3), dtype=torch.uint8)
    assert torch.equal(model.to_frames(model.to_model(frames)), frames)


def test_held_frames_come_back_bit_for_bit(model: VideoDiffusion) -> None:
    given = torch.randint(0, 256, (2, 3, 16, 16, 3), dtype=torch.uint8)
    clip = model.sample(tasks.predict(given, 8), seeds=[0, 1], config=QUICK)
    assert torch.equal(clip[:, :3], given)
    assert clip.shape == (2, 8, 16, 16, 3)


def test_one_task_serves_all_seeds_but_two_do_not_serve_three(model: VideoDiffusion) -> None:
    given = torch.zeros(1, 1, 16, 16, 3, dtype=torch.uint8)
    assert len(model.sample(tasks.predict(given, 8), seeds=range(3), config=QUICK)) == 3
    with pytest.raises(RequestError, match="2 clips and 3 seeds"):
        model.sample(tasks.predict(given.repeat(2, 1, 1, 1, 1), 8), seeds=range(3))


def test_an_edit_of_small_strength_stays_near_the_clip(model: VideoDiffusion) -> None:
    given = torch.randint(60, 200, (1, 8, 16, 16, 3), dtype=torch.uint8)
    near = model.sample(tasks.edit(given, 0.02), config=QUICK)
    far = model.sample(tasks.edit(given, 20.0), config=QUICK)
    error = [(c.float() - given.float()).abs().mean() for c in (near, far)]
    assert error[0] < 8 < error[1]


@pytest.mark.parametrize("sampler", ["dpm2m", "heun", "euler", "ab2", "churn", "sde2m"])
@pytest.mark.parametrize("grid", ["karras", "flow", "quantile"])
def test_every_sampler_runs_on_every_grid(model: VideoDiffusion, sampler: str, grid: str) -> None:
    config = SampleConfig(sampler=sampler, grid=grid, steps=3)  # type: ignore[arg-type]
    calls: list[tuple[int, int]] = []
    clip = model.sample(config=config, progress=lambda done, total: calls.append((done, total)))
    assert clip.shape == (1, 8, 16, 16, 3)
    assert calls[-1][0] <= calls[-1][1]


def test_lagging_frames_fall_at_different_times(model: VideoDiffusion) -> None:
    lag = torch.arange(8.0)
    rolling = tasks.generate(1, 8)
    rolling = type(rolling)(floor=rolling.floor, start=rolling.start, lag=lag)
    clip = model.sample(rolling, config=QUICK)
    assert not torch.equal(clip, model.sample(config=QUICK))


def test_load_takes_the_averaged_weights_and_names_what_there_is(run: Path) -> None:
    ema, raw, wide = (load(run, w) for w in ("ema", "model", "ema-0.100"))
    assert len({ema.weights_hash, raw.weights_hash, wide.weights_hash}) == 3
    with pytest.raises(RequestError, match=r"ema-0\.05.*ema-0\.1.*model|no weights named"):
        load(run, "ema-0.5")


def test_a_run_whose_gains_had_no_axis_still_loads(run: Path) -> None:
    model = load(run)
    tensors = model.network.state_dict()
    old = {name: t.squeeze() if name.endswith(".gain") else t for name, t in tensors.items()}
    assert any(t.ndim == 0 for t in old.values())
    again = rebuild(describe(model, model.network.config), old)  # type: ignore[arg-type]
    assert torch.equal(again.sample(config=QUICK), model.sample(config=QUICK))


def test_load_of_a_folder_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no valid checkpoint"):
        load(tmp_path)


def test_the_public_names_are_those_listed() -> None:
    for name in vidiff.__all__:
        assert getattr(vidiff, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = vidiff.trian  # type: ignore[attr-defined]


def test_a_run_from_before_gains_were_held_loads_as_it_was_trained(
    run: Path, tmp_path: Path
) -> None:
    found = checkpoint.latest(run / "checkpoints")
    assert found is not None
    tensors, state = checkpoint.load(found[0])
    assert state["pipeline"]["model"].pop("gains") == "held"
    checkpoint.save(tmp_path / "checkpoints", state["step"], tensors, state, keep=1)
    network = vidiff.load(tmp_path).network
    assert isinstance(network, SpaceTimeUNet)
    assert network.config.gains == "free"
