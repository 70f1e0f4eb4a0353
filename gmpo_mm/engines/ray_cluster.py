"""What the distributed engines ask of a Ray cluster. Imports neither Ray nor `verl` until a function is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from gmpo_mm.errors import ConfigError, GMPOError, TrainingError
from gmpo_mm.runs.progress import Progress


def connect(ray_address: str | None, progress: Progress, **options: Any) -> None:
    """Join the cluster at `ray_address`, or one of this machine, or start one with `options`; ConfigError when none answers."""
    import ray

    from gmpo_mm.runs.stopping import stop_at_once

    where = ray_address or "a cluster of this machine, or a new one"
    with progress.stage(f"connecting to Ray ({where})"):
        try:
            ray.init(address=ray_address, **options)
        except (ConnectionError, ValueError) as error:
            raise ConfigError(
                f"ray_address = {ray_address!r}: no Ray cluster answers there ({error}); start one with `ray start --head`, or "
                "leave the key out to start one here"
            ) from error
    stop_at_once()  # Ray's own handler of SIGTERM, set when it was imported, ends with the status 15


def check_cluster(
    nodes: Sequence[Mapping[str, Any]], wanted_nodes: int, gpus_a_node: int, cpus_a_gpu: int = 0
) -> None:
    """ConfigError when the cluster can't hold `wanted_nodes` groups of `gpus_a_node` GPUs, each on one node.

    Ray would wait for ever for such a placement. `nodes` is what `ray.nodes()` gives; `cpus_a_gpu` cores are reserved with each
    GPU, so a node with too few of them counts as one with fewer GPUs.
    """
    alive = [(str(node["NodeManagerAddress"]), node["Resources"]) for node in nodes if node["Alive"]]
    gpus = [int(resources.get("GPU", 0)) for _, resources in alive]
    usable = [
        min(count, int(resources.get("CPU", 0)) // cpus_a_gpu) if cpus_a_gpu else count
        for count, (_, resources) in zip(gpus, alive, strict=True)
    ]
    groups = sum(count // gpus_a_node for count in usable)
    if groups >= wanted_nodes:
        return
    there = ", ".join(f"{address}: {count}" for (address, _), count in zip(alive, gpus, strict=True)) or "no node"
    most = max(usable, default=0)
    lacks_cores = usable != gpus
    cores = ", ".join(f"{address}: {int(resources.get('CPU', 0))}" for address, resources in alive)
    fix = (
        f"start more nodes (ray start --address=...), or set trainer.nnodes={groups}"
        if groups
        else f"set trainer.n_gpus_per_node to at most {most}"
        if most
        else f"start Ray with more cores (ray start --num-cpus={cpus_a_gpu * gpus_a_node})"
        if lacks_cores
        else "engine=local trains on a machine without GPUs"
    )
    raise ConfigError(
        f"trainer.nnodes = {wanted_nodes}, trainer.n_gpus_per_node = {gpus_a_node}: the Ray cluster has GPUs by node {there}"
        + (f" and cores by node {cores}, of which each GPU's process takes {cpus_a_gpu}" if lacks_cores else "")
        + f", so {groups} of {wanted_nodes} groups fit; {fix}"
    )


@contextmanager
def errors_of_workers() -> Iterator[None]:
    """What a worker raised on purpose is raised without Ray's wrapping; one that died is a TrainingError with the fix."""
    import ray

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, GMPOError):
            raise TrainingError(str(error.cause)) from error
        raise
    except ray.exceptions.RayActorError as error:
        raise TrainingError(
            f"a worker process died ({str(error).splitlines()[0]}); look at its log in Ray's session folder, and go on from "
            "the last checkpoint with the same command"
        ) from error
