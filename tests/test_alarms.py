"""Each fault raises its own alarm and no other; healthy numbers raise none."""

from __future__ import annotations

import math

import pytest

from vidiff.training.alarms import REMEDIES, Watch

REAL = {"luma": 100.0, "contrast": 40.0, "clipped": 0.02, "motion": 0.5, "flicker": 0.3,
        "change": 5.0, "drift": 2.0, "red": 100.0, "green": 110.0, "blue": 90.0,
        "spread": 10.0}  # fmt: skip
FIT = {"mean": 0.02, "sd": 0.5, "contrast": 40.0, "still": 0.0}


def step(error: float = 0.5) -> dict[str, float]:
    return {"loss": error, "error": error, "grad_norm": 1.0}


def bands(held: float, train: float | None = None, **more: float) -> dict[str, float]:
    return {"held_out": held, "held_out.1": held, "train.1": train or held, **more}


def learned() -> Watch:
    watch = Watch()
    watch.after_bands(0, bands(0.15))
    return watch


def names(alarms: list) -> list[str]:
    return [alarm.name for alarm in alarms]


def test_numbers_of_a_healthy_run_raise_nothing() -> None:
    watch = Watch()
    assert watch.after_data(0, FIT) == []
    for i in range(300):
        error = 0.1 + 0.9 * math.exp(-i / 40) + 0.05 * math.sin(i)
        assert watch.after_step(i, step(error)) == []
        if i % 50 == 0:
            assert watch.after_bands(i, bands(error, alone=0.7, together=0.3)) == []
            assert watch.after_pictures(i, REAL, REAL) == []
    assert watch.standing == set()


@pytest.mark.parametrize("name", ["loss", "error", "grad_norm"])
def test_a_number_that_is_not_finite_is_told_at_once_and_once(name: str) -> None:
    watch = Watch()
    found = watch.after_step(7, {**step(), name: math.nan})
    assert names(found) == ["nan"]
    assert name in found[0].text
    assert watch.after_step(8, {**step(), name: math.inf}) == []
    watch.after_step(9, step())
    assert names(watch.after_step(10, {**step(), name: math.nan})) == ["nan"]


@pytest.mark.parametrize(("before", "after"), [(0.9, 2.0), (0.1, 0.6)])
def test_an_error_that_stays_up_is_a_spike_within_a_window(before: float, after: float) -> None:
    watch = Watch(batch_size=8)
    assert [watch.after_step(i, step(before)) for i in range(30)] == [[]] * 30
    raised = [i for i in range(watch.window + 1) if watch.after_step(30 + i, step(after))]
    assert len(raised) == 1
    assert raised[0] <= watch.window


def test_one_bad_batch_is_no_spike() -> None:
    watch = Watch()
    for i in range(30):
        watch.after_step(i, step(0.2))
    assert watch.after_step(30, step(1.5)) == []


def test_small_batches_are_averaged_over_more_steps() -> None:
    assert (Watch(64).window, Watch(8).window, Watch(1).window) == (20, 20, 160)


@pytest.mark.parametrize(
    ("change", "alarm"),
    [
        ({"mean": 2.0}, "range"),
        ({"sd": 60.0}, "range"),
        ({"sd": 0.1}, "range"),
        ({"contrast": 0.5}, "constant"),
        ({"contrast": 0.5, "still": 1.0}, "constant"),
        ({"still": 1.0}, "static"),
        ({"still": math.nan}, None),
    ],
)
def test_clips_that_are_not_fit_to_learn_from_are_told(
    change: dict[str, float], alarm: str | None
) -> None:
    assert names(Watch().after_data(0, FIT | change)) == ([alarm] if alarm else [])


