"""From noise to clips: the start from infinite noise, and guidance as a user asks for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import exact
import pytest
import torch
from torch import Tensor, nn

from vidiff import tasks
from vidiff.diffusion.calibration import Calibration
from vidiff.diffusion.process import Denoiser
from vidiff.errors import NumbersError, RequestError
from vidiff.models.layout import ModelConfig
from vidiff.pipeline import VideoDiffusion, build
from vidiff.records import Condition, draw_normal
from vidiff.sampling import Job, SampleConfig, sample, walk
from vidiff.saved import load

CALIBRATION = Calibration(
    mean=(0.0,), std=(0.5,), redundancy=2.0, principal=4.0, p_mean=-0.5, sigma_max=20.0, dt=0.1,
    num_clips=9,
)  # fmt: skip
QUICK = {"steps": 4}


class Exact:
    """A model whose denoiser is known: Gaussian clips, their mean chosen by the label."""

    calibration = CALIBRATION
    device = torch.device("cpu")
    level_law = (-0.5, 1.4)

    def __init__(self, cov: Tensor, means: dict[int, Tensor], frames: int, size: int) -> None:
        self.cov, self.means, self.num_frames, self.size = cov, means, frames, size
        self.network = nn.Identity()
        self.network.config = SimpleNamespace(temporal=True)  # type: ignore[assignment]

    def to_model(self, frames: Tensor) -> Tensor:
        return frames.movedim(-1, 1).float() / 100 - 1

    def to_frames(self, x: Tensor) -> Tensor:
        return ((x + 1) * 100).round().clamp(0, 255).byte().movedim(1, -1)

    def denoiser(self, condition: Condition, image_mode: bool = False) -> Denoiser:
        labels = [-1] * len(condition) if condition.label is None else condition.label.tolist()
        cov = self.cov.diagonal().diag() if image_mode else self.cov
        mean = torch.stack([self.means[label] for label in labels])
        gaussian = exact.gaussian(cov)

        def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
            shift = mean.view(noisy.shape)
            return (gaussian(noisy.double() - shift, sigma.double()) + shift).float()

        return denoise


def clips_of(model: Exact, condition: Condition, count: int, **how: object) -> Tensor:
    """Samples in model range, one row a clip."""
    job = Job(model, condition, list(range(count)), SampleConfig(**how), None)
    return walk(job, lambda done, calls: None).double().flatten(1)


def gaussian_clips(shift: float = 3.0) -> Exact:
    """Brightness of sd 4, a fifth of sigma_max, on top of small independent numbers."""
    d = 2 * 4 * 4
    cov = 0.25 * torch.eye(d).double() + 16 / d * torch.ones(d, d).double()
    bright = shift * torch.linspace(-1, 1, d).double() + shift
    return Exact(cov, {-1: bright, 0: bright + 1, 1: -bright}, 2, 4)


def test_a_clip_started_from_infinite_noise_lands_where_the_exact_flow_takes_it() -> None:
    model = gaussian_clips()
    found = clips_of(model, tasks.generate(5, 2), 5, steps=200, sampler="exp2m", grid="log")
    noise = draw_normal(0, list(range(5)), "sample", (1, 2, 4, 4)).double().flatten(1)
    values, vectors = torch.linalg.eigh(model.cov)
    wanted = model.means[-1] + noise @ vectors @ values.sqrt().diag() @ vectors.T
    # The mean is right to l / 4 sigma^2 = 4 % of itself along the brightness, seen through S = 10.
    top = vectors[:, -1]
    bound = 0.04 * float((model.means[-1] @ top).abs()) * 0.4
    assert float(((found - wanted) @ top).abs().max()) < bound
    assert float(((found - wanted) @ vectors[:, :-1]).abs().max()) < 0.01


@pytest.mark.parametrize("sampler", ["exp2m", "dpm2m", "heun", "euler", "ab2"])
def test_samples_have_the_mean_clip_and_the_brightness_of_the_data(sampler: str) -> None:
    model = gaussian_clips()
    d = 32
    unit = torch.cat([torch.zeros(1, d), torch.eye(d)]).view(-1, 1, 2, 4, 4)

    class Drawn(Job):
        def noise(self, purpose: str, step: int = 0) -> Tensor:
            return unit

    config = SampleConfig(sampler=sampler, steps=120, grid="log")
    job = Drawn(model, tasks.generate(d + 1, 2), list(range(d + 1)), config, None)
    ends = walk(job, lambda done, calls: None).double().flatten(1)
    mean, matrix = ends[0], ends[1:] - ends[0]
    cov = matrix.T @ matrix
    top = torch.ones(d).double() / d**0.5
    assert float((top @ cov @ top).sqrt()) == pytest.approx(16.25**0.5, rel=0.012)
    sd = model.cov.diagonal().sqrt()
    assert float(((mean - model.means[-1]) / sd).abs().max()) < 0.06  # 0.69 from pure noise


def test_conditionals_stay_exact_with_a_mean_clip() -> None:
    cov = exact.ar1(6)
    cov = torch.kron(cov, torch.eye(4).double())
    mean = 5 * torch.ones(24).double()
    model = Exact(cov, {-1: mean}, 6, 2)
    given = torch.full((1, 2, 2, 2, 1), 255, dtype=torch.uint8)
    condition = tasks.predict(given, 6)
    count = 25
    unit = torch.cat([torch.zeros(1, 24), torch.eye(24)]).view(-1, 1, 6, 2, 2)

    class Drawn(Job):
        def noise(self, purpose: str, step: int = 0) -> Tensor:
            return unit

    rows = replace(
        condition,
        **{n: getattr(condition, n).expand(count, *[-1] * (getattr(condition, n).ndim - 1))
           for n in ("floor", "start", "known")},
    )  # fmt: skip
    config = SampleConfig(sampler="exp2m", steps=150, grid="log")
    ends = walk(Drawn(model, rows, list(range(count)), config, None), lambda a, b: None)
    ends = ends.double().flatten(1)
    mask = torch.zeros(24, dtype=torch.bool)
    mask[:8] = True
    gain, wanted = exact.conditional(cov, mask, tasks.HELD)
    assert torch.equal(ends[0, :8], torch.full((8,), 1.55).float().double())
    torch.testing.assert_close(ends[0, 8:], 5 + gain @ (ends[0, :8] - 5), rtol=0, atol=0.02)
    matrix = ends[9:, 8:] - ends[0, 8:]
    torch.testing.assert_close(matrix.T @ matrix, wanted, rtol=0, atol=5e-3)


def labelled(count: int, label: int) -> Condition:
    return replace(tasks.generate(count, 2), label=torch.full((count,), label))


@pytest.mark.parametrize("sampler", ["exp2m", "heun"])
def test_guidance_towards_a_class_moves_the_mean_by_the_known_amount(sampler: str) -> None:
    # Equal covariances: D_w belongs to the Gaussian with mean m_ref + w (m - m_ref).
    model, how = gaussian_clips(), {"sampler": sampler, "steps": 12}
    guided = clips_of(model, labelled(4, 1), 4, guidance=2.5, **how)
    means = model.means
    model.means = {-1: means[-1] + 2.5 * (means[1] - means[-1])}
    expected = clips_of(model, tasks.generate(4, 2), 4, **how)
    torch.testing.assert_close(guided, expected, rtol=1e-4, atol=1e-4)


def test_history_shown_through_infinite_noise_is_no_history() -> None:
    cov = torch.kron(exact.ar1(4, 0.8), torch.eye(4).double())
    model = Exact(cov, {-1: torch.zeros(16).double()}, 4, 2)
    given = torch.full((1, 2, 2, 2, 1), 150, dtype=torch.uint8)
    condition = tasks.predict(given, 4)
    how = {"sampler": "exp2m", "steps": 16, "guidance": 3.0, "guide": "history"}
    far = clips_of(model, condition, 1, history=1e5, **how)
    plain = clips_of(model, condition, 1, sampler="exp2m", steps=16)
    same = clips_of(model, condition, 1, history=tasks.HELD, **how)
    torch.testing.assert_close(same, plain, rtol=0, atol=1e-5)

    class Forgetful(Exact):
        """Its reference half has never seen the given frames."""

        def denoiser(self, condition: Condition, image_mode: bool = False) -> Denoiser:
            free = exact.gaussian(self.cov[8:, 8:])
            own = super().denoiser(tasks.generate(1, 4))
            if len(condition) == 1:
                return own

            def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
                rest = free(noisy[1:, :, 2:].double(), sigma[1:, :, 2:].double()).float()
                blank = torch.cat([noisy[1:, :, :2], rest], dim=2)
                return torch.cat([own(noisy[:1], sigma[:1]), blank])

            return denoise

    blind = Forgetful(cov, {-1: torch.zeros(16).double()}, 4, 2)
    torch.testing.assert_close(clips_of(blind, condition, 1, **how), far, rtol=0, atol=2e-3)
    assert float((far - plain).abs().max()) > 0.1


@pytest.fixture(scope="module")
def network() -> VideoDiffusion:
    """A tiny network with three classes and random weights; its zero gains are opened."""
    calibration = CALIBRATION.model_copy(update={"mean": (0.0,) * 3, "std": (0.5,) * 3})
    config = ModelConfig(widths=(16, 32), patch=2, blocks=1, classes=3)
    model = build(config, calibration, 4, 16)
    with torch.no_grad():
        for parameter in model.network.parameters():
            if not bool(parameter.any()):
                parameter.fill_(0.5)
    return model


def given(count: int = 2) -> Condition:
    g = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (count, 2, 16, 16, 3), dtype=torch.uint8, generator=g)
    return replace(tasks.predict(frames, 4), label=torch.arange(count))


def how(kind: str, w: float, **more: object) -> SampleConfig:
    reference = {"reference": "early"} if kind == "auto" else {}
    return SampleConfig(guide=kind, guidance=w, **QUICK, **reference, **more)


KINDS = ("condition", "history", "time", "auto")


@pytest.mark.parametrize("kind", KINDS)
def test_weight_one_of_any_guidance_is_bit_equal_to_none(
    network: VideoDiffusion, kind: str
) -> None:
    plain = network.sample(given(), [0, 1], SampleConfig(**QUICK))
    assert torch.equal(network.sample(given(), [0, 1], how(kind, 1), reference=network), plain)
    if kind != "auto":
        assert not torch.equal(network.sample(given(), [0, 1], how(kind, 3)), plain)


@pytest.mark.parametrize(("kind", "rows"), [("condition", [2]), ("history", [2]), ("time", [1, 1])])
def test_guidance_by_the_same_network_asks_once_with_twice_the_rows(
    network: VideoDiffusion, kind: str, rows: list[int]
) -> None:
    asked: list[int] = []
    hook = network.network.register_forward_pre_hook(lambda _, args: asked.append(len(args[0])))
    network.sample(given(), [0, 1], how(kind, 2))
    assert asked == 2 * 4 * rows
    asked.clear()
    network.sample(given(), [0, 1], how(kind, 2, interval=(0.0, 1e-3)))
    hook.remove()
    assert asked == 2 * 4 * [1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_guided_clip_depends_on_its_seed_alone(network: VideoDiffusion, kind: str) -> None:
    config = how(kind, 2)
    weaker = ModelConfig(widths=(16, 32), patch=2, blocks=1, classes=3)
    other = build(weaker, network.calibration, 4, 16)
    whole = network.sample(given(3), [5, 1, 9], config, reference=other)
    first = given(3)
    rows = {n: getattr(first, n)[[2, 1, 0]] for n in ("floor", "start", "known", "label")}
    again = network.sample(replace(first, **rows), [9, 1, 5], config, reference=other)
    assert torch.equal(again.flip(0), whole)


@pytest.mark.parametrize("sampler", ["exp2m", "dpm2m", "heun", "euler", "ab2", "churn", "sde2m"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_guidance_works_with_every_sampler(
    network: VideoDiffusion, kind: str, sampler: str
) -> None:
    config = how(kind, 1.5, sampler=sampler, rescale=0.7, interval=(0.1, 5.0))
    clip = network.sample(given(), [0, 1], config, reference=network)
    assert torch.equal(clip[:, :2], given().known[:, :2])  # type: ignore[index]


def test_autoguidance_by_the_model_itself_changes_no_bit(network: VideoDiffusion) -> None:
    plain = network.sample(seeds=[0, 1], config=SampleConfig(**QUICK))
    itself = network.sample(seeds=[0, 1], config=how("auto", 3), reference=network)
    assert torch.equal(itself, plain)


def test_a_reference_in_other_units_is_asked_in_its_own() -> None:
    ours = gaussian_clips()
    theirs = gaussian_clips()
    theirs.calibration = CALIBRATION.model_copy(update={"mean": (0.1,), "std": (0.25,)})
    theirs.cov, theirs.means = 4 * ours.cov, {-1: 2 * ours.means[-1] - 0.2}
    plain = clips_of(ours, tasks.generate(3, 2), 3, steps=8)
    config = how("auto", 3.0).model_copy(update={"steps": 8})
    job = Job(ours, tasks.generate(3, 2), [0, 1, 2], config, theirs)
    found = walk(job, lambda done, calls: None).double().flatten(1)
    torch.testing.assert_close(found, plain, rtol=0, atol=2e-4)


def test_references_are_found_by_track_checkpoint_and_folder(run: Path) -> None:
    model = load(run)
    plain = model.sample(config=SampleConfig(**QUICK))
    for name in ("ema-0.100", "model", "early", "step-00000002", str(run)):
        config = SampleConfig(guide="auto", guidance=3, reference=name, **QUICK)
        same = torch.equal(model.sample(config=config), plain)
        assert same == (name == str(run))
    config = SampleConfig(guide="auto", guidance=3, reference="ema-0.7", **QUICK)
    with pytest.raises(RequestError, match=r"ema-0\.7") as caught:
        model.sample(config=config)
    assert "step-00000002" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ({"guide": "auto", "guidance": 2}, "needs a reference"),
        ({"guide": "time"}, "needs a weight"),
        ({"guidance": 2, "reference": "early"}, "belongs to guide=auto"),
        ({"guidance": 2, "history": 1.0}, "belongs to guide=history"),
        ({"guidance": 2, "interval": (3.0, 0.2)}, "low must be below high"),
        ({"guidance": float("nan")}, "finite"),
        ({"rescale": 1.5}, "less than or equal to 1"),
    ],
)
def test_guidance_words_that_make_no_sense_are_refused(words: dict[str, object], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        SampleConfig(**words)


def test_guidance_with_nothing_to_guide_by_is_refused(network: VideoDiffusion) -> None:
    plain = tasks.generate(1, 4)
    with pytest.raises(RequestError, match="needs a class or a text"):
        network.sample(plain, config=SampleConfig(guidance=2))
    with pytest.raises(RequestError, match="needs given frames"):
        network.sample(plain, config=how("history", 2))
    with pytest.raises(RequestError, match="was not loaded"):
        network.sample(plain, config=how("auto", 2))
    flat = build(ModelConfig(widths=(16,), patch=2, temporal=False), network.calibration, 4, 16)
    with pytest.raises(RequestError, match="this network has none"):
        flat.sample(plain, config=how("time", 2))
    large = build(ModelConfig(widths=(16,), patch=2), network.calibration, 4, 32)
    with pytest.raises(RequestError, match="of 32 px"):
        network.sample(plain, config=how("auto", 2), reference=large)
    grey = network.calibration.model_copy(update={"std": (0.5, 0.25, 0.5)})
    other = build(ModelConfig(widths=(16,), patch=2), grey, 4, 16)
    with pytest.raises(RequestError, match="colours of the reference"):
        network.sample(plain, config=how("auto", 2), reference=other)


def test_clips_that_are_not_finite_are_refused_with_their_seeds() -> None:
    model = gaussian_clips()
    model.means = {-1: model.means[-1] * float("nan")}
    with pytest.raises(NumbersError, match=r"seeds \[3\]"):
        sample(model, None, [3, 4], SampleConfig(steps=2))
