"""Real processes that meet through gloo."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# The ranks are forked from one process that has imported these and computed nothing; each would import them for seconds.
multiprocessing.set_forkserver_preload(["torch.distributed.fsdp", "transformers.models.qwen2.modeling_qwen2", "peft"])


def on_ranks(ranks: int, work: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """`work(rank, *arguments)` in `ranks` processes of one gloo group; what each returned, in the order of ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(_run, (ranks, port, work, str(folder), arguments), nprocs=ranks, start_method="forkserver")
    return [torch.load(folder / f"rank_{rank}.pt", weights_only=True) for rank in range(ranks)]


def _run(rank: int, ranks: int, port: int, work: Callable[..., Any], folder: str, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(ranks))
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    try:
        torch.save(work(rank, *arguments), Path(folder) / f"rank_{rank}.pt")
    finally:
        dist.destroy_process_group()
