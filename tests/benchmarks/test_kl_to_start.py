"""The KL divergence between a trained model and its start, against transformers' own forward pass in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from benchmarks.kl_to_start import load, measure
from gmpo_mm.data import RecordKeys, build_prompt, load_records
from gmpo_mm.rollout.hf import HFRollout
from gmpo_mm.rollout.protocol import SamplingParams
from tests.engine.test_text_models import make_text_model, text_rows


def log_prob(folder: Path, forbidden: list[int], prompt: list[int], response: list[int]) -> float:
    """Of a response; forbidden tokens, as those of pictures in a model without any, are never sampled."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    logits[:, forbidden] = -torch.inf
    return float(torch.log_softmax(logits, -1)[range(len(response)), response].sum())


@torch.no_grad()
def test_it_is_the_mean_log_ratio_of_the_trained_models_own_tokens(tmp_path: Path) -> None:
    start, trained = make_text_model(tmp_path / "start", "dense"), make_text_model(tmp_path / "trained", "dense")
    model = transformers.AutoModelForCausalLM.from_pretrained(trained)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    model.save_pretrained(trained)
    (ours, processor), (other, _) = load(str(trained)), load(str(start))
    prompts = [build_prompt(record, processor) for record in load_records(str(text_rows(tmp_path)), RecordKeys("problem"))]

    kl, error, length = measure(other, ours, prompts, longest=6)

    responses = HFRollout(ours).generate(prompts, SamplingParams(n=1, temperature=1.0, max_tokens=6), list(range(len(prompts))))
    tokens = [given[0].token_ids_T.tolist() for given in responses]
    ids = [prompt.input_ids_S.tolist() for prompt in prompts]
    forbidden = list(ours.forbidden_token_ids)
    gaps = [
        log_prob(trained, forbidden, p, r) - log_prob(start, forbidden, p, r) for p, r in zip(ids, tokens, strict=True)
    ]
    count = sum(map(len, tokens))
    assert kl == pytest.approx(sum(gaps) / count, abs=1e-4) and kl > 0 and error > 0
    assert length == count / len(tokens)
    assert measure(ours, ours, prompts, longest=6)[0] == 0
