"""Faults as they happen between two frameworks, put into a record, with the stage and cause to be named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from gmpo_mm.algorithms import compute_policy_loss, count_units
from gmpo_mm.algorithms.config import PolicyLossConfig
from gmpo_mm.runs.step_record import StepRecord, write_picture
from tests.inspection.recorded import Recorded

TENSORS = (
    "response_ids_BT", "mask_BT", "rewards_B", "advantages_BT", "sampler_log_probs_BT", "old_log_probs_BT",
    "ref_log_probs_BT", "log_probs_BT",
)  # fmt: skip
Change = Callable[[StepRecord, Recorded, Path], None]


@dataclass(frozen=True)
class Fault:
    """`change` gets the record, the run it is of, and the folder it goes to; `base` makes the other side."""

    stage: str
    cause: str
    change: Change
    base: Change


FAULTS: dict[str, Fault] = {}


def as_it_is(record: StepRecord, run: Recorded, folder: Path) -> None:
    pass


def fault(stage: str, cause: str, base: Change = as_it_is) -> Callable[[Change], Change]:
    def register(change: Change) -> Change:
        FAULTS[change.__name__] = Fault(stage, cause, change, base)
        return change

    return register


def _texts(record: StepRecord, change: Callable[[str], str]) -> None:
    record.prompts = [replace(p, text=change(p.text)) for p in record.prompts]


def _ids(record: StepRecord, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    record.prompts = [replace(p, input_ids_S=change(p.input_ids_S)) for p in record.prompts]


# ---- prompts and pictures --------------------------------------------------------------------------------


@fault("prompts", "data_order")
def other_seed_of_the_data(record: StepRecord, run: Recorded, folder: Path) -> None:
    record.prompts = [
        *record.prompts[:-2],
        *(replace(p, id=f"{p.id}0", problem="another") for p in record.prompts[-2:]),
    ]
    record.config = record.config | {"data": record.config["data"] | {"seed": 7}}


@fault("prompt text", "system_prompt")
def a_system_prompt(record: StepRecord, run: Recorded, folder: Path) -> None:
    _texts(record, lambda text: f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{text}")


@fault("prompt text", "generation_prompt")
def no_generation_prompt(record: StepRecord, run: Recorded, folder: Path) -> None:
    _texts(record, lambda text: text.removesuffix("<|im_start|>assistant\n"))
    _ids(record, lambda ids: ids[:-3])


@fault("prompt text", "instruction")
def a_format_instruction(record: StepRecord, run: Recorded, folder: Path) -> None:
    """In the data set's problems, so that only the ids say which prompts are the same."""
    more = " Think first, and put the answer into a box."
    _texts(record, lambda text: text.replace("<|im_end|>", f"{more}<|im_end|>"))
    record.prompts = [replace(p, problem=p.problem + more) for p in record.prompts]


@fault("prompt text", "template")
def another_chat_template(record: StepRecord, run: Recorded, folder: Path) -> None:
    _texts(record, lambda text: text.replace("<|im_start|>", "<|turn|>").replace("<|im_end|>", "<|end|>"))


@fault("prompt ids", "doubled_bos")
def a_doubled_first_token(record: StepRecord, run: Recorded, folder: Path) -> None:
    _ids(record, lambda ids: torch.cat([ids[:1], ids]))


@fault("prompt ids", "left_padding")
def left_padding_that_stays(record: StepRecord, run: Recorded, folder: Path) -> None:
    _ids(record, lambda ids: torch.cat([torch.zeros(32 - len(ids), dtype=ids.dtype), ids]))


@fault("prompt ids", "cut_left")
def prompts_cut_on_the_left(record: StepRecord, run: Recorded, folder: Path) -> None:
    _ids(record, lambda ids: ids[-22:])


@fault("prompt ids", "cut_right")
def prompts_cut_on_the_right(record: StepRecord, run: Recorded, folder: Path) -> None:
    _ids(record, lambda ids: ids[:22])


@fault("pictures", "picture_size")
def pictures_of_another_size(record: StepRecord, run: Recorded, folder: Path) -> None:
    """What max_pixels = 28 x 28 does: smaller pictures, a smaller grid, fewer image tokens."""
    image_token = max(
        record.prompts[0].input_ids_S.tolist(), key=record.prompts[0].input_ids_S.tolist().count
    )
    changed = []
    for prompt in record.prompts:
        with Image.open(run.run / "rollouts" / "pictures" / f"{prompt.images[0]}.png") as image:
            name = write_picture(folder, image.resize((28, 28)))
        ids = prompt.input_ids_S
        first = int((ids == image_token).nonzero()[0])
        fewer = torch.cat([ids[: first + 1], ids[first + 4 :]])
        grid = torch.tensor([[1, 2, 2]])
        changed.append(replace(prompt, input_ids_S=fewer, images=(name,), image_grid_thw_N3=grid))
    record.prompts = changed