@pytest.mark.parametrize(
    ("change", "alarm"),
    [
        ({"luma": 2.0, "contrast": 1.0}, "black"),
        ({"contrast": 1.0}, "black"),
        ({"clipped": 0.6}, "saturated"),
        ({"motion": 0.05}, "frozen"),
        ({"change": 40.0}, "flicker"),
        ({"flicker": 9.0}, "flicker"),
        ({"red": 180.0}, "colour"),
        ({"drift": 60.0}, "colour"),
        ({"motion": math.nan}, None),
    ],
)
def test_samples_unlike_the_data_raise_exactly_their_alarm_by_the_second_look(
    change: dict[str, float], alarm: str | None
) -> None:
    watch = learned()
    found = watch.after_pictures(100, REAL | change, REAL)
    found += watch.after_pictures(200, REAL | change, REAL)
    found += watch.after_pictures(300, REAL | change, REAL)
    assert names(found) == ([alarm] if alarm else [])


def test_a_young_model_whose_grain_fades_is_healthy() -> None:
    watch = learned()
    for change in (40.0, 30.0, 22.0, 12.0):
        assert watch.after_pictures(1, REAL | {"change": change}, REAL) == []


def test_grain_is_not_told_before_the_error_is_low() -> None:
    watch = Watch()
    watch.after_bands(0, bands(0.3))
    for step_ in (1, 2, 3):
        assert watch.after_pictures(step_, REAL | {"change": 40.0}, REAL) == []


def test_samples_of_a_model_that_knows_nothing_yet_are_not_judged_by_their_motion() -> None:
    watch = Watch()
    watch.after_bands(0, bands(0.95))
    noise = REAL | {"change": 60.0, "flicker": 9.0, "motion": 0.01}
    assert watch.after_pictures(1, noise, REAL) == []
    assert watch.after_pictures(2, noise, REAL) == []


def test_samples_on_hard_clips_are_judged_once_the_error_has_settled() -> None:
    watch = Watch()
    for held in (0.95, 0.8, 0.79):
        watch.after_bands(0, bands(held))
    still = REAL | {"motion": 0.01}
    assert watch.after_pictures(1, still, REAL) == []
    assert names(watch.after_pictures(2, still, REAL)) == ["frozen"]


def test_temporal_layers_that_do_nothing_are_found_by_what_they_change() -> None:
    watch = Watch()
    assert watch.after_bands(0, bands(1.0, alone=1.0, together=1.0)) == []
    assert watch.after_bands(25, bands(0.6, alone=0.5, together=0.5)) == []
    assert names(watch.after_bands(50, bands(0.5, alone=0.42, together=0.42))) == ["time"]
    jumpy = REAL | {"change": 60.0}
    assert watch.after_pictures(60, jumpy, REAL) == watch.after_pictures(70, jumpy, REAL) == []
    assert watch.after_bands(99, bands(0.4, alone=0.6, together=0.3)) == []
    assert "time" not in watch.standing


def test_clips_learnt_by_heart_are_told_with_the_band() -> None:
    watch = Watch()
    history = [(0.9, 0.9), (0.5, 0.45), (0.4, 0.3), (0.42, 0.25), (0.47, 0.2)]
    for k, (held, train) in enumerate(history):
        assert watch.after_bands(k, bands(held, train)) == []
    found = watch.after_bands(9, bands(0.5, 0.15))
    assert names(found) == ["memorisation"]
    assert "noise 1 " in found[0].text
    assert "0.400" in found[0].text


def test_an_error_that_rises_on_both_sides_is_not_memorisation() -> None:
    watch = Watch()
    for k, error in enumerate((0.9, 0.4, 0.5, 0.6, 0.7)):
        assert watch.after_bands(k, bands(error, error)) == []


def test_every_alarm_says_what_to_try() -> None:
    found = learned().after_pictures(5, REAL | {"clipped": 1.0}, REAL)
    assert str(found[0]).startswith("ALARM (saturated) at step 5: ")
    assert found[0].remedy in str(found[0])
    assert all(text.endswith(".") and len(text) > 40 for text in REMEDIES.values())
