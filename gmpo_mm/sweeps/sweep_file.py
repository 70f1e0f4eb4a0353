"""The sweep file: a base configuration, named variants, seeds, an evaluation, a budget; every mistake names key and fix.

    name: quickstart
    base: configs/quickstart.yaml            # relative to the working directory, as all paths in configurations
    overrides: [trainer.max_steps=60]        # of every run
    variants:                                # the first is the one that others are compared with
      grpo: {label: GRPO, overrides: [worker.actor.loss_type=default]}
      gmpo: {label: GMPO, base: other.yaml}  # a base of its own, when the two files differ in more than a few keys
    seeds: [1, 2, 3]

The keys in full: `Sweep`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gmpo_mm.config.keys import nearest, schema_keys, section_names
from gmpo_mm.config.ranges import LARGEST_SEED
from gmpo_mm.config.shipped import find_file, shipped_hint
from gmpo_mm.config.words import settings_for_key
from gmpo_mm.config.yaml_text import parse_override, read_file
from gmpo_mm.credentials import clean, hide, hide_argument, hide_command, hide_written, remember, texts_of
from gmpo_mm.errors import ConfigError
from gmpo_mm.reports.stop_rule import StopRule
from gmpo_mm.sweeps.seed_budget import BUDGET_KEYS, read_stop_rule
from gmpo_mm.sweeps.sweep_map import AXIS_KEYS, COLLAPSE_KL, COLUMN_KEYS, MAP_KEYS, PANEL_KEYS, Place, SweepMap, Variant

KEYS = (
    "name", "title", "base", "overrides", "variants", "seeds", "evaluation", "target_score", "budget", "paper", "ray_address",
    "map",
)  # fmt: skip
VARIANT_KEYS = ("label", "base", "overrides", "paper_line")
SET_BY_THE_SWEEP = {
    "worker.rollout.seed": "the sweep sets it, one run for each of its seeds: [...]",
    "data.seed": "the sweep sets it, one run for each of its seeds: [...]",
    "trainer.run_dir": "the sweep gives every run a directory of its own under --out",
    "trainer.save_checkpoint_path": "the sweep gives every run a directory of its own under --out",
    "trainer.experiment_name": "the sweep calls every run NAME_VARIANT_seed_N, so that trackers tell them apart",
}
"""Keys that no override may set, and why."""

_RESOLVER = re.compile(r"(?<!\\)\$\{\s*[\w.]+\s*:")
"""`${oc.env:NAME}`, and what else is no name of a key."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_NAME_RULE = "letters, digits, _ and -, at most 64 (it names folders)"


@dataclass(frozen=True)
class Sweep:
    """A sweep file, resolved and checked by itself; the configurations that it names are checked by `planning`."""

    name: str
    base: str
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    title: str | None = None
    overrides: tuple[str, ...] = ()
    evaluation: str | None = None
    target_score: float | None = None
    budget_hours: float | None = None
    stop_rule: StopRule | None = None
    paper: Mapping[str, Any] | None = None
    ray_address: str | None = None
    map: SweepMap | None = None
    """Where the variants are the cells of a map; `variants` then holds them all, and `map.rows` those of the file."""
    written: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Dotted key -> the value as it was written, of those that come from the environment; overrides always are as written."""

    def saved(self, key: str, value: Any) -> Any:
        """The value of a key as it may be saved and shown."""
        return hide_written(key, self.written[key]) if key in self.written else hide(key, value)

    @property
    def budget(self) -> dict[str, Any] | None:
        """The keys of `budget`, None where none is set."""
        rule = {} if self.stop_rule is None else self.stop_rule.to_dict()
        return _set_keys(hours=self.budget_hours, **rule) or None

    def to_dict(self) -> dict[str, Any]:
        """What `load_sweep` reads back; keys that are not set are left out, and secret values are `<hidden>`."""
        rows = self.variants if self.map is None else self.map.rows
        variants = {
            variant.name: _set_keys(
                label=self.saved(f"variants.{variant.name}.label", variant.label),
                base=self.saved(f"variants.{variant.name}.base", variant.base),
                overrides=hide_command(variant.overrides), paper_line=variant.paper_line
            )
            for variant in rows
        }
        return _set_keys(
            name=self.name, title=self.saved("title", self.title), base=self.saved("base", self.base),
            overrides=hide_command(self.overrides), variants=variants,
            seeds=list(self.seeds), evaluation=self.saved("evaluation", self.evaluation),
            target_score=self.target_score,
            budget=self.budget,
            paper=None if self.paper is None else self.saved("paper", dict(self.paper)),
            ray_address=self.saved("ray_address", self.ray_address),
            map=None if self.map is None else self._map_to_dict(self.map),
        )  # fmt: skip

    def _map_to_dict(self, found: SweepMap) -> dict[str, Any]:
        def places(key: str, some: Sequence[Place]) -> dict[str, Any]:
            return {
                one.name: _set_keys(
                    label=self.saved(f"{key}.{one.name}.label", one.label), base=self.saved(f"{key}.{one.name}.base", one.base),
                    overrides=hide_command(one.overrides), columns=list(one.columns),
                )
                for one in some
            }  # fmt: skip

        axis = {"label": self.saved("map.axis.label", found.axis), "values": places("map.axis.values", found.columns)}
        panels = places("map.panels", found.panels) or None
        exponents = dict(found.exponents) or None
        return _set_keys(axis=axis, panels=panels, collapse_kl=found.collapse_kl, exponents=exponents)


def variants_of(content: dict[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Name -> base and overrides of the variants in what `Sweep.to_dict` gave, the cells of a map among them."""
    if "map" not in content:
        return content["variants"]
    cells = _to_sweep(content, Path("sweep.yaml")).variants
    return {cell.name: _set_keys(base=cell.base, overrides=list(cell.overrides)) for cell in cells}


