"""Whose `verl` is installed: EasyR1 and verl are imported under the same name, so one environment holds one of them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from gmpo_mm.errors import ConfigError


@dataclass(frozen=True)
class InstalledVerl:
    """What `import verl` would find: `engine` is easyr1, verl or unknown."""

    engine: str
    version: str
    root: Path


@dataclass(frozen=True)
class Requirement:
    """A package that an engine imports: its distributions' names, the versions that fit, and why."""

    distributions: tuple[str, ...]
    fits: str
    why: str


def unmet(requirements: Sequence[Requirement]) -> Iterator[str]:
    """One sentence for each package that is missing or out of range."""
    from packaging.specifiers import SpecifierSet

    for requirement in requirements:
        name = requirement.distributions[0]
        version = installed_version(*requirement.distributions)
        if version is None:
            yield f"{name} is not installed ({requirement.why}); pip install '{name}{requirement.fits}'."
        elif not SpecifierSet(requirement.fits).contains(version, prereleases=True):
            yield f"{name} {version} is installed, {requirement.fits} is needed ({requirement.why})."


def find_verl() -> InstalledVerl | None:
    """Tell EasyR1 and verl apart by their files, without importing either; None when no `verl` is there."""
    root = package_folder("verl")
    if root is None:
        return None
    engine = "unknown"
    if (root / "trainer" / "config.py").is_file():
        engine = "easyr1"
    elif (root / "trainer" / "config").is_dir():
        engine = "verl"
    return InstalledVerl(engine, _written_version(root), root)


WHOSE = {"easyr1": "EasyR1's", "verl": "verl's", "unknown": "neither EasyR1's nor verl's as known here"}


_ORIGINS = {"easyr1": "EasyR1's", "verl": "verl's own, from the package registry", "unknown": "of unknown origin"}


def checked_version(
    engine: str, title: str, how_to_get: str, instead: str, *, problems: Callable[[str], Iterable[str]],
    packages: Callable[[], Mapping[str, str | None]],
) -> str:  # fmt: skip
    """The version of the engine's `verl`; ConfigError with everything that keeps it from training.

    `instead` is what to do where another `verl` is installed. `problems(version)` gives a sentence for each thing that is
    wrong, `packages()` what is installed beside it.
    """
    found = find_verl()
    if found is None:
        raise ConfigError(f"engine={engine}: {title} is not installed. {how_to_get}; or train with engine=local.")
    if found.engine != engine:
        raise ConfigError(
            f"engine={engine}: `verl` at {found.root} ({found.version}) is {_ORIGINS[found.engine]}, and both are imported as "
            f"`verl`; {instead}. {how_to_get}."
        )
    wrong = list(problems(found.version))
    if wrong:
        versions = ", ".join(f"{name} {version or 'missing'}" for name, version in packages().items())
        raise ConfigError(
            f"engine={engine}: {title} {found.version} at {found.root} can't train here:\n"
            + "\n".join(f"  - {problem}" for problem in wrong)
            + f"\nInstalled: {versions}"
        )
    return found.version


def not_installed(found: InstalledVerl | None, how_to_get: str) -> str:
    """That an engine is not there, whose `verl` is in its place, and how to get the right one."""
    there = "" if found is None else f"`verl` at {found.root} is {WHOSE[found.engine]}; "
    return f"not installed: {there}{how_to_get}"


def package_folder(name: str) -> Path | None:
    """Where a top-level package would be imported from; nothing of it is run."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or [])
    return Path(places[0]) if places else Path(spec.origin or name)


def installed_version(*names: str) -> str | None:
    """Version of the first of these distributions that is installed."""
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _written_version(root: Path) -> str:
    for path in (root / "__init__.py", root / "version" / "version"):
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            found = re.search(r"__version__\s*=\s*[\"']([^\"']+)|^(\d[\w.+]*)\s*$", text, re.MULTILINE)
            if found:
                return found.group(1) or found.group(2)
    return "of unknown version"
