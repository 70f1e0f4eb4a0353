"""Model FLOPs against hand-made sums and against PyTorch's own counter on the bundled models."""

import inspect
import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gmpo_mm.models.flops import ModelFlops, Part, Work, mfu, model_flops
from gmpo_mm.models.loading import add_lora, load_model

VISION = SimpleNamespace(spatial_merge_size=2, patch_size=14, window_size=112)


def load(name: str) -> torch.nn.Module:
    from gmpo_mm.config import resolve_model_path

    return load_model(resolve_model_path(f"bundled:{name}"))


def test_work_of_a_group_counts_the_prompt_once_and_no_response_s_last_token_as_input() -> None:
    work = Work()
    work.add_group(3, [4, 1, 0])
    assert work.tokens == 3 + 3
    assert work.head_tokens == 4 + 1
    # naive: every query with every key at or before it, in its own sequence
    prompt = sum(1 for q in range(3) for k in range(3) if k <= q)
    response = sum(1 for q in range(3) for _ in range(3)) + sum(
        1 for q in range(3) for k in range(3) if k <= q
    )
    assert work.pairs == prompt + response


def test_work_of_an_image_counts_whole_windows_and_the_smaller_ones_at_its_edge() -> None:
    work = Work()
    work.add_image((1, 12, 20), VISION)  # 6 x 10 merged tokens in windows of 4 x 4
    assert (work.patches, work.merged, work.full_pairs) == (240, 60, 240**2)
    of_a_patch = {(r, c): (r // 8, c // 8) for r in range(12) for c in range(20)}
    naive = sum(1 for a in of_a_patch.values() for b in of_a_patch.values() if a == b)
    assert work.window_pairs == naive


@pytest.mark.parametrize(
    ("part", "backward", "flows", "per_unit"),
    [
        (Part(trained=10), True, True, 60),
        (Part(frozen=10), True, True, 40),
        (Part(frozen=10), True, False, 20),
        (Part(trained=10), False, True, 20),
        (Part(trained=1, frozen=10), True, True, 46),
    ],
)
def test_six_a_trained_weight_four_a_frozen_one_in_between_two_without_a_gradient(
    part: Part, backward: bool, flows: bool, per_unit: int
) -> None:
    assert part.flops(7, backward, flows) == 7 * per_unit


def test_hand_made_sum_of_a_dense_model() -> None:
    counts = ModelFlops(decoder=Part(trained=1000), head=Part(trained=300), layers=2, attention_width=16)
    work = Work()
    work.add_group(5, [3, 3])
    pairs = 15 + 2 * (2 * 5 + 3)
    assert counts.count(work, backward=True) == 6 * 1000 * 9 + 6 * 300 * 6 + 12 * 2 * 16 * pairs
    assert counts.count(work, backward=False) == 2 * 1000 * 9 + 2 * 300 * 6 + 4 * 2 * 16 * pairs


def run_counted(model: torch.nn.Module, tokens: int, backward: bool, **inputs: torch.Tensor) -> int:
    """FLOPs that PyTorch counts for one sequence, with the math backend, whose products it sees."""
    ids = torch.arange(tokens)[None] % 50 if "input_ids" not in inputs else inputs.pop("input_ids")
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.train()
        logits = model(input_ids=ids, use_cache=False, **inputs).logits
        if backward:
            logits.float().sum().backward()
    return counter.get_total_flops()


def whole_square(tokens: int) -> Work:
    """One sequence as a plain pass computes it: every token through the head, and the masked half of the
    scores too.
    """
    return Work(tokens=tokens, head_tokens=tokens, pairs=tokens**2)


@pytest.mark.parametrize("name", ["qwen2_tiny", "qwen3_moe_tiny"])
@pytest.mark.parametrize("backward", [True, False])
def test_equal_to_pytorch_s_counter_within_one_percent(name: str, backward: bool) -> None:
    model = load(name)
    if hasattr(model, "set_experts_implementation"):  # transformers 5; the counter does not know grouped products
        model.set_experts_implementation("eager")
    counted = run_counted(model, 96, backward)
    assert model_flops(model, whole_square(96), backward) == pytest.approx(counted, rel=0.01)


def test_lora_counts_no_gradient_of_frozen_weights() -> None:
    full = load("qwen2_tiny")
    work = whole_square(96)
    before = model_flops(full, work)
    adapted = add_lora(full, 4, 8, "all-linear", None)
    counted = run_counted(adapted, 96, True)
    predicted = model_flops(adapted, work)
    # the first layer's inputs need no gradient, which the definition does not look at
    assert counted <= predicted <= 1.05 * counted
    assert predicted < 0.8 * before


def test_a_vision_tower_is_counted_with_its_windows() -> None:
    model = load("qwen2_5_vl_tiny")
    config = model.config
    vision = config.vision_config
    grid = torch.tensor([[1, 8, 12]])
    merged = int(grid.prod()) // vision.spatial_merge_size**2
    ids = torch.cat([torch.arange(10), torch.full((merged,), config.image_token_id), torch.arange(10)])[None]
    values = torch.rand(
        int(grid.prod()), vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    )
    inputs = {"input_ids": ids, "pixel_values": values, "image_grid_thw": grid}
    if "mm_token_type_ids" in inspect.signature(model.forward).parameters:  # transformers 5
        inputs["mm_token_type_ids"] = (ids == config.image_token_id).int()
    counted = run_counted(model, ids.shape[1], True, **inputs)
    work = whole_square(ids.shape[1])
    without = model_flops(model, work)
    work.add_image(grid[0].tolist(), vision)
    predicted = model_flops(model, work)
    assert predicted == pytest.approx(counted, rel=0.01)
    assert predicted > 1.1 * without


def test_a_frozen_tower_has_no_backward_pass() -> None:
    model = load("qwen2_5_vl_tiny")
    work = Work(patches=96, merged=24, full_pairs=96**2)
    trained = model_flops(model, work)
    model.model.visual.requires_grad_(False)
    forward = model_flops(model, work, backward=False)
    assert model_flops(model, work) == forward
    of_patches = 2 * 96 * model.model.visual.patch_embed.proj.weight.numel()
    assert trained == pytest.approx(3 * forward - of_patches), "pixels need no gradient"


def test_mfu_is_a_share_of_the_peak() -> None:
    assert mfu(50e12, 0.5, 200e12) == 0.5
    assert math.isnan(mfu(1.0, 0.0, 1.0))