def _coloured(record: StepRecord, run: Recorded, folder: Path, order: tuple[int, int, int]) -> None:
    """The bundled task is drawn in grey, where an exchange of colours would not show."""
    changed = []
    for prompt in record.prompts:
        with Image.open(run.run / "rollouts" / "pictures" / f"{prompt.images[0]}.png") as image:
            grey = image.convert("L")
        bands = grey, grey.point(lambda v: v // 2), grey.point(lambda v: 255 - v)
        name = write_picture(folder, Image.merge("RGB", [bands[i] for i in order]))
        changed.append(replace(prompt, images=(name,)))
    record.prompts = changed


def in_colour(record: StepRecord, run: Recorded, folder: Path) -> None:
    _coloured(record, run, folder, (0, 1, 2))


@fault("pictures", "channels", base=in_colour)
def blue_read_as_red(record: StepRecord, run: Recorded, folder: Path) -> None:
    _coloured(record, run, folder, (2, 1, 0))


# ---- responses and masks ---------------------------------------------------------------------------------


def _resample(record: StepRecord) -> None:
    ids = record.response_ids_BT
    record.response_ids_BT = torch.where(
        record.mask_BT & (torch.arange(ids.shape[1]) > 3), (ids * 7 + 5) % 300, ids
    )
    record.texts = [f"another {row}" for row in range(len(record))]


@fault("responses", "sampling_seed")
def another_seed(record: StepRecord, run: Recorded, folder: Path) -> None:
    _resample(record)
    worker = record.config["worker"]
    record.config = record.config | {"worker": worker | {"rollout": worker["rollout"] | {"seed": 9}}}


@fault("responses", "temperature")
def sampled_at_another_temperature(record: StepRecord, run: Recorded, folder: Path) -> None:
    _resample(record)
    record.temperature = 0.5


@fault("responses", "end_token_missing")
def the_end_token_is_cut_off(record: StepRecord, run: Recorded, folder: Path) -> None:
    stops = torch.tensor([reason == "stop" for reason in record.stop_reasons])
    record.lengths_B = [n - bool(stop) for n, stop in zip(record.lengths_B, stops, strict=True)]


@fault("responses", "response_cut")
def responses_cut_off_earlier(record: StepRecord, run: Recorded, folder: Path) -> None:
    record.lengths_B = [min(n, 12) for n in record.lengths_B]
    record.texts = [text[:14] for text in record.texts]


@fault("masks", "mask_shifted")
def the_mask_shifted_by_one(record: StepRecord, run: Recorded, folder: Path) -> None:
    record.mask_BT = torch.cat([torch.zeros(len(record), 1, dtype=torch.bool), record.mask_BT[:, :-1]], 1)


@fault("masks", "mask_shifted")
def the_mask_shifted_to_the_left(record: StepRecord, run: Recorded, folder: Path) -> None:
    record.mask_BT = torch.cat([record.mask_BT[:, 1:], torch.zeros(len(record), 1, dtype=torch.bool)], 1)


@fault("masks", "end_token_masked")
def the_end_token_masked(record: StepRecord, run: Recorded, folder: Path) -> None:
    for row, reason in enumerate(record.stop_reasons):
        if reason == "stop":
            record.mask_BT[row, record.lengths_B[row] - 1] = False


@fault("masks", "truncated_left_out")
def truncated_responses_left_out(record: StepRecord, run: Recorded, folder: Path) -> None:
    record.left_out = frozenset(row for row, reason in enumerate(record.stop_reasons) if reason == "length")
    record.advantages_BT[sorted(record.left_out)] = 0.0


# ---- rewards, groups, advantages -------------------------------------------------------------------------


@fault("rewards", "reward_weights")
def another_format_weight(record: StepRecord, run: Recorded, folder: Path) -> None:
    record.rewards_B = 0.5 * record.reward_parts["accuracy"] + 0.5 * record.reward_parts["format"]


@fault("rewards", "reward_part")
def another_grader(record: StepRecord, run: Recorded, folder: Path) -> None:
    accuracy_B = record.reward_parts["accuracy"].clone()
    accuracy_B[:5] = 1 - accuracy_B[:5]
    record.reward_parts = {**record.reward_parts, "accuracy": accuracy_B}
    record.rewards_B = 0.9 * accuracy_B + 0.1 * record.reward_parts["format"]


@fault("rewards", "reward_scale")
def rewards_from_minus_one_to_one(record: StepRecord, run: Recorded, folder: Path) -> None:
    record.rewards_B = 2 * record.rewards_B - 1
    record.reward_parts = {}


@fault("group ids", "groups_by_position")
def groups_by_position(record: StepRecord, run: Recorded, folder: Path) -> None:
    """The rows were put in another order, and the groups taken from where they stand."""
    order = torch.arange(len(record)).view(8, 4).T.flatten()
    for name in TENSORS:
        setattr(record, name, getattr(record, name)[order])
    record.reward_parts = {name: part_B[order] for name, part_B in record.reward_parts.items()}
    for name in ("texts", "stop_reasons", "lengths_B"):
        setattr(record, name, [getattr(record, name)[row] for row in order.tolist()])


def _grouped(record: StepRecord) -> torch.Tensor:
    return record.rewards_B.view(8, 4)


def _set_advantages(record: StepRecord, advantages_PG: torch.Tensor) -> None:
    record.advantages_BT = (advantages_PG.reshape(-1, 1) * record.mask_BT).float()


@fault("advantages", "no_std")
def advantages_without_std(record: StepRecord, run: Recorded, folder: Path) -> None:
    rewards = _grouped(record)
    _set_advantages(record, rewards - rewards.mean(1, keepdim=True))


@fault("advantages", "biased_std")
def advantages_with_the_biased_std(record: StepRecord, run: Recorded, folder: Path) -> None:
    rewards = _grouped(record)
    centred = rewards - rewards.mean(1, keepdim=True)
    _set_advantages(record, centred / (rewards.std(1, correction=0, keepdim=True) + 1e-6))


@fault("advantages", "rloo")
def rloo_in_place_of_grpo(record: StepRecord, run: Recorded, folder: Path) -> None:
    rewards = _grouped(record)
    _set_advantages(record, rewards - (rewards.sum(1, keepdim=True) - rewards) / 3)


@fault("advantages", "batch_normalised")
def advantages_over_the_batch(record: StepRecord, run: Recorded, folder: Path) -> None:
    rewards = _grouped(record)
    _set_advantages(record, (rewards - rewards.mean()) / (rewards.std() + 1e-6))


@fault("advantages", "batch_std")
def the_batch_std(record: StepRecord, run: Recorded, folder: Path) -> None:
    rewards = _grouped(record)
    _set_advantages(record, (rewards - rewards.mean(1, keepdim=True)) / (rewards.std() + 1e-6))


@fault("advantages", "epsilon")
def another_epsilon(record: StepRecord, run: Recorded, folder: Path) -> None:
    rewards = _grouped(record)
    _set_advantages(record, (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4))


@fault("advantages", "groups_by_position")
def advantages_of_groups_by_position(record: StepRecord, run: Recorded, folder: Path) -> None:
    rewards = record.rewards_B.view(4, 8).T  # row i belongs to group i modulo 8
    advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-6)
    _set_advantages(record, advantages.nan_to_num(0.0).T)