def _set_keys(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None and value != []}


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep file, then `key=value` of the command line. Raises ConfigError with key, value and fix."""
    layers = [OmegaConf.create(_read(find_file(path)))]
    for text in overrides:
        layers.append(OmegaConf.create(parse_override(text, "seeds=[1] or budget.hours=1")))
    try:
        merged = OmegaConf.merge(*layers)
        written: Any = OmegaConf.to_container(merged, resolve=False)
        remember("", written)
        content: Any = OmegaConf.to_container(merged, resolve=True)
    except (OmegaConfBaseException, TypeError) as error:
        raise ConfigError(clean(f"sweep file {path}: {str(error).splitlines()[0]}")) from error
    outside: dict[str, Any] = {}
    content = _as_written(content, written, "", outside)
    return replace(_to_sweep({str(key): value for key, value in content.items()}, Path(path)), written=outside)


def _as_written(content: Any, written: Any, key: str, outside: dict[str, Any]) -> Any:
    """`content` with what overrides take from the environment unresolved: each run looks it up itself, and none is saved.

    `outside` gets the values of other keys that come from there.
    """
    if isinstance(content, dict) and isinstance(written, dict):
        return {
            name: _as_written(value, written.get(name), f"{key}.{name}".lstrip("."), outside) for name, value in content.items()
        }
    from_outside = any(_RESOLVER.search(text) for text in texts_of(written))
    if from_outside and key.rpartition(".")[2] == "overrides" and isinstance(content, list) and isinstance(written, list):
        return [raw if _RESOLVER.search(str(raw)) else value for value, raw in zip(content, written, strict=True)]
    if from_outside:
        outside[key] = written
    return content


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        nearby = ", ".join(str(p) for p in sorted(path.parent.glob("*.y*ml"))[:8]) if path.parent.is_dir() else ""
        nearby = f"; there are: {nearby}." if nearby else "."
        raise ConfigError(f"sweep file {path}: there is no such file{nearby}{shipped_hint(path)}")
    content = read_file(path, "sweep file")
    if not isinstance(content, dict):
        raise ConfigError(f"sweep file {path} holds a {type(content).__name__}; keys are expected (base: ..., variants: ...)")
    if "variants" not in content and {"worker", "trainer"} & set(content):
        raise ConfigError(f"{path} configures one run; gmpo-mm train {path} trains it, and a sweep file names it as its base")
    return {str(key): value for key, value in content.items()}


def _to_sweep(content: dict[str, Any], path: Path) -> Sweep:
    _check_keys(content, KEYS, f"sweep file {path}", "")
    for key in ("base", "variants", "seeds"):
        if content.get(key) in (None, {}, []):
            raise ConfigError(f"sweep file {path}: {key} is not set; base, variants and seeds are what makes a sweep")
    name = str(_take(content, "name", _is_text, "a text") or path.stem)
    _check_name("name", name)
    budget = _take(content, "budget", lambda value: isinstance(value, dict), "hours: NUMBER, or stop_when: decided") or {}
    _check_keys(budget, BUDGET_KEYS, "budget", "budget.")
    rows = _variants(content["variants"])
    found = None if content.get("map") is None else _map(content["map"], rows)
    variants = rows if found is None else found.variants()
    if found is not None and budget.get("stop_when") is not None:
        raise ConfigError(
            f"sweep file {path}: budget.stop_when = {budget['stop_when']!r} decides between two variants, and a map has many "
            "cells; leave out budget.stop_when, or map"
        )
    return Sweep(
        name=name,
        base=_take(content, "base", _is_text, "the path of a configuration"),
        variants=variants,
        seeds=_seeds(content["seeds"]),
        title=_take(content, "title", _is_text, "a text"),
        overrides=_overrides(content, ""),
        evaluation=_take(content, "evaluation", _is_text, "the path of an evaluation's YAML file"),
        target_score=_take(content, "target_score", _is_number, "a number"),
        budget_hours=_take(budget, "hours", _is_hours, "a number of hours above 0 and at most 1e6", "budget."),
        stop_rule=read_stop_rule(budget, [variant.name for variant in variants]),
        paper=_take(content, "paper", lambda value: isinstance(value, dict), "a mapping (table: 4)"),
        ray_address=_take(content, "ray_address", _is_text, "a text: auto, host:port or http://host:8265"),
        map=found,
    )


def _map(content: Any, rows: tuple[Variant, ...]) -> SweepMap:
    if not isinstance(content, dict):
        raise ConfigError(f"map = {content!r}: a mapping is expected, map: {{axis: {{label: ..., values: {{...}}}}}}")
    _check_keys(content, MAP_KEYS, "map", "map.")
    axis = _take(content, "axis", lambda value: isinstance(value, dict), "label: TEXT, values: {...}", "map.") or {}
    _check_keys(axis, AXIS_KEYS, "map.axis", "map.axis.")
    if not axis.get("values"):
        raise ConfigError("map.axis.values is not set; it holds the columns, values: {slow: {label: ..., overrides: [...]}}")
    exponents = _take(content, "exponents", lambda value: isinstance(value, dict), "a mapping of rows, gmpo: 0", "map.") or {}
    names = [row.name for row in rows]
    for row, p in exponents.items():
        if row not in names:
            raise ConfigError(f"map.exponents.{row} = {p!r}: there is no such row; the variants are {', '.join(names)}")
        _take(exponents, row, _is_number, "a number", "map.exponents.")
    bound = _take(content, "collapse_kl", lambda value: _is_number(value) and value > 0, "a number above 0", "map.")
    found = SweepMap(
        axis=_take(axis, "label", _is_text, "a text", "map.axis.") or "value",
        rows=rows,
        columns=_places(axis["values"], "map.axis.values", COLUMN_KEYS),
        panels=_places(content.get("panels") or {}, "map.panels", PANEL_KEYS),
        collapse_kl=COLLAPSE_KL if bound is None else float(bound),
        exponents={row: float(p) for row, p in exponents.items()},
    )
    for panel in found.panels:
        if strangers := [name for name in panel.columns if name not in axis["values"]]:
            raise ConfigError(
                f"map.panels.{panel.name}.columns = {list(panel.columns)}: there is no column {strangers[0]}; the columns are "
                f"{', '.join(axis['values'])}"
            )
    seen: dict[str, str] = {}
    for variant in found.variants():
        if variant.name in seen:
            raise ConfigError(
                f"map: {seen[variant.name]!r} and {variant.label!r} would both be called {variant.name}; rename a row, column "
                "or panel"
            )
        _check_name("map", variant.name)
        seen[variant.name] = variant.label
    return found


def _sections(content: Any, key: str, example: str, known: Sequence[str]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Name, prefix of its keys, and content of each section of a mapping of names, checked for unknown keys."""
    if not isinstance(content, dict):
        raise ConfigError(f"{key} = {content!r}: a mapping of names is expected, {key}: {{{example}: {{overrides: [...]}}}}")
    for name, values in content.items():
        if not isinstance(name, str):
            raise ConfigError(f"{key}.{name}: YAML reads this name as a {type(name).__name__}; begin it with a letter")
        _check_name(key, name)
        if not isinstance(values, dict):
            raise ConfigError(f"{key}.{name} = {values!r}: a mapping is expected, {name}: {{overrides: [key=value, ...]}}")
        _check_keys(values, known, f"{key}.{name}", f"{key}.{name}.")
        yield name, f"{key}.{name}.", values


