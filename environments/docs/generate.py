"""Fills the generated parts of the reference pages from the code: `python environments/docs/generate.py` (`--check`: compares).

A page holds its prose itself. A part that is made from the code stands between two comments:

    <!-- generated: NAME -->
    <!-- end of generated -->

`PARTS` says what makes it. A test compares the committed pages with what this file makes.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import typer

from gmpo_mm.algorithms import clip_keys_read_by, get_policy_loss, known_loss_types
from gmpo_mm.algorithms.config import CLIP_LEVELS
from gmpo_mm.cli import app
from gmpo_mm.config.bounds import choices
from gmpo_mm.config.engine_facts import ENGINES
from gmpo_mm.config.keys import default_of, describe_type, schema_keys
from gmpo_mm.config.loss import LOG_CLIP_SECTIONS, LOSS_KEYS
from gmpo_mm.config.meanings import MEANINGS, meaning_of
from gmpo_mm.config.ranges import LARGEST_SEED, MOST, Range, range_of
from gmpo_mm.config.schema import Config, ValidationSampling
from gmpo_mm.engines.registry import all_engines, get_engine

PAGES = Path(__file__).parents[2] / "docs/reference"
WORDS = (
    choices()
    | {f"worker.actor.{section}.clip": CLIP_LEVELS for section in LOG_CLIP_SECTIONS}
    | {"worker.actor.loss_avg_mode": ("token", "seq")}
)
"""For a command whose help has no example (`epilog`)."""
_KEY = re.compile(
    r"\b(?:trainer|worker|algorithm|data)\.[a-z_.]*[a-z]"
    r"|\bmp_\*|\badv_estimator=\w+|\badamw_bf16\b|\bonline_filtering\b"
)
"""What is code in the reasons."""

# ---- configuration keys -----------------------------------------------------------------------------------------------


def reads(name: str, key: str) -> bool:
    """Whether an engine reads a key for anything but to refuse it."""
    engine = get_engine(name)
    unread = any(key == one or (one.endswith((".", "_")) and key.startswith(one)) for one in engine.unread)
    return not unread and key not in engine.refused


def engines_of(key: str) -> str:
    """The engines that read a key, as the page shows them."""
    found = [engine for engine in ENGINES if reads(engine, key)]
    return "all" if len(found) == len(ENGINES) else ", ".join(found)


def type_words(hint: Any) -> str:
    """`integer or null` for `int | None`."""
    words = re.sub(r"\b(an?) (?=\w)", "", describe_type(hint))
    return words.replace("mapping of keys to values", "mapping").replace("tuple[str, ...]", "list of texts")


def range_words(allowed: Range) -> str:
    """`above 0, at most 1` and the like; an end that only guards against nonsense is left out."""
    low, high = _number(allowed.low), _number(allowed.high)
    if allowed.above:
        words = f"above {low}, at most {high}"
    else:
        words = f"{low} or more" if allowed.high == MOST else f"{low} to {high}"
    return words if allowed.off is None else f"{words}; {_number(allowed.off)}: {allowed.off_means}"


def _number(value: float) -> str:
    if value == LARGEST_SEED:
        return "2^63 - 1"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def shown(value: Any) -> str:
    """A default as YAML would write it."""
    text = f"{value:g}" if isinstance(value, float) and value else json.dumps(value)
    return f"`{text}`"


def values_of(key: str, allowed: Range | None, words: Mapping[str, Iterable[str]] = WORDS) -> str:
    """The words or the range that a key may hold; nothing where every value of its type is right."""
    if key in words:
        return ", ".join(f"`{word}`" for word in words[key])
    return "" if allowed is None else range_words(allowed)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(head)
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (head, ["---"] * len(head), *rows)]
    return "\n".join("|" + "|".join(f" {cell} " if cell else " " for cell in row) + "|" for row in lines)


def keys_page() -> str:
    """Every key of the schema, section by section."""
    parts = list(_sections(Config, ""))
    return "\n\n".join(parts)


def _sections(section: type, prefix: str) -> Iterator[str]:
    hints, rows, inner = get_type_hints(section), [], []
    for item in fields(section):
        hint, key = hints[item.name], f"{prefix}{item.name}"
        if is_dataclass(hint):
            inner.append((hint, f"{key}."))
            continue
        rows.append(
            (f"`{item.name}`", type_words(hint), shown(default_of(key)), values_of(key, range_of(item)),
             engines_of(key), meaning_of(section, item))
        )  # fmt: skip
    about = (inspect.getdoc(section) or "").partition("\n\n")[0].replace("\n", " ")
    title = f"## `{prefix.rstrip('.')}`" if prefix else "## Top level"
    if rows:
        yield f"{title}\n\n{about}\n\n" + table(
            ("key", "type", "default", "values", "engines", "meaning"), rows
        )
    for hint, key in inner:
        yield from _sections(hint, key)  # type: ignore[arg-type]


def validation_keys() -> str:
    """The keys of `val_override_config`."""
    hints, about = get_type_hints(ValidationSampling), MEANINGS["ValidationSampling"]
    rows = [
        (
            f"`{item.name}`",
            type_words(hints[item.name]),
            values_of("", item.metadata.get("range")),
            about[item.name],
        )
        for item in fields(ValidationSampling)
    ]
    return table(("key", "type", "values", "meaning"), rows)


def losses_and_keys() -> str:
    """Which of the losses' keys each loss reads; all of a section's as `section.*`."""
    losses = [
        name
        for name in known_loss_types()
        if get_policy_loss(name).function.__module__.startswith("gmpo_mm.algorithms.")
    ]
    rows = []
    for loss in losses:
        read = clip_keys_read_by(loss)
        whole = {name for key in LOSS_KEYS if "." in key and (name := key.partition(".")[0])}
        whole = {name for name in whole if all(key in read for key in LOSS_KEYS if key.startswith(f"{name}."))}
        parts = (f"{key.partition('.')[0]}.*" if key.partition(".")[0] in whole else key for key in LOSS_KEYS if key in read)
        rows.append((f"`{loss}`", ", ".join(f"`{part}`" for part in dict.fromkeys(parts))))
    return table(("loss", "keys of `worker.actor`"), rows)


def unread_keys() -> str:
    """For each engine the keys that it does not read, with the reason."""
    parts = []
    tables: dict[str, dict[str, str]] = {}
    for one in all_engines():
        for where, unread in (("", one.unread), *one.unread_where.items()):
            tables.setdefault(f"{one.name} {where}".rstrip(), {}).update(unread)
    for engine, reasons in tables.items():
        by_reason: dict[str, list[str]] = {}
        for key, reason in _folded(reasons).items():
            by_reason.setdefault(re.sub(r"^engine [^:]+: ", "", reason), []).append(_with_star(key))
        rows = [
            (_KEY.sub(r"`\g<0>`", reason), ", ".join(f"`{key}`" for key in keys))
            for reason, keys in by_reason.items()
        ]
        parts.append(f"### Engine {engine}\n\n" + table(("why", "keys"), rows))
    return "\n\n".join(parts)


def _folded(reasons: Mapping[str, str]) -> dict[str, str]:
    """One entry for the critic's keys where a table lists each of them."""
    every = [key for key in schema_keys() if key.startswith("worker.critic.")]
    if not all(key in reasons for key in every):
        return dict(reasons)
    return {key: reason for key, reason in reasons.items() if key not in every} | {
        "worker.critic.": reasons[every[0]]
    }