@fault("advantages", "sign")
def advantages_with_another_sign(record: StepRecord, run: Recorded, folder: Path) -> None:
    record.advantages_BT = -record.advantages_BT


# ---- log-probabilities ----------------------------------------------------------------------------


@fault("old log-probs", "temperature")
def temperature_half(record: StepRecord, run: Recorded, folder: Path) -> None:
    record.temperature = 0.5
    record.old_log_probs_BT = run.otherwise["temperature 0.5"]


@fault("old log-probs", "temperature")
def temperature_half_that_is_not_on_file(record: StepRecord, run: Recorded, folder: Path) -> None:
    record.old_log_probs_BT = run.otherwise["temperature 0.5"]


@fault("old log-probs", "not_divided_by_temperature")
def log_probs_not_divided_by_the_temperature(record: StepRecord, run: Recorded, folder: Path) -> None:
    record.old_log_probs_BT = run.otherwise["temperature 1"]


@fault("sampler's log-probs", "log_probs_scaled")
def log_probs_in_bits(record: StepRecord, run: Recorded, folder: Path) -> None:
    assert record.sampler_log_probs_BT is not None
    record.sampler_log_probs_BT = record.sampler_log_probs_BT / torch.tensor(2.0).log()


@fault("old log-probs", "log_probs_shifted")
def log_probs_of_the_next_token(record: StepRecord, run: Recorded, folder: Path) -> None:
    assert record.old_log_probs_BT is not None
    record.old_log_probs_BT = record.old_log_probs_BT.roll(-1, 1)


@fault("old log-probs", "old_is_sampler")
def old_log_probs_are_the_samplers(record: StepRecord, run: Recorded, folder: Path) -> None:
    record.old_log_probs_BT = record.sampler_log_probs_BT


@fault("old log-probs", "low_precision")
def log_probs_rounded_to_bfloat16(record: StepRecord, run: Recorded, folder: Path) -> None:
    assert record.old_log_probs_BT is not None
    record.old_log_probs_BT = record.old_log_probs_BT.bfloat16().float()


