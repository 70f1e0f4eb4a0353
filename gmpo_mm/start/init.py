"""`gmpo-mm init`: a small configuration and a reward file to change, and what to type next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gmpo_mm.config import load_config
from gmpo_mm.config.preparations import missing_preparations, preparing_command
from gmpo_mm.errors import ConfigError

FOLDER = Path(__file__).parent / "kinds"
CONFIG_SUFFIX = ".yaml"
REWARD = "reward.py"
REWARD_OF = {"countdown": "reward_countdown.py"}
"""The reward of a kind whose answers are no text in a box."""

KINDS = {
    "quickstart": "the bundled vision-language model on toy pictures: a CPU, two minutes",
    "geometry3k": "Qwen2.5-VL-3B-Instruct on Geometry3K: one 80 GB GPU",
    "countdown": "the bundled mixture of experts on CountDown: a CPU, three minutes",
    "math": "Qwen2.5-Math-1.5B on MATH, levels 3 to 5: one 80 GB GPU",
    "smollm2": "SmolLM2-135M on arithmetic in words: a CPU, ten minutes",
}


@dataclass(frozen=True)
class Started:
    """What was written, and what to type next: command -> what it does."""

    files: tuple[Path, ...]
    commands: dict[str, str]


def init(kind: str, folder: Path) -> Started:
    """Write `KIND.yaml` and `reward.py` into `folder`. Raises ConfigError where a file is there already."""
    name = f"{kind}{CONFIG_SUFFIX}"
    texts = {folder / name: FOLDER / name, folder / REWARD: FOLDER / REWARD_OF.get(kind, REWARD)}
    there = [str(path) for path in texts if path.exists() or path.is_symlink()]
    if there:
        raise ConfigError(
            f"{', '.join(there)}: there already, and nothing is overwritten; name another folder: gmpo-mm init {kind} DIR"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, source in texts.items():
            with path.open("x", encoding="utf-8") as file:
                file.write(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{error.filename or folder}: can't be written ({error.strerror}); name another folder") from error
    return Started(tuple(texts), _commands(folder / name))


def _commands(config: Path) -> dict[str, str]:
    folder, name = config.parent, config.name
    commands = {} if folder.resolve() == Path.cwd() else {f"cd {folder}": ""}
    missing = list(missing_preparations(load_config(config).config, folder))
    if missing:
        commands[preparing_command([item.preparation for item in missing], folder)] = "makes the data" + (
            " and the model" if any(item.key.endswith("model_path") for item in missing) else ""
        )
    commands[f"gmpo-mm train {name} --dry-run"] = "checks everything and says what would happen"
    commands[f"gmpo-mm train {name}"] = "trains; the same command goes on after a stop"
    commands[f"gmpo-mm report runs/{config.stem}"] = "draws what happened"
    return commands
