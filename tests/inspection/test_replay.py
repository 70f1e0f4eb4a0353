"""A recorded step is done again to the byte; what differs is named; another update's numbers are right."""

from __future__ import annotations

import copy
import io
import json
import math
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import gmpo_mm
from gmpo_mm.cli import app
from gmpo_mm.errors import ConfigError, DataError
from gmpo_mm.inspection.recorded_batch import recorded_batch
from gmpo_mm.inspection.replay import Replay, replay
from gmpo_mm.inspection.replay_page import make_page
from gmpo_mm.inspection.stages import compare_numbers, compare_tokens
from gmpo_mm.inspection.two_updates import ResponseWeights, compare_updates, token_texts, update_weights
from gmpo_mm.inspection.weights_before import find_start
from gmpo_mm.models.packed import Group
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.runs.step_record import StepRecord, load_step, recorded_steps, write_step
from tests.engine.runs import SAVING, arguments, policy_of, run_here, run_process, start_process
from tests.engine.test_text_models import REWARD, make_text_model, text_rows
from tests.inspection.conftest import RECORDING

STAGES = [
    "weights before",
    "prompts",
    "pictures",
    "advantages",
    "log-probs",
    "loss",
    "gradient norm",
    "metrics",
    "weights after",
]


def assert_same_bytes(found: Replay) -> None:
    assert found.exact and found.first_difference is None, found.first_difference
    assert all(stage.same or stage.name == "reference log-probs" for stage in found.stages), found.stages
    assert found.replayed.update.weights_after == found.replayed.record.weights_after


def changed_copy(run: Path, folder: Path, step: int, **changes: object) -> Path:
    """A copy of a run with one record that says something else."""
    target = folder / "run"
    shutil.copytree(run, target)
    write_step(target, replace(load_step(run, step), **changes))
    return target


# ---- the same bytes ----------------------------------------------------------------------------------------


def test_every_step_is_done_again_to_the_byte_from_the_model_a_checkpoint_or_the_steps_before(
    recorded_run: Path,
) -> None:
    starts = {step: find_start(recorded_run, step) for step in (1, 2, 3)}
    assert [start.between for start in starts.values()] == [(), (1,), ()]
    assert starts[3].checkpoint == recorded_run / "checkpoints/step_2" and starts[2].checkpoint is None
    for step in starts:
        found = gmpo_mm.replay(recorded_run, step)
        assert_same_bytes(found)
        assert [stage.name for stage in found.stages][-len(STAGES) :] == STAGES


