"""Text-only and picture rows in one batch of the bundled vision model: they train together, and neither changes the other."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gmpo_mm.config import resolve_model_path
from gmpo_mm.data.prompts import EncodedPrompt
from gmpo_mm.data.records import Record
from gmpo_mm.models.loading import load_model
from gmpo_mm.models.packed import Group
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.processing import load_processor
from gmpo_mm.toys.synthetic_geometry import draw, make_problem, make_rows
from gmpo_mm.toys.tiny import vocabulary
from tests.engine.runs import arguments, run_here, train_metrics, weights


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Four rows with a picture, four without, alternating."""
    pictures = make_rows("train", 4, 0)
    rows = []
    for index, row in enumerate(pictures):
        plain = {"problem": f"Find {index}+{index + 2}.", "images": [], "answer": str(2 * index + 2), "id": f"text-{index}"}
        rows += [{key: row[key] for key in plain}, plain]
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("problem", pa.string()), ("images", pa.list_(image)), ("answer", pa.string()), ("id", pa.string())])
    for name in ("train", "test_pictures"):
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / f"{name}.parquet")
    return tmp_path


def test_they_train_together(mixed: Path) -> None:
    options = [
        "data.rollout_batch_size=8", "worker.actor.global_batch_size=4", "worker.actor.optim.lr=1e-3",
        "algorithm.drop_zero_advantage=false", "trainer.max_steps=3", "trainer.save_freq=3",
        "worker.actor.model.freeze_vision_tower=false",
        # a length reward, since the model answers no text row rightly and would learn nothing from one
        f"worker.reward.reward_function={mixed}/reward.py:compute_score",
    ]  # fmt: skip
    (mixed / "reward.py").write_text(
        "def compute_score(rows):\n    return [{'overall': float(sum(map(ord, r['response'])) % 7)} for r in rows]\n"
    )
    run_dir = run_here(arguments(mixed, mixed / "run", *options))
    for line in train_metrics(run_dir):
        assert line["actor/skipped_updates"] == 0 and line["actor/grad_norm"] > 0
        assert line["rollout/log_prob_gap_max"] < 1e-4  # the sampler and the update read both kinds of rows alike
        samples = run_dir / "samples" / f"step_{line['step']}_train.jsonl"
        rows = [json.loads(text) for text in samples.read_text().splitlines()]
        kinds = {row["id"].startswith("text-"): row["advantage"] for row in rows if row["advantage"]}
        assert set(kinds) == {True, False}  # both kinds give a gradient
    start = load_model(resolve_model_path("bundled:qwen2_5_vl_tiny")).state_dict()
    trained = weights(run_dir, 3)
    visual = [name for name in trained if name.startswith("visual.")]
    assert visual and any(not torch.equal(trained[name], start[f"model.{name}"]) for name in visual)


def test_a_row_in_a_mixed_batch_has_the_log_probabilities_and_gradient_that_it_has_alone() -> None:
    folder = resolve_model_path("bundled:qwen2_5_vl_tiny")
    policy = PolicyModel(load_model(folder))
    processor = load_processor(folder, is_vision=True, image_token_id=vocabulary()["<|image_pad|>"])
    groups = []
    for index in range(2):
        problem = make_problem("train", index)
        for pictures, content in (
            ([draw(problem)], [{"type": "image"}, {"type": "text", "text": problem.text.removeprefix("<image>")}]),
            ([], [{"type": "text", "text": f"Find {index}+5."}]),
        ):
            text = processor.chat_text([{"role": "user", "content": content}])
            ids, unexpanded, pixels, grid = processor.encode(text, pictures)
            record = Record(text, (), "", ("",), str(index))
            prompt = EncodedPrompt(record, text, ids, unexpanded, tuple(pictures), pixels, grid)
            answers = [f"<think>{index}</think>\\boxed{{{n}}}<|im_end|>" for n in (3, 12)]
            encode = processor.tokenizer.encode
            groups.append(Group(prompt, [torch.tensor(encode(answer, add_special_tokens=False)) for answer in answers]))

    def gradients(chosen: list[Group]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        policy.module.zero_grad()
        output = policy.response_log_probs(chosen)
        output.log_probs_BT.sum().backward()
        found = {name: p.grad.clone() for name, p in policy.module.named_parameters() if p.grad is not None}
        return output.log_probs_BT.detach(), found

    together, gradient = gradients(groups)
    alone = [gradients([group]) for group in groups]
    for row, (log_probs, _) in enumerate(alone):
        own = together[2 * row : 2 * row + 2, : log_probs.shape[1]]
        torch.testing.assert_close(own, log_probs, atol=2e-5, rtol=1e-5)
    for name, value in gradient.items():
        parts = sum(found[name] for _, found in alone if name in found)
        assert float((value - parts).norm()) <= 1e-4 * float(value.norm()) + 1e-6, name
