"""What `gmpo-mm evaluate` is asked for: a YAML file, then `key=value`, then options; what comes later wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gmpo_mm.config.backends import SAMPLERS
from gmpo_mm.config.keys import describe_type, is_text, nearest
from gmpo_mm.config.ranges import LARGEST_SEED, Range, count, number, ranges_of, unlimited
from gmpo_mm.config.shipped import find_file, shipped_hint
from gmpo_mm.config.yaml_text import parse_override, read_file
from gmpo_mm.credentials import clean, hide, hide_argument, remember
from gmpo_mm.errors import ConfigError, GMPOError
from gmpo_mm.evaluation.shipped import shipped_benchmarks

BACKENDS = ("auto", *SAMPLERS, "server")
OTHER_NAMES = {
    "benchmark": "benchmarks", "dataset": "benchmarks", "tasks": "benchmarks", "model_path": "model", "pretrained": "model",
    "max_new_tokens": "max_tokens", "max_completion_length": "max_tokens", "max_response_length": "max_tokens",
    "num_generations": "n", "num_samples": "n", "n_samples": "n", "k": "n", "samples": "n", "batch_size": "batch",
    "output_dir": "out", "output": "out", "run_dir": "out", "prompt_template": "template", "num_fewshot": "template",
    "stop_when": "stop_when_decided", "target_width": "stop_when_decided",
    "base_url": "server", "api_base": "server", "url": "server", "timeout": "request_timeout",
}  # fmt: skip
"""What other tools call a key."""
TRAINING_SECTIONS = frozenset({"data", "algorithm", "worker", "trainer"})

TRAINING_KEYS = {
    "worker.actor.model.model_path": "model",
    "worker.actor.model.trust_remote_code": "trust_remote_code",
    "worker.rollout.name": "backend",
    "worker.rollout.temperature": "temperature",
    "worker.rollout.max_model_len": "max_tokens",
    "worker.rollout.gpu_memory_utilization": "gpu_memory_utilization",
    "data.train_files (or val_files)": "records",
    "data.override_chat_template": "template",
    "data.format_prompt": "template",
    "trainer.device": "device",
    "trainer.dtype": "dtype",
}
"""Keys of a training that errors of its loaders and samplers name -> the evaluation's own."""


@dataclass
class EvaluateSettings:
    """The keys of an evaluation's YAML file. `None` leaves the benchmark's own value."""

    model: str = ""  # a folder, a hub name, bundled:NAME, a run directory, or the name a server knows
    benchmarks: list[str] = field(default_factory=list)  # shipped names or YAML files
    records: dict[str, str] = field(default_factory=dict)  # benchmark -> file, folder or hub name, instead of its own
    limit: int | None = count(None)  # the first problems only; part of the result's name
    template: str | None = None
    grader: str | None = None
    extraction: str | None = None
    grade_timeout: float = number(3.0, 0, 86400, above=True)  # seconds of CPU time for one comparison
    unevaluated: str = "accept"  # accept | reject: a right expression that is only copied out of its problem
    n: int | None = count(None, 1, 10**5)
    temperature: float | None = number(None, 0.01, 100, off=0, off_means="greedy samples")
    top_p: float | None = number(None, 0, 1, above=True)
    top_k: int | None = unlimited(None)
    max_tokens: int | None = count(None, 1, 10**7)
    seed: int = number(1, 0, LARGEST_SEED)
    backend: str = "auto"  # auto | hf | vllm | server
    batch: int = count(256, 1, 10**6)  # responses sampled at once; changes no result
    out: str | None = None  # evaluations/<model>
    stop_when_decided: float | None = number(None, 0, 1, above=True)  # width of the interval of Pass@1
    overwrite: bool = False
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = count(None, 1, 4096)
    trust_remote_code: bool = False
    gpu_memory_utilization: float = number(0.85, 0, 1, above=True)  # vllm
    server: str | None = None  # URL of an OpenAI-compatible server, with /v1
    concurrency: int = count(16, 1, 10**4)  # requests open at once
    retries: int = count(5, 0, 10**4)
    request_timeout: float = number(600.0, 0, 86400, above=True)  # seconds


RANGES: dict[str, Range] = dict(ranges_of(EvaluateSettings))
"""Key -> its range; a benchmark's protocol has the same."""


