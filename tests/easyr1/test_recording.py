"""A run of EasyR1 writes its steps as records: what is in them is what the actors trained on, and the weights' own hashes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from verl.utils import dataset as easyr1_dataset

from gmpo_mm.config import load_config
from gmpo_mm.data import PromptDataset, RecordKeys, load_records
from gmpo_mm.engines.easyr1.actor import GMPOActor
from gmpo_mm.engines.easyr1.recording import ID, OF_THE_MACHINE, PROBLEM, problems_kept
from gmpo_mm.engines.easyr1.rows_seen import ROWS, SEEN, of_all_ranks
from gmpo_mm.engines.easyr1.trainer import StepRewards
from gmpo_mm.inspection.replay import replay
from gmpo_mm.models.loading import load_policy
from gmpo_mm.models.weights_hash import weights_sha256
from gmpo_mm.runs.fsdp_checkpoint import merged_model
from gmpo_mm.runs.step_record import StepRecord, load_step, picture_name, recorded_steps
from tests.easyr1.batches import Setting, to_data_proto, without_packing
from tests.easyr1.test_actor import make
from tests.easyr1.test_run import STEP_LIMIT, data, finish, lines, overrides, start

__all__ = ["data"]

UPDATES, EPOCHS = 2, 2
PLAIN: tuple[str, ...] = ()
FILTERED = (  # groups are left out of the step, and truncated responses out of the loss
    "algorithm.online_filtering=true", "algorithm.filter_low=0.01", "algorithm.filter_high=0.99",
    "algorithm.mask_truncated_completions=true", "data.max_response_length=17",
)  # fmt: skip


@pytest.fixture(
    scope="module", params=[(1, PLAIN), (2, PLAIN), (2, FILTERED)], ids=["1 rank", "2 ranks", "2 ranks, filtered"]
)
def recorded(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, both recorded, each with two epochs of two mini-batches, which the actors put aside."""
    ranks, more = request.param
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "mini_batches").mkdir()
    leftover = folder / "run" / "rollouts" / ".step_9.safetensors.tmp"
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    texts = overrides(
        data, folder / "run", ranks, "data.val_files=", "trainer.val_freq=-1", "trainer.val_before_train=false",
        "trainer.record_steps=every 1", "worker.actor.global_batch_size=2", f"worker.actor.ppo_epochs={EPOCHS}",
        "worker.actor.optim.lr=1e-4", "trainer.compare_losses=[default,gspo,cispo]", *more,
    )  # fmt: skip
    finish(start(ranks, texts, GMPO_TEST_MINI_BATCHES=str(folder / "mini_batches")))
    return folder / "run"


def mini_batches(run: Path, step: int) -> Iterator[list[dict[str, torch.Tensor]]]:
    """For each optimizer step of a step the rows that all ranks' actors were given, each without padding."""
    folder = run.parent / "mini_batches"
    first = (step - 1) * UPDATES * EPOCHS
    for number in range(first, first + UPDATES * EPOCHS):
        rows = []
        for path in sorted(folder.glob(f"{number}_of_rank_*.pt")):
            kept = torch.load(path, weights_only=True)
            width = kept["responses"].shape[1]
            for i in range(len(kept["responses"])):
                mask = kept["response_mask"][i].bool()
                row = {name: tensor[i][mask] for name, tensor in kept.items() if tensor.shape[1:] == (width,)}
                prompt = kept["attention_mask"][i, :-width].bool()
                row["prompt"] = kept["input_ids"][i, :-width][prompt]
                row["advantages"] = kept["advantages"][i].expand(int(mask.sum()))  # one a sequence, as GMPO takes them
                rows.append(row)
        yield rows


def rows_of(record: StepRecord) -> list[dict[str, torch.Tensor]]:
    """The same of a record's rows."""
    assert record.old_log_probs_BT is not None and record.ref_log_probs_BT is not None
    columns = {
        "responses": record.response_ids_BT, "advantages": record.advantages_BT, "old_log_probs": record.old_log_probs_BT,
        "ref_log_probs": record.ref_log_probs_BT,
    }  # fmt: skip
    mask_BT = record.mask_BT.clone()
    mask_BT[list(record.left_out)] = False
    return [
        {name: column[row][mask_BT[row]] for name, column in columns.items()}
        | {"prompt": record.prompts[int(record.group_ids_B[row])].input_ids_S}
        for row in range(len(record))
    ]


