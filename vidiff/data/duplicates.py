"""Which films show the same thing: re-encoded, scaled, cropped, mirrored or shifted in time.

Two of a kind on both sides of the split would let a model be praised for what it has seen, so they
are found from the thumbnails that `data.survey` keeps of each film (its traits), in two steps.

1.  Candidates. A few pictures q of film B, and their mirror images, meet every kept picture p of
    film A, as vectors of length one, mean removed:

        likeness(q, A) = max over p of  <sharp(q), sharp(p)>,    sharp(p) = p - blur(p)        (1)
        likeness(q, A) = max over p, c of  <q, c(p)>                                           (2)

    (1) on 16 x 16 pixels finds copies of whole pictures among films of one place; (2) on 8 x 8,
    over the crops c of `CROPS`, bears that a crop is not quite met. The likeliest films are proved.
2.  Proof. The mirror image and the shift in time at which the most pictures fit are taken; after
    (2) also the crop at which B's sharpest pictures fit best into A's. With these, held fixed,

        sameness = lower quartile, over the clearer half of B's pictures that fall into A's time,
                   of the correlation of sharp pictures                                        (3)

    Two walks through one room look alike at some moment, and differ in the next.

Films that are the same form groups, together with what is the same as those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from vidiff.data.survey import SIDE, Traits

FINE = 8
QUERIES = 8
LIKE_SHARP, LIKE = 0.7, 0.9
"""Likeness, by (1) and by (2), that two pictures of a candidate have (or its only one)."""
SAME = 0.87
"""Sameness from which two films are the same."""
FLAT = 3.0
"""Standard deviation, in grey levels, below which a picture shows nothing to compare."""
SHAPES = ((1, 1), (0.9, 0.9), (0.8, 0.8), (0.7, 0.7), (1, 0.75), (1, 0.56), (0.75, 1), (0.56, 1))
"""Height and width of the crops looked for, as shares of the whole."""
CANDIDATES = 24
"""Films that are proved for each film, after (1) and after (2): the likeliest ones."""
RANKED = 100
"""Films among which they are chosen, by how much of them fits at one shift in time."""
TRIES = 2
"""Likeliest alignments that are tried."""
SURE = 0.95
"""Sameness from which no better alignment is looked for."""
BLUR = 1.5
"""Standard deviation, in pixels, of what counts as the coarse look of a picture."""
PROOFS = 4
"""Sharpest pictures by which a crop is aligned."""
LEAST = 0.25
"""Share of the pictures that may be less alike than equation (3) says."""
OVERLAP = 0.5
"""Share of the shorter film's pictures that must be seen at the same time."""

Box = tuple[int, int, int, int]
"""Top, left, height and width of a crop, in pixels of a thumbnail."""