def test_pictures_are_encoded_in_the_samplers_batches(
    recorded_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last bits of their features may depend on it; a mini-batch has two of the four prompts."""
    encode, sizes = PolicyModel._encode_images, []

    def noted(policy: PolicyModel, prompts: Sequence[Any]) -> list:
        sizes.append(len(prompts))
        return encode(policy, prompts)

    monkeypatch.setattr(PolicyModel, "_encode_images", noted)
    gmpo_mm.replay(recorded_run, 1)
    assert sizes == [4]


VARIANTS = {
    "two epochs": ["worker.actor.ppo_epochs=2", "worker.actor.micro_batch_size_per_device_for_update=1"],
    "KL in the loss": [
        "algorithm.disable_kl=false", "algorithm.use_kl_loss=true", "algorithm.kl_coef=0.5",
        "algorithm.drop_zero_advantage=false",
    ],
    "KL in the reward": [
        "algorithm.disable_kl=false", "algorithm.use_kl_loss=false", "algorithm.kl_type=adaptive",
        "algorithm.kl_coef=0.5",
    ],
    "masked": [
        "algorithm.mask_truncated_completions=true", "data.max_response_length=16",
        "worker.actor.optim.lr_warmup_steps=2", "worker.actor.loss_type=default",
        "worker.actor.loss_avg_mode=token",
    ],
    "LoRA": [
        "worker.actor.model.lora.rank=2", "worker.actor.optim.lr=1e-2", "algorithm.disable_kl=false",
        "algorithm.use_kl_loss=true", "algorithm.drop_zero_advantage=false",
    ],
    "stale": [
        "worker.rollout.staleness=1", "worker.actor.old_log_probs=recompute",
        "worker.rollout.correction=truncated",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [n if n == "masked" else pytest.param(n, marks=pytest.mark.slow) for n in VARIANTS]
)
def test_a_step_of_every_kind_is_done_again_to_the_byte(data: Path, tmp_path: Path, name: str) -> None:
    """The second step, from the model and the recorded first one: the optimizer's state is carried on too."""
    run = run_here(arguments(data, tmp_path / "run", *RECORDING, *VARIANTS[name]))
    found = replay(run, 2)
    assert_same_bytes(found)
    record = found.replayed.record
    assert (record.ref_log_probs_BT is not None) == ("KL" in name or name == "LoRA")
    if record.ref_log_probs_BT is not None:
        assert next(stage.same for stage in found.stages if stage.name == "reference log-probs")
    assert bool(record.left_out) == (name == "masked")
    assert len(record.updates) == (4 if name == "two epochs" else 2)
    assert (record.old_log_probs_BT is not None) == (name == "stale")


@pytest.mark.slow
def test_a_mixture_of_experts_with_its_balance_loss_is_done_again_to_the_byte(tmp_path: Path) -> None:
    model = make_text_model(tmp_path / "model", "experts")
    (tmp_path / "reward.py").write_text(REWARD)
    rows = text_rows(tmp_path)
    run = run_here([
        *arguments(tmp_path, tmp_path / "run", *RECORDING), f"worker.actor.model.model_path={model}",
        f"data.train_files={rows}", "data.format_prompt=null", "algorithm.drop_zero_advantage=false",
        "worker.actor.model.freeze_vision_tower=false",
        f"worker.reward.reward_function={tmp_path}/reward.py:compute_score",
        "worker.actor.micro_batch_size_per_device_for_update=2", "worker.actor.dynamic_batching=false",
        "data.max_response_length=32",
    ])  # fmt: skip
    found = replay(run, 2)
    assert_same_bytes(found)
    assert found.replayed.update.metrics["actor/router_aux_loss"] > 0.9


@pytest.mark.slow
def test_a_killed_and_resumed_run_is_done_again_to_the_byte(data: Path, tmp_path: Path) -> None:
    args = arguments(
        data, tmp_path / "run", *RECORDING, *SAVING, "trainer.max_steps=4", "trainer.save_freq=2"
    )
    process = start_process(args)
    while 3 not in recorded_steps(tmp_path / "run"):
        assert process.poll() is None, process.stdout.read()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    killed = load_step(tmp_path / "run", 3)
    code, output = run_process(args)
    assert code == 0, output
    for step in (1, 2, 3, 4):
        assert_same_bytes(replay(tmp_path / "run", step))
    again = load_step(tmp_path / "run", 3)
    assert again.weights_after == killed.weights_after and torch.equal(
        again.log_probs_BT, killed.log_probs_BT
    )


def test_a_record_away_from_its_run_is_done_again_with_the_weights_that_are_given(
    recorded_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(recorded_run / "rollouts", tmp_path / "taken")
    record = tmp_path / "taken" / "step_3.json"
    assert_same_bytes(replay(record, weights=str(recorded_run / "checkpoints/step_2")))
    bare = replay(record, weights=str(recorded_run / "checkpoints/step_2/huggingface"))
    assert bare.same and [stage.name for stage in bare.stages if stage.same is None][-1] == "weights after"
    with pytest.raises(DataError, match="steps? 1 to 2|1 to 2 again"):
        (tmp_path / "taken" / "step_1.json").unlink()
        replay(record)


def test_weights_before_are_taken_from_the_shards_that_easyr1_and_verl_save(
    recorded_run: Path, tmp_path: Path
) -> None:
    """Their optimizer's state is not read, so that nothing is compared that would need it."""
    run = tmp_path / "run"
    shutil.copytree(recorded_run, run)
    actor = run / "global_step_2" / "actor"
    shutil.copytree(run / "checkpoints/step_2/huggingface", actor / "huggingface")
    shutil.rmtree(run / "checkpoints")
    (run / "rollouts/step_1.json").unlink()
    weights = load_file(actor / "huggingface/model.safetensors")
    (actor / "huggingface/model.safetensors").unlink()
    torch.save(weights, actor / "model_world_size_1_rank_0.pt")
    found = {stage.name: stage for stage in replay(run, 3).stages}
    assert found["weights before"].same and found["advantages"].same
    for name in ("log-probs", "loss", "gradient norm", "weights after"):
        assert found[name].same is None and "optimizer's state" in found[name].words


# ---- what differs is named ---------------------------------------------------------------------------------


def flipped(tensor: torch.Tensor) -> torch.Tensor:
    """With the last bit of its last value other than 0 changed."""
    changed = tensor.clone()
    place = tuple(changed.nonzero()[-1].tolist())
    changed[place] = torch.nextafter(changed[place], torch.tensor(1.0))
    return changed


@pytest.mark.parametrize("what", ["log_probs_BT", "weights_before", "rewards_B", "metrics"])
def test_one_changed_bit_of_a_record_is_named(recorded_run: Path, tmp_path: Path, what: str) -> None:
    record = load_step(recorded_run, 1)
    value = getattr(record, what)
    if what == "weights_before":
        changed, stage = "0" + value[1:] if value[0] != "0" else "1" + value[1:], "weights before"
    elif what == "metrics":
        loss = math.nextafter(value["actor/pg_loss"], 1.0)
        changed, stage = dict(value) | {"actor/pg_loss": loss}, "loss"
    else:
        changed, stage = flipped(value), {"log_probs_BT": "log-probs", "rewards_B": "advantages"}[what]
    if what == "rewards_B":
        changed = value.clone()
        changed[0] += 1.0
    found = replay(changed_copy(recorded_run, tmp_path, 1, **{what: changed}), 1)
    assert found.first_difference is not None and found.first_difference.name == stage
    if what == "log_probs_BT":
        assert "1 of " in found.first_difference.words and 0 < found.first_difference.difference < 1e-6


def test_a_changed_token_is_seen_in_the_prompt_and_a_changed_picture_is_refused(
    recorded_run: Path, tmp_path: Path
) -> None:
    record = load_step(recorded_run, 1)
    prompts = [copy.copy(prompt) for prompt in record.prompts]
    ids_S = prompts[2].input_ids_S.clone()
    ids_S[0] += 1
    prompts[2] = replace(prompts[2], input_ids_S=ids_S)
    run = changed_copy(recorded_run, tmp_path, 1, prompts=prompts)
    first = replay(run, 1).first_difference
    assert first is not None and first.name == "prompts" and "prompt 2" in first.words
    one, two = (run / "rollouts/pictures" / f"{record.prompts[i].images[0]}.png" for i in (0, 1))
    shutil.copy(one, two)
    with pytest.raises(DataError, match="other pixels than its name says"):
        replay(run, 1)


def test_what_has_changed_since_is_named(recorded_run: Path, tmp_path: Path) -> None:
    record = load_step(recorded_run, 1)
    versions = dict(record.versions) | {"torch": "1.0"}
    found = replay(changed_copy(recorded_run, tmp_path, 1, versions=versions, weights_after="0"), 1)
    assert found.changed == {"torch": ("1.0", torch.__version__)} and not found.same


def test_missing_steps_and_optimizer_states_are_named_with_what_would_help(
    recorded_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(recorded_run, run)
    (run / "checkpoints/step_2/optimizer.safetensors").unlink()
    (run / "rollouts/step_1.json").unlink()
    with pytest.raises(
        DataError, match=r"and 1 has no record.*steps 2 hold no optimizer state.*trainer\.record_steps=\[3\]"
    ):
        replay(run, 3)
    assert_same_bytes(replay(recorded_run, 3))


# ---- another update ----------------------------------------------------------------------------------------


def naive_gradient(
    record: StepRecord, policy_at: object, prompts: list, token_mean: bool, entropy: float
) -> dict:
    """Of the first optimizer step on-policy, from the equations: ratio x advantage, by response or token."""
    policy = policy_at
    rows = list(record.updates[0])
    size = len(record) // len(record.prompts)
    total = torch.zeros(())
    tokens = sum(record.lengths_B[row] for row in rows)
    for row in rows:
        ids_T = record.response_ids_BT[row, : record.lengths_B[row]]
        output = policy.response_log_probs([Group(prompts[row // size], [ids_T])], record.temperature)
        log_probs_T = output.log_probs_BT[0]
        ratio_T = (log_probs_T - log_probs_T.detach()).exp()
        share = 1 / tokens if token_mean else 1 / (len(rows) * len(ids_T))
        total = total - (ratio_T * record.advantages_BT[row, : len(ids_T)]).sum() * share
        total = total - entropy * output.entropy_BT[0].sum() * share
    named = [(n, p) for n, p in policy.module.named_parameters() if p.requires_grad]
    gradients = torch.autograd.grad(total, [p for _, p in named], allow_unused=True)
    return {n: g for (n, _), g in zip(named, gradients, strict=True) if g is not None}


def naive_cosine(a: dict, b: dict, chosen: object) -> float:
    one = torch.cat([a[n].flatten().double() for n in a if chosen(n)])
    two = torch.cat([b[n].flatten().double() for n in a if chosen(n)])
    return float(one @ two / one.norm() / two.norm())


OTHER = [
    "worker.actor.loss_type=default", "worker.actor.loss_avg_mode=token", "worker.actor.entropy_coef=0.5",
    "algorithm.drop_zero_advantage=false",
]  # fmt: skip


def test_gradients_norms_and_cosines_are_those_of_a_naive_reference(recorded_run: Path, data: Path) -> None:
    found = replay(recorded_run, 3, OTHER)
    two, record = found.two, found.replayed.record
    assert two is not None and found.same
    policy = policy_of(data, recorded_run, 2)
    prompts = [group.prompt for group in found.replayed.update.batch.groups]
    own = naive_gradient(record, policy, prompts, token_mean=False, entropy=0.0)
    other = naive_gradient(record, policy, prompts, token_mean=True, entropy=0.5)
    assert two.own.gradient_norm == pytest.approx(
        math.sqrt(sum(float(g.double().square().sum()) for g in own.values())), rel=1e-5
    )
    assert two.other.gradient_norm == pytest.approx(
        math.sqrt(sum(float(g.double().square().sum()) for g in other.values())), rel=1e-5
    )
    assert (
        two.cosine == pytest.approx(naive_cosine(own, other, lambda n: True), abs=1e-5) and two.cosine < 0.999
    )
    choose = {
        "embeddings": lambda n: "embed_tokens" in n,
        "attention": lambda n: ".self_attn." in n and "visual" not in n,
        "MLP": lambda n: ".mlp." in n and "visual" not in n,
        "other": lambda n: "norm" in n and "visual" not in n,
    }
    assert set(two.cosines) == set(choose) and two.tied
    for group, chosen in choose.items():
        assert two.cosines[group] == pytest.approx(naive_cosine(own, other, chosen), abs=1e-5), group
    assert len({round(value, 6) for value in two.cosines.values()}) == len(choose)


def test_token_weights_step_sizes_and_clipped_tokens_are_those_of_a_naive_reference(
    recorded_run: Path,
) -> None:
    """GRPO with a narrow clip and a large rate, beside GMPO: both in float64 from the equations."""
    overrides = [
        "worker.actor.loss_type=default", "worker.actor.loss_avg_mode=seq",
        "worker.actor.clip_ratio_low=0.01", "worker.actor.clip_ratio_high=0.02",
        "worker.actor.clip_ratio_dual=1e6", "worker.actor.optim.lr=1e-3",
        "algorithm.drop_zero_advantage=false",
    ]  # fmt: skip
    found = replay(recorded_run, 2, overrides)
    two, own, record = found.two, found.replayed.update, found.replayed.record
    assert two is not None
    weights_BT = update_weights(own)
    clip = own.config.loss.gmpo
    for rows in record.updates:
        for row in rows:
            if not own.seen.mask_BT[row].any():
                continue
            length, advantage = record.lengths_B[row], float(record.advantages_BT[row, 0])
            log_ratio = (own.seen.log_probs_BT - own.seen.old_log_probs_BT)[row, :length].double().tolist()
            low, high = -clip.log_clip_low, clip.log_clip_high
            cut = [min(x, high) if advantage > 0 else max(x, low) for x in log_ratio]
            mean = math.exp(sum(cut) / length)
            for token, (x, c) in enumerate(zip(log_ratio, cut, strict=True)):
                expected = advantage * mean / length / len(rows) if x == c else 0.0
                assert float(weights_BT[row, token]) == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert 0 < two.other.clipped < two.other.weighed and two.own.clipped == 0
    assert two.own.step_size < two.other.step_size
    # the ten responses, from the numbers that the page shows
    changes = [float((r.own_T.double() - r.other_T.double()).abs().sum()) for r in two.responses]
    assert changes == sorted(changes, reverse=True) and len(two.responses) <= 10
    assert [r.change for r in two.responses] == pytest.approx(changes, rel=1e-5)
    assert {"".join(r.tokens).removesuffix("<|im_end|>") for r in two.responses} <= {
        record.texts[r.row] for r in two.responses
    }


def test_the_runs_own_keys_as_overrides_give_its_own_update(recorded_run: Path) -> None:
    """The weights, the optimizer's state and the batch are put back before the other update."""
    found = replay(recorded_run, 3, ["worker.actor.loss_type=gmpo"])
    two = found.two
    assert two is not None and two.responses == () and two.own == two.other
    assert two.cosine == pytest.approx(1.0) and two.step_cosine == pytest.approx(1.0)


def test_other_advantages_and_cuts_are_made_from_the_same_rewards(recorded_run: Path) -> None:
    record = load_step(recorded_run, 1)
    found = replay(recorded_run, 1, ["algorithm.norm_adv_by_std=false", "worker.actor.global_batch_size=4"])
    assert (
        found.two is not None and found.two.other.optimizer_steps == 1 and found.two.own.optimizer_steps == 2
    )
    by_row = {r.row: r for r in found.two.responses}
    assert by_row
    rewards = record.rewards_B.view(4, 4)
    centred = (rewards - rewards.mean(1, keepdim=True)).flatten()
    for row, shown in by_row.items():  # on-policy: weight = advantage / tokens / responses of the only update
        expected = float(centred[row]) / record.lengths_B[row] / len(record)
        assert float(shown.other_T[0]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("key", [
    "data.seed=3", "worker.rollout.temperature=0.5", "worker.actor.model.model_path=x", "trainer.max_steps=9",
    "worker.actor={loss_type: default, model: {model_path: x}}",
])  # fmt: skip
def test_overrides_that_no_update_reads_are_refused_by_name(recorded_run: Path, key: str) -> None:
    name = "worker.actor.model" if key.startswith("worker.actor={") else key.partition("=")[0]
    with pytest.raises(ConfigError, match=f"{name}.*cannot change the update") as error:
        replay(recorded_run, 1, [key])
    assert "worker.actor.loss_type:" not in str(error.value)


@pytest.mark.parametrize("override, words", [
    ("worker.actor.loss_type=nonsense", "nonsense"),
    ("worker.actor.clip_ratio_low=0.1", "does not read it"),
    ("algorithm.disable_kl=false", "no log-probabilities of the reference"),
    ("algorithm.adv_estimator=remax", "greedy responses"),
])  # fmt: skip
def test_overrides_that_the_record_or_the_loss_does_not_allow_are_refused(
    recorded_run: Path, override: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        replay(recorded_run, 1, [override])


@pytest.mark.parametrize("key, value", [("loss_type", "evil.py:loss"), ("model", {"trust_remote_code": True})])
def test_code_that_a_record_names_does_not_run_unless_it_is_trusted(
    recorded_run: Path, tmp_path: Path, key: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    config = copy.deepcopy(load_step(recorded_run, 1).config)
    actor = config["worker"]["actor"]
    actor[key] = value if isinstance(value, str) else {**actor[key], **value}
    run = changed_copy(recorded_run, tmp_path, 1)
    write_own(run, config)
    with pytest.raises(ConfigError, match="--trust-code"):
        replay(run, 1)
    assert not Path("ran").exists()
    if key == "model":
        assert replay(run, 1, trust_code=True).same


def write_own(run: Path, config: dict) -> None:
    """Put a configuration into the record of step 1, as somebody with a text editor would."""
    path = run / "rollouts/step_1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"config": config}))


# ---- the command and the page ------------------------------------------------------------------------------


def test_the_command_says_the_same_bytes_or_what_differs_by_words_and_exit_code(
    recorded_run: Path, tmp_path: Path
) -> None:
    runner = CliRunner()
    good = runner.invoke(app, ["replay", str(recorded_run), "--step", "1"])
    assert (
        good.exit_code == 0
        and "Step 1, done again: the same bytes." in good.output
        and "\x1b" not in good.output
    )
    changed = changed_copy(recorded_run, tmp_path, 1, weights_after="0" * 64)
    page = tmp_path / "page.html"
    bad = runner.invoke(app, ["replay", str(changed), "--step", "1", "--json", "--out", str(page), *OTHER])
    assert bad.exit_code == 1
    numbers = json.loads(bad.stdout)
    assert numbers["first_difference"] == "weights after" and not numbers["same"] and page.is_file()
    assert numbers["responses"][0]["tokens"] and "\x1b" not in bad.stdout


HOSTILE = '</span><script>alert(1)</script><img src=x onerror="alert(2)">\u202e\x1b[31m'


def test_the_page_shows_hostile_texts_and_runs_none(recorded_run: Path) -> None:
    found = replay(recorded_run, 2, OTHER)
    assert found.two is not None
    shown = found.two.responses[0]
    hostile = replace(shown, tokens=(HOSTILE,) * len(shown.tokens), problem=HOSTILE)
    page = make_page(replace(found, two=replace(found.two, responses=(hostile,)), overrides=(HOSTILE,)))
    assert "<script" not in page and "<img" not in page and "&lt;script&gt;" in page
    assert "default-src 'none'" in page and "script-src" not in page
    from rich.console import Console

    from gmpo_mm.inspection.print_replay import print_replay

    console = Console(force_terminal=True, color_system="truecolor", file=io.StringIO())
    print_replay(replace(found, two=replace(found.two, responses=(hostile,))), console)
    text = console.file.getvalue()
    assert "\x1b[31m" not in text
    assert "\u202e" not in text and "\x1b[30;48;2;" in text


def test_a_character_of_several_tokens_stands_at_its_last_token() -> None:
    class Bytes:
        def decode(self, ids: list[int], **_: object) -> str:
            return bytes(ids).decode("utf-8", "replace")

    assert token_texts(Bytes(), [*"aé€".encode(), 0xC3]) == ("a", "", "é", "", "", "€", "\ufffd")


def test_a_response_is_shown_with_its_numbers_where_there_is_no_terminal() -> None:
    from gmpo_mm.inspection.print_replay import _plain

    shown = ResponseWeights(
        0, 0, "ab", "", 1.0, 1.0, 0.1, ("a", "\x07b"), torch.tensor([0.1, 0.0]), torch.tensor([-0.25, 0.0])
    )
    assert "'a' +0.1 −0.25 | '·b' 0 0" in _plain(shown)[0].plain


# ---- the parts --------------------------------------------------------------------------------------------


def test_gradients_are_compared_in_the_first_optimizer_step_in_which_either_update_has_one(
    recorded_run: Path,
) -> None:
    done = replay(recorded_run, 1, ["worker.actor.loss_type=gmpo"])
    own = done.replayed.update
    assert own.first == 0 and own.optimizer_steps == 2
    later = replace(own, first=1)  # as an update whose first mini-batch had no advantage
    nothing = torch.nn.Linear(1, 1)
    policy = SimpleNamespace(module=nothing, vision=None, embedding=nothing, lm_head=nothing)
    processor = SimpleNamespace(tokenizer=None)
    two = compare_updates(own, later, done.replayed.record, policy, processor)
    assert two.own.gradient_norm > 0 == two.other.gradient_norm and math.isnan(two.cosine)
    both = compare_updates(later, later, done.replayed.record, policy, processor)
    assert both.own.gradient_norm == both.other.gradient_norm > 0


def test_groups_and_masks_that_the_local_engine_cannot_take_are_named(recorded_run: Path) -> None:
    record = load_step(recorded_run, 1)
    groups_B = record.group_ids_B.clone()
    groups_B[0] = 1
    with pytest.raises(DataError, match="3 to 5 responses, not group by group"):
        recorded_batch(replace(record, group_ids_B=groups_B), [])
    mask_BT = record.mask_BT.clone()
    mask_BT[5, 2] = False
    with pytest.raises(DataError, match="response 5 has tokens that are not trained on"):
        recorded_batch(replace(record, mask_BT=mask_BT), [])


def test_a_tolerance_is_absolute_and_relative_above_one() -> None:
    assert compare_numbers("x", 100.0, 100.0009, 1e-5).same and not compare_numbers("x", 100.0, 100.0011, 1e-5).same
    assert compare_numbers("x", 0.001, 0.001009, 1e-5).same and not compare_numbers("x", 1.0, 1.0 + 1e-15).same
    assert not compare_numbers("x", 1.0, math.nan, 1e-5).same and compare_numbers("x", math.nan, math.inf).same
    recorded = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
    where = torch.tensor([[True, True], [True, False]])
    near, far = recorded - 1e-6, recorded.clone()
    far[1] -= 1.0
    assert compare_tokens("x", recorded, near, where, 1e-5).same and not compare_tokens("x", recorded, near, where).same
    found = compare_tokens("x", recorded, far, where, 1e-5)
    assert not found.same and found.difference == 1.0 and "1 of 3 tokens" in found.words
    assert "token 0 of response 1" in found.words
    assert not compare_tokens("x", recorded, recorded * math.nan, where, 1e-5).same
