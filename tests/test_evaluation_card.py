"""Results compare only under one protocol, and do not depend on how the work was shared out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from textures import walk_clips

from vidiff.errors import RequestError
from vidiff.evaluation import EvalConfig, Report, score_clips
from vidiff.evaluation.cache import Shelf, hash_clips, key_of
from vidiff.evaluation.card import digest_card, make_card, require_same
from vidiff.runs.crew import Crew

CONFIG = EvalConfig(
    draws=100, splits=4, anchor_clips=2, num_clips=8, neighbours=2, perceptual=False
)


NETWORK = {"name": "lite", "sha256": "b" * 64}
FACTS = {"n": 8, "dt": 0.1, "seed": 0, "neighbours": 5, "reference": "a" * 64}


def card(**changes: object) -> dict:
    facts = {**FACTS, "codec": "tensors", "features": {"network": NETWORK}}
    return make_card((8, 32, 32, 3), **{**facts, **changes})


def test_equal_cards_have_one_digest_and_may_be_compared() -> None:
    require_same({"a": card(), "b": card()})
    assert digest_card(card()) == digest_card(card())
    assert digest_card(card()) != digest_card(card(seed=1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": 16}, "n is 8 in a and 16 in b"),
        ({"dt": 0.04}, "dt is 0.1 in a and 0.04 in b"),
        ({"codec": "video files"}, "codec is tensors in a and video files in b"),
        ({"reference": "c" * 64}, "reference_sha256 is aaaaaaaaaaaa... in a"),
        ({"features": {"network": {**NETWORK, "name": "v2"}}}, "network name lite"),
    ],
)
def test_results_of_different_cards_refuse_and_name_the_difference(
    change: dict[str, object], words: str
) -> None:
    with pytest.raises(RequestError, match="different protocols") as caught:
        require_same({"a": card(), "b": card(**change)})
    assert words in str(caught.value)


@cache
def scored(batch: int) -> Report:
    config = CONFIG.model_copy(update={"batch": batch})
    return score_clips(walk_clips(5, seed=3), walk_clips(9, seed=1), dt=0.1, config=config)


@pytest.mark.parametrize("batch", [7, 64])
def test_the_result_does_not_depend_on_the_batch(batch: int) -> None:
    for name, score in scored(1).scores.items():
        assert scored(batch).scores[name]["value"] == pytest.approx(score["value"], rel=1e-6), name
    assert scored(batch).protocol["card"] == scored(1).protocol["card"]


def test_two_processes_give_the_result_of_one(run: Path, clips: Path, tmp_path: Path) -> None:
    quick = ["draws=100", "splits=4", "anchor_clips=2", "sample.steps=2", "perceptual=false"]
    words = [str(run), *quick, "--data", str(clips), "--split", "all", "--clips", "6"]
    words += ["--cache", "none"]
    results = {}
    for count in (1, 2):
        path = tmp_path / f"{count}.json"
        out = str(tmp_path / f"out{count}")
        command = [sys.executable, "-m", "vidiff", "eval", *words, "--json", str(path)]
        done = subprocess.run(
            [*command, "--out", out, "--nproc", str(count)],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        results[count] = json.loads(path.read_text())
        assert done.stdout.count("guards:") == 1
    assert results[1] == results[2]


def test_a_crew_of_one_does_all_the_work_in_order() -> None:
    assert Crew().map(lambda k: k * k, range(5)) == [0, 1, 4, 9, 16]
    assert Crew().agree("word") == "word"


def test_a_shelf_gives_back_what_it_was_given_and_forgets_what_is_damaged(tmp_path: Path) -> None:
    shelf, arrays = Shelf(tmp_path), {"a": np.arange(6.0).reshape(2, 3), "b": np.ones(4)}
    assert shelf.get("key") is None
    shelf.put("key", arrays)
    found = shelf.get("key")
    assert found is not None
    np.testing.assert_array_equal(found["a"], arrays["a"])
    path = tmp_path / "key.npz"
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:200] + b"x" + whole[201:], b"words" * 9):
        path.write_bytes(damaged)
        assert shelf.get("key") is None


def test_a_shelf_keeps_to_its_limit_and_drops_the_oldest(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, limit=30_000)
    for k in range(5):
        shelf.put(f"key{k}", {"a": np.zeros(1000)})
        os.utime(tmp_path / f"key{k}.npz", (k, k))
    assert shelf.get("key0") is None
    assert shelf.get("key4") is not None


def test_a_shelf_that_cannot_be_written_harms_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    shelf = Shelf(tmp_path / "file")
    shelf.put("key", {"a": np.ones(2)})
    assert shelf.get("key") is None


def test_the_key_of_clips_is_their_content_and_what_is_measured() -> None:
    clips = walk_clips(2, num_frames=4, size=16)
    assert key_of(clips, {"dt": 0.1}) == key_of(clips.copy(), {"dt": 0.1})
    assert key_of(clips, {"dt": 0.1}) != key_of(clips, {"dt": 0.2})
    assert key_of(clips, {}) != key_of(clips.transpose(0, 1, 3, 2, 4), {})
    assert hash_clips(clips) == hash_clips(clips[::1])


def test_reference_and_anchors_come_from_the_cache_and_a_damaged_one_is_measured_anew(
    tmp_path: Path,
) -> None:
    clips, real = walk_clips(6, seed=3), walk_clips(12, seed=1)
    plain = CONFIG.model_copy(update={"features": "none"})
    config = plain.model_copy(update={"cache": str(tmp_path)})
    fresh = score_clips(clips, real, dt=0.1, config=plain)
    filled = score_clips(clips, real, dt=0.1, config=config)
    files = sorted(tmp_path.glob("*.npz"))
    assert len(files) == 1 + len(fresh.anchors)
    stamps = [p.stat().st_ino for p in files]
    read = score_clips(clips, real, dt=0.1, config=config)
    assert [p.stat().st_ino for p in files] == stamps
    files[0].write_bytes(b"damaged")
    healed = score_clips(clips, real, dt=0.1, config=config)
    assert len({json.dumps(r.to_json()) for r in (fresh, filled, read, healed)}) == 1
    assert files[0].stat().st_size > 100