def load_settings(path: str | None, overrides: Sequence[str], options: dict[str, Any]) -> EvaluateSettings:
    """Read, merge and check. Raises ConfigError with key, value and fix."""
    layers: list[tuple[str, dict[str, Any]]] = []
    if path is not None:
        layers.append((path, _read_file(path)))
    for text in overrides:
        layers.append((f"override {hide_argument(text)}", _parse(text)))
    layers.append(("option", options))
    merged = OmegaConf.structured(EvaluateSettings)
    hints = get_type_hints(EvaluateSettings)
    unknown: list[str] = []
    for origin, values in layers:
        remember("", values)
        for key, value in values.items():
            if key not in hints:
                unknown.append(_unknown(key, value, origin))
                continue
            if hints[key] == list[str] and isinstance(value, str):
                value = [part.strip() for part in value.split(",") if part.strip()]
            if is_text(hints[key]) and isinstance(value, bool):  # YAML reads a bare `no`, which is a template, as false
                raise ConfigError(f"{key}={str(value).lower()} ({origin}): a text is expected; put it in quotes if it is one")
            try:
                if hints[key] is bool and isinstance(value, (int, float)) and value not in (0, 1):
                    raise ValueError("OmegaConf takes every number for true")
                OmegaConf.update(merged, key, value, merge=True)
            except (OmegaConfBaseException, OverflowError, ValueError) as error:
                raise ConfigError(f"{key}={hide(key, value)!r} ({origin}): {describe_type(hints[key])} is expected") from error
    if unknown:
        raise ConfigError("\n\n".join(unknown))
    try:
        settings = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:  # an interpolation that leads nowhere, or a value that is missing
        key = getattr(error, "full_key", None) or "the evaluation"
        raise ConfigError(f"{key}: {clean(str(error).splitlines()[0])}; write the value itself") from error
    assert isinstance(settings, EvaluateSettings)
    _check(settings)
    return settings


def protocol_changes(settings: EvaluateSettings) -> dict[str, Any]:
    """The protocol's keys that the settings set."""
    keys = ("n", "temperature", "top_p", "top_k", "max_tokens")
    return {key: getattr(settings, key) for key in keys if getattr(settings, key) is not None}


def with_own_keys(error: GMPOError) -> GMPOError:
    """The same error, speaking of the evaluation's keys."""
    text = str(error)
    for theirs, ours in TRAINING_KEYS.items():
        text = text.replace(theirs, ours)
    return type(error)(text)


def _read_file(path: str) -> dict[str, Any]:
    file = find_file(path)
    if not file.is_file():
        raise ConfigError(
            f"evaluation file {path}: there is no such file; without one, give --model and --benchmark.{shipped_hint(path)}"
        )
    values = read_file(file, "evaluation file")
    if not isinstance(values, dict):
        raise ConfigError(f"evaluation file {path}: a mapping of keys to values is expected (model: ..., benchmarks: [...])")
    training = sorted(TRAINING_SECTIONS & set(values))
    if training:
        raise ConfigError(
            f"{path} configures a training ({', '.join(map(str, training))}); to evaluate what it trained: gmpo-mm evaluate "
            "--model RUN_DIRECTORY --benchmark NAME"
        )
    return {str(key): value for key, value in values.items()}


def _parse(text: str) -> dict[str, Any]:
    key = text.partition("=")[0]
    values = parse_override(text, "n=4")
    hint = get_type_hints(EvaluateSettings).get(key.strip())
    if is_text(hint) and isinstance(values[key.strip()], (bool, int, float)):
        return {key.strip(): text.partition("=")[2].strip()}  # template=no is a name, and so is model=7
    return {str(key): value for key, value in values.items()}


def _unknown(key: str, value: Any, origin: str) -> str:
    known = [item.name for item in fields(EvaluateSettings)]
    meant = OTHER_NAMES.get(key.lower().replace("-", "_")) or nearest(key, known)
    hint = f" Did you mean {meant}?" if meant else ""
    return f"{key}={hide(key, value)!r} ({origin}): there is no such key.{hint} Known: {', '.join(known)}"


def _check(settings: EvaluateSettings) -> None:
    if not settings.benchmarks:
        raise ConfigError(f"benchmarks: none given; name some of {', '.join(shipped_benchmarks())}")
    if settings.backend not in BACKENDS:
        raise ConfigError(f"backend={settings.backend} is not known; use one of {', '.join(BACKENDS)}")
    if settings.server is not None and settings.backend not in ("auto", "server"):
        raise ConfigError(f"server=... has no effect with backend={settings.backend}; set backend=server")
    if settings.backend == "server" and settings.server is None:
        raise ConfigError("backend=server needs server=URL, as http://127.0.0.1:8000/v1")
    if settings.server is None and not settings.model:
        raise ConfigError("model: none given; name a folder, a hub model, bundled:qwen2_5_vl_tiny or a run directory")
    if settings.unevaluated not in ("accept", "reject"):
        raise ConfigError(f"unevaluated={settings.unevaluated} is not known; use accept or reject")
    for key, allowed in RANGES.items():
        value = getattr(settings, key)
        if value is not None and not allowed.holds(value):
            raise ConfigError(f"{key}={value}: it must be {allowed.describe()}")
