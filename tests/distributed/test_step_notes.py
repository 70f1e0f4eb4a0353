"""What the ranks of an update note of it, put together; and the hash of weights that FSDP has flattened and cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from gmpo_mm.engines.easyr1.rows_seen import ROWS, RowsSeen, of_all_ranks
from gmpo_mm.engines.easyr1.trained_weights import fsdp_weights_sha256, trained_weights
from gmpo_mm.models.weights_hash import weights_sha256
from tests.distributed.ranks import on_ranks


def noted(updates: list[list[list[int]]], epochs: int = 2) -> RowsSeen:
    """A rank's notes; a row's log-probability is its number and the epoch's."""
    seen = RowsSeen()
    for epoch in range(epochs):
        seen.epoch_begins()
        for calls in updates:
            seen.update_begins()
            for rows in calls:
                values_BT = torch.tensor(rows)[:, None] + 100.0 * epoch + torch.zeros(len(rows), 3)
                pictures = [{"image_grid_thw": torch.tensor([[1, 2, row]])} if row % 2 else {} for row in rows]
                seen.note({ROWS: torch.tensor(rows), "multi_modal_inputs": pictures}, values_BT, -values_BT)
    return seen


def test_the_notes_of_all_ranks_name_each_update_and_hold_the_last_epoch() -> None:
    first, second = noted([[[5], [2]], [[7, 0]]]), noted([[[1, 4]], [[3], [6]]])
    twin = noted([[[5], [2]], [[7, 0]]])  # of the same rows, as in a ulysses group
    seen = of_all_ranks([first, twin, second])
    assert seen.updates == [[1, 2, 4, 5], [0, 3, 6, 7]] * 2
    assert seen.calls == [[[5], [2], [1, 4]], [[7, 0], [3], [6]]] * 2
    assert torch.equal(seen.log_probs_BT, torch.arange(100.0, 108.0)[:, None].expand(8, 3))
    assert torch.equal(seen.entropy_BT, -seen.log_probs_BT)
    assert seen.grids.keys() == {1, 3, 5, 7} and seen.grids[3].tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("other", [[[[1, 3]], [[2]]], [[[1, 2]]]], ids=["a row twice", "fewer updates"])
def test_notes_that_do_not_fit_together_are_an_error(other: list[list[list[int]]]) -> None:
    with pytest.raises(ValueError, match="passed through the rows"):
        of_all_ranks([noted([[[0]], [[3]]]), noted(other)])


def test_rows_without_numbers_are_not_noted() -> None:
    seen = RowsSeen()
    seen.epoch_begins()
    seen.update_begins()
    seen.note({}, torch.zeros(1, 1), torch.zeros(1, 1))
    assert not seen.rows and not seen.log_probs


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(5, 7), nn.Linear(7, 5, bias=False)


class Model(nn.Module):
    """Blocks between two parameters of the root, a frozen part, a buffer, tied weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("steps", torch.zeros(3))
        self.embed = nn.Embedding(11, 5)
        self.frozen = nn.Linear(5, 5).requires_grad_(False)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm = nn.LayerNorm(5)
        self.head = nn.Linear(5, 11, bias=False)
        self.head.weight = self.embed.weight


def _hashes(rank: int) -> dict[str, str]:
    found = {}
    for flat in (True, False):
        model = Model()
        known = trained_weights(model)
        policy = ModuleWrapPolicy({Block, nn.Linear} if flat else {Block})
        mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("fsdp",))
        wrapped = FSDP(
            model, auto_wrap_policy=policy, device_mesh=mesh, device_id=torch.device("cpu"), use_orig_params=not flat
        )
        found[f"{flat}"] = fsdp_weights_sha256(wrapped, known, rank)
    return found


def test_flattened_and_cut_weights_have_the_hash_of_the_model_itself(tmp_path: Path) -> None:
    model = Model()
    expected = weights_sha256((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)
    first, second = on_ranks(2, _hashes, tmp_path)
    assert set(first.values()) == {expected} and set(second.values()) == {""}
    assert sum(trained_weights(model).values()) == 4 * (55 + 2 * (35 + 7 + 35) + 10)
