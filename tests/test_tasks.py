from __future__ import annotations

from collections import Counter

import exact
import pytest
import torch
from torch import Tensor

from vidiff import tasks
from vidiff.diffusion import process, samplers
from vidiff.errors import RequestError
from vidiff.records import Condition

TOP = 40.0
GRID = samplers.karras_grid(240, 0.002, TOP)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def blank(b: int, t: int, size: int = 1) -> Tensor:
    return torch.zeros(b, t, size, size, 3, dtype=torch.uint8)


def places(places: list[int], num_frames: int) -> Condition:
    return tasks.subset(blank(1, len(places)), places, num_frames)


CONTEXTS = {
    "prefix": places([0, 1, 2], 8),
    "both ends": places([0, -1], 8),
    "random subset": places([1, 4, 5], 8),
    "every second": tasks.upsample_time(blank(1, 4)),
    "suffix": tasks.backward(blank(1, 2), 8),
}


def solve_conditional(condition: Condition, cov: Tensor, y_given: Tensor, name: str) -> Tensor:
    """What the sampler does to (given, each unit of noise), from the exact start: rows of clips."""
    t, h, w = condition.known.shape[1:4]  # type: ignore[union-attr]
    given = condition.held.double().expand(1, 1, t, h, w).flatten().bool()
    floor, start = condition.floor.double(), condition.start.double()
    gain, spread = exact.conditional(cov, given, tasks.HELD)
    root = torch.linalg.cholesky(spread + TOP**2 * torch.eye(len(spread)).double())
    rows = torch.zeros(1 + len(root), len(cov)).double()
    rows[:, given] = y_given
    rows[:, ~given] = gain @ y_given
    rows[1:, ~given] += root.T
    levels = samplers.spread(GRID, floor, start)
    y = rows.view(-1, 1, t, h, w)
    end = samplers.SAMPLERS[name](exact.gaussian(cov), y, levels).flatten(1)
    assert torch.equal(end[:, given], rows[:, given])
    return end[:, ~given]


def assert_conditional(condition: Condition, cov: Tensor, name: str) -> None:
    given = condition.held.double().expand(1, 1, *condition.known.shape[1:4]).flatten().bool()  # type: ignore[union-attr]
    y_given = normal(int(given.sum()))
    end = solve_conditional(condition, cov, y_given, name)
    gain, spread = exact.conditional(cov, given, tasks.HELD)
    noise = end[1:] - end[:1]
    torch.testing.assert_close(end[0], gain @ y_given, rtol=0, atol=2e-4)
    torch.testing.assert_close(noise.T @ noise, spread, rtol=0, atol=3e-3)


@pytest.mark.parametrize("name", ["heun", "dpm2m", "ab2"])
@pytest.mark.parametrize("context", CONTEXTS)
def test_given_frames_make_the_rest_the_gaussian_process_conditional(
    context: str, name: str
) -> None:
    condition = CONTEXTS[context]
    assert_conditional(condition, exact.ar1(condition.floor.shape[2]), name)


def test_given_pixels_make_the_rest_the_gaussian_process_conditional() -> None:
    hole = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    hole[..., 1:, 1:] = True
    condition = tasks.inpaint(blank(1, 3, 3), hole)
    assert_conditional(condition, exact.textured(3, 3), "dpm2m")


def test_a_feathered_hole_starts_from_noise_that_falls_off_with_the_distance() -> None:
    hole = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    hole[..., 4, 4] = True
    condition = tasks.inpaint(blank(1, 2, 9), hole, feather=2)
    start, floor = condition.start[0, 0, 0, 4], condition.floor[0, 0, 0, 4]
    assert start[4] == torch.inf
    assert tasks.FEATHER_TOP > start[5] > start[6] > start[7] == pytest.approx(tasks.HELD)
    assert floor.tolist() == pytest.approx([tasks.HELD] * 2 + [0.0] * 5 + [tasks.HELD] * 2)
    plain = tasks.inpaint(blank(1, 2, 9), hole)
    assert torch.equal(plain.start, tasks.inpaint(blank(1, 2, 9), hole, feather=0).start)


