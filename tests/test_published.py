from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from textures import walk_clips

from vidiff.errors import RequestError
from vidiff.metrics import published
from vidiff.metrics.distribution import (
    Scale,
    frechet_distance,
    frechet_from_moments,
    kernel_distance,
)
from vidiff.metrics.published import (
    PROTOCOLS,
    frechet_over_n,
    kid_distance,
    measure_published,
    mmd_polynomial,
    resize_as_tensorflow_1,
)


class Video(torch.nn.Module):
    """Stands where I3D stands: mean colour, and its change, of what it is given."""

    def forward(
        self,
        x: torch.Tensor,
        rescale: bool = True,
        resize: bool = True,
        return_features: bool = False,
    ) -> torch.Tensor:
        if rescale:
            x = x * 2 / 255 - 1
        steps = (x[:, :, 1:] - x[:, :, :-1]).abs().mean(dim=[2, 3, 4])
        return torch.cat([x.mean(dim=[2, 3, 4]), steps], dim=1)


class Picture(torch.nn.Module):
    """Stands where Inception stands."""

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return x.float().mean(dim=[2, 3]) / 255


def save_script(module: torch.nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(path))
    return path


@pytest.fixture
def detectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Small TorchScript files, whose hashes the protocols are told to expect."""
    paths = {}
    for name, module in (("i3d", Video()), ("inception", Picture())):
        paths[name] = save_script(module, tmp_path / f"{name}.pt")
    for name, protocol in PROTOCOLS.items():
        path = paths["inception" if name in ("fid", "kid") else "i3d"]
        detector = replace(protocol.detector, sha256=published.hash_file(path))
        monkeypatch.setitem(PROTOCOLS, name, replace(protocol, detector=detector))
    return paths


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    return walk_clips(6, 16, 32, seed=1), walk_clips(6, 16, 32, seed=2)


@pytest.mark.slow
def test_the_frechet_distance_of_unit_normals_one_apart_in_2048_d_is_2048() -> None:
    zero, one, eye = np.zeros(2048), np.ones(2048), np.eye(2048)
    assert frechet_from_moments(zero, eye, one, eye) == pytest.approx(2048, rel=1e-9)


def test_the_polynomial_mmd_is_that_of_the_jedi_repository() -> None:
    a = np.arange(1.0, 10).reshape(3, 3)
    b = np.array([[7.0, 6, 5], [4, 3, 2], [1, 1, 8], [0, 2, 5]])
    # Its two printed values, without and with the division by d = 3 in the kernel.
    assert mmd_polynomial(a, b) * 3**2 == pytest.approx(2436.5)
    assert mmd_polynomial(a, b) == pytest.approx(270.7, abs=0.05)


def test_jedi_is_above_zero_between_equal_distributions() -> None:
    rng = np.random.default_rng(0)
    values = [
        100 * mmd_polynomial(rng.uniform(size=(n, 1280)), rng.uniform(size=(n, 1280)))
        for n in (256, 1000)
    ]
    assert values == pytest.approx([0.0398, 0.0099], rel=0.1)


def test_covariances_over_n_shrink_the_frechet_distance_by_one_nth() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)), 2 * rng.normal(size=(50, 4))
    means = ((x.mean(0) - y.mean(0)) ** 2).sum()
    expected = means + (frechet_distance(x, y) - means) * 49 / 50
    assert frechet_over_n(x, y) == pytest.approx(expected, rel=1e-9)


def test_kid_of_one_full_subset_is_the_unbiased_kernel_distance() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.1, 1, (1000, 16)), rng.normal(size=(1000, 16))
    expected = kernel_distance(x, y, Scale.unit(16)) / 1000
    assert kid_distance(x, y) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(RequestError, match="subsets of 1000 frames"):
        kid_distance(x[:999], y)


def test_frames_are_resized_as_tensorflow_1_did() -> None:
    row = torch.tensor([0.0, 1.0])[None, None, None].expand(1, 1, 2, 2)
    out = resize_as_tensorflow_1(row, 4)
    assert out[0, 0, 0].tolist() == [0.0, 0.5, 1.0, 1.0]
    image = torch.rand(1, 3, 448, 448)
    torch.testing.assert_close(resize_as_tensorflow_1(image, 224), image[:, :, ::2, ::2])


def test_fvd_is_the_frechet_distance_of_what_the_detector_says(
    detectors: dict[str, Path], pair: tuple[np.ndarray, np.ndarray]
) -> None:
    rows = []
    for clips in pair:
        x = torch.from_numpy(clips).permute(0, 1, 4, 2, 3).float()
        large = torch.stack([resize_as_tensorflow_1(c, 224) for c in x]).permute(0, 2, 1, 3, 4)
        rows.append(Video()(large * 2 / 255 - 1, False, False, True).double().numpy())
    found = measure_published("fvd", *pair, weights=detectors["i3d"])
    assert found.value == pytest.approx(frechet_distance(*rows), rel=1e-4)
    assert (found.name, found.clips, found.frames) == ("fvd", 6, 16)
    assert measure_published("fvd", pair[0], pair[0], weights=detectors["i3d"]).value < 1e-9


def test_the_protocol_of_2048_clips_takes_2048_of_16_frames(
    detectors: dict[str, Path], pair: tuple[np.ndarray, np.ndarray]
) -> None:
    with pytest.raises(RequestError, match="exactly 2048 clips on each side; there are 6"):
        measure_published("fvd2048_16f", *pair, weights=detectors["i3d"])
    many = [np.resize(c[:, :, :8, :8], (2048, 16, 8, 8, 3)) for c in pair]
    value = measure_published("fvd2048_16f", *many, weights=detectors["i3d"]).value
    assert value > 0
    with pytest.raises(RequestError, match="clips of 128 frames"):
        measure_published("fvd2048_128f", *many, weights=detectors["i3d"])


def test_fid_counts_frames_and_reports_clips(
    detectors: dict[str, Path], pair: tuple[np.ndarray, np.ndarray]
) -> None:
    rows = [c.reshape(96, -1, 3).mean(axis=1) / 255 for c in pair]
    found = measure_published("fid", *pair, weights=detectors["inception"])
    assert found.value == pytest.approx(frechet_distance(*rows), rel=1e-4)
    assert found.clips == 6


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_without_the_detector_nothing_bears_the_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROTOCOLS, name, replace(PROTOCOLS[name], num_clips=2, num_frames=None))
    clips = walk_clips(2, 16, 32)
    with pytest.raises(RequestError, match="no such file was given"):
        measure_published(name, clips, clips)
    wrong = save_script(Picture(), tmp_path / "wrong.pt")
    with pytest.raises(RequestError, match="would not be the published one"):
        measure_published(name, clips, clips, weights=wrong)


def test_unequal_counts_and_unknown_names_are_refused(
    detectors: dict[str, Path], pair: tuple[np.ndarray, np.ndarray]
) -> None:
    with pytest.raises(RequestError, match="as many, two or more"):
        measure_published("fvd", pair[0][:4], pair[1], weights=detectors["i3d"])
    with pytest.raises(RequestError, match="no protocol 'fwd'"):
        measure_published("fwd", *pair)


def test_a_download_that_fails_names_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    gone = (tmp_path / "gone.pt").as_uri()
    protocol = PROTOCOLS["fvd"]
    detector = replace(protocol.detector, source=gone)
    monkeypatch.setitem(PROTOCOLS, "fvd", replace(protocol, detector=detector))
    with pytest.raises(RequestError, match="could not be fetched from file"):
        measure_published("fvd", *pair, download=True)


def test_a_download_of_another_file_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "other.pt").write_bytes(b"not the detector")
    protocol = PROTOCOLS["fvd"]
    detector = replace(protocol.detector, source=(tmp_path / "other.pt").as_uri())
    monkeypatch.setitem(PROTOCOLS, "fvd", replace(protocol, detector=detector))
    with pytest.raises(RequestError, match="could not be fetched"):
        measure_published("fvd", *pair, download=True)
    assert list((tmp_path / "hub" / "vidiff").iterdir()) == []


def test_a_download_with_the_known_hash_is_used_and_kept(
    detectors: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    protocol = PROTOCOLS["fvd"]
    detector = replace(protocol.detector, source=detectors["i3d"].as_uri())
    monkeypatch.setitem(PROTOCOLS, "fvd", replace(protocol, detector=detector))
    found = measure_published("fvd", *pair, download=True)
    detectors["i3d"].unlink()
    assert measure_published("fvd", *pair, download=True) == found
