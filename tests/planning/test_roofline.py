"""FLOPs, bytes and seconds of operators against hand-made numbers; fused regions; segments of attention."""

import pytest
import torch

from gmpo_mm.errors import ConfigError
from gmpo_mm.models.cards import CARDS, REACHED, card_of_this_machine, find_card
from gmpo_mm.planning.account import Account
from gmpo_mm.planning.roofline import ATTENTION, COPIES, HEAD, LAYERS, PRODUCTS, OperatorTable

GPU = torch.device("cuda:0")
H100 = CARDS["h100"]


@pytest.fixture
def account() -> Account:
    made = Account(GPU)
    made.table = OperatorTable(H100, vocabulary=1000)  # type: ignore[attr-defined]
    made.observer = made.table.add  # type: ignore[attr-defined]
    return made


def table(account: Account) -> OperatorTable:
    return account.table  # type: ignore[attr-defined]


def test_a_product_takes_its_arithmetic_or_its_traffic(account: Account) -> None:
    with account:
        large = torch.empty(4096, 4096, device=GPU, dtype=torch.bfloat16)
        large @ large
        thin = torch.empty(1, 4096, device=GPU, dtype=torch.bfloat16)
        row = table(account).rows[PRODUCTS]
        first = row.seconds
        thin @ large
    assert first == pytest.approx(2 * 4096**3 / (989e12 * REACHED.products) + 2e-6)
    moved = 2 * (4096 * 4096 + 2 * 4096)
    assert row.seconds - first == pytest.approx(moved / (3.35e12 * REACHED.bandwidth) + 2e-6)
    assert (row.launches, row.flops) == (2, 2 * 4096**3 + 2 * 4096**2)


def test_elementwise_operators_read_and_write_and_views_are_free(account: Account) -> None:
    with account:
        x = torch.empty(1000, 1024, device=GPU)[:, 1:]
        y = x.t()[2:].transpose(0, 1)
        assert not table(account).rows
        z = y.exp()
        z += 1
        z.to(torch.bfloat16)
        z.new_zeros(()).expand(1000, 1021) * z
    size = 1000 * 1021 * 4
    # the vocabulary's size is a dimension here, so all of this is booked as the head's
    row = table(account).rows[HEAD]
    assert row.bytes == 2 * size + 2 * size + 1.5 * size + 4 + (4 + 2 * size)


def test_classes(account: Account) -> None:
    with account:
        x = torch.empty(8, 64, device=GPU)
        x.exp()
        x.to(torch.bfloat16)
        x @ torch.empty(64, 1000, device=GPU)
    assert {k: v.launches for k, v in table(account).rows.items()} == {LAYERS: 1, COPIES: 1, HEAD: 1}
    with account, table(account).in_region("vision"):
        x.exp()
    assert table(account).rows["vision"].launches == 1


def test_segments_of_variable_length_attention_are_counted_one_by_one(account: Account) -> None:
    heads, width, lengths = 2, 16, [3, 7, 1]
    starts = torch.tensor([0, 3, 10, 11], dtype=torch.int32)
    with account:
        q = torch.empty(11, heads, width, device=GPU, dtype=torch.bfloat16)
        fixed = starts.to(GPU)
        torch.ops.aten._flash_attention_forward(q, q, q, fixed, fixed, 7, 7, 0.0, True, False)
        causal = table(account).rows[ATTENTION].flops
        torch.ops.aten._flash_attention_forward(q, q, q, fixed, fixed, 7, 7, 0.0, False, False)
        full = table(account).rows[ATTENTION].flops - causal
    assert causal == 4 * heads * width * sum(n * (n + 1) / 2 for n in lengths)
    assert full == 4 * heads * width * sum(n * n for n in lengths)
    assert table(account).upper_bounds == 0
    with account:
        unknown = torch.randn(4, device=GPU).int()
        torch.ops.aten._flash_attention_forward(q, q, q, unknown, unknown, 7, 7, 0.0, False, False)
    assert table(account).upper_bounds == 1


def test_a_fused_region_is_one_launch_that_reads_from_outside_and_writes_what_stays(account: Account) -> None:
    with account:
        x = torch.empty(1 << 20, device=GPU)
        with table(account).fused():
            y = (x.exp() + 1).sigmoid() * x
    row = table(account).rows[LAYERS]
    assert (row.launches, row.bytes) == (1, 2 * 4 * 2**20)
    del y


def test_a_fused_region_counts_halves_once_and_what_it_changes_in_place(account: Account) -> None:
    with account:
        x = torch.empty(1024, 2048, device=GPU)
        out = torch.empty(1024, 1024, device=GPU)
        with table(account).fused("rotate"):
            first, second = x.chunk(2, -1)
            out.copy_(first * first - second)
    row = table(account).operators[LAYERS, "rotate"]
    assert (row.launches, row.bytes) == (1, 4 * 1024 * 2048 + 4 * 1024 * 1024)


def test_indexed_reads_take_what_they_read_and_not_the_table(account: Account) -> None:
    with account:
        rows = torch.empty(100_000, 64, device=GPU)
        rows.index_select(0, torch.tensor([1, 2, 3]).to(GPU))
        ids = torch.tensor([1, 2, 3]).to(GPU)
        rows.index_add_(0, ids, torch.empty(3, 64, device=GPU))
    assert table(account).rows[COPIES].bytes < 3 * 64 * 4 * 5 + 200


def test_cards_by_name() -> None:
    assert find_card("H100") is H100
    with pytest.raises(ConfigError, match=r"--gpu h1000: .*known are h100, .*4090"):
        find_card("h1000")
    for card in CARDS.values():
        assert card.bf16 > card.float32 > 1e12
        assert card.memory > 2**34 and card.bandwidth > 3e11


@pytest.mark.parametrize(
    ("driver", "key"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA GeForce RTX 4090", "4090"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA RTX A6000", "a6000"),
        ("Tesla T4", None),
    ],
)
def test_this_machine_s_card_by_its_driver_s_name(
    monkeypatch: pytest.MonkeyPatch, driver: str, key: str | None
) -> None:
    class Properties:
        name = driver

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties())
    assert card_of_this_machine(GPU) is (None if key is None else CARDS[key])
