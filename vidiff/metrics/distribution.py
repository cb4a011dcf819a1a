"""How far one set of clips is from another, in any features, and how sure one can be of it.

Kernel distance, the unbiased MMD^2 of KID (Binkowski et al. 2018), times 1000:

    kd = 1000 [ mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j)
                - 2 mean_{i, j} k(x_i, y_j) ]                                                    (1)
    k(x, y) = (<x, y> / d + 1)^3

Features are centred on the real set and divided by ONE scalar of it, the root of its mean variance
per feature: dividing each feature by its own spread blows up the dead ones. Two equal sets give 0
on average, hence also values below 0.

Its interval comes from weights drawn over groups (source videos) on the ready kernel matrix, terms
i = j left out and the sums renormalised: resampling with replacement would put kernel diagonals
back and shift the value itself.

Frechet distance (Dowson & Landau 1982) between Gaussians fitted to both sets, in float64:

    fd = |mu_x - mu_y|^2 + tr S_x + tr S_y - 2 |S_x^1/2 S_y^1/2|_*                               (2)

with |.|_* the nuclear norm, the sum of singular values: exact for singular covariances, and of
centred features it is |X Y^T|_* / sqrt((n-1)(m-1)) with no root of a matrix to take. It is biased
upwards by about 1/n (Chong & Forsyth 2020), so it is only read beside its own real-versus-real
floor at the same n, and its spread comes from subsamples, never from resampling.

Density and coverage: Naeem et al., ICML 2020. Gap: 1-d Wasserstein over the real interquartile
range.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from vidiff.errors import RequestError

Features = Float[np.ndarray, "n d"]
Split = tuple[Int[np.ndarray, "_a"], Int[np.ndarray, "_b"]]


@dataclass(frozen=True)
class Scale:
    """Centre and the one scalar that bring features to kernel range; both of the real set."""

    centre: Float[np.ndarray, "d"]
    spread: float

    @staticmethod
    def of(real: Features) -> Scale:
        """Measure the real set; a set without any spread keeps its unit."""
        spread = float(np.sqrt(real.var(axis=0, dtype=np.float64).mean()))
        return Scale(real.mean(axis=0, dtype=np.float64), spread if spread > 0 else 1.0)

    @staticmethod
    def unit(width: int) -> Scale:
        """That of features which are scaled already."""
        return Scale(np.zeros(width), 1.0)

    def apply(self, features: Features) -> Features:
        """(features - centre) / spread, in float64."""
        return (features.astype(np.float64) - self.centre) / self.spread


@dataclass(frozen=True)
class Kernels:
    """The three kernel matrices of a comparison, so that weights cost products only."""

    within_x: Float[np.ndarray, "n n"]
    within_y: Float[np.ndarray, "m m"]
    between: Float[np.ndarray, "n m"]

    @staticmethod
    def of(x: Features, y: Float[np.ndarray, "m d"]) -> Kernels:
        """Kernels of features already scaled."""
        _check_pair(x, y)
        return Kernels(cubic_kernel(x, x), cubic_kernel(y, y), cubic_kernel(x, y))

    def distance(
        self, weights_x: Float[np.ndarray, "r n"], weights_y: Float[np.ndarray, "r m"]
    ) -> Float[np.ndarray, "r"]:
        """Equation (1) under r sets of weights over the rows of x and y (ones: the plain value)."""
        x = mean_of_pairs(self.within_x, weights_x)
        y = mean_of_pairs(self.within_y, weights_y)
        totals = weights_x.sum(axis=1) * weights_y.sum(axis=1)
        between = ((weights_x @ self.between) * weights_y).sum(axis=1) / totals
        return 1000 * (x + y - 2 * between)


def mean_of_pairs(
    kernel: Float[np.ndarray, "n n"], weights: Float[np.ndarray, "r n"]
) -> Float[np.ndarray, "r"]:
    """Mean of a square matrix over its pairs i != j, under r sets of weights over the rows."""
    squares = weights**2
    pairs = ((weights @ kernel) * weights).sum(axis=1) - squares @ np.diagonal(kernel)
    return pairs / (weights.sum(axis=1) ** 2 - squares.sum(axis=1))


def cubic_kernel(x: Features, y: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    """(<x, y> / d + 1)^3."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def kernel_distance(
    generated: Features, real: Float[np.ndarray, "m d"], scale: Scale | None = None
) -> float:
    """Equation (1); lower is closer, 0 on average between samples of one distribution.

    Args:
        generated: n x d features, n >= 2.
        real: m x d features, m >= 2.
        scale: centre and scalar to use; None takes those of `real`.

    Raises:
        RequestError: fewer than two rows, or differing widths.
    """
    _check_pair(generated, real)
    scale = scale or Scale.of(real)
    kernels = Kernels.of(scale.apply(generated), scale.apply(real))
    ones = np.ones((1, len(generated))), np.ones((1, len(real)))
    return float(kernels.distance(*ones)[0])


