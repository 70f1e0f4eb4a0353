"""The engine easyr1, as the rest of the package asks it. Imports no `verl`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gmpo_mm.config.ineffective import set_and_listed
from gmpo_mm.config.load import LoadedConfig
from gmpo_mm.config.schema import Config
from gmpo_mm.engines.easyr1 import preflight
from gmpo_mm.engines.easyr1.keys import UNREAD, WITHOUT_CRITIC
from gmpo_mm.engines.easyr1.rules import check_easyr1
from gmpo_mm.engines.installed import find_verl, not_installed
from gmpo_mm.engines.ray_engine import RayEngine

if TYPE_CHECKING:
    from gmpo_mm.runs.progress import Progress


class EasyR1Engine(RayEngine):
    """An installed EasyR1, extended by subclasses."""

    name = about = "easyr1"
    unread = UNREAD
    unread_where = {"": WITHOUT_CRITIC}  # noqa: RUF012
    refused = (
        "worker.rollout.staleness", "worker.rollout.emulate.weights", "worker.rollout.emulate.logits_noise",
        "worker.rollout.emulate.top_p",
    )  # fmt: skip

    def rules(self, loaded: LoadedConfig) -> Iterator[str]:
        """As `check_easyr1`."""
        return check_easyr1(loaded)

    def ineffective(self, loaded: LoadedConfig) -> Iterator[tuple[str, str]]:
        """Keys that EasyR1 has no part for, and the critic's without a critic."""
        has_critic = loaded.config.algorithm.adv_estimator == "gae"
        return set_and_listed(loaded, self.unread if has_critic else self.unread | WITHOUT_CRITIC)

    def preflight(self, configs: Sequence[Config]) -> str:
        """EasyR1's version."""
        return f"EasyR1 {preflight.check_installation(preflight.requirements_of(*configs))}"

    def check_directory(self, path: Path) -> None:
        """A run of EasyR1 itself would be gone on from."""
        preflight.check_directory(path)

    def diagnose(self) -> str:
        """EasyR1 and verl are both imported as `verl`: whether it is EasyR1's, and what keeps it from training."""
        found = find_verl()
        if found is None or found.engine != self.name:
            return not_installed(found, preflight.HOW_TO_GET)
        problems = list(preflight.package_problems())
        if problems:
            return f"{found.version} at {found.root} can't be used yet: " + " ".join(problems)
        return f"ready: {found.version} at {found.root}"

    def train(
        self, loaded: LoadedConfig, command: Sequence[str], progress: Progress | None = None, *, overwrite: bool = False
    ) -> Path:
        """As `launch.train`."""
        from gmpo_mm.engines.easyr1.launch import train

        return train(loaded, command, progress, overwrite=overwrite)


ENGINE = EasyR1Engine()
