"""Benchmarks and prompt templates: small YAML files that say which problems, which prompt, which grader, which protocol."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from gmpo_mm.config.keys import nearest
from gmpo_mm.config.shipped import find_file
from gmpo_mm.data import RecordKeys, load_records, templates
from gmpo_mm.data.prompts import check_format_prompt
from gmpo_mm.data.records import Record, Records
from gmpo_mm.errors import ConfigError, DataError
from gmpo_mm.evaluation.results import Problem, Protocol
from gmpo_mm.evaluation.settings import RANGES
from gmpo_mm.evaluation.shipped import BENCHMARKS, shipped_benchmarks
from gmpo_mm.toys.synthetic_geometry import make_rows
from gmpo_mm.verifiers.extraction import EXTRACTIONS
from gmpo_mm.verifiers.graders import GRADERS

TEMPLATES_FILE = Path(__file__).parent / "prompt_templates.yaml"
MADE: dict[str, Callable[..., list[dict[str, Any]]]] = {"synthetic_geometry": make_rows}
"""Tasks whose problems are made on the spot, by name."""


@dataclass(frozen=True)
class Template:
    """How a problem becomes a prompt, where the answer then stands, and after which texts a response ends."""

    name: str
    format_prompt: str | None = None
    chat_template: str | None = None
    extraction: str = "auto"
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark's YAML holds; paths are relative to the working directory."""

    name: str
    protocol: dict[str, Any]
    template: str
    grader: str
    records: str | None = None
    made: dict[str, Any] | None = None
    make: str | None = None
    """The command that prepares `records`."""
    count: int | None = None
    prompt_key: str = "problem"
    answer_key: str = "answer"
    image_key: str = "images"
    image_dir: str | None = None
    """Folder that pictures are read from where it is not that of the records."""
    type_key: str | None = None
    """Column by which accuracy is broken down."""
    extraction: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    where: str = field(default="", compare=False)


def load_benchmark(name: str) -> Benchmark:
    """A shipped benchmark by name, or one of the user's by the path of its YAML file. Raises ConfigError."""
    path = BENCHMARKS / f"{name}.yaml"
    if name not in shipped_benchmarks():
        path = find_file(Path(name).expanduser())
        if path.suffix not in (".yaml", ".yml") or not path.is_file():
            known = shipped_benchmarks()
            meant = nearest(name, known)
            hint = f" (did you mean {meant}?)" if meant else ""
            raise ConfigError(
                f"benchmarks: no benchmark {name!r}{hint}; shipped are {', '.join(known)}, and a path to a YAML file names "
                "one of your own"
            )
    values = _read(path, Benchmark, required=("name", "protocol", "template", "grader"))
    benchmark = Benchmark(**values, where=str(path))
    if (benchmark.records is None) == (benchmark.made is None):
        raise ConfigError(f"{path}: give either records (a file, folder or hub name) or made (a task), not both or none")
    _check_choice(f"{path}: grader", benchmark.grader, GRADERS)
    if benchmark.made is not None:
        _check_choice(f"{path}: made.task", str(benchmark.made.get("task")), MADE)
    make_protocol(benchmark, load_template(benchmark.template), {})
    return benchmark


def load_template(name: str) -> Template:
    """A shipped prompt template by name, or one of the user's by the path of its YAML file. Raises ConfigError."""
    shipped = _load_yaml(TEMPLATES_FILE)
    known = ("format_prompt", "chat_template", "extraction", "stop")
    if name in shipped:
        values, where = shipped[name], f"{TEMPLATES_FILE.name}: {name}"
    else:
        path = Path(name).expanduser()
        if path.suffix not in (".yaml", ".yml") or not path.is_file():
            meant = nearest(name, shipped)
            hint = f" (did you mean {meant}?)" if meant else ""
            raise ConfigError(
                f"template={name}: no such prompt template{hint}; shipped are {', '.join(shipped)}, and a path to a YAML file "
                f"with {', '.join(known)} names one of your own"
            )
        values, where = _load_yaml(path), str(path)
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: {key} is not a key of a prompt template; those are {', '.join(known)}")
    template = Template(name, **{**values, "stop": tuple(values.get("stop", ()))})
    if name not in shipped:
        _check_own_template(template, where)
    _check_choice(f"{where}: extraction", template.extraction, EXTRACTIONS)
    return template


def _check_own_template(template: Template, where: str) -> None:
    """Raise ConfigError for a Jinja text that leaves the problem out, as the path of a file does in its place."""
    for key, text in (("format_prompt", template.format_prompt), ("chat_template", template.chat_template)):
        if text is not None and not isinstance(text, str):
            raise ConfigError(f"{where}: {key}: {text!r} is no text; give the Jinja text itself")
    try:
        if template.format_prompt is not None:
            check_format_prompt(template.format_prompt, f"{where}: format_prompt")
        used = {"messages"} if template.chat_template is None else templates.variables("chat", template.chat_template)
    except (DataError, templates.TemplateError) as error:
        raise ConfigError(f"{error}; give the Jinja text itself, not the path of a file") from None
    if "messages" not in used:
        raise ConfigError(f"{where}: chat_template: it leaves the problem out; it must use messages[-1].content")


