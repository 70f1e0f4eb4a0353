"""The engine verl, as the rest of the package asks it. Imports no `verl`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gmpo_mm.config.ineffective import set_and_listed
from gmpo_mm.config.load import LoadedConfig
from gmpo_mm.config.schema import Config
from gmpo_mm.engines.installed import find_verl, not_installed
from gmpo_mm.engines.ray_engine import RayEngine
from gmpo_mm.engines.verl import preflight
from gmpo_mm.engines.verl.keys import NO_COUNTERPART, ON_CPU_IGNORED, OURS, UNFILTERED, is_cpu
from gmpo_mm.engines.verl.rules import check_verl

if TYPE_CHECKING:
    from gmpo_mm.runs.progress import Progress

ON_CPU = dict.fromkeys(ON_CPU_IGNORED, "engine verl on the CPU: padded batches, float32, transformers samples")


class VerlEngine(RayEngine):
    """An installed verl, which is told our configuration in its own words."""

    name = about = "verl"
    unread = NO_COUNTERPART
    unread_where = {"on the CPU": ON_CPU, "without online filtering": UNFILTERED}  # noqa: RUF012
    refused = ("data.video_fps", "worker.actor.seq_mean")

    def rules(self, loaded: LoadedConfig) -> Iterator[str]:
        """As `check_verl`."""
        return check_verl(loaded)

    def ineffective(self, loaded: LoadedConfig) -> Iterator[tuple[str, str]]:
        """Keys without a counterpart in verl, and with the CPU plug-in those of GPUs."""
        unread = self.unread if loaded.config.algorithm.online_filtering else self.unread | UNFILTERED
        return set_and_listed(loaded, unread | ON_CPU if is_cpu(loaded.config) else unread)

    def preflight(self, configs: Sequence[Config]) -> str:
        """verl's version; less is asked for where every run is on the CPU."""
        return f"verl {preflight.check_installation(on_cpu=all(map(is_cpu, configs)))}"

    def check_directory(self, path: Path) -> None:
        """A run of verl itself would be gone on from."""
        preflight.check_directory(path)

    def process_words(self, config: Config) -> str:
        """GPUs, but for the CPU plug-in."""
        return "processes on the CPU" if is_cpu(config) else "GPUs"

    def translation(self, config: Config, steps: int | None) -> list[str]:
        """What verl is told, and what our own parts of the run read."""
        from gmpo_mm.engines.verl.translate import described, to_verl

        told = [f"  {ours} -> {theirs}" for ours, theirs in described(config, to_verl(config, total_steps=steps))]
        readers = [
            f"  {reader}: {', '.join(key for key, who in OURS.items() if who == reader)}"
            for reader in dict.fromkeys(OURS.values())
        ]
        return ["What verl is given:", *told, "Read by gmpo_mm's own parts of the run, not by verl:", *readers]

    def diagnose(self) -> str:
        """EasyR1 and verl are both imported as `verl`: whether it is verl's, and what keeps it from training."""
        found = find_verl()
        if found is None or found.engine != self.name:
            return not_installed(found, preflight.HOW_TO_GET)
        on_gpu, on_cpu = (list(preflight.problems(found.version, on_cpu=cpu)) for cpu in (False, True))
        if not on_gpu:
            return f"ready: {found.version} at {found.root}"
        if not on_cpu:
            return f"{found.version} at {found.root}, only with trainer.device=cpu, for tests: " + " ".join(on_gpu)
        return f"{found.version} at {found.root} can't be used yet: " + " ".join(on_cpu)

    def train(
        self, loaded: LoadedConfig, command: Sequence[str], progress: Progress | None = None, *, overwrite: bool = False
    ) -> Path:
        """As `launch.train`."""
        from gmpo_mm.engines.verl.launch import train

        return train(loaded, command, progress, overwrite=overwrite)


ENGINE = VerlEngine()