def _with_star(key: str) -> str:
    return f"{key}*" if key.endswith((".", "_")) else key


# ---- commands ---------------------------------------------------------------------------------------------------------


def commands(group: Any = None, path: str = "gmpo-mm") -> Iterator[tuple[str, Any]]:
    """(`gmpo-mm train`, its command) of every command; those of a group after the group's name."""
    group = group or typer.main.get_command(app)
    context = group.make_context(path, ["--help"], resilient_parsing=True)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def example_of(name: str, command: Any) -> str:
    """The example of a command's help. ValueError where there is none."""
    text = (command.epilog or "").removeprefix("Example:").strip()
    if not text:
        raise ValueError(f"{name} has no example; give it an epilog")
    return text


def commands_page() -> str:
    """Every command with its arguments, options and an example."""
    return "\n\n".join(_command(name, command) for name, command in commands())


def _command(name: str, command: Any) -> str:
    given = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option" and not param.hidden]
    hints = get_type_hints(inspect.unwrap(command.callback))
    usage = " ".join([name, *map(_placeholder, given), *(["[OPTIONS]"] if options else [])])
    parts = [f"## `{name}`", _plain(command.help), f"Usage: `{usage}`"]
    if given:
        parts.append(
            table(("argument", "meaning"), [(f"`{_placeholder(arg)}`", _plain(arg.help)) for arg in given])
        )
    if options:
        rows = [
            (
                ", ".join(f"`{text}`" for text in option.opts),
                _values(option, hints[option.name]),
                _default(option),
                _plain(option.help),
            )
            for option in options
        ]
        parts.append(table(("option", "value", "default", "meaning"), rows))
    parts.append(f"Example: `{example_of(name, command)}`")
    return "\n\n".join(parts)


def _placeholder(argument: Any) -> str:
    return argument.metavar or argument.name.upper()


def _values(option: Any, hint: Any) -> str:
    if option.is_flag:
        return ""
    low = getattr(option, "min", None)  # typer's own option, or click's
    low = getattr(getattr(option, "type", None), "min", None) if low is None else low
    words = type_words(hint).removesuffix(" or null")
    return words if low is None else f"{words}, {low} or more"


def _default(option: Any) -> str:
    value = option.default
    return f"`{value}`" if isinstance(value, (str, int, float)) and not option.is_flag else ""


def _plain(text: str | None) -> str:
    return " ".join((text or "").split())


# ---- pages ------------------------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[], str]] = {
    "keys": keys_page,
    "validation keys": validation_keys,
    "losses and keys": losses_and_keys,
    "unread keys": unread_keys,
    "commands": commands_page,
}
_PART = re.compile(r"(<!-- generated: (?P<name>[\w ]+) -->\n).*?(<!-- end of generated -->)", re.DOTALL)


def filled(text: str) -> str:
    """A page with its generated parts made anew."""
    return _PART.sub(lambda found: f"{found[1]}\n{PARTS[found['name']]()}\n\n{found[3]}", text)


def main(arguments: list[str]) -> int:
    """Rewrite the pages; with `--check` name those that differ and return 1."""
    differing = []
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (made := filled(text)) != text:
            differing.append(page.name)
            if "--check" not in arguments:
                page.write_text(made, encoding="utf-8")
    if differing and "--check" in arguments:
        print(f"not as the code makes them: {', '.join(differing)}; run python environments/docs/generate.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