def test_outpainting_keeps_the_middle_and_makes_the_rest_the_conditional() -> None:
    clip = torch.full((1, 3, 1, 1, 1), 7, dtype=torch.uint8)
    condition = tasks.outpaint(clip, 3)
    assert condition.held[0, 0, 0].nonzero().tolist() == [[1, 1]]
    assert int(condition.known[0, 0, 1, 1, 0]) == 7
    assert_conditional(condition, exact.textured(3, 3), "dpm2m")


def test_a_mask_that_moves_makes_the_rest_the_conditional_too() -> None:
    mask = torch.rand(1, 3, 3, 3, generator=torch.Generator().manual_seed(1)) < 0.5
    assert_conditional(tasks.hold(blank(1, 3, 3), mask), exact.textured(3, 3), "dpm2m")


def test_a_rolling_window_keeps_the_stationary_variance_for_a_thousand_frames() -> None:
    cov, keep = exact.ar1(8), 4
    condition = tasks.predict(blank(1, keep), 8)
    # Pure noise ignores what the given frames say of the mean, an error of order 1 / top.
    top = 400.0
    grid = samplers.karras_grid(160, 0.002, top)
    levels = samplers.spread(grid, condition.floor.double(), condition.start.double())
    matrix = exact.transfer(samplers.dpm2m, exact.gaussian(cov), levels, (8, 1, 1))
    gain, noise = matrix[keep:, :keep], top * matrix[keep:, keep:]
    law = cov[:keep, :keep]
    for _ in range(250):
        law = gain @ (law + tasks.HELD**2 * torch.eye(keep).double()) @ gain.T + noise @ noise.T
    assert float((law - cov[:keep, :keep]).abs().max()) < 0.01


def draw_many(config: tasks.TaskConfig, count: int = 2000, t: int = 8) -> Condition:
    def levels(q: Tensor) -> Tensor:
        return process.draw_levels(q, -0.4, 1.4, 0.0, 0.4, 80)

    quantiles = (torch.arange(count) + 0.5) / count
    return tasks.draw(config, levels, quantiles, blank(count, t), 0, range(count))


def pattern_of(levels: Tensor) -> str:
    """Which pattern a row shows; training levels here start above those of given frames."""
    if bool((levels == levels[0]).all()):
        return "shared"
    if bool((levels < 0.35).any()):
        return "context"
    return "sorted" if bool((levels.diff() >= 0).all()) else "independent"


def test_patterns_come_in_their_shares() -> None:
    field = draw_many(tasks.TaskConfig()).floor[:, 0, :, 0, 0]
    found = Counter(pattern_of(row) for row in field)
    for name, share in (("shared", 0.55), ("context", 0.25), ("sorted", 0.15),
                        ("independent", 0.05)):  # fmt: skip
        error = (share * (1 - share) * len(field)) ** 0.5
        assert abs(found[name] - share * len(field)) < 4 * error, name


def test_every_clip_carries_its_stratified_level() -> None:
    condition = draw_many(tasks.TaskConfig(), count=500)
    main = process.draw_levels((torch.arange(500) + 0.5) / 500, -0.4, 1.4, 0.0, 0.4, 80)
    field = condition.floor[:, 0, :, 0, 0]
    assert bool((field == main[:, None]).any(dim=1).all())


def test_the_loss_leaves_out_nearly_clean_given_frames_and_nothing_else() -> None:
    condition = draw_many(tasks.TaskConfig())
    assert condition.weight is not None
    expected = (condition.floor >= tasks.NO_LOSS_BELOW).float()
    assert torch.equal(condition.weight, expected)
    assert 0 < float(condition.weight.mean()) < 1
    assert bool(condition.weight.flatten(1).any(dim=1).all())


def test_a_row_depends_on_its_position_alone() -> None:
    config = tasks.TaskConfig(shared=0.2, context=0.3, sorted=0.2, independent=0.2, pixels=0.1)
    quantiles, frames = torch.rand(6), blank(6, 8, 4)
    whole = tasks.draw(config, lambda q: q + 0.5, quantiles, frames, 3, [4, 9, 2, 7, 8, 30])
    for i, position in enumerate([4, 9, 2, 7, 8, 30]):
        one = slice(i, i + 1)
        alone = tasks.draw(config, lambda q: q + 0.5, quantiles[one], frames[one], 3, [position])
        assert torch.equal(alone.floor[0], whole.floor[i])
    other = tasks.draw(config, lambda q: q + 0.5, quantiles, frames, 4, [4, 9, 2, 7, 8, 30])
    assert not torch.equal(other.floor, whole.floor)