def key(row: dict[str, torch.Tensor]) -> str:
    names = ("prompt", "responses", "advantages", "old_log_probs", "ref_log_probs")
    return json.dumps([row[name].tolist() for name in names])


@pytest.mark.timeout(STEP_LIMIT)
def test_each_update_of_the_record_has_the_rows_that_the_actors_were_given(recorded: Path) -> None:
    assert recorded_steps(recorded) == [1, 2]
    assert not list(recorded.rglob("*.tmp")), "what a killed run left is gone"
    for step in (1, 2):
        record = load_step(recorded, step)
        rows = rows_of(record)
        truncated = {row for row, reason in enumerate(record.stop_reasons) if reason == "length"}
        filtered = bool(record.config["algorithm"]["online_filtering"])
        assert record.left_out == (truncated if filtered else set()) and bool(truncated) == filtered
        given = list(mini_batches(recorded, step))
        assert len(record.updates) == len(given) == UPDATES * EPOCHS
        for named, found in zip(record.updates, given, strict=True):
            assert len(named) == 8 and sorted(key(rows[row]) for row in named) == sorted(key(row) for row in found)
        assert sorted(row for update in record.updates[:UPDATES] for row in update) == list(range(16))


@pytest.mark.timeout(STEP_LIMIT)
def test_a_record_has_the_prompts_pictures_and_grades_group_by_group(recorded: Path, data: Path) -> None:
    config = load_config(recorded / "config.yaml").config
    records = load_records(str(data / "train.parquet"), RecordKeys.from_data_config(config.data))
    _, processor = load_policy(config.worker.actor.model, device=torch.device("cpu"), compute_dtype=torch.float32)
    dataset = PromptDataset(records, processor, config.data, training=True)
    ours = {dataset[i].record.id: dataset[i] for i in range(len(dataset))}
    record = load_step(recorded, 1)
    assert record.engine == "easyr1" and record.group_ids_B.tolist() == [i // 4 for i in range(16)]
    for prompt in record.prompts:
        own = ours[prompt.id]
        assert torch.equal(prompt.input_ids_S, own.input_ids_S) and prompt.text == own.text
        assert (prompt.problem, prompt.answer) == (own.record.problem, own.record.answer)
        assert prompt.images == tuple(picture_name(image) for image in own.images)
        assert all((recorded / "rollouts/pictures" / f"{name}.png").is_file() for name in prompt.images)
        assert torch.equal(prompt.image_grid_thw_N3, own.image_grid_thw_N3)
    for row in range(16):
        ids = record.response_ids_BT[row][record.mask_BT[row]]
        assert record.texts[row] == processor.tokenizer.decode(ids, skip_special_tokens=True)
        assert record.stop_reasons[row] == ("stop" if int(ids[-1]) == processor.tokenizer.eos_token_id else "length")
        graded = _grade(record, row)
        assert graded["overall"] == record.rewards_B[row] and graded["accuracy"] == record.reward_parts["accuracy"][row]
    (line, _) = lines(recorded, "train")
    shown = {name: value for name, value in line.items() if not name.startswith(OF_THE_MACHINE)}
    assert dict(record.metrics) == {name: value for name, value in shown.items() if name not in ("step", "kind", "time")}
    assert (record.learning_rate, record.kl_coef, record.temperature) == (1e-4, 0.01, 1.0)
    if not config.algorithm.online_filtering:
        assert record.rewards_B.mean() == pytest.approx(line["reward/overall"])
    assert record.versions["easyr1"].startswith("0.3.") and record.config["engine"] == "easyr1"
    assert record.log_probs_BT is not None and record.old_log_probs_BT is not None
    trained_BT = record.mask_BT.clone()
    trained_BT[list(record.left_out)] = False
    ratios = (record.log_probs_BT - record.old_log_probs_BT)[trained_BT].exp()
    last_epoch = lines(recorded, "updates")[0]["ratio/token_max"][-UPDATES:]
    assert float(ratios.max()) == pytest.approx(max(last_epoch), rel=1e-5)


def _grade(record: StepRecord, row: int) -> dict[str, float]:
    from gmpo_mm.rewards.math import compute_score

    prompt = record.prompts[int(record.group_ids_B[row])]
    response = {"response": record.texts[row], "response_length": int(record.mask_BT[row].sum())}
    return compute_score([response | {"ground_truth": prompt.answer, "problem": prompt.problem}])[0]


@pytest.mark.timeout(STEP_LIMIT)
def test_the_hashes_are_those_of_the_local_engines_policy_with_the_same_weights(recorded: Path) -> None:
    config = load_config(recorded / "config.yaml").config
    for step in (0, 1, 2):
        if step:
            config.worker.actor.model.model_path = str(merged_model(recorded / f"global_step_{step}"))
        loaded, _ = load_policy(config.worker.actor.model, device=torch.device("cpu"), compute_dtype=torch.float32)
        named = ((name, p) for name, p in loaded.module.named_parameters() if p.requires_grad)
        found = weights_sha256(named)
        if step:
            assert load_step(recorded, step).weights_after == found
        if step < 2:
            assert load_step(recorded, step + 1).weights_before == found


@pytest.mark.timeout(STEP_LIMIT)
def test_a_recorded_step_replays_on_the_local_engine(recorded: Path) -> None:
    """From the record, its pictures and the weights before: loss, gradient norm, log-probs and the weights' change to 1e-5."""
    found = replay(recorded, 1)
    compared = {stage.name: stage for stage in found.stages}
    assert found.first_difference is None and not found.exact
    assert "the same bytes" in compared["weights before"].words
    for name in ("prompts", "pictures", "advantages", "old log-probs", "reference log-probs", "log-probs"):
        assert compared[name].same, name
    record, update = found.replayed.record, found.replayed.update
    for name in ("actor/pg_loss", "actor/grad_norm"):
        assert update.metrics[name] == pytest.approx(record.metrics[name], abs=1e-5), name
    config = load_config(recorded / "config.yaml").config
    loaded, _ = load_policy(config.worker.actor.model, device=torch.device("cpu"), compute_dtype=torch.float32)
    before = {name: weight.detach() for name, weight in loaded.module.named_parameters()}
    after = load_file(merged_model(recorded / "global_step_1") / "model.safetensors")
    assert update.changes.keys() == after.keys()
    moved = {name: after[name] - before[name] for name in after}
    assert max(float(change.abs().max()) for change in moved.values()) > 1e-4
    assert max(float((update.changes[name] - change).abs().max()) for name, change in moved.items()) < 1e-5
    later = replay(recorded, 2)
    assert later.first_difference is None, "after step 1 has been done again"


@pytest.mark.timeout(STEP_LIMIT)
def test_compared_losses_are_those_of_all_ranks_rows(recorded: Path) -> None:
    """GMPO's weights (equation 6) and GRPO's (equation 5) in float64, token by token, from the record of the last epoch."""
    for line in lines(recorded, "compare"):
        record = load_step(recorded, line["step"])
        gmpo, grpo = weights(record)
        assert line["compare/trained"] == "gmpo" and line["compare/losses"] == ["gmpo", "default", "gspo", "cispo"]
        for name, found in (("gmpo", gmpo), ("default", grpo)):
            total, squares = sum(map(abs, found)), sum(w * w for w in found)
            assert line[f"compare/{name}/ess_frac"] == pytest.approx(total**2 / (len(found) * squares), rel=1e-5)
            assert line[f"compare/{name}/clipped_frac"] == pytest.approx(found.count(0.0) / len(found))
        dot = sum(a * b for a, b in zip(gmpo, grpo, strict=True))
        norms = sum(a * a for a in gmpo) * sum(b * b for b in grpo)
        assert line["compare/default/cosine"] == pytest.approx(dot / norms**0.5, rel=1e-5)
        assert len(line["compare/gspo/clipped_by_entropy"]) == 10, "the actors' entropies are here"
    assert [line["step"] for line in lines(recorded, "compare")] == [1, 2]
    assert lines(recorded, "train")[0]["timing_s/compare"] > 0


def weights(record: StepRecord) -> tuple[list[float], list[float]]:
    """-dL / dlog p of the trained tokens with an advantage, for GMPO and for GRPO with EasyR1's clip keys."""
    assert record.log_probs_BT is not None and record.old_log_probs_BT is not None
    gmpo, grpo = [], []
    for rows in record.updates[-UPDATES:]:
        tokens = sum(int(record.mask_BT[row].sum()) for row in rows if row not in record.left_out)
        for row in rows:
            mask_T = record.mask_BT[row]
            advantage = float(record.advantages_BT[row][mask_T][0])
            if row in record.left_out or advantage == 0:
                continue
            d_t = (record.log_probs_BT[row] - record.old_log_probs_BT[row])[mask_T].double().tolist()
            free = [min(d, 0.4) if advantage > 0 else max(d, -0.4) for d in d_t]
            mean = math.exp(sum(free) / len(d_t))
            gmpo += [advantage * mean / len(d_t) / len(rows) if c == d else 0.0 for c, d in zip(free, d_t, strict=True)]
            for rho in map(math.exp, d_t):
                clipped = rho > 1.3 if advantage > 0 else not 0.8 <= rho <= 3.0
                grpo.append(0.0 if clipped else advantage * rho / tokens)
    return gmpo, grpo


def test_the_actor_notes_rows_log_probs_and_grids_of_dynamic_micro_batches() -> None:
    batch, policy = make("qwen2_5_vl")
    data, module = to_data_proto(batch, policy), without_packing(policy)
    numbers_B = data.batch[ROWS] = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    setting = Setting(8, 2, dynamic_batching=True, epochs=2)
    actor = GMPOActor(setting.config(), module, torch.optim.SGD(module.parameters(), lr=0.0))
    seen = of_all_ranks(actor.update_policy(data)[SEEN])
    halves = [sorted(numbers_B[:8].tolist()), sorted(numbers_B[8:].tolist())]
    assert seen.updates == halves * 2 and all(len(calls) > 1 for calls in seen.calls)
    mask_BT, order_B = batch.mask_BT, numbers_B.argsort()
    expected_BT = actor.compute_log_prob(data)[order_B]
    assert torch.allclose(seen.log_probs_BT[mask_BT[order_B]], expected_BT[mask_BT[order_B]], atol=1e-5)
    assert (seen.entropy_BT[mask_BT[order_B]] > 0).all()
    pictures = data.non_tensor_batch["multi_modal_inputs"]
    with_grid = {int(numbers_B[i]): pictures[i]["image_grid_thw"] for i in range(16) if pictures[i]}
    assert seen.grids.keys() == with_grid.keys() and with_grid
    assert all(torch.equal(seen.grids[row], grid) for row, grid in with_grid.items())
    del data.batch[ROWS]
    assert SEEN not in actor.update_policy(data), "without numbers nothing is kept"


@pytest.mark.parametrize(("columns", "ids"), [({}, ["0", "1"]), ({"id": [7, None]}, ["7", "1"])])
def test_rows_keep_their_problem_and_are_named_as_on_the_local_engine(
    columns: dict[str, list[int | None]], ids: list[str], tmp_path: Path
) -> None:
    rows = {"problem": ["one", "two"], "answer": ["1", "2"], **columns}
    Dataset.from_dict(rows).to_parquet(tmp_path / "rows.parquet")
    with problems_kept("problem"):
        found = easyr1_dataset.load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), split="train")
    assert [(row[ID], row[PROBLEM]) for row in found] == list(zip(ids, rows["problem"], strict=True))
    records = load_records(str(tmp_path / "rows.parquet"), RecordKeys(prompt_key="problem"))
    assert [records[i].id for i in range(2)] == ids
    again = easyr1_dataset.load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), split="train")
    assert PROBLEM not in again.column_names, "outside all is as before"


def test_grades_find_their_rows_in_the_order_that_was_graded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A baseline of each group is graded before its responses; the last time counts."""
    answers = iter([("", {"overall": [9.0, 9.0]}), ("", {"overall": [1.0, 2.0, 3.0, 4.0]})])
    manager = SimpleNamespace(compute_reward=SimpleNamespace(remote=lambda batch: next(answers)))
    monkeypatch.setattr("ray.get", lambda answer: answer)
    rewards = StepRewards(manager)
    for uids in (["a", "b"], ["a", "b", "b", "a"]):
        rewards.remote(SimpleNamespace(non_tensor_batch={"uid": uids}))  # type: ignore[arg-type]
    assert [scores["overall"] for scores in rewards.of_rows(["b", "a", "a", "b"])] == [2.0, 1.0, 4.0, 3.0]
