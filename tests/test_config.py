from __future__ import annotations

import contextlib
import math
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, model_validator

from vidiff.errors import RequestError
from vidiff.runs.config import Config, differences, dump_yaml, load_config, redact, schema


class Train(Config):
    steps: int = Field(1000, ge=1)
    """Optimizer steps."""
    lr: float = 1e-3
    """Learning rate at its peak."""
    ema: bool = True
    """Keep averaged weights."""
    minutes: float | None = None
    """Time budget in minutes."""


class Data(Config):
    root: str
    """Folder of videos."""
    size: int | tuple[int, int] = 64
    """Side in pixels, or height and width."""
    crop: Literal["center", "off"] = "center"
    """Where to crop."""
    cache: Path = Path("cache")
    """Folder of decoded clips."""
    names: tuple[str, ...] = ()
    """Labels."""


class Run(Config):
    data: Data
    train: Train = Train()
    hub_token: str = ""
    """Secret."""
    weights: dict[str, float] = Field(default_factory=dict)
    """Loss weights by name."""

    @model_validator(mode="after")
    def _check(self) -> Run:
        if self.train.steps == 13:
            raise ValueError("13 steps bring bad luck")
        return self


def load(*words: str, text: str | None = None, folder: Path | None = None) -> Run:
    if text is None:
        return load_config(Run, None, words)
    assert folder is not None
    path = folder / "run.yaml"
    path.write_text(text)
    return load_config(Run, path, words)


def problems(*words: str, text: str | None = None, folder: Path | None = None) -> str:
    with pytest.raises(RequestError) as caught:
        load(*words, text=text, folder=folder)
    assert caught.value.remedy
    return caught.value.cause


def test_words_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    text = "data: {root: clips, size: 32}\ntrain:\n  lr: 0.25\n  steps: 7\n"
    run = load("train.lr=0.5", text=text, folder=tmp_path)
    assert (run.train.lr, run.train.steps, run.data.size, run.train.ema) == (0.5, 7, 32, True)


def test_the_last_of_two_equal_words_wins() -> None:
    assert load("data.root=a", "data.root=b").data.root == "b"


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E3", 1000.0), (".5", 0.5), ("-3", -3.0), ("010", 10.0), (".inf", math.inf)],
)
def test_numbers_are_read_as_people_write_them(tmp_path: Path, text: str, value: float) -> None:
    assert load("data.root=x", f"train.lr={text}").train.lr == value
    from_file = load(text=f"data: {{root: x}}\ntrain: {{lr: {text}}}", folder=tmp_path)
    assert from_file.train.lr == value


def test_a_clock_time_is_text_and_not_a_number_in_base_60(tmp_path: Path) -> None:
    assert "train.steps=1:30" in problems("data.root=x", "train.steps=1:30")
    text = "data: {root: 1:30}\n"
    assert load(text=text, folder=tmp_path).data.root == "1:30"
    cause = problems(text="data: {root: x}\ntrain: {steps: 1:30}", folder=tmp_path)
    assert "train.steps=1:30: must be a valid integer" in cause


@pytest.mark.parametrize("word", ["no", "off", "yes", "on", "n", "y"])
def test_no_and_off_stay_text_where_text_is_wanted(tmp_path: Path, word: str) -> None:
    assert load(f"data.root={word}").data.root == word
    assert load(text=f"data: {{root: {word}}}", folder=tmp_path).data.root == word
    assert load("data.root=x", "data.crop=off").data.crop == "off"


@pytest.mark.parametrize("word", ["no", "off", "false", "False"])
def test_no_and_off_are_false_where_a_truth_value_is_wanted(word: str) -> None:
    assert load("data.root=x", f"train.ema={word}").train.ema is False


def test_a_truth_value_is_not_taken_for_a_number() -> None:
    cause = problems("data.root=x", "train.steps=true", "train.minutes=false", "data.size=true")
    assert cause.count("must be a number, not true or false") == 3


@pytest.mark.parametrize("word", ["2024", "1e-4", "true", "null", "010", "~"])
def test_a_word_for_a_field_of_text_is_taken_as_written(word: str) -> None:
    run = load(f"data.root={word}", f"data.cache={word}")
    assert run.data.root == word
    assert run.data.cache == Path(word)


def test_a_number_in_a_file_for_a_field_of_text_asks_for_quotes(tmp_path: Path) -> None:
    cause = problems(text="data: {root: 2024}", folder=tmp_path)
    assert "data.root=2024: must be text; put quotes around it" in cause


@pytest.mark.parametrize(
    "path", ["C:\\clips", "a b #1", "my: clips", "*.mp4", "@x", "a=b", "%x", "&y", "!z", "# x"]
)
def test_marks_of_yaml_in_a_word_are_only_text(path: str) -> None:
    assert load(f"data.root={path}").data.root == path


