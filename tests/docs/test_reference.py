"""The reference pages say what the code says: every key, every command, every option, and nothing else."""

from __future__ import annotations

import shlex
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer

from gmpo_mm.algorithms import known_loss_types
from gmpo_mm.algorithms.config import LossKeys
from gmpo_mm.cli import app
from gmpo_mm.config import load_config
from gmpo_mm.config.keys import schema_keys, section_names
from gmpo_mm.config.meanings import MEANINGS, key_meanings
from gmpo_mm.engines.checks import validate_for_training
from gmpo_mm.errors import ConfigError
from tests.docs.generator import REFERENCE, ROOT, load_generator, rows_below

generate = load_generator()
CONFIGURATION = (REFERENCE / "configuration.md").read_text(encoding="utf-8")
COMMANDS = (REFERENCE / "commands.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", sorted(REFERENCE.glob("*.md")), ids=lambda page: page.name)
def test_generated_parts_are_what_the_code_makes(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert generate.filled(text) == text, "run: python environments/docs/generate.py"


def test_every_key_is_on_the_page_once_with_a_meaning() -> None:
    found: dict[str, list[str]] = {}
    for section in ("", *sorted(section_names())):
        heading = f"## `{section}`" if section else "## Top level"
        if f"\n{heading}\n" not in CONFIGURATION:
            continue
        for row in rows_below(CONFIGURATION, heading):
            key = ".".join(filter(None, (section, row[0].strip("`"))))
            assert key not in found
            found[key] = row
    assert found.keys() == schema_keys().keys()
    for key, (_, kind, default, _, engines, meaning) in found.items():
        assert kind and default and engines, key
        assert len(meaning) > 10 and meaning.endswith("."), f"{key}: {meaning}"


def loss_sections() -> list[type]:
    """`LossKeys`, and the sections in it of the losses with keys of their own."""
    nested = get_type_hints(LossKeys).values()
    return [LossKeys, *(section for section in nested if is_dataclass(section))]


def test_no_meaning_is_left_over() -> None:
    used = {key.rpartition(".")[2] for key, _ in key_meanings()} | {"max_tokens"}
    known = {name for section in MEANINGS.values() for name in section}
    known |= {item.name for section in loss_sections() for item in fields(section) if "means" in item.metadata}
    assert known == used
    from gmpo_mm.config import schema

    for section, meanings in MEANINGS.items():
        assert meanings.keys() <= {item.name for item in fields(getattr(schema, section))}, section


@pytest.mark.parametrize(
    ("engine", "setting"),
    [
        ("local", "ray_address=auto"),
        ("local", "worker.actor.seq_mean=easyr1"),
        ("verl", "worker.actor.seq_mean=easyr1"),
        ("local", "algorithm.adv_estimator=gae"),
    ],
)
def test_a_key_that_is_called_unread_is_refused_by_the_rules(engine: str, setting: str) -> None:
    loaded = load_config(ROOT / "configs" / "quickstart.yaml", [f"engine={engine}", setting])
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        validate_for_training(loaded, prepared=False)
    key = {"algorithm.adv_estimator": "algorithm.lam"}.get(
        setting.partition("=")[0], setting.partition("=")[0]
    )
    assert not generate.reads(engine, key)


def test_every_shipped_loss_has_a_row() -> None:
    rows = CONFIGURATION.split("| loss | keys of `worker.actor` |\n")[1].partition("\n\n")[0].splitlines()[1:]
    shipped = {
        name
        for name in known_loss_types()
        if generate.get_policy_loss(name).function.__module__.startswith("gmpo_mm.")
    }
    assert {row.split("|")[1].strip(" `") for row in rows} == shipped


def _commands() -> list[tuple[str, Any]]:
    return list(generate.commands())


@pytest.mark.parametrize(("name", "command"), _commands(), ids=[name for name, _ in _commands()])
def test_every_command_stands_there_with_its_options_and_an_example_that_parses(
    name: str, command: Any
) -> None:
    section = COMMANDS.split(f"\n## `{name}`\n", 1)[1].split("\n## ")[0]
    for parameter in command.params:
        if parameter.param_type_name == "option" and not parameter.hidden:
            assert parameter.help and f"`{parameter.opts[0]}`" in section, parameter.name
    words = shlex.split(generate.example_of(name, command))
    assert words[: len(name.split())] == name.split()
    command.make_context(name, words[len(name.split()) :])


def test_every_command_of_the_program_is_walked() -> None:
    assert {name.split()[1] for name, _ in _commands()} == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
