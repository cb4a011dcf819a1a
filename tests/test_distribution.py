from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from vidiff.errors import RequestError
from vidiff.metrics import distribution as dist
from vidiff.metrics.copies import check_copies


def gaussian(count: int, width: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (count, width))


@pytest.mark.parametrize("width", [1, 16, 512])
def test_frechet_of_unit_gaussians_one_apart_is_the_number_of_dimensions(width: int) -> None:
    zero, one, eye = np.zeros(width), np.ones(width), np.eye(width)
    assert dist.frechet_from_moments(zero, eye, one, eye) == pytest.approx(width, rel=1e-9)


def test_frechet_of_commuting_covariances_has_its_closed_form() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    a, b = rng.uniform(0, 4, 8), rng.uniform(0, 4, 8)
    covs = [basis @ np.diag(v) @ basis.T for v in (a, b)]
    expected = ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    value = dist.frechet_from_moments(np.zeros(8), covs[0], np.zeros(8), covs[1])
    assert value == pytest.approx(expected, rel=1e-9)


def test_frechet_of_rank_one_covariances_has_its_closed_form() -> None:
    u, v = gaussian(1, 6, 1)[0], gaussian(1, 6, 2)[0]
    value = dist.frechet_from_moments(np.zeros(6), np.outer(u, u), np.zeros(6), np.outer(v, v))
    assert value == pytest.approx(u @ u + v @ v - 2 * abs(u @ v), rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(40, 60), (5, 7), (40, 7)])
def test_frechet_of_features_equals_that_of_their_moments(n: int, m: int) -> None:
    x, y = gaussian(n, 10, 0) * np.arange(1, 11), gaussian(m, 10, 1, shift=0.5)
    moments = dist.frechet_from_moments(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))
    assert dist.frechet_distance(x, y) == pytest.approx(moments, rel=1e-6)


def test_frechet_of_a_set_with_itself_is_zero_and_never_below() -> None:
    x = gaussian(50, 12, 0)
    assert 0 <= dist.frechet_distance(x, x) < 1e-9


def test_frechet_is_biased_upwards_and_less_so_with_more_clips() -> None:
    real = gaussian(1024, 32, 0)
    floors = []
    for count in (64, 512):
        splits = dist.split_halves(len(real), None, 4, seed=0)
        floors.append(dist.frechet_floor(real, splits, count))
    assert floors[0] == pytest.approx(9.2, rel=0.1)
    assert floors[1] == pytest.approx(1.3, rel=0.15)


def test_kernel_distance_equals_its_definition() -> None:
    x, y = gaussian(5, 3, 0, shift=0.3), gaussian(6, 3, 1)
    spread = np.sqrt(y.var(axis=0).mean())
    a, b = (x - y.mean(0)) / spread, (y - y.mean(0)) / spread

    def k(p: np.ndarray, q: np.ndarray) -> float:
        return float((p @ q / 3 + 1) ** 3)

    xx = np.mean([k(a[i], a[j]) for i in range(5) for j in range(5) if i != j])
    yy = np.mean([k(b[i], b[j]) for i in range(6) for j in range(6) if i != j])
    xy = np.mean([k(p, q) for p in a for q in b])
    assert dist.kernel_distance(x, y) == pytest.approx(1000 * (xx + yy - 2 * xy))


def test_kernel_distance_is_unbiased() -> None:
    scale = dist.Scale.unit(8)
    values = [
        dist.kernel_distance(gaussian(24, 8, 2 * i), gaussian(24, 8, 2 * i + 1), scale)
        for i in range(200)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)
    assert min(values) < 0


def test_a_dead_feature_changes_nothing_because_one_scalar_divides_them_all() -> None:
    real, generated = gaussian(64, 4, 0), gaussian(64, 4, 1, shift=0.5)
    plain = dist.kernel_distance(generated, real)
    dead = [np.concatenate([f, 1e-9 * gaussian(64, 4, 2)], axis=1) for f in (generated, real)]
    assert dist.kernel_distance(*dead) == pytest.approx(plain, rel=0.5)


def test_the_interval_covers_the_true_distance_in_most_repetitions() -> None:
    scale = dist.Scale.unit(6)
    truth = dist.kernel_distance(gaussian(4000, 6, 10**6, 0.5), gaussian(4000, 6, 10**6 + 1), scale)
    hits = 0
    for i in range(60):
        kernels = dist.Kernels.of(gaussian(48, 6, 2 * i, 0.5), gaussian(48, 6, 2 * i + 1))
        low, high = dist.kernel_interval(kernels, draws=200, seed=i)
        hits += low <= truth <= high
    assert hits >= 51


def test_clips_of_one_video_widen_the_interval() -> None:
    videos = np.repeat(np.arange(8), 6)
    y = gaussian(8, 6, 0)[videos] + 0.1 * gaussian(48, 6, 1)
    kernels = dist.Kernels.of(gaussian(48, 6, 2), y)
    by_clip = dist.kernel_interval(kernels)
    by_video = dist.kernel_interval(kernels, groups_y=videos)
    assert by_video[1] - by_video[0] > 1.3 * (by_clip[1] - by_clip[0])