def test_lists_and_quotes_in_words_are_yaml() -> None:
    run = load("data.root='[1]'", "data.size=[48, 64]", "data.names=[no, '1', \"a b\"]")
    assert run.data.root == "[1]"
    assert run.data.size == (48, 64)
    assert run.data.names == ("no", "1", "a b")


def test_an_empty_value_is_null() -> None:
    assert load("data.root=x", "train.minutes=5", "train.minutes=").train.minutes is None


def test_every_problem_is_reported_at_once_with_its_key(tmp_path: Path) -> None:
    cause = problems(
        "train.stesp=100",
        "train.steps=abc",
        "data.size=big",
        "steps=3",
        "nonsense",
        "data.names=[a",
        "train.lr.x=1",
        text="train: {lr: 0.1}\nmodle: 3\n",
        folder=tmp_path,
    )
    assert "train.stesp=100: unknown key; nearest is train.steps" in cause
    assert "train.steps=abc: must be a valid integer" in cause
    assert "data.size=big: must be a valid integer" in cause
    assert "or must be a valid tuple" in cause
    assert "steps=3: unknown key; nearest is train.steps" in cause
    assert "nonsense: not of the form key=value" in cause
    assert "data.names=[a: not a YAML value" in cause
    assert "train.lr.x=1: lr is 0.1, not a section" in cause
    assert "modle=3: unknown key" in cause
    assert "data.root: missing; give it as data.root=VALUE" in cause
    assert "9 problems" in cause
    assert "run.yaml" in cause


def test_a_flood_of_problems_is_cut_short(tmp_path: Path) -> None:
    text = "data: {root: x}\n" + "".join(f"key{i}: 1\n" for i in range(9000))
    cause = problems(text=text + f"? {'y' * 500_000}\n: 1\n", folder=tmp_path)
    assert cause.count("unknown key") == 100
    assert "and 8901 more" in cause


def test_a_rule_across_fields_is_told_in_its_own_words() -> None:
    assert "13 steps bring bad luck" in problems("data.root=x", "train.steps=13")


def test_a_number_below_its_limit_names_the_limit() -> None:
    assert "train.steps=0: must be greater than or equal to 1" in problems(
        "data.root=x", "train.steps=0"
    )


def test_a_section_given_as_a_value_says_so() -> None:
    assert "train=3: must be a section" in problems("data.root=x", "train=3")


def _keys(model: type[Config], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            keys += _keys(field.annotation, f"{prefix}{name}.")
    return keys


@pytest.mark.parametrize("key", _keys(Run))
def test_a_typo_in_any_key_names_that_key(key: str) -> None:
    typo = key[:-2] + key[-1] + key[-2] if key[-1] != key[-2] else key + "x"
    assert f"unknown key; nearest is {key}" in problems("data.root=x", f"{typo}=1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: !!python/object/apply:os.system ['touch /tmp/hacked']", "tags"),
        ("a: !foo 3", "tags"),
        ("a: !!binary aGk=", "tags"),
        ("a: &x [1]\nb: *x", "anchors and aliases"),
        ("train: {steps: 1, steps: 2}", "'steps' is given twice"),
        ("a: [1", "line 1"),
        ("a: 1\n---\nb: 2", "document"),
        ("- 1\n- 2", "mapping of keys to values"),
        ("3", "mapping of keys to values"),
        ("a: " + "[" * 40 + "]" * 40, "nested deeper than 32"),
        ("a: [" + "1," * 30_000 + "]", "more than 20000 values"),
        ("a: \x01", "special characters"),
        ("a: " + "x" * 900_000, "unknown key"),
        ("? [a, b]\n: 3", "unhashable"),
    ],
)
def test_a_file_is_plain_data_within_limits(tmp_path: Path, text: str, said: str) -> None:
    assert said in problems(text=text, folder=tmp_path)


def test_an_alias_bomb_is_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [" + ",".join([f"*a{i - 1}"] * 9) + "]" for i in range(1, 12)]
    assert "aliases" in problems(text="\n".join(lines), folder=tmp_path)


def test_interpolation_and_merge_keys_do_not_exist(tmp_path: Path) -> None:
    assert load("data.root=${oc.env:HOME}").data.root == "${oc.env:HOME}"
    cause = problems(text="data: {root: x, <<: {size: 3}}", folder=tmp_path)
    assert "data.<<={'size': 3}: unknown key" in cause


def test_a_file_that_is_too_long_or_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"a: 1\n" * 300_000)
    with pytest.raises(RequestError, match="1500000 bytes"):
        load_config(Run, path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="not UTF-8"):
        load_config(Run, path)


