"""From rows to graded groups with the bundled text model: seeds, greedy baselines, filtering, validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from gmpo_mm.config import resolve_model_path
from gmpo_mm.data import PromptSampler
from gmpo_mm.data.prompts import EncodedPrompt
from gmpo_mm.data.records import Record
from gmpo_mm.models.loading import end_token_ids, load_model
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.processing import Processor, load_processor
from gmpo_mm.rollout.hf import HFRollout
from gmpo_mm.rollout.protocol import SamplingParams
from gmpo_mm.training.batch import SampledGroup
from gmpo_mm.training.sampling import BatchMaker, Sampler
from gmpo_mm.training.validation import Validator

PARAMS = SamplingParams(n=2, temperature=2.0, max_tokens=8)


def score(rows: list[dict]) -> list[dict[str, float]]:
    """`overall` depends on text and ground truth, so a wrong row shows; `keep` is 0 for every third."""
    return [
        {
            "overall": float((sum(map(ord, row["response"])) + int(row["ground_truth"])) % 7),
            "keep": float(int(row["ground_truth"]) % 3 > 0),
        }
        for row in rows
    ]


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    folder = resolve_model_path("bundled:qwen2_tiny")
    processor: Processor = load_processor(folder, is_vision=False, image_token_id=None)
    policy = PolicyModel(load_model(folder), eos_token_ids=end_token_ids(folder, processor.tokenizer))
    return Sampler(HFRollout(policy), processor.tokenizer, score)


def make_prompts(count: int, equal: bool) -> list[EncodedPrompt]:
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(3, 320, (6,), generator=generator) for _ in range(count)]
    return [
        EncodedPrompt(
            Record("?", (), str(i), (str(i),), str(i)), "", ids[0 if equal else i], [], (), None, None
        )
        for i in range(count)
    ]


class Encoded(list):
    """Prompts that are encoded already, as a data set gives them."""

    def batch(self, indices: Sequence[int], upcoming: Sequence[int]) -> list[EncodedPrompt]:
        return [self[i] for i in indices]


def make_maker(sampler: Sampler, dataset: Sequence[EncodedPrompt], **options: object) -> BatchMaker:
    settings: dict = dict(params=PARAMS, seed=1, prompts=4, prompts_a_call=2) | options
    order = PromptSampler(len(dataset), shuffle=False, seed=0)
    return BatchMaker(sampler=sampler, dataset=Encoded(dataset), order=order, **settings)  # type: ignore[arg-type]


def tokens(groups: Sequence[SampledGroup]) -> list[tuple[tuple[int, ...], ...]]:
    return [tuple(tuple(r.token_ids_T.tolist()) for r in group.responses) for group in groups]


def test_a_reward_function_is_given_each_rows_own_problem(sampler: Sampler) -> None:
    given: list[dict] = []
    listening = replace(sampler, reward_function=lambda rows: given.extend(rows) or score(rows))
    prompts = [
        replace(prompt, record=replace(prompt.record, problem=f"problem {i}"))
        for i, prompt in enumerate(make_prompts(2, equal=False))
    ]
    listening.sample(prompts, PARAMS, [1, 2])
    assert [(row["problem"], row["ground_truth"]) for row in given] == [
        ("problem 0", "0"), ("problem 0", "0"), ("problem 1", "1"), ("problem 1", "1"),
    ]  # fmt: skip


def test_seeds_differ_between_calls_and_steps(sampler: Sampler) -> None:
    """The same prompt everywhere: equal responses could only come from equal seeds."""
    equal = make_prompts(4, equal=True)
    step_1, step_2 = (tokens(make_maker(sampler, equal).make(step)[0]) for step in (1, 2))
    other_seed = tokens(make_maker(sampler, equal, seed=2).make(1)[0])
    found = [*step_1, *step_2, *other_seed]
    assert len(set(found)) == len(found) == 12
    responses = [response for group in found for response in group]
    assert len(set(responses)) == len(responses)  # within a group, too
    assert tokens(make_maker(sampler, equal).make(1)[0]) == step_1


def test_filtered_groups_keep_their_greedy_baselines(sampler: Sampler) -> None:
    prompts = make_prompts(12, equal=False)
    maker = make_maker(
        sampler, prompts, prompts=3, greedy_baseline=True, filter_key="keep", filter_low=0.5, filter_high=1.5
    )
    groups, baselines, facts = maker.make(1)
    # prompts 0 to 5 were drawn; 0 and 3 don't pass the filter, and 5 is one too many
    assert [g.prompt for g in groups] == [prompts[1], prompts[2], prompts[4]]
    assert facts == {"filter/tries": 3, "filter/kept_frac": 4 / 6}
    greedy = sampler.sample([g.prompt for g in groups], replace(PARAMS, n=1, temperature=0.0), [0] * 3)
    assert baselines == [g.scores[0]["overall"] for g in greedy]
    assert len(set(baselines)) > 1
    unfiltered, no_baselines, no_facts = make_maker(sampler, prompts, prompts=6).make(1)
    assert tokens(groups) == tokens([unfiltered[1], unfiltered[2], unfiltered[4]])
    assert (no_baselines, no_facts) == ([], {})


def make_validator(
    sampler: Sampler, dataset: Sequence[EncodedPrompt], prompts_a_call: int = 2, seed: int = 1
) -> Validator:
    return Validator(sampler, Encoded(dataset), PARAMS, seed, prompts_a_call, lambda: None)  # type: ignore[arg-type]


def test_validation_seeds_differ_by_problem_alone(sampler: Sampler) -> None:
    equal = make_prompts(5, equal=True)
    found = tokens(make_validator(sampler, equal).run()[1])
    assert len(set(found)) == len(found) == 5
    assert tokens(make_validator(sampler, equal).run()[1]) == found
    assert tokens(make_validator(sampler, equal, prompts_a_call=5).run()[1]) == found
    assert not set(tokens(make_validator(sampler, equal, seed=2).run()[1])) & set(found)
    trained = tokens(make_maker(sampler, equal, prompts=2).make(1)[0])
    assert not set(trained) & set(found)


def test_validation_metrics_are_means_over_all_responses(sampler: Sampler) -> None:
    problems = make_prompts(5, equal=False)
    metrics, groups = make_validator(sampler, problems).run()
    assert [g.prompt for g in groups] == problems
    ends = sampler.rollout.policy.eos_token_ids  # type: ignore[attr-defined]
    scores, lengths, cut = [], [], []
    for problem, group in zip(problems, groups, strict=True):
        for response, text in zip(group.responses, group.texts, strict=True):
            assert text == sampler.tokenizer.decode(response.token_ids_T, skip_special_tokens=True)
            scores.append((sum(map(ord, text)) + int(problem.record.answer)) % 7)
            lengths.append(len(response.token_ids_T))
            cut.append(int(response.token_ids_T[-1]) not in ends)
    assert metrics == {
        "val/overall_reward": pytest.approx(sum(scores) / 10),
        "val/reward_score": pytest.approx(sum(scores) / 10),
        "val/keep_reward": 6 / 10,
        "val_response_length/mean": sum(lengths) / 10, "val_response_length/max": max(lengths),
        "val_response_length/min": min(lengths), "val/truncated_frac": sum(cut) / 10,
    }  # fmt: skip