def test_a_floor_brought_from_halves_to_n_is_the_floor_at_n() -> None:
    real = gaussian(160, 8, 0)
    splits = dist.split_halves(160, None, 100, seed=0)
    brought = dist.kernel_floor(real, splits) * 80 / 160
    values = [
        dist.kernel_distance(
            gaussian(160, 8, 2 * i), gaussian(160, 8, 2 * i + 1), dist.Scale.unit(8)
        )
        for i in range(1, 101)
    ]
    assert brought == pytest.approx(np.percentile(values, 95), rel=0.5)


def test_a_paired_distance_is_unbiased_and_steadier_than_an_unpaired_one() -> None:
    scale = dist.Scale.unit(6)
    paired, plain = [], []
    for i in range(100):
        real, other = gaussian(60, 6, 2 * i), gaussian(30, 6, 2 * i + 1)
        rows = np.arange(30)
        paired.append(dist.paired_kernel_distance(real[:30] + 0.5, real, rows, scale))
        plain.append(dist.kernel_distance(other + 0.5, real, scale))
    assert np.mean(paired) == pytest.approx(np.mean(plain), rel=0.1)
    assert np.std(paired) < 0.8 * np.std(plain)


def test_halves_are_disjoint_and_no_video_stands_on_both_sides() -> None:
    groups = np.repeat(np.arange(6), [1, 2, 3, 4, 5, 6])
    for a, b in dist.split_halves(21, groups, 20, seed=0):
        assert len(a) == len(b) > 0
        assert not set(groups[a]) & set(groups[b])
        assert len(set(a) | set(b)) == 2 * len(a)


def test_few_videos_are_split_by_clips() -> None:
    splits = dist.split_halves(20, np.repeat([0, 1], 10), 5, seed=0)
    assert all(len(a) == 10 for a, _ in splits)


def test_density_and_coverage_equal_their_definitions() -> None:
    x, y, k = gaussian(20, 3, 0, 0.4), gaussian(25, 3, 1), 4
    radius = [sorted(np.linalg.norm(y - row, axis=1))[k] for row in y]
    inside = np.array(
        [[np.linalg.norm(a - b) < r for b, r in zip(y, radius, strict=True)] for a in x]
    )
    assert dist.density(x, y, k) == pytest.approx(inside.sum() / (k * len(x)))
    assert dist.coverage(x, y, k) == pytest.approx(inside.any(axis=0).mean())


def test_collapse_shows_in_coverage() -> None:
    real = gaussian(100, 4, 0)
    assert dist.coverage(gaussian(100, 4, 1), real) > 0.8
    assert dist.coverage(np.repeat(gaussian(2, 4, 1), 50, axis=0), real) < 0.3


def test_equal_rows_are_at_distance_zero_exactly() -> None:
    x = 1e3 + gaussian(10, 300, 0)
    assert (np.diagonal(dist.distances(x, x)) == 0).all()


def test_gap_is_wasserstein_over_the_interquartile_range() -> None:
    x, y = gaussian(70, 1, 0, 0.5)[:, 0], gaussian(90, 1, 1)[:, 0]
    width = np.percentile(y, 75) - np.percentile(y, 25)
    assert dist.gap(x, y) == pytest.approx(wasserstein_distance(x, y) / width)


def test_gap_has_two_sides() -> None:
    y = gaussian(100, 1, 0)[:, 0]
    assert dist.gap(y - 2, y) == pytest.approx(dist.gap(y + 2, y))
    assert dist.gap(y, y) == 0


def test_gap_is_undefined_where_most_clips_are() -> None:
    y = gaussian(100, 1, 0)[:, 0]
    x = np.where(np.arange(100) < 60, np.nan, y)
    assert np.isnan(dist.gap(x, y))
    assert dist.gap(np.where(np.arange(100) < 10, np.nan, y), y) < 0.2


def test_gap_falls_back_on_the_spread_where_the_quartiles_agree() -> None:
    y = np.array([0.0] * 9 + [1.0])
    assert dist.gap(np.ones(10), y) == pytest.approx(0.9 / 0.3)
    assert np.isnan(dist.gap(np.ones(10), np.zeros(10)))
    assert dist.gap(np.zeros(10), np.zeros(10)) == 0


def test_a_single_clip_and_too_few_neighbours_are_refused() -> None:
    with pytest.raises(RequestError, match="two rows"):
        dist.kernel_distance(gaussian(1, 4, 0), gaussian(8, 4, 1))
    with pytest.raises(RequestError, match="k = 5"):
        dist.coverage(gaussian(8, 4, 0), gaussian(5, 4, 1))


def test_copies_are_found_against_the_held_out_yardstick() -> None:
    train, held_out, fresh = (gaussian(n, 16, s) for n, s in ((300, 0), (200, 1), (200, 2)))
    honest = check_copies((fresh,), (held_out,), train)
    assert honest.flagged.mean() <= 0.05
    assert abs(honest.z) < 3
    planted = np.concatenate([fresh[:150], train[:50] + 0.05])
    found = check_copies((planted,), (held_out,), train)
    assert found.flagged[150:].all()
    assert found.nearest[150:].tolist() == list(range(50))
    assert found.z < honest.z
    everything = check_copies((train + 0.05,), (held_out,), train)
    assert everything.z < -10