def _crops() -> list[Box]:
    boxes: list[Box] = []
    for shape in SHAPES:
        height, width = (round(share * SIDE) for share in shape)
        tops, lefts = ({0, (SIDE - side) // 2, SIDE - side} for side in (height, width))
        boxes += [(top, left, height, width) for top, left in product(tops, lefts)]
    return boxes


CROPS = _crops()
SIDES = [(side, side) for side in range(SIDE, 21, -1)] + [
    (round(h * SIDE), round(w * SIDE)) for h, w in SHAPES if h != w
]
"""Heights and widths at which crops are aligned."""


@dataclass(frozen=True)
class Pair:
    """Two films that show the same."""

    whole: int
    part: int
    sameness: float
    mirrored: bool
    box: Box
    shift: float
    """Seconds by which the part's clock is behind."""


def find_pairs(films: Sequence[Traits]) -> list[Pair]:
    """Every pair of films found to be the same, as places in `films`."""
    sharp = [_queries(film, _outline) for film in films]
    plain = [_queries(film, _describe) for film in films]
    owners = np.repeat(np.arange(len(films)), [len(q) for q in plain])
    found: dict[tuple[int, int], Pair] = {}
    for whole, film in enumerate(films):
        if not len(film.seconds):
            continue
        outlines, crops = _outline(film.thumbs)[:, None], _cut(film)
        for queries, views, least in ((sharp, outlines, LIKE_SHARP), (plain, crops, LIKE)):
            parts = _candidates(np.concatenate(queries), views, owners, least)
            ranked = sorted(
                ((_suggest(film, films[part], queries[part], views), part) for part in parts),
                reverse=True,
            )
            for tries, part in ranked[: CANDIDATES + 1]:
                key = (min(whole, part), max(whole, part))
                if part == whole or key in found:
                    continue
                pair = _prove(films, whole, part, tries, cropped=views is crops)
                if pair is not None:
                    found[key] = pair
    return list(found.values())


def group_contents(films: Mapping[str, Traits]) -> dict[str, str]:
    """Content hash to the name of its group: the smallest hash among those that are the same."""
    names = sorted(films)
    groups = group_films(len(names), find_pairs([films[name] for name in names]))
    return {name: names[group] for name, group in zip(names, groups, strict=True)}


def group_films(count: int, pairs: Sequence[Pair]) -> list[int]:
    """For each of `count` films the smallest place among those it is connected with."""
    roots = list(range(count))

    def root(place: int) -> int:
        while roots[place] != place:
            roots[place] = roots[roots[place]]
            place = roots[place]
        return place

    for pair in pairs:
        a, b = sorted((root(pair.whole), root(pair.part)))
        roots[b] = a
    return [root(place) for place in range(count)]


def _chosen(film: Traits, count: int) -> list[int]:
    """Places of `count` kept pictures, evenly spread."""
    return np.unique(np.linspace(0, len(film.seconds) - 1, count).round().astype(int)).tolist()


def _queries(
    film: Traits, describe: Callable[[UInt8[np.ndarray, "n h w"]], Float[np.ndarray, "n d"]]
) -> Float[np.ndarray, "q 2 d"]:
    """Chosen pictures as vectors, each with its mirror image."""
    if not len(film.seconds):
        blank = describe(np.zeros((1, SIDE, SIDE), np.uint8))
        return np.zeros((0, 2, blank.shape[1]), np.float32)
    thumbs = film.thumbs[_chosen(film, QUERIES)]
    return np.stack([describe(thumbs), describe(thumbs[:, :, ::-1])], axis=1)


def _describe(pictures: UInt8[np.ndarray, "n h w"], fine: int = FINE) -> Float[np.ndarray, "n d"]:
    """Pictures of any size as vectors of length one, or zero where they show nothing."""
    small = [cv2.resize(p, (fine, fine), interpolation=cv2.INTER_AREA) for p in pictures]
    flat = np.stack(small).reshape(len(pictures), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    spread = flat.std(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(spread < FLAT, 0, flat / np.maximum(length, 1e-6)).astype(np.float32)


def _cut(film: Traits) -> Float[np.ndarray, "n c d"]:
    """Every crop of every kept picture, as equation (2) has them."""
    cut = [film.thumbs[:, y : y + h, x : x + w] for y, x, h, w in CROPS]
    return np.stack([_describe(pictures) for pictures in cut], axis=1)


def _candidates(
    queries: Float[np.ndarray, "q 2 d"],
    views: Float[np.ndarray, "n c d"],
    owners: Int[np.ndarray, "q"],
    least: float,
) -> list[int]:
    """The films most of whose queries are found among the views of a film, likeliest first."""
    width = views.shape[-1]
    likeness = (queries.reshape(-1, width) @ views.reshape(-1, width).T).max(axis=1).reshape(-1, 2)
    enough = np.minimum(np.bincount(owners), 2)
    found = np.zeros(len(enough))
    for column in likeness.T:
        hits = np.bincount(owners, column >= least)
        # What is alike is near one: the distance from `least` tells more than the likeness.
        worth = np.bincount(owners, np.maximum(column - least, 0))
        found = np.maximum(found, np.where((hits >= enough) & (enough > 0), worth, 0))
    best = np.argsort(found)[::-1][:RANKED]
    return best[found[best] > 0].tolist()


def _suggest(
    whole: Traits,
    part: Traits,
    queries: Float[np.ndarray, "q 2 d"],
    views: Float[np.ndarray, "n c d"],
) -> list[tuple[float, bool, float]]:
    """The likeliest (score, mirrored, shift): those at which the most pictures fit."""
    seconds = part.seconds[_chosen(part, QUERIES)]
    # A best crop for each pair of pictures: the pictures of one film need not agree on it yet.
    likeness = np.einsum("q m d, n c d -> q m n c", queries, views).max(axis=3)
    found = []
    for query, mirror in product(range(len(seconds)), (0, 1)):
        for picture in np.argsort(likeness[query, mirror])[::-1][:2]:
            shift = float(whole.seconds[picture] - seconds[query])
            places = np.searchsorted(whole.seconds, seconds + shift + 1e-3, side="right") - 1
            inside = (places >= 0) & (seconds + shift <= whole.end + 0.05)
            fit = likeness[np.arange(len(seconds))[inside], mirror, places[inside]]
            # Few pictures in common fit by chance: those outside count as half alike.
            score = (fit.sum() + 0.5 * (~inside).sum()) / len(seconds)
            found.append((float(score), bool(mirror), shift))
    best: dict[tuple[bool, float], float] = {}
    for score, mirrored, shift in sorted(found, reverse=True):
        best.setdefault((mirrored, round(shift, 2)), score)
    return [(score, *key) for key, score in best.items()][:TRIES]


def _prove(
    films: Sequence[Traits],
    whole: int,
    part: int,
    tries: Sequence[tuple[float, bool, float]],
    cropped: bool,
) -> Pair | None:
    """Step 2: the pair with its best alignment, or None where none makes the films the same."""
    a, b = films[whole], films[part]
    best: Pair | None = None
    for _, mirrored, shift in tries:
        seen, shown = _together(a, b, shift)
        if not len(seen):
            continue
        thumbs = b.thumbs[seen, :, ::-1] if mirrored else b.thumbs[seen]
        box = _align(a.thumbs[shown], thumbs) if cropped else CROPS[0]
        sameness = _sameness(a.thumbs, shown, thumbs, box)
        if sameness >= SAME and (best is None or sameness > best.sameness):
            best = Pair(whole, part, sameness, mirrored, box, shift)
        if sameness >= SURE:
            break
    return best


def _together(
    whole: Traits, part: Traits, shift: float
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Places of the part's pictures inside the whole's time, and of what the whole shows then; none
    where that is too little."""
    there = part.seconds + shift
    seen = np.flatnonzero((there >= whole.seconds[0] - 0.05) & (there <= whole.end + 0.05))
    few = min(len(part.seconds), len(whole.seconds))
    if len(seen) < max(min(3, len(part.seconds)), OVERLAP * few):
        seen = seen[:0]
    return seen, np.searchsorted(whole.seconds, there[seen] + 1e-3, side="right").clip(1) - 1


def _align(wholes: UInt8[np.ndarray, "n s s"], parts: UInt8[np.ndarray, "n s s"]) -> Box:
    """The crop of the wholes that is most like the parts: over `SIDES`, then pixel by pixel."""
    strength = _sharpen(parts).std(axis=(1, 2))
    best = np.argsort(strength)[::-1][:PROOFS]
    sharp, parts = _sharpen(wholes[best]), parts[best]
    _, (_, _, height, width) = max(_place(sharp, parts, h, w) for h, w in SIDES)
    near = product(range(-1, 2), repeat=2)
    sides = [(min(height + dy, SIDE), min(width + dx, SIDE)) for dy, dx in near]
    return max(_place(sharp, parts, h, w) for h, w in sides)[1]


def _place(
    sharp: Float[np.ndarray, "n s s"], parts: UInt8[np.ndarray, "n s s"], height: int, width: int
) -> tuple[float, Box]:
    """The best place for all parts at this size, and how well they fit there."""
    small = _sharpen(np.stack([cv2.resize(p, (width, height)) for p in parts]))
    pairs = zip(sharp, small, strict=True)
    fit = np.sum([cv2.matchTemplate(a, b, cv2.TM_CCOEFF_NORMED) for a, b in pairs], axis=0)
    _, high, _, (left, top) = cv2.minMaxLoc(fit)
    return float(high), (top, left, height, width)


def _sameness(
    wholes: UInt8[np.ndarray, "m s s"],
    shown: Int[np.ndarray, "n"],
    parts: UInt8[np.ndarray, "n s s"],
    box: Box,
) -> float:
    """Equation (3)."""
    top, left, height, width = box
    cut = _outline(wholes[:, top : top + height, left : left + width])
    seen = _outline(parts)
    # What is kept of two copies may be one frame apart.
    near = [np.clip(shown + step, 0, len(cut) - 1) for step in (-1, 0, 1)]
    likeness = np.max([(cut[n] * seen).sum(axis=1) for n in near], axis=0)
    strength = _sharpen(parts).std(axis=(1, 2))
    return float(np.quantile(likeness[strength >= np.median(strength)], LEAST))


def _outline(pictures: UInt8[np.ndarray, "n h w"]) -> Float[np.ndarray, "n d"]:
    """What is sharp in pictures of any size, as vectors of length one, or zero."""
    half = (SIDE // 2, SIDE // 2)
    small = [cv2.resize(p, half, interpolation=cv2.INTER_AREA) for p in pictures]
    flat = _sharpen(np.stack(small)).reshape(len(small), -1)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(length < FLAT, 0, flat / np.maximum(length, 1e-6)).astype(np.float32)


def _sharpen(pictures: UInt8[np.ndarray, "n h w"]) -> Float[np.ndarray, "n h w"]:
    floats = pictures.astype(np.float32)
    return np.stack([p - cv2.GaussianBlur(p, (0, 0), BLUR) for p in floats])