def make_protocol(benchmark: Benchmark, template: Template, changes: Mapping[str, Any]) -> Protocol:
    """The benchmark's protocol with `changes`, which become part of its name: `language(n=4,temperature=0.6)`.

    Raises ConfigError for an unknown key or a value that no sampler can follow.
    """
    known = [item.name for item in fields(Protocol) if item.name not in ("template", "stop")]
    for key in benchmark.protocol:
        if key not in known:
            raise ConfigError(f"{benchmark.where}: protocol.{key} is not known; the keys are {', '.join(known)}")
    try:
        base = Protocol(**benchmark.protocol, template=benchmark.template)
    except TypeError as error:
        raise ConfigError(f"{benchmark.where}: protocol: {error}; it needs name, temperature, n and max_tokens") from None
    changed = replace(base, **changes, template=template.name, stop=template.stop)
    different = [
        f"{item.name}={getattr(changed, item.name)}"
        for item in fields(Protocol)
        if item.name not in ("name", "stop") and getattr(changed, item.name) != getattr(base, item.name)
    ]
    name = f"{base.name}({','.join(different)})" if different else base.name
    changed = replace(changed, name=name)
    _check_protocol(changed)
    return changed


def _check_protocol(protocol: Protocol) -> None:
    for key in ("temperature", "n", "max_tokens", "top_p", "top_k"):
        value, numbers = getattr(protocol, key), (int, float) if key in ("temperature", "top_p") else int
        if isinstance(value, bool) or not isinstance(value, numbers) or not RANGES[key].holds(value):
            kind = "a number" if isinstance(numbers, tuple) else "an integer"
            raise ConfigError(f"{key}={value}: give {kind}, {RANGES[key].describe()}")
    if protocol.temperature == 0 and protocol.n > 1:
        raise ConfigError(f"n={protocol.n} with temperature=0: greedy samples are all the same; set n=1 or a temperature")
    if protocol.temperature == 0 and (protocol.top_p < 1 or protocol.top_k > 0):
        raise ConfigError("top_p and top_k have no effect at temperature=0; leave them out")


def open_benchmark(benchmark: Benchmark, records: str | None = None, limit: int | None = None) -> Records:
    """The benchmark's problems, not yet checked; `records` names another place for them, `limit` takes the first ones.

    Raises DataError when the data is missing (with the command that makes it) or has another number of rows.
    """
    keys = RecordKeys(
        benchmark.prompt_key, benchmark.answer_key, benchmark.image_key, image_dir=benchmark.image_dir
    )
    if benchmark.made is not None and records is None:
        arguments = {key: value for key, value in benchmark.made.items() if key != "task"}
        rows = Records(MADE[benchmark.made["task"]](**arguments), keys, benchmark.name)
    else:
        spec = records or benchmark.records
        if spec is None:
            raise DataError(f"{benchmark.name}: no records are named; give records.{benchmark.name}=path/to/file.parquet")
        if benchmark.make and records is None and "/" in spec and not Path(spec.partition("@")[0]).exists():
            raise DataError(
                f"{benchmark.name}: {spec} is not there; prepare it with\n  {benchmark.make}\n"
                f"or name another place: records.{benchmark.name}=path/to/file.parquet"
            )
        rows = load_records(spec, keys)
    if benchmark.count is not None and len(rows) != benchmark.count:
        raise DataError(
            f"{benchmark.name}: {rows.name} has {len(rows)} problems, the benchmark {benchmark.count}; an accuracy over other "
            "problems would be another number. Prepare the data anew, or take the first ones with limit=N"
        )
    if limit is not None and limit > len(rows):
        raise DataError(f"limit={limit}: {benchmark.name} has {len(rows)} problems")
    if benchmark.type_key and benchmark.type_key not in rows.rows.columns:
        raise DataError(
            f"{benchmark.name}: {rows.name} has no column {benchmark.type_key!r} (type_key); its columns are "
            f"{', '.join(rows.rows.columns)}"
        )
    return rows.first(limit)


def to_problem(index: int, record: Record, type_key: str | None, pictures: tuple[str, ...] = ()) -> Problem:
    """A record as the result stores it."""
    kind = record.extra.get(type_key) if type_key else None
    return Problem(
        index=index, id=record.id, text=record.problem, golds=record.answers, type=None if kind is None else _type_text(kind),
        source=record.source, pictures=pictures,
    )  # fmt: skip


def _type_text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def problem_set_hash(records: Sequence[Record]) -> str:
    """SHA-256 over ids, texts, golds and pictures, in order."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps([record.id, record.problem, record.answers]).encode())
        for image in record.images:
            digest.update(image.encoded())
    return digest.hexdigest()


def _read(path: Path, kind: type, required: tuple[str, ...]) -> dict[str, Any]:
    values = _load_yaml(path)
    known = [item.name for item in fields(kind) if item.name != "where"]
    for key in values:
        if key not in known:
            meant = nearest(key, known)
            hint = f"did you mean {meant}?" if meant else f"known are {', '.join(known)}"
            raise ConfigError(f"{path}: {key} is not a key of a benchmark ({hint})")
    for key in required:
        if key not in values:
            raise ConfigError(f"{path}: {key} is missing; a benchmark needs {', '.join(required)}")
    return values


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(f"{path}: not readable as YAML: {reason}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a mapping of keys to values is expected")
    return values


def _check_choice(what: str, value: str, known: Any) -> None:
    if value not in known:
        raise ConfigError(f"{what}={value} is not known; use one of {', '.join(known)}")
