"""A step of the build: what lies in this folder goes into the wheel (as gmpo_mm/configs) and into the source distribution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from setuptools.command.build_py import build_py

FOLDER = "configs"


class BuildPy(build_py):
    """setuptools' own step, with this folder. `pip install -e` copies nothing: the package then reads the checkout's."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for path in self._files():
                target = Path(self.build_lib, "gmpo_mm", path)
                self.mkpath(str(target.parent))
                self.copy_file(path, str(target), preserve_mode=False)

    def get_outputs(self, *arguments: Any, **options: Any) -> list[str]:
        outputs = [] if self.editable_mode else [str(Path(self.build_lib, "gmpo_mm", path)) for path in self._files()]
        return [*super().get_outputs(*arguments, **options), *outputs]

    def get_source_files(self) -> list[str]:
        """What the source distribution holds, this file included: a wheel is built from it too."""
        return [*super().get_source_files(), f"{FOLDER}/{Path(__file__).name}", *self._files()]

    @staticmethod
    def _files() -> list[str]:
        found = (path for path in Path(FOLDER).rglob("*") if path.suffix in (".yaml", ".jinja", ".md"))
        return sorted(path.as_posix() for path in found)