def paired_kernel_distance(
    made: Features,
    real: Float[np.ndarray, "m d"],
    rows: Int[np.ndarray, "n"],
    scale: Scale | None = None,
) -> float:
    """(1) between real clips and clips made of them, each clip's own copy left out.

    What a degradation does shows against the very clips it was applied to, with a fraction of the
    noise of two unlike samples; without the pairs (i, rows[i]) the value stays unbiased.

    Args:
        made: features of the clips made.
        real: features of all real clips.
        rows: row of `real` that each made clip comes from.
        scale: centre and scalar to use; None takes those of `real`.
    """
    _check_pair(made, real)
    scale = scale or Scale.of(real)
    kernels = Kernels.of(scale.apply(made), scale.apply(real))
    n, m = kernels.between.shape
    own = kernels.between[np.arange(n), rows].sum()
    between = (kernels.between.sum() - own) / (n * (m - 1))
    x = mean_of_pairs(kernels.within_x, np.ones((1, n)))
    y = mean_of_pairs(kernels.within_y, np.ones((1, m)))
    return float(1000 * (x[0] + y[0] - 2 * between))


def kernel_interval(
    kernels: Kernels,
    groups_x: Int[np.ndarray, "n"] | None = None,
    groups_y: Int[np.ndarray, "m"] | None = None,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """An approximate 95 % interval of (1); clips of one group share their weight.

    Coverage of the nominal 95 % was between 83 % and 100 % in Gaussian trials.
    """
    rng = np.random.default_rng(seed)
    n, m = kernels.between.shape
    weights_x = draw_weights(rng, n, groups_x, draws)
    weights_y = draw_weights(rng, m, groups_y, draws)
    low, high = np.percentile(kernels.distance(weights_x, weights_y), [2.5, 97.5])
    return float(low), float(high)


def draw_weights(
    rng: np.random.Generator, count: int, groups: Int[np.ndarray, "n"] | None, draws: int
) -> Float[np.ndarray, "r n"]:
    """Bootstrap weights: one exponential number per group (Rubin 1981), the same for its clips."""
    if groups is None:
        return rng.exponential(size=(draws, count))
    _, which = np.unique(groups, return_inverse=True)
    return rng.exponential(size=(draws, int(which.max()) + 1))[:, which]


def frechet_distance(generated: Features, real: Float[np.ndarray, "m d"]) -> float:
    """Equation (2) of the Gaussians fitted to two sets of features; n and m may be under d.

    Raises:
        RequestError: fewer than two rows, or differing widths.
    """
    _check_pair(generated, real)
    x, y = generated.astype(np.float64), real.astype(np.float64)
    mean = float(((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum())
    x = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    y = (y - y.mean(axis=0)) / np.sqrt(len(y) - 1)
    cross = _nuclear_norm(_thin(x) @ _thin(y).T)
    return max(0.0, mean + float((x**2).sum() + (y**2).sum()) - 2 * cross)


def frechet_from_moments(
    mean_x: Float[np.ndarray, "d"],
    cov_x: Float[np.ndarray, "d d"],
    mean_y: Float[np.ndarray, "d"],
    cov_y: Float[np.ndarray, "d d"],
) -> float:
    """Equation (2) of two Gaussians given by their moments; singular covariances are fine."""
    cross = _nuclear_norm(_root(cov_x) @ _root(cov_y))
    mean = float(((mean_x - mean_y) ** 2).sum())
    return max(0.0, mean + float(np.trace(cov_x) + np.trace(cov_y)) - 2 * cross)


def frechet_subsamples(
    generated: Features,
    real: Float[np.ndarray, "m d"],
    size: int,
    *,
    draws: int = 40,
    seed: int = 0,
) -> Float[np.ndarray, "r"]:
    """(2) between `draws` pairs of subsamples of `size` rows, taken without replacement.

    Take 80 % of the rows for the spread, or the size of a floor to compare with that floor.
    """
    rng = np.random.default_rng(seed)
    pairs = [(rng.permutation(len(generated)), rng.permutation(len(real))) for _ in range(draws)]
    return np.array([frechet_distance(generated[a[:size]], real[b[:size]]) for a, b in pairs])


def split_halves(
    count: int, groups: Int[np.ndarray, "n"] | None, draws: int, seed: int
) -> list[Split]:
    """Random disjoint halves of a set, as index arrays of one common length per split.

    Whole groups go to one half where there are at least four of them, so that no source video
    stands on both sides of a real-versus-real comparison.
    """
    rng = np.random.default_rng(seed)
    if groups is None or len(np.unique(groups)) < 4:
        groups = np.arange(count)
    splits = []
    for _ in range(draws):
        order = rng.permutation(np.unique(groups))
        sides: tuple[list[int], list[int]] = ([], [])
        for group in order:
            side = sides[0] if len(sides[0]) <= len(sides[1]) else sides[1]
            side.extend(np.flatnonzero(groups == group).tolist())
        size = min(map(len, sides))
        splits.append((rng.permutation(sides[0])[:size], rng.permutation(sides[1])[:size]))
    return splits


def kernel_floor(real: Features, splits: list[Split]) -> float:
    """What real clips score against real clips: 95th percentile of (1) over splits into halves.

    The mean of (1) is 0 there, so a floor worth dividing by is what 19 of 20 splits stay under.

    Args:
        real: features already scaled.
        splits: of `split_halves`, for the rows of `real`.
    """
    kernel = cubic_kernel(real, real)
    first, second = (np.stack([mask_rows(s[k], len(real)) for s in splits]) for k in (0, 1))
    return float(np.percentile(Kernels(kernel, kernel, kernel).distance(first, second), 95))


def frechet_floor(real: Features, splits: list[Split], size: int) -> float:
    """Mean of (2) between halves of the real set cut to `size` rows: bias, and nothing else."""
    return float(np.mean([frechet_distance(real[a[:size]], real[b[:size]]) for a, b in splits]))


def neighbour_hits(
    generated: Features, real: Float[np.ndarray, "m d"], k: int = 5
) -> tuple[Float[np.ndarray, "n"], Bool[np.ndarray, "m"]]:
    """Per generated clip the number of real balls around it over k; per real clip if it is met.

    The ball of a real clip reaches to its k-th real neighbour. Means of the two are density and
    coverage.

    Raises:
        RequestError: k real neighbours do not exist.
    """
    if len(real) <= k:
        raise RequestError(
            f"Density and coverage need more than k = {k} real clips; there are {len(real)}.",
            "Hold out more clips.",
        )
    own = distances(real, real)
    np.fill_diagonal(own, np.inf)
    radius = np.partition(own, k - 1, axis=1)[:, k - 1]
    across = distances(generated, real)
    hits = (across < radius).sum(axis=1) / k
    return hits.astype(np.float64), across.min(axis=0) < radius


def density(generated: Features, real: Float[np.ndarray, "m d"], k: int = 5) -> float:
    """Mean number of real balls around a generated clip, over k; 1 for equal sets, may exceed."""
    return float(neighbour_hits(generated, real, k)[0].mean())


def coverage(generated: Features, real: Float[np.ndarray, "m d"], k: int = 5) -> float:
    """Share of real clips with a generated clip inside their ball, in [0, 1]; low = collapse."""
    return float(neighbour_hits(generated, real, k)[1].mean())


def distances(x: Features, y: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    """Euclidean distances between the rows of two sets, exactly 0 for equal rows."""
    # |x|^2 - 2 xy + |y|^2 is faster, but its rounding noise would part clips that are the same.
    a, b = (torch.as_tensor(side.astype(np.float64)) for side in (x, y))
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").numpy()


def gap(generated: Float[np.ndarray, "n"], real: Float[np.ndarray, "m"]) -> float:
    """1-d Wasserstein distance over the real interquartile range; NaN stands for undefined.

    Where the quartiles agree the real standard deviation takes their place. NaN where more than
    half of either side is undefined, and where the real clips all agree and the generated differ.
    """
    x, y = (np.sort(v[~np.isnan(v)]) for v in (generated, real))
    if 2 * len(x) < len(generated) or 2 * len(y) < len(real) or not len(x) or not len(y):
        return float("nan")
    grid = np.sort(np.concatenate([x, y]))
    shares = [np.searchsorted(v, grid[:-1], side="right") / len(v) for v in (x, y)]
    wasserstein = float((np.abs(shares[0] - shares[1]) * np.diff(grid)).sum())
    quartiles = np.percentile(y, [25, 75])
    width = float(quartiles[1] - quartiles[0]) or float(y.std())
    if width > 0:
        return wasserstein / width
    return 0.0 if wasserstein == 0 else float("nan")


def mask_rows(rows: Int[np.ndarray, "a"], count: int) -> Float[np.ndarray, "n"]:
    """Weights that choose some rows: 1 there, 0 elsewhere."""
    mask = np.zeros(count)
    mask[rows] = 1
    return mask


def _thin(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "e d"]:
    # With x = Q R the columns of Q are orthonormal: they leave singular values alone.
    return np.asarray(np.linalg.qr(x, mode="r")) if x.shape[0] > x.shape[1] else x


def _root(cov: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    values, vectors = np.linalg.eigh(cov.astype(np.float64))
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def _nuclear_norm(matrix: Float[np.ndarray, "n m"]) -> float:
    return float(np.linalg.svd(matrix, compute_uv=False).sum())


def _check_pair(x: Features, y: Float[np.ndarray, "m d"]) -> None:
    if x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise RequestError(
            f"Feature sets are {list(x.shape)} and {list(y.shape)}; a distance needs two rows "
            "or more on each side, of one width.",
            "Give more clips, with features of the same kind.",
        )
