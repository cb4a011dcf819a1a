"""YAML files and `key=value` words into frozen, strict pydantic models.

A configuration is defaults, then a file, then words, the later ones winning. Plain scalars follow
the YAML 1.2 core schema: `1e-4` is a number, `no` and `1:30` are text (a field of type bool still
understands `no`). A file is data and nothing else: tags, aliases, repeated keys and interpolation
do not exist, so no file can name code to run or grow when it is read.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher, get_close_matches
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic_core import ErrorDetails

from vidiff.errors import RequestError

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_VALUES = 20_000
_MAX_TOLD = 100

REDACTED = "[redacted]"


class Config(BaseModel):
    """Base of every configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _a_truth_value_is_no_number(cls, value: Any, info: Any) -> Any:
        if isinstance(value, bool):
            annotation = cls.model_fields[info.field_name].annotation
            kinds = {annotation, *get_args(annotation)}
            if kinds & {int, float} and bool not in kinds:
                raise ValueError("must be a number, not true or false")
        return value


C = TypeVar("C", bound=Config)


def load_config(model: type[C], path: str | Path | None, words: Sequence[str] = ()) -> C:
    """Defaults, then the YAML file, then `key=value` words; checked as a whole.

    Args:
        model: the configuration class.
        path: a YAML file of at most 1 MB, or None for defaults.
        words: such as `train.steps=100` or `data.size=[64, 96]`. The last of two equal keys wins.

    Raises:
        RequestError: names every problem at once, each with its dotted key, the value and the
            rule, and for an unknown key the nearest one.
    """
    data = {} if path is None else _read_yaml(Path(path))
    texts: dict[str, str] = {}
    problems = [problem for word in words if (problem := _place_word(data, texts, word))]
    try:
        config = _validate(model, data, texts)
    except ValidationError as error:
        problems += _sentences(model, data, error)
    if problems:
        where = f"{path} with the given words" if path and words else path or "The given words"
        raise _refusal(str(where), problems)
    return config


def make_config(model: type[C], **fields: Any) -> C:
    """A configuration from Python values, with the same errors as one from a file.

    Raises:
        RequestError: names every problem at once.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise _refusal("The request", _sentences(model, fields, error)) from error


def dump_yaml(config: Config) -> str:
    """The configuration as YAML that `load_config` reads back to an equal one."""
    data = config.model_dump(mode="json")
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def schema(model: type[Config]) -> dict[str, Any]:
    """JSON schema with every field's description, for editors that complete keys."""
    return model.model_json_schema()


def differences(a: Config, b: Config) -> list[str]:
    """One line `key: old -> new` for each dotted key whose value differs; secrets redacted."""
    old, new = (_leaves(redact(config.model_dump(mode="json"))) for config in (a, b))
    return [
        f"{key}: {_shown(old, key)} -> {_shown(new, key)}"
        for key in dict.fromkeys([*old, *new])
        if key not in old or key not in new or old[key] != new[key]
    ]


_SECRET_NAME = re.compile(
    r"(?<![a-z])([a-z]*(token|secret|passw(or)?d|credential)|(api|access|private)?key)s?(?![a-z])"
)
_SECRET_VALUE = re.compile(
    r"\b(?:hf_|gh[pousr]_|github_pat_|sk-|xox[abp]-|AKIA)[\w-]{12,}|(?<=://)[^/\s@]+(?=@)"
)


def redact(value: Any, name: str = "") -> Any:
    """A copy without secrets: text under keys such as `api_key` or `hf_token`, words such as
    `hf_token=...` inside text, and values in the form of well-known access tokens."""
    if isinstance(value, dict):
        below = {key: name if _is_secret(name) else str(key) for key in value}
        return {key: redact(item, below[key]) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item, name) for item in value]
    if not isinstance(value, str) or not value:
        return value
    return REDACTED if _is_secret(name) else _SECRET_VALUE.sub(REDACTED, _redact_words(value))


def _redact_words(text: str) -> str:
    def word(match: re.Match[str]) -> str:
        return f"{match[1]}={REDACTED}" if _is_secret(match[1]) else match[0]

    return re.sub(r"(?<![\w.-])([\w.-]++)=(\S+)", word, text)


