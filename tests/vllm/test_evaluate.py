"""An evaluation that samples with vLLM: the same files, and the same greedy answers as with the built-in sampler."""

from __future__ import annotations

from pathlib import Path

import pytest

from gmpo_mm.evaluation.evaluate import evaluate
from tests.evaluation.evaluations import settings
from tests.vllm.conftest import NEEDS_VLLM

pytestmark = NEEDS_VLLM


def test_greedy_answers_of_vllm_and_hf_agree(tmp_path: Path) -> None:
    greedy = {"temperature": 0.0, "n": 1, "limit": 24}
    (ours,) = evaluate(settings(tmp_path / "hf", backend="hf", **greedy))
    (theirs,) = evaluate(settings(tmp_path / "vllm", backend="vllm", dtype="float32", **greedy))
    assert theirs.complete and theirs.spec.backend == "vllm float32" and theirs.spec.protocol == ours.spec.protocol
    same = sum(a.response == b.response and a.tokens == b.tokens for a, b in zip(ours.samples, theirs.samples, strict=True))
    assert same >= 23  # two kernels may differ in the last bit where two tokens are as likely
    assert theirs.summary["pass_at_1"]["value"] > 0


def test_samples_of_vllm_depend_on_their_problems_seed_alone(tmp_path: Path) -> None:
    (few,) = evaluate(settings(tmp_path / "few", backend="vllm", limit=6))
    (more,) = evaluate(settings(tmp_path / "more", backend="vllm", limit=12, batch=16))
    agree = sum(a.response == b.response for a, b in zip(few.samples, more.samples[: len(few.samples)], strict=True))
    assert agree >= len(few.samples) - 1


def test_an_evaluation_with_vllm_loads_no_weights_beside_vllms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    (before,) = evaluate(settings(tmp_path / "before", backend="vllm", limit=6, temperature=0.0, n=1))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights are loaded by transformers")

    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", refuse)
    (after,) = evaluate(settings(tmp_path / "after", backend="vllm", limit=6, temperature=0.0, n=1))
    assert [s.response for s in after.samples] == [s.response for s in before.samples]
    with pytest.raises(AssertionError, match="loaded by transformers"):  # as the built-in sampler does
        evaluate(settings(tmp_path / "hf", backend="hf", limit=6, temperature=0.0, n=1))
