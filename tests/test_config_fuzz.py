"""Thousands of generated configurations: each is taken, or refused in a sentence.

`VIDIFF_CONFIGS` sets how many (10000 is the full count).
"""

from __future__ import annotations

import os
import random
import string
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from vidiff.errors import RequestError
from vidiff.runs.config import load_config
from vidiff.training.settings import TrainConfig, read_config

COUNT = int(os.environ.get("VIDIFF_CONFIGS", "400"))
VALID = TrainConfig(data={"root": "clips"}).model_dump(mode="json")  # type: ignore[arg-type]
LEAVES = [(section, key) for section, keys in VALID.items() if isinstance(keys, dict)
          for key in keys]  # fmt: skip
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**63, 10**400, 1e308, float("nan"), float("inf"), "", "auto",
    "no", "1:30", "1e-4", "0x1F", "~", "\0", "💥" * 50, "a" * 10_000, [], {}, [[]], [None],
    [1, "a"], {"a": {"b": {}}}, "../../etc/passwd", "${oc.env:HOME}", "!!python/object:os.system",
    "file:///etc/passwd", [0.1] * 50, {"_target_": "os.system"},
]  # fmt: skip
LINES = [
    "a: &x [1, 2]\nb: *x", "out: !!python/object/apply:os.system ['true']", "- 1\n- 2", "just text",
    "data: {root: clips", "\t", "out: 'a", "a: 1\na: 2", "? [1, 2]\n: 3", "%YAML 9.9\n---\n",
    "---\n---",
    "out: |\n  a\n b", "x: " + "[" * 60 + "]" * 60, "{" * 60, "<<: {seed: 1}", "seed: !!int '3'",
    "a:\n" + "".join(f"{'  ' * n}b{n}:\n" for n in range(1, 50)), "# nothing", "", "\ufeffseed: 1",
]  # fmt: skip


def mutant(dice: random.Random) -> str:
    """One configuration: valid but for a few values or keys, odd YAML, or noise."""
    kind = dice.random()
    if kind < 0.15:
        return dice.choice(LINES) + "\n" + (dice.choice(LINES) if dice.random() < 0.5 else "")
    if kind < 0.3:
        text = yaml.safe_dump(VALID)
        cut = dice.randrange(len(text))
        noise = "".join(dice.choices(string.printable, k=dice.randrange(1, 8)))
        return text[:cut] + noise + text[cut + dice.randrange(4) :]
    data = {key: dict(part) if isinstance(part, dict) else part for key, part in VALID.items()}
    for _ in range(dice.randrange(1, 5)):
        section, key = dice.choice(LEAVES)
        value = dice.choice(ODD)
        if dice.random() < 0.2:
            key = "".join(dice.sample(key, len(key)))
        if dice.random() < 0.1:
            data[dice.choice(list(VALID))] = value
        elif isinstance(data.get(section), dict):
            data[section][key] = value
    return yaml.safe_dump(data, allow_unicode=True)


def words(dice: random.Random) -> list[str]:
    section, key = dice.choice(LEAVES)
    value = str(dice.choice(ODD))
    name = f"{section}.{key}"
    forms = [f"{name}={value}", f"{section}={value}", key, f"={value}", f"{section}.={value}",
             f"{name}.{key}={value}", f"{name}=[{value}", f"{value}={key}"]  # fmt: skip
    return dice.choices(forms, k=dice.randrange(3))


def outcome(path: Path, extra: list[str]) -> str:
    """What became of a configuration; anything but these two words is a fault."""
    try:
        read_config(path, extra)
    except RequestError as error:
        return "refused" if error.exit_code == 2 and len(error.cause) < 20_000 else error.cause
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "taken"


def test_every_generated_configuration_is_taken_or_refused_in_a_sentence(tmp_path: Path) -> None:
    dice = random.Random(0)
    path = tmp_path / "config.yaml"
    counts: Counter[str] = Counter()
    for _ in range(COUNT):
        text, extra = mutant(dice), words(dice)
        path.write_text(text, encoding="utf-8", errors="replace")
        began = time.process_time()
        answer = outcome(path, extra)
        counts[answer] += 1
        assert answer in ("taken", "refused"), f"{answer}\n{text[:2000]}\n{extra}"
        assert time.process_time() - began < 1
    print(f"{COUNT} configurations: {dict(counts)}")
    assert counts["refused"] > counts["taken"] > 0


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    dice = random.Random(1)
    path = tmp_path / "config.yaml"
    for _ in range(100):
        path.write_bytes(dice.randbytes(dice.randrange(200)))
        with pytest.raises(RequestError):
            load_config(TrainConfig, path, ["data.root=clips", "seed=x"])