def _is_secret(name: str) -> bool:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return _SECRET_NAME.search(spaced.lower()) is not None


_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_WHOLE = re.compile(r"[-+]?[0-9]{1,4000}")
_REAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def _scalar(text: str) -> bool | int | float | str | None:
    """A plain scalar by the YAML 1.2 core schema (1.2.2, section 10.3.2), less hex and octal."""
    if text in _WORDS:
        return _WORDS[text]
    if _WHOLE.fullmatch(text):
        return int(text)
    if _REAL.fullmatch(text):
        return float(text)
    if _SPECIAL.fullmatch(text):
        return float(text.replace(".", ""))
    return text


_TEXT_WANTED = {"string_type", "path_type"}
_TAGS: dict[type, str] = {
    kind: f"tag:yaml.org,2002:{name}"
    for kind, name in ((type(None), "null"), (bool, "bool"), (int, "int"), (float, "float"))
}


def _tag(text: str) -> str:
    return _TAGS.get(type(_scalar(text)), "tag:yaml.org,2002:str")


class _CoreSchema(yaml.resolver.Resolver):
    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is yaml.ScalarNode and implicit[0]:
            return _tag(value)
        return super().resolve(kind, value, implicit)


class _Loader(_CoreSchema, yaml.SafeLoader):
    """Reads plain data only, within limits."""

    depth = 0
    count = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        self.depth += 1
        self.count += 1
        rule = None
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            rule = "anchors and aliases (& and *) are not read; write the value out, or quote it"
        elif event.tag is not None:
            rule = f"tags such as {event.tag} are not read; write the plain value"
        elif self.depth > MAX_DEPTH:
            rule = f"nested deeper than {MAX_DEPTH} levels"
        elif self.count > MAX_VALUES:
            rule = f"more than {MAX_VALUES} values"
        if rule:
            raise yaml.MarkedYAMLError(problem=rule, problem_mark=event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                rule = f"the key {key.value!r} is given twice"
                raise yaml.MarkedYAMLError(problem=rule, problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


for _name in _TAGS.values():
    _Loader.add_constructor(_name, lambda loader, node: _scalar(node.value))


class _Dumper(_CoreSchema, yaml.SafeDumper):
    """Quotes exactly the text that `_Loader` would take for something else."""


def _read_yaml(path: Path) -> dict[Any, Any]:
    if not path.is_file():
        raise _missing(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise RequestError(
                f"{path} has {size} bytes; a configuration has at most {MAX_BYTES}.",
                "Give a YAML file of settings.",
            )
        text = path.read_bytes().decode()
        data = yaml.load(text, Loader=_Loader)
    except OSError as error:
        raise RequestError(
            f"{path} could not be read: {error.strerror}.", "Check its permissions."
        ) from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8 text.", "Give a YAML file.") from error
    except yaml.YAMLError as error:
        raise RequestError(
            f"{path}{_problem(error)}.", "Correct that line; the file is plain YAML 1.2."
        ) from error
    if data is not None and not isinstance(data, dict):
        raise RequestError(
            f"{path} holds {_short(data)}; a configuration is a mapping of keys to values.",
            "Write one `key: value` a line.",
        )
    return data or {}


def _missing(path: Path) -> RequestError:
    if path.is_dir():
        return RequestError(f"{path} is a folder, not a YAML file.", "Give the file inside it.")
    if path.exists():
        return RequestError(f"{path} is not a regular file.", "Give a YAML file.")
    names = [item.name for item in path.parent.glob("*") if item.is_file()]
    names = get_close_matches(path.name, names, 1, 0) if names else []
    near = f"The nearest file there is {path.parent / names[0]}." if names else "Check the path."
    return RequestError(f"{path} does not exist.", near)


def _problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    rule = getattr(error, "problem", None) or str(error).replace("\n", " ")
    return f", line {mark.line + 1}: {rule}" if mark else f": {rule}"


def _place_word(data: dict[Any, Any], texts: dict[str, str], word: str) -> str | None:
    """Put one `key=value` word into `data`; return the problem with it, if any."""
    key, equals, text = word.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        return f"{word[:300]}: not of the form key=value"
    value: Any = _scalar(text)
    if text[:1] in ("[", "{", '"', "'"):
        try:
            value = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError as error:
            return f"{key}={_hidden(key, text)}: not a YAML value{_problem(error)}"
    for part in parts[:-1]:
        if data.get(part) is None:
            data[part] = {}
        data = data[part]
        if not isinstance(data, dict):
            return f"{key}={_hidden(key, text)}: {part} is {_hidden(part, data)}, not a section"
    data[parts[-1]] = value
    texts[key] = text
    return None


def _validate(model: type[C], data: dict[Any, Any], texts: dict[str, str]) -> C:
    """Validate; a word such as `out=2024` for a field of text is taken as it was written."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        textual = [_dotted(e, data) for e in error.errors() if e["type"] in _TEXT_WANTED]
        retry = {key: texts.pop(key) for key in textual if key in texts}
        if not retry:
            raise
        for key, text in retry.items():
            *sections, leaf = key.split(".")
            reduce(getitem, sections, data)[leaf] = text
        return _validate(model, data, texts)


def _refusal(where: str, problems: list[str]) -> RequestError:
    count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = "".join(f"\n  {problem}" for problem in problems)
    return RequestError(f"{where}: {count}.{lines}", "Correct these keys; nothing was started.")


def _sentences(model: type[Config], data: dict[Any, Any], error: ValidationError) -> list[str]:
    """One sentence a key: `key=value: rule`."""
    valid = list(_valid_keys(model))
    rules: dict[str, list[str]] = {}
    details = error.errors()
    for detail in details[:_MAX_TOLD]:
        head = key = _dotted(detail, data)[:300]
        near = _nearest(key[:100], valid) if detail["type"] == "extra_forbidden" else ""
        if detail["type"] != "missing":
            # A misspelt secret is a secret: the nearest key counts too.
            head += f"={_hidden(f'{key} {near}', detail['input'])}"
        rules.setdefault(head, []).append(_rule(detail, key, near))
    said = [f"{head}: {' or '.join(dict.fromkeys(rule))}" for head, rule in rules.items()]
    return said if len(details) <= _MAX_TOLD else [*said, f"and {len(details) - _MAX_TOLD} more"]


def _rule(detail: ErrorDetails, key: str, near: str) -> str:
    if detail["type"] == "missing":
        return f"missing; give it as {key}=VALUE"
    if detail["type"] == "extra_forbidden":
        return f"unknown key; nearest is {near}"
    if detail["type"] == "model_type":
        return "must be a section with keys below it"
    if detail["type"] in _TEXT_WANTED:
        return "must be text; put quotes around it"
    message = detail["msg"].removeprefix("Value error, ")
    return message.replace("Input should be", "must be")


def _dotted(detail: ErrorDetails, data: Any) -> str:
    """The key as the person writes it: pydantic adds the names of a union's branches."""
    parts = []
    for part in detail["loc"]:
        among = isinstance(data, list | tuple) and part in range(len(data))
        if among or (isinstance(data, dict) and part in data):
            parts.append(str(part))
            data = data[part]
    return ".".join([*parts, str(detail["loc"][-1])] if detail["type"] == "missing" else parts)


def _nearest(key: str, valid: list[str]) -> str:
    def likeness(other: str) -> float:
        leaves = key.rpartition(".")[2], other.rpartition(".")[2]
        return sum(SequenceMatcher(None, *pair).ratio() for pair in (leaves, (key, other)))

    return max(valid, key=likeness, default="none")


def _valid_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        for below in _models_in(field.annotation):
            yield from _valid_keys(below, f"{prefix}{name}.")


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _leaves(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict) and value:
            leaves |= _leaves(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def _shown(leaves: dict[str, Any], key: str) -> str:
    return _short(leaves[key]) if key in leaves else "(absent)"


def _hidden(key: str, value: Any) -> str:
    return _short(redact(value, key))


def _short(value: Any) -> str:
    return value if isinstance(value, str) and 0 < len(value) <= 40 else reprlib.repr(value)
