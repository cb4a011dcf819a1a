"""Editors complete and check configurations by a schema that is current."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vidiff.cli import main
from vidiff.training.settings import editor_schema

CONFIGS = Path(__file__).parent.parent / "configs"


def test_the_schema_in_configs_is_that_of_the_code() -> None:
    command = "vidiff train --schema > configs/schema.json"
    assert (CONFIGS / "schema.json").read_text() == editor_schema(), f"run: {command}"


def test_the_schema_is_printed_without_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "--schema"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == editor_schema()


def test_every_field_says_what_it_is() -> None:
    parts = json.loads(editor_schema())
    for name, part in [("", parts), *parts["$defs"].items()]:
        for field, about in part.get("properties", {}).items():
            assert "$ref" in about or about.get("description"), f"{name}.{field}"


def test_the_first_configuration_names_the_schema() -> None:
    lines = (CONFIGS / "tiny.yaml").read_text().splitlines()
    assert "# yaml-language-server: $schema=schema.json" in lines
