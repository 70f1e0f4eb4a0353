"""The local engine, as the rest of the package asks it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gmpo_mm.config.engine_facts import ENGINES
from gmpo_mm.config.load import LoadedConfig
from gmpo_mm.config.loss import ACTOR
from gmpo_mm.config.schema import Config
from gmpo_mm.engines.local.keys import UNREAD, unread_on_this_machine
from gmpo_mm.engines.protocol import Engine
from gmpo_mm.version import VERSION

if TYPE_CHECKING:
    from gmpo_mm.runs.checkpoint_layout import CheckpointLayout
    from gmpo_mm.runs.progress import Progress


class LocalEngine(Engine):
    """One process on one device, with what this package depends on anyway."""

    name = "local"
    about = "local: one process on one device"
    unread = UNREAD
    unread_where = {}  # noqa: RUF012
    refused = ("ray_address", "algorithm.lam", "data.video_fps", "worker.actor.seq_mean")

    def rules(self, loaded: LoadedConfig) -> Iterator[str]:
        """What other engines can do beyond this one."""
        config = loaded.config
        if config.worker.actor.seq_mean == "easyr1":
            yield (
                f"{ACTOR}seq_mean = 'easyr1': EasyR1's weighting by tokens belongs to engine=easyr1; engine=local divides by "
                "the sequences of the whole mini-batch. Set it to exact."
            )
        if config.ray_address is not None:
            others = " or ".join(f"engine={name}" for name, facts in ENGINES.items() if facts.distributed)
            yield f"ray_address = {config.ray_address!r}: engine=local uses no Ray; remove it, or set {others}."

    def ineffective(self, loaded: LoadedConfig) -> Iterator[tuple[str, str]]:
        """Keys of several processes, and those for which a GPU or vLLM is not here."""
        yield from super().ineffective(loaded)
        yield from unread_on_this_machine(loaded.config)

    def preflight(self, configs: Sequence[Config]) -> str:
        """Nothing to check: all that it needs came with this package."""
        return f"gmpo-mm {VERSION}"

    def layout(self, config: Config) -> CheckpointLayout:
        """Folders `checkpoints/step_N`, each with a whole model."""
        from gmpo_mm.runs.checkpoint_layout import LOCAL_LAYOUT

        return LOCAL_LAYOUT

    def device_words(self, config: Config) -> str:
        """The device, its name or threads, and the compute type."""
        import torch

        from gmpo_mm.models.loading import resolve_device, resolve_dtype

        trainer = config.trainer
        if trainer.device.startswith("cuda") and not torch.cuda.is_available():
            return f"{trainer.device}, which is not on this machine"
        device = resolve_device(trainer.device)
        dtype = str(resolve_dtype(trainer.dtype, device)).removeprefix("torch.")
        if device.type == "cuda":
            return f"{device}, {torch.cuda.get_device_name(device)}, {dtype}"
        return f"cpu, {trainer.threads or torch.get_num_threads()} thread(s), {dtype}"

    def diagnose(self) -> str:
        """Always ready."""
        return "ready: one process, CPU or one GPU"

    def train(
        self, loaded: LoadedConfig, command: Sequence[str], progress: Progress | None = None, *, overwrite: bool = False
    ) -> Path:
        """As `launch.train`."""
        from gmpo_mm.engines.local.launch import train

        return train(loaded, command, progress, overwrite=overwrite)


ENGINE = LocalEngine()
