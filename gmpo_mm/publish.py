"""A trained model as a folder of its own: stock weights, tokenizer, and a model card; on the hub only when asked."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gmpo_mm.config import Config, load_config
from gmpo_mm.config.engine_facts import engine_name
from gmpo_mm.config.paths import find_model, looks_like_path, resolve_model_path
from gmpo_mm.datasets.preparing import new_folder
from gmpo_mm.errors import ConfigError
from gmpo_mm.evaluation.results import SUMMARY, read_spec, read_summary
from gmpo_mm.runs.metrics_file import FILE_NAME, read_metrics
from gmpo_mm.runs.usable_model import ORIGIN_FILE, usable_model
from gmpo_mm.version import VERSION

CARD = "README.md"
HIDDEN = "[hidden]"
_SECRET_KEY = re.compile(r"(?i)(key|token|secret|passw(or)?d|credential|auth)$")
_SECRET = re.compile(r"\b(?:hf|sk|ghp|wandb)[_-][A-Za-z0-9_-]{16,}")
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"(https?://[^\s?]+)\?\S+")
_STEP = re.compile(r"(?:global_)?step_(\d+)")


def export(model: str, out: Path, note: Callable[[str], None] = lambda text: None) -> Path:
    """Write MODEL (a run, a checkpoint, an adapter's folder) to the new folder `out`, merged, with a model card.

    Raises ConfigError for a model that is not here, DataError when `out` holds something or can't be written.
    """
    source = Path(resolve_model_path(usable_model(model, "MODEL", note, whole=True)))
    if not source.is_dir():
        raise ConfigError(f"MODEL = {model!r}: --out takes a run, a checkpoint or a model's folder; this one is on the hub")
    with new_folder(out) as folder:
        for path in sorted(source.iterdir()):
            if path.is_file() and not path.name.startswith(".") and path.name not in (CARD, ORIGIN_FILE):
                note(f"writing {out / path.name}")
                shutil.copyfile(path, folder / path.name)
        (folder / CARD).write_text(make_card(model, source, out.resolve().name), encoding="utf-8")
    return out


def make_card(model: str, source: Path, title: str) -> str:
    """The model card: base, algorithm, data, steps, scores and command of the run that the model comes from.

    Machine paths become their last part, secrets `[hidden]`.
    """
    run = next((path for path in (source, *source.parents) if (path / "run.json").is_file()), None)
    if run is None:
        return f"# {title}\n\nMade with gmpo-mm {VERSION} from a model folder; how it was trained is not known.\n"
    config = load_config(run / "config.yaml").config
    found = next((match for part in reversed(source.parts) if (match := _STEP.fullmatch(part))), None)
    step = int(found.group(1)) if found else None
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    of = f" of {facts['total_steps']}" if facts.get("total_steps") else ""
    rows = [*_facts(config), ("steps", f"{step if step is not None else facts.get('step')}{of}")]
    table = "\n".join(f"| {name} | {text} |" for name, text in rows)
    scores = "\n".join(f"| {name} | {value:.3f} |" for name, value in _scores(run, model, source, step))
    words = visible(facts.get("command") or [])
    command = " ".join(["gmpo-mm" if words[:1] == ["__main__.py"] else word for word in words[:1]] + words[1:])
    return (
        f"{_front_matter(config)}\n# {title}\n\n"
        f"Trained with gmpo-mm {VERSION} (GMPO: [arXiv 2507.20673](https://arxiv.org/abs/2507.20673)).\n\n"
        f"| | |\n| --- | --- |\n{table}\n"
        + (f"\n## Scores\n\n| | |\n| --- | --- |\n{scores}\n" if scores else "")
        + (f"\n## Command\n\n```sh\n{command}\n```\n" if command else "")
    )


def visible(command: Sequence[str]) -> list[str]:
    """The words of a command line without secrets, and with machine paths cut to their last part."""
    shown, hide = [], False
    for word in command:
        flag = word.startswith("-") and "=" not in word and bool(_SECRET_KEY.search(word))
        shown.append(HIDDEN if hide else _visible_word(word))
        hide = flag
    return shown


def _visible_word(word: str) -> str:
    key, equals, value = word.partition("=")
    if equals and _SECRET_KEY.search(key):
        return f"{key}={HIDDEN}"
    value = value if equals else key
    value = _SECRET.sub(HIDDEN, _QUERY.sub(rf"\1?{HIDDEN}", _CREDENTIALS.sub(f"{HIDDEN}@", value)))
    value = re.sub(r"(?<![\w:/.])(?:~|/|[A-Za-z]:\\)[^\s,;:'\"\]}]*", lambda path: Path(path.group()).name, value)
    return f"{key}={value}" if equals else value


def _facts(config: Config) -> Iterator[tuple[str, str]]:
    actor, rollout, data = config.worker.actor, config.worker.rollout, config.data
    yield "base", f"`{_visible_word(actor.model.model_path or '')}`"
    if actor.model.lora.rank > 0:
        yield "trained", f"a LoRA adapter of rank {actor.model.lora.rank}, merged"
    yield "loss", f"`{_visible_word(actor.loss_type)}`, advantages `{config.algorithm.adv_estimator}`"
    yield "learning rate", f"{actor.optim.lr:g}"
    yield "data", f"`{_visible_word(data.train_files)}`"
    yield "reward", f"`{_visible_word(config.worker.reward.reward_function or '')}`"
    yield "a step", f"{data.rollout_batch_size} prompts, {rollout.n} responses each, temperature {rollout.temperature:g}"
    yield "an update", f"{actor.global_batch_size} prompts"
    yield "engine", engine_name(config)


def _front_matter(config: Config) -> str:
    """What the hub reads; the base only where the hub has it."""
    base = config.worker.actor.model.model_path or ""
    on_hub = "/" in base and not looks_like_path(base) and not Path(base).exists()
    named = [f"base_model: {base}"] if on_hub else []
    return "\n".join(["---", "library_name: transformers", *named, "tags: [reinforcement-learning, gmpo-mm]", "---", ""])


def _scores(run: Path, model: str, source: Path, step: int | None) -> Iterator[tuple[str, float]]:
    """The run's last validation up to this step, and evaluations of this model that lie in the run's folder."""
    lines = read_metrics(run) if (run / FILE_NAME).is_file() else []
    past = [line for line in lines if line["kind"] == "validation" and (step is None or line["step"] <= step)]
    for key in ("val/accuracy_reward", "val/overall_reward") if past else ():
        if key in past[-1]:
            yield f"validation, {key.removeprefix('val/').replace('_', ' ')} after step {past[-1]['step']}", past[-1][key]
    here = {source.resolve(), Path(find_model(model, "MODEL")).resolve()}
    for summary in sorted((run / "evaluations").rglob(SUMMARY)):
        spec, numbers = read_spec(summary.parent), read_summary(summary.parent)
        if Path(spec.model).resolve() in here and numbers:
            early = numbers.get("stopped_early")
            partly = f", stopped early after {early['problems']} of {early['of']} problems" if early else ""
            yield f"{spec.name}, Pass@1{partly}", numbers["pass_at_1"]["value"]


def check_push(name: str) -> None:
    """ConfigError unless the hub takes uploads to NAME from here; asked before anything long begins."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
        if constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled
        HfApi().whoami()
    except HFValidationError:
        raise ConfigError(f"--push {name}: that is no name of the hub; give owner/name") from None
    except OfflineModeIsEnabled:
        raise ConfigError(f"--push {name}: offline mode is on (HF_HUB_OFFLINE); unset it, or leave --push out") from None
    except Exception as error:  # types of the HTTP library, which is another one from version to version
        first = (str(error).strip().splitlines() or [""])[0]
        raise ConfigError(
            f"--push {name}: the hub does not take uploads from here ({type(error).__name__}: {first}); log in with "
            "`hf auth login` or set HF_TOKEN, or leave --push out"
        ) from None


def push(folder: Path, name: str) -> str:
    """Upload a folder that `export` wrote, as a private model where the hub has none of this name; returns its address."""
    from huggingface_hub import HfApi

    api = HfApi()
    address: Any = api.create_repo(name, private=True, exist_ok=True)
    api.upload_folder(repo_id=name, folder_path=str(folder))
    return str(address)