def _places(content: Any, key: str, known: Sequence[str]) -> tuple[Place, ...]:
    found = []
    for name, where, values in _sections(content, key, "slow", known):
        label = _take(values, "label", lambda value: _is_text(value) or _is_number(value), "a text", where)
        base = _take(values, "base", _is_text, "the path of a configuration", where)
        columns = _take(values, "columns", lambda value: isinstance(value, list), "a list of columns", where) or ()
        found.append(Place(name, name if label is None else str(label), base, _overrides(values, where), tuple(columns)))
    return tuple(found)


def _variants(content: Any) -> tuple[Variant, ...]:
    return tuple(
        Variant(
            name=name,
            label=_take(values, "label", _is_text, "a text", where) or name,
            base=_take(values, "base", _is_text, "the path of a configuration", where),
            overrides=_overrides(values, where),
            paper_line=_take(values, "paper_line", _is_integer, "a line of the paper's table", where),
        )
        for name, where, values in _sections(content, "variants", "grpo", VARIANT_KEYS)
    )


def _overrides(content: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The list, each `key=value`; a key that the sweep itself sets is an error."""
    found = _take(content, "overrides", lambda value: isinstance(value, list), "a list of key=value", where) or []
    for text in found:
        if not isinstance(text, str) or "=" not in text:
            raise ConfigError(
                f"{where}overrides: {hide_argument(str(text))!r} is no key=value; write each as one text, in quotes "
                "where it holds a colon, comma or brace: 'worker.rollout.n=8'"
            )
        key = text.partition("=")[0].strip()
        if key in SET_BY_THE_SWEEP:
            raise ConfigError(f"{where}overrides: {hide_argument(text)}: {SET_BY_THE_SWEEP[key]}; remove it")
    return tuple(found)


def _seeds(content: Any) -> tuple[int, ...]:
    if not isinstance(content, list) or not all(_is_integer(seed) and 0 <= seed <= LARGEST_SEED for seed in content):
        raise ConfigError(f"seeds = {content!r}: a list of integers from 0 to 2**63 - 1 is expected, seeds: [1, 2, 3]")
    twice = sorted({seed for seed in content if content.count(seed) > 1})
    if twice:
        raise ConfigError(f"seeds = {content!r}: {twice[0]} stands there twice; equal seeds give equal runs")
    return tuple(content)


def _check_name(key: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{key}: {name!r} can't be a name; use {_NAME_RULE}")


def _check_keys(content: Mapping[str, Any], known: Sequence[str], what: str, prefix: str) -> None:
    """ConfigError that names every unknown key at once."""
    problems = []
    for key, value in content.items():
        if key in known:
            continue
        message = f"{prefix}{key} = {hide(str(key), value)!r} ({what}): there is no such key."
        meant = nearest(str(key), known)
        if prefix == "" and (key in schema_keys() or key in section_names()):
            message = f"{key} = {hide(str(key), value)!r} ({what}): a key of the runs; it goes into a list, "
            message += f"overrides=[{key}...=...]"
        elif meant is not None:
            message += f" Did you mean {prefix}{meant}? Known: {', '.join(known)}"
        else:
            theirs = settings_for_key(str(key), value)
            message += f" {theirs} It goes into a list, overrides: [...]." if theirs else f" Known: {', '.join(known)}"
        problems.append(message)
    if problems:
        raise ConfigError("\n\n".join(problems))


def _take(content: Mapping[str, Any], key: str, fits: Callable[[Any], bool], expected: str, where: str = "") -> Any:
    """The value of a key, None when it is not set; ConfigError when it is of another kind."""
    value = content.get(key)
    if value is not None and not fits(value):
        raise ConfigError(f"{where}{key} = {value!r}: {expected} is expected")
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e12


def _is_hours(value: Any) -> bool:
    return _is_number(value) and 0 < value <= 1e6