def test_a_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    for name in ("tiny.yaml", "base128.yaml"):
        (tmp_path / name).write_text("")
    with pytest.raises(RequestError, match=r"tniy\.yaml does not exist") as caught:
        load_config(Run, tmp_path / "tniy.yaml")
    assert str(tmp_path / "tiny.yaml") in caught.value.remedy
    with pytest.raises(RequestError, match="is a folder"):
        load_config(Run, tmp_path)
    with pytest.raises(RequestError, match="does not exist"):
        load_config(Run, tmp_path / "nowhere" / "x.yaml")


def test_an_empty_file_means_defaults(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("# nothing\n")
    assert load_config(Train, tmp_path / "run.yaml") == Train()


plain = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    root=plain | st.sampled_from(["no", "1:30", "1e-4", "010", "null", "~", ".inf", "<<", "- a"]),
    lr=st.floats(allow_nan=False),
    steps=st.integers(14, 10**30),
    size=st.integers() | st.tuples(st.integers(), st.integers()),
    names=st.lists(plain, max_size=3),
)
def test_a_dumped_configuration_reads_back_equal(
    root: str,
    lr: float,
    steps: int,
    size: int | tuple[int, int],
    names: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = Data(root=root, size=size, names=tuple(names))
    run = Run(data=data, train=Train(lr=lr, steps=steps), weights={"1": lr, "no": 0.5})
    path = tmp_path_factory.mktemp("dump") / "run.yaml"
    path.write_text(dump_yaml(run), encoding="utf-8", newline="")
    assert load_config(Run, path) == run


def test_differences_name_key_old_and_new_and_hide_secrets() -> None:
    a = Run(data=Data(root="a"), hub_token="hf_aaaaaaaaaaaaaaaaaaaa", weights={"x": 1.0})
    b = Run(data=Data(root="b"), hub_token="", train=Train(steps=5), weights={"y": 2.0})
    assert differences(a, a) == []
    assert differences(a, b) == [
        "data.root: a -> b",
        "train.steps: 1000 -> 5",
        "hub_token: [redacted] -> ''",
        "weights.x: 1.0 -> (absent)",
        "weights.y: (absent) -> 2.0",
    ]


def test_the_schema_describes_every_field() -> None:
    described = schema(Train)["properties"]
    assert described["steps"]["description"] == "Optimizer steps."
    assert all("description" in entry for entry in described.values())


SECRET = "s3cr3tvalue"


@pytest.mark.parametrize(
    "name",
    ["token", "hf_token", "HF_TOKEN", "apiKey", "api_key", "client-secret", "password", "key"],
)
def test_text_under_a_secret_name_is_redacted(name: str) -> None:
    hidden = redact({"a": [{name: SECRET}], name: {"deep": [SECRET]}, "b": f"run {name}={SECRET}"})
    assert SECRET not in repr(hidden)


def test_known_access_tokens_are_redacted_wherever_they_stand() -> None:
    given = {"note": "use hf_abcdefghijklmnopqrst now", "url": "https://me:pw@host/x"}
    assert redact(given) == {"note": "use [redacted] now", "url": "https://[redacted]@host/x"}


def test_names_that_only_sound_like_secrets_stay() -> None:
    harmless = {"num_tokens": 512, "keyframes": "all", "monkey": "x", "keep": "y", "tokenizer": "z"}
    assert redact(harmless) == harmless


def test_a_secret_is_not_shown_in_an_error() -> None:
    assert SECRET not in problems("data.root=x", f"hub_tokn=[{SECRET}]", f"hub_token=[{SECRET}]")
    assert SECRET not in problems("data.root=x", f"hub_token.x={SECRET}", f"api_token={SECRET}")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | plain,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            plain | st.sampled_from(["data", "train", "root", "steps", "size", "weights"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def _only_request_errors(data: object, words: list[str], path: Path) -> None:
    path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
    with contextlib.suppress(RequestError):
        load_config(Run, path, words)


@settings(max_examples=100, deadline=None)
@given(data=anything, words=st.lists(plain | st.builds("{}={}".format, plain, plain), max_size=3))
def test_any_configuration_loads_or_is_refused(
    data: object, words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    _only_request_errors(data, words, tmp_path_factory.getbasetemp() / "any.yaml")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=10_000, deadline=None)
@given(data=anything, words=st.lists(plain | st.builds("{}={}".format, plain, plain), max_size=3))
def test_ten_thousand_configurations_load_or_are_refused(
    data: object, words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    _only_request_errors(data, words, tmp_path_factory.getbasetemp() / "any.yaml")


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.sampled_from("[]{}:,-&*!|>'\"%@`#?<~ \n\tab01.e"), max_size=40))
def test_any_text_as_a_file_loads_or_is_refused(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "text.yaml"
    path.write_text(text)
    with contextlib.suppress(RequestError):
        load_config(Run, path)


def test_reading_a_configuration_imports_no_torch() -> None:
    code = "import sys, vidiff.runs.config; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
