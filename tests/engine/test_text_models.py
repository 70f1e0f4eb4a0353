"""Text models, dense and mixture-of-experts, through the whole engine: real classes, real tokenizer, text records."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from gmpo_mm.config import resolve_model_path
from tests.engine.runs import SMALL, run_here, train_metrics
from tests.models.model_zoo import _rope

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def make_text_model(folder: Path, family: str) -> Path:
    """A random text model with the bundled tokenizer."""
    folder.mkdir(parents=True)
    bundled = Path(resolve_model_path("bundled:qwen2_5_vl_tiny"))
    for name in TOKENIZER_FILES:
        shutil.copy(bundled / name, folder / name)
    vocabulary = json.loads((bundled / "config.json").read_text())
    size = vocabulary.get("vocab_size") or vocabulary["text_config"]["vocab_size"]
    common = dict(
        vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.3, **_rope(None),
    )  # fmt: skip
    torch.manual_seed(0)
    if family == "dense":
        model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**common))
    else:
        experts = dict(num_experts=4, num_experts_per_tok=1, moe_intermediate_size=32, head_dim=8)
        config = transformers.Qwen3MoeConfig(**common, **experts, router_aux_loss_coef=0.01)
        model = transformers.Qwen3MoeForCausalLM(config)
    model.save_pretrained(folder)
    return folder


def text_rows(folder: Path) -> Path:
    rows = [{"problem": f"What is {a} + {b}?", "answer": str(a + b)} for a in range(3) for b in range(4)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "rows.jsonl"


REWARD = "def compute_score(rows):\n    return [{'overall': float(len(r['response']) % 2)} for r in rows]\n"


@pytest.mark.parametrize("family", ["dense", "experts"])
def test_text_models_train_and_resume(tmp_path: Path, family: str) -> None:
    model = make_text_model(tmp_path / "model", family)
    (tmp_path / "reward.py").write_text(REWARD)
    args = [
        "configs/quickstart.yaml", *SMALL, f"worker.actor.model.model_path={model}", f"data.train_files={text_rows(tmp_path)}",
        f"data.val_files={text_rows(tmp_path)}", "data.format_prompt=null", "algorithm.drop_zero_advantage=false",
        "worker.actor.model.freeze_vision_tower=false", f"worker.reward.reward_function={tmp_path}/reward.py:compute_score",
        "trainer.max_steps=3", "trainer.save_freq=2",
    ]  # fmt: skip
    straight = run_here([*args, f"trainer.run_dir={tmp_path}/straight"])
    lines = train_metrics(straight)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert any(line["actor/grad_norm"] > 0 for line in lines)
    assert all(line["rollout/log_prob_gap_max"] < 1e-4 for line in lines)
    assert ("actor/router_aux_loss" in lines[0]) == (family == "experts")
    if family == "experts":
        assert lines[0]["actor/router_aux_loss"] >= 0.99  # E * sum f P is 1 when the load is even

    run_here([*args, f"trainer.run_dir={tmp_path}/resumed", "trainer.max_steps=2"])
    resumed = run_here([*args, f"trainer.run_dir={tmp_path}/resumed"])
    assert train_metrics(resumed) == lines
