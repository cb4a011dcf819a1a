"""What a network is told beside the clip, what training hides of it, and that it obeys."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from media import write_video
from torch import Tensor

import vidiff
from vidiff import tasks
from vidiff.conditions import NOT_TOLD, drop, dropped, find_class, show_hint
from vidiff.data.index import DataConfig, scan
from vidiff.diffusion.calibration import Calibration
from vidiff.errors import RequestError
from vidiff.generation import generate
from vidiff.generation.request import Request
from vidiff.models.conditioning import DropConfig
from vidiff.models.layout import ModelConfig, fit_conditions
from vidiff.pipeline import VideoDiffusion, build
from vidiff.records import Batch, Condition
from vidiff.runs.files import read_json
from vidiff.sampling import SampleConfig

SMALL: dict[str, Any] = {"widths": (16, 32), "blocks": 1, "patch": 2}
PLAIN = Calibration(mean=(0, 0, 0), std=(0.5, 0.5, 0.5), redundancy=4, principal=9, p_mean=-0.5,
                    sigma_max=80, dt=0.1, num_clips=9)  # fmt: skip


def told(count: int) -> dict[str, Tensor]:
    values = {"dt": 1.0, "label": 2, "text": 0.5, "words": 7, "hint": 0.3, "hint_noise": -0.2}
    return {name: torch.full((count, 3), value) for name, value in values.items()}


def test_each_condition_is_hidden_with_its_own_probability() -> None:
    config = DropConfig(label=0.5, text=0.2, rate=0.0, hint=1.0)
    left = drop(told(2000), config, 0, range(2000))
    hidden = {n: float((left[n] == NOT_TOLD[n]).all(1).float().mean()) for n in left}
    assert hidden["dt"] == 0
    assert hidden["hint"] == hidden["hint_noise"] == 1
    assert hidden["label"] == pytest.approx(0.5, abs=0.04)
    assert hidden["text"] == hidden["words"] == pytest.approx(0.2, abs=0.03)
    both = (left["label"] == -1) & (left["text"] == 0)
    assert float(both.all(1).float().mean()) == pytest.approx(0.1, abs=0.03)


def test_what_is_hidden_depends_on_seed_and_position_alone() -> None:
    config = DropConfig(label=0.5)
    whole = dropped(config, "label", 3, range(64))
    assert torch.equal(dropped(config, "label", 3, range(20, 30)), whole[20:30])
    assert not torch.equal(dropped(config, "label", 4, range(64)), whole)
    assert not torch.equal(dropped(DropConfig(text=0.5), "text", 3, range(64)), whole)


def make(size: int = 16, **settings: Any) -> VideoDiffusion:
    model = build(ModelConfig(**SMALL | settings), PLAIN, 4, size)
    with torch.no_grad():
        for name, p in model.network.named_parameters():
            if name.endswith("gain"):
                p.fill_(0.7)
    return model


def batch(count: int = 4, size: int = 16, **known: Any) -> Batch:
    g = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (count, 4, size, size, 3), generator=g).byte()
    return Batch(frames, torch.full((count,), 0.1), tuple(range(count)), ("",) * count, **known)


NEVER = {"label": 0.0, "text": 0.0, "rate": 0.0, "hint": 0.0}


@pytest.mark.parametrize(
    ("settings", "known"),
    [
        ({"classes": 3}, {"label": torch.tensor([0, 1, 2, -1])}),
        ({"text": "words"}, {"caption": ("a cat", "two dogs", "a red car", None)}),
    ],
)
def test_labels_and_captions_of_a_batch_reach_the_network_unless_hidden(
    settings: dict[str, Any], known: dict[str, Any]
) -> None:
    seen = make(drop=NEVER, **settings)
    with_it, without = (seen.loss(b, 0).error for b in (batch(**known), batch()))
    moved = (with_it - without).abs().amax(1) > 1e-6
    assert moved.tolist() == [True, True, True, False]
    hidden = make(drop=NEVER | {"label": 1.0, "text": 1.0}, **settings)
    hidden.network.load_state_dict(seen.network.state_dict())
    torch.testing.assert_close(hidden.loss(batch(**known), 0).error, without)


def test_a_given_field_of_levels_hides_nothing() -> None:
    model = make(classes=3, drop={"label": 1.0, "rate": 1.0})
    flat = torch.ones(4, 1, 4, 1, 1)
    known = batch(label=torch.tensor([0, 1, 2, 1]))
    field = Condition(floor=flat, start=flat, known=known.frames)
    with_it, without = (model.loss(b, 0, condition=field).error for b in (known, batch()))
    assert not torch.allclose(with_it, without)


def test_an_unknown_rate_is_no_rate_and_stands_at_the_usual_spacing() -> None:
    network = make().network
    x, levels = torch.randn(1, 3, 4, 16, 16), torch.zeros(1, 4)
    usual, unknown, twice = (network(x, levels, torch.tensor([dt]))[0] for dt in (1.0, 0.0, 2.0))
    assert bool(unknown.isfinite().all())
    assert not torch.allclose(unknown, usual, atol=1e-3)
    assert not torch.allclose(unknown, twice, atol=1e-3)


def test_which_pixels_stand_apart_can_be_hidden_too() -> None:
    field: dict[str, Any] = {"pixel_levels": True}
    pixels = tasks.TaskConfig(shared=0, context=0, sorted=0, independent=0, pixels=1)
    errors = []
    for share in (0.0, 1.0):
        model = make(drop=NEVER | {"pixels": share}, **field)
        model.tasks = pixels
        errors.append(model.loss(batch(), 0).error)
    assert not torch.allclose(*errors)


class TestHint:
    """The clip in low resolution."""

    def test_it_has_unit_variance_at_every_level_and_names_it(self) -> None:
        low = 0.5 * torch.randn(64, 3, 2, 8, 8)
        for level in (0.01, 0.3, 1.0):
            shown = show_hint(low, 8, torch.full((64,), level), 0, range(64))
            assert float(shown["hint"].std()) == pytest.approx(1, abs=0.02)
            assert float(shown["hint_noise"][0]) == pytest.approx(np.log(level) / 4)

    def test_its_noise_belongs_to_the_clip(self) -> None:
        low, level = torch.zeros(3, 3, 2, 4, 4), torch.ones(3)
        whole = show_hint(low, 8, level, 0, [5, 6, 7])["hint"]
        assert torch.equal(show_hint(low[:1], 8, level[:1], 0, [6])["hint"], whole[1:2])

    def test_training_draws_one_from_the_clip_and_none_is_none(self) -> None:
        with_it = make(hint={}, drop=NEVER)
        without = make(hint={}, drop=NEVER | {"hint": 1.0})
        assert not torch.allclose(with_it.loss(batch(), 0).error, without.loss(batch(), 0).error)
        x, levels, dt = torch.randn(2, 3, 4, 16, 16), torch.zeros(2, 4), torch.ones(2)
        none = {"hint": torch.zeros_like(x), "hint_noise": torch.full((2,), torch.inf)}
        network = with_it.network
        assert torch.equal(network(x, levels, dt, **none)[0], network(x, levels, dt)[0])

    def test_a_clip_to_sample_may_bring_one_of_any_size(self) -> None:
        model = make(hint={})
        plain = replace(tasks.generate(2, 4), key=torch.tensor([0, 1]))
        noisy, sigma = torch.randn(2, 3, 4, 16, 16), torch.ones(2, 1, 4, 1, 1)
        answers = [model.denoiser(plain)(noisy, sigma)]
        for side in (4, 5):
            hint = torch.full((2, 4, side, side, 3), 200, dtype=torch.uint8)
            answers.append(model.denoiser(replace(plain, hint=hint))(noisy, sigma))
        assert not torch.allclose(answers[0], answers[1], atol=1e-3)
        torch.testing.assert_close(answers[1], answers[2])  # enlarged, both are flat

    def test_levels_that_are_out_of_order_are_refused(self) -> None:
        with pytest.raises(ValueError, match="must not decrease"):
            ModelConfig(**SMALL, hint={"low": 0.5, "level": 0.1})


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"label": torch.tensor([0])}, "model.classes"),
        ({"words": torch.ones(1, 64, dtype=torch.long)}, "model.text"),
        ({"text": torch.ones(1, 4)}, "model.text"),
        ({"hint": torch.zeros(1, 4, 4, 4, 3, dtype=torch.uint8)}, "model.hint"),
    ],
)
def test_a_condition_the_model_was_not_trained_with_is_an_error(
    given: dict[str, Any], key: str
) -> None:
    with pytest.raises(RequestError) as caught:
        make().denoiser(replace(tasks.generate(1, 4), **given))
    assert key in caught.value.cause


def test_a_class_is_found_by_name_before_number_and_the_nearest_is_told() -> None:
    names = ("dog", "7", "Lemur")
    assert find_class(names, "Lemur", 3) == 2
    assert find_class(names, "7", 3) == 1
    assert find_class(names, "0", 3) == find_class(names, 0, 3) == 0
    with pytest.raises(RequestError, match=r"no class 'lemour'; the nearest is 'Lemur'"):
        find_class(names, "lemour", 3)
    with pytest.raises(RequestError, match="no classes"):
        find_class((), "dog", 0)


@pytest.mark.parametrize(
    ("asked", "classes", "captioned", "cause"),
    [
        ({"classes": "auto"}, 0, True, "model.classes=auto, but the clips have 0 labels"),
        ({"classes": 2}, 3, True, "model.classes=2, but the clips have 3 labels"),
        ({"text": "words"}, 0, False, "model.text=words, but no clip has a caption"),
    ],
)
def test_clips_that_lack_what_the_network_is_to_be_told_are_an_error(
    asked: dict[str, Any], classes: int, captioned: bool, cause: str
) -> None:
    with pytest.raises(RequestError) as caught:
        fit_conditions(ModelConfig(**asked), classes, captioned)
    assert caught.value.cause.startswith(cause)
    assert fit_conditions(ModelConfig(classes="auto"), 4, False).classes == 4
    assert fit_conditions(ModelConfig(classes=5), 4, False).classes == 5


COLOURS = {"red": (200, 40, 40), "blue": (40, 40, 200)}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips whose colour is in their caption, and their brightness in their folder."""
    root = tmp_path_factory.mktemp("worlds")
    for k in range(16):
        name = ("dark", "light")[k // 2 % 2]
        word, colour = list(COLOURS.items())[k % 2]
        frames = np.tile(np.array(colour, np.float32), (12, 16, 16, 1))
        frames *= {"dark": 0.5, "light": 1.2}[name]
        frames[:, 4:8, k % 8 : k % 8 + 6] *= 0.7
        (root / name).mkdir(exist_ok=True)
        path = root / name / f"clip-{k:02d}.mp4"
        write_video(path, frames.clip(0, 255).astype(np.uint8), 10)
        path.with_suffix(".txt").write_text(f"A {word} world.")
    return root


@pytest.fixture(scope="module")
def obedient(worlds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of seconds on both worlds."""
    words = ("data.num_frames=4", "data.size=8", "data.held_out=0.25", "model.widths=[32,32]",
             "model.patch=2", "model.classes=auto", "model.text=words", "process.p_mean=1",
             "tasks.shared=0.8", "tasks.context=0.2", "tasks.sorted=0", "tasks.independent=0",
             "optimizer.lr=0.04", "optimizer.warmup=10", "train.steps=120", "train.batch_size=8",
             "train.held_out_clips=2", "train.preview_every=999")  # fmt: skip
    out = tmp_path_factory.mktemp("runs") / "worlds"
    return vidiff.train(None, *words, data=worlds, out=out, say=lambda text: None).folder


def test_a_model_obeys_caption_and_class(obedient: Path) -> None:
    model = vidiff.load(obedient, "model")
    assert model.classes == ("dark", "light")
    shown = {}
    for label in model.classes:
        for word in COLOURS:
            condition = model.tell(tasks.generate(1, 4), label, f"a {word} world")
            clips = model.sample(condition, range(3), SampleConfig(steps=6)).float()
            shown[label, word] = clips.mean(dim=(0, 1, 2, 3))
    for label in model.classes:
        assert shown[label, "red"][0] > 1.2 * shown[label, "red"][2]
        assert shown[label, "blue"][2] > 1.2 * shown[label, "blue"][0]
    for word in COLOURS:
        assert shown["light", word].max() > 1.2 * shown["dark", word].max()


def test_a_request_names_class_and_caption_and_only_the_class_is_published(
    obedient: Path, tmp_path: Path
) -> None:
    request = Request(label="light", caption="a blue world", sample=SampleConfig(steps=2))
    made = generate(obedient, tmp_path, request)
    about = read_json(made[0].with_suffix(".json"))
    assert (about["request"]["label"], about["request"]["caption"]) == ("light", "[withheld]")
    with pytest.raises(RequestError, match="the nearest is 'light'"):
        generate(obedient, tmp_path, Request(label="lihgt"))


def test_a_folder_of_labels_and_captions_is_indexed_as_such(worlds: Path) -> None:
    index = scan(DataConfig(root=str(worlds), num_frames=4, size=16), 0)
    assert index.labels == ("dark", "light")
    assert all(entry.caption for entry in index.usable)
