"""The files of `configs/`: they come with the package, and can be named as `geometry3k/gmpo_qwen2_5_vl_7b`."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from gmpo_mm.config.keys import nearest
from gmpo_mm.config.paths import PACKAGE

FOLDER = "configs"
SUFFIXES = (".yaml", ".yml")


@cache
def shipped_folder() -> Path:
    """The folder with the shipped configurations: in the package when it was installed from a wheel, else the checkout's."""
    installed = PACKAGE / FOLDER
    return installed if installed.is_dir() else PACKAGE.parent / FOLDER


@cache
def shipped_files() -> dict[str, Path]:
    """Name relative to `configs/` -> file, for everything that ships: configurations (with suffix) and prompts."""
    folder = shipped_folder()
    found = (path for path in folder.rglob("*") if path.suffix in (*SUFFIXES, ".jinja"))
    return {path.relative_to(folder).as_posix(): path for path in sorted(found)}


def shipped_names() -> list[str]:
    """The names of the shipped configurations, without suffix: runs first, then evaluations, benchmarks and sweeps."""
    names = [name.removesuffix(".yaml") for name, path in shipped_files().items() if path.suffix in SUFFIXES]
    return sorted(names, key=lambda name: (name.startswith(("benchmarks/", "evaluate/", "sweeps/")), "/" in name, name))


def find_file(name: str | Path) -> Path:
    """The file that a user names: a path that exists, else the shipped file of this name, else the path as it is.

    `quickstart`, `quickstart.yaml` and `configs/quickstart.yaml` are the same shipped file.
    """
    path = Path(name)
    if path.is_file():
        return path
    text = path.as_posix().removeprefix(f"{FOLDER}/")
    return next((found for end in ("", ".yaml") if (found := shipped_files().get(text + end)) is not None), path)


def shipped_hint(name: str | Path) -> str:
    """What a user may have meant by a name that leads nowhere: a sentence that begins with a space, or nothing."""
    text = Path(name).as_posix().removeprefix(f"{FOLDER}/")
    text = re.sub(r"\.ya?ml$", "", text)
    names = shipped_names()
    last = [shipped for shipped in names if shipped.rpartition("/")[2] == text]
    meant = last[0] if len(last) == 1 else nearest(text, names)
    listed = "`gmpo-mm configs` lists the shipped ones."
    return f" Did you mean {meant}? {listed}" if meant else f" {listed}"


def describe(path: Path) -> str:
    """The first sentence of the comment that a shipped configuration begins with."""
    comment: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        comment.append(line[2:].strip())
    text = " ".join(comment)
    first = re.match(r".*?(?<!Dr)\.(?=\s|$)", text)
    return (first.group() if first else text).rstrip(".")