@fault("old log-probs", "low_precision")
def a_model_in_bfloat16(record: StepRecord, run: Recorded, folder: Path) -> None:
    record.old_log_probs_BT = run.otherwise["bfloat16"]


@fault("old log-probs", "more_tokens")
def image_placeholders_counted_in_the_softmax(record: StepRecord, run: Recorded, folder: Path) -> None:
    """The bundled model gives placeholders 1e-6; here they have a hundred times that."""
    assert record.old_log_probs_BT is not None
    record.old_log_probs_BT += 100 * (run.otherwise["all tokens"] - record.old_log_probs_BT)


@fault("old log-probs", "weights_before")
def other_weights_before_the_step(record: StepRecord, run: Recorded, folder: Path) -> None:
    record.old_log_probs_BT, record.weights_before = record.log_probs_BT, "0" * 64


@fault("old log-probs", "left_padding_in_the_model")
def padding_seen_by_the_model(record: StepRecord, run: Recorded, folder: Path) -> None:
    assert record.old_log_probs_BT is not None
    lengths = torch.tensor([len(p.input_ids_S) for p in record.prompts])[record.group_ids_B]
    seen_B1 = (lengths < lengths.max())[:, None]
    change_BT = 0.05 * torch.sin(record.response_ids_BT.float()).abs()
    record.old_log_probs_BT = record.old_log_probs_BT - change_BT * seen_B1 * record.mask_BT


@fault("reference log-probs", "other_model")
def another_reference_model(record: StepRecord, run: Recorded, folder: Path) -> None:
    record.ref_log_probs_BT = record.log_probs_BT


# ---- the update ------------------------------------------------------------------------------------------


@fault("mini-batches", "update_count")
def larger_mini_batches(record: StepRecord, run: Recorded, folder: Path) -> None:
    record.updates = [list(range(32))]


@fault("ratio", "on_policy")
def one_update_a_step(record: StepRecord, run: Recorded, folder: Path) -> None:
    record.log_probs_BT = record.old_log_probs_BT


def _default_loss(record: StepRecord, mode: str) -> None:
    config = PolicyLossConfig(loss_type="default", loss_avg_mode=mode)
    assert record.log_probs_BT is not None and record.old_log_probs_BT is not None
    result = compute_policy_loss(
        record.log_probs_BT, record.old_log_probs_BT, record.advantages_BT, record.mask_BT, config
    )
    value = float(result.sum / count_units(record.mask_BT, config))
    record.metrics = {**record.metrics, "actor/pg_loss": value}
    actor = {**record.config["worker"]["actor"], "loss_type": "default"}
    record.config = record.config | {"worker": record.config["worker"] | {"actor": actor}}


def the_mean_over_tokens(record: StepRecord, run: Recorded, folder: Path) -> None:
    _default_loss(record, "token")


@fault("loss", "loss_mean", base=the_mean_over_tokens)
def the_mean_over_sequences(record: StepRecord, run: Recorded, folder: Path) -> None:
    _default_loss(record, "seq")


@fault("loss", "loss_type")
def another_loss(record: StepRecord, run: Recorded, folder: Path) -> None:
    _default_loss(record, "token")


@fault("loss", "loss_scaled")
def a_loss_summed_over_micro_batches(record: StepRecord, run: Recorded, folder: Path) -> None:
    record.metrics = {**record.metrics, "actor/pg_loss": 4 * record.metrics["actor/pg_loss"]}


@fault("gradient norm", "gradient_scaled")
def a_gradient_summed_over_micro_batches(record: StepRecord, run: Recorded, folder: Path) -> None:
    record.metrics = {**record.metrics, "actor/grad_norm": 8 * record.metrics["actor/grad_norm"]}


@fault("gradient norm", "norm_after_clipping")
def the_norm_after_clipping(record: StepRecord, run: Recorded, folder: Path) -> None:
    actor = {**record.config["worker"]["actor"], "max_grad_norm": 0.1}
    record.config = record.config | {"worker": record.config["worker"] | {"actor": actor}}
    record.metrics = {**record.metrics, "actor/grad_norm": 0.1}


@fault("learning rate", "warmup_off_by_one")
def warm_up_off_by_one(record: StepRecord, run: Recorded, folder: Path) -> None:
    record.learning_rate = 1.2e-3


@fault("learning rate", "learning_rate")
def another_rate(record: StepRecord, run: Recorded, folder: Path) -> None:
    record.learning_rate = 1e-5


@fault("weights", "optimizer")
def another_weight_decay(record: StepRecord, run: Recorded, folder: Path) -> None:
    record.weights_after = "0" * 64