def test_pixel_patterns_leave_one_box_unknown_in_all_frames() -> None:
    config = tasks.TaskConfig(shared=0, context=0, sorted=0, independent=0, pixels=1)
    condition = tasks.draw(config, lambda q: q + 1, torch.rand(40), blank(40, 4, 12), 0, range(40))
    for row in condition.floor[:, 0]:
        unknown = row >= 1
        assert torch.equal(unknown, unknown[:1].expand_as(unknown))
        ys, xs = unknown[0].nonzero().T
        box = (int(ys.max() - ys.min()) + 1, int(xs.max() - xs.min()) + 1)
        assert int(unknown[0].sum()) == box[0] * box[1]
        assert all(3 <= side <= 9 for side in box)


def test_a_clip_is_never_given_whole() -> None:
    for t in (1, 2, 3, 5):
        config = tasks.TaskConfig(shared=0, context=1, sorted=0, independent=0)
        field = draw_many(config, count=300, t=t).floor[:, 0, :, 0, 0]
        assert bool((field > tasks.CONTEXT_TOP + 0.05).any(dim=1).all())


def test_shares_must_sum_to_one() -> None:
    with pytest.raises(ValueError, match=r"sum to 1\.2"):
        tasks.TaskConfig(shared=0.75)


def marked(condition: Condition) -> list[int]:
    return condition.held[0, 0, :, 0, 0].nonzero().flatten().tolist()


def test_frames_stand_where_the_task_says() -> None:
    one, two = blank(1, 1), blank(1, 2)
    assert marked(tasks.image_to_video(blank(1, 1)[:, 0], 5)) == [0]
    assert marked(tasks.predict(two)) == [0, 1]
    assert len(tasks.predict(two).floor[0, 0]) == 16
    assert marked(tasks.backward(two, 6)) == [4, 5]
    assert marked(tasks.interpolate(one, two, 7)) == [0, 5, 6]
    assert marked(tasks.upsample_time(blank(1, 3), 3)) == [0, 3, 6]
    assert marked(tasks.subset(two, [-1, 2], 6)) == [2, 5]
    assert marked(tasks.generate(2, 4)) == []


def test_given_frames_arrive_in_their_order() -> None:
    frames = torch.arange(2, dtype=torch.uint8).view(1, 2, 1, 1, 1).expand(1, 2, 1, 1, 3)
    known = tasks.subset(frames, [-1, 2], 6).known
    assert known is not None
    assert known[0, [5, 2], 0, 0, 0].tolist() == [0, 1]


def test_an_edit_starts_from_the_clip_at_its_level() -> None:
    condition = tasks.edit(blank(2, 4), 1.5)
    levels = samplers.spread(GRID, condition.floor, condition.start)
    assert float(levels.max()) == 1.5
    assert float(levels[-1].max()) == 0
    assert not bool(condition.held.any())


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: tasks.subset(blank(1, 2), [0, 0], 4), "cannot stand at places"),
        (lambda: tasks.subset(blank(1, 2), [0, 4], 4), "cannot stand at places"),
        (lambda: tasks.predict(blank(1, 4), 3), "cannot stand at places"),
        (lambda: tasks.predict(blank(1, 4), 0), "cannot stand at places"),
        (lambda: tasks.predict(blank(1, 4), 4), "given whole"),
        (lambda: tasks.upsample_time(blank(1, 4), 1), "factor of 2"),
        (lambda: tasks.upsample_time(blank(1, 1), 2), "two frames"),
        (lambda: tasks.edit(blank(1, 4), 0.0), "level 0"),
        (lambda: tasks.inpaint(blank(1, 4), torch.zeros(1, 4, 1, 1).bool()), "given whole"),
        (lambda: tasks.inpaint(blank(1, 4), torch.ones(1, 4, 1, 1).bool(), -1), "feather is -1"),
        (lambda: tasks.outpaint(blank(1, 4, 8), 8), "nothing to fill"),
        (
            lambda: tasks.hold(
                blank(1, 2), torch.zeros(1, 2, 1, 1).bool(), lag=torch.tensor([0.0, -1.0])
            ),
            "lag of -1",
        ),
    ],
)
def test_impossible_tasks_are_refused_with_the_way_out(ask: object, words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        ask()  # type: ignore[operator]
    assert caught.value.remedy
