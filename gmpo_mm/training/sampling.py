"""From rows of the data set to graded groups: sampling, decoding, grading, online filtering."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from gmpo_mm.algorithms import filter_groups
from gmpo_mm.data import PromptDataset, PromptSampler
from gmpo_mm.data.prompts import EncodedPrompt
from gmpo_mm.rewards.filtering import FilterLimits
from gmpo_mm.rewards.overlong import OverlongBuffer
from gmpo_mm.rewards.parts import reward_part
from gmpo_mm.rollout.protocol import Response, RolloutBackend, SamplingParams
from gmpo_mm.rollout.seeds import prompt_seed
from gmpo_mm.runs.stopping import StopAsked
from gmpo_mm.training.batch import SampledGroup

RewardFunction = Callable[[list[dict[str, Any]]], list[dict[str, float]]]
Progress = Callable[[str, int, str], None]
"""Called with (what is done, responses or prompts done, note)."""


@dataclass
class Sampler:
    """Turns prompts into graded groups."""

    rollout: RolloutBackend
    tokenizer: Any
    reward_function: RewardFunction
    skip_special_tokens: bool = True

    def sample(
        self,
        prompts: Sequence[EncodedPrompt],
        params: SamplingParams,
        seeds: Sequence[int],
        progress: Progress | None = None,
    ) -> list[SampledGroup]:
        """Sample `params.n` responses for every prompt and grade them."""
        note = (lambda text: progress("sampling", 0, text)) if progress else None
        responses = self.rollout.generate(prompts, params, seeds, note)
        texts = [self._decode(group) for group in responses]
        if progress is not None:
            progress("grading", 0, f"{sum(map(len, texts))} responses")
        scores = self._grade(prompts, responses, texts)
        return [SampledGroup(*group) for group in zip(prompts, responses, texts, scores, strict=True)]

    def _decode(self, responses: Sequence[Response]) -> list[str]:
        ids = [r.token_ids_T.tolist() for r in responses]
        return self.tokenizer.batch_decode(ids, skip_special_tokens=self.skip_special_tokens)

    def _grade(
        self, prompts: Sequence[EncodedPrompt], responses: list[list[Response]], texts: list[list[str]]
    ) -> list[list[dict[str, float]]]:
        inputs = []
        for prompt, group, group_texts in zip(prompts, responses, texts, strict=True):
            record = prompt.record
            for response, text in zip(group, group_texts, strict=True):
                truth = record.answer if len(record.answers) == 1 else list(record.answers)
                inputs.append(
                    {
                        "response": text, "response_length": len(response.token_ids_T), "ground_truth": truth,
                        "problem": record.problem,
                    }
                )
        scores = iter(self.reward_function(inputs))
        return [[next(scores) for _ in group] for group in responses]


@dataclass
class BatchMaker:
    """Draws a step's prompts, samples and grades them, and filters groups online (DAPO) where asked to.

    While prompts are in use, the pictures of the next ones are prepared, unless the step is `last_step`.
    """

    sampler: Sampler
    dataset: PromptDataset
    order: PromptSampler
    params: SamplingParams
    seed: int
    prompts: int
    prompts_a_call: int
    greedy_baseline: bool = False
    filter_key: str | None = None
    filter_low: float = 0.01
    filter_high: float = 0.99
    max_tries: int = 20
    last_step: int | None = None
    overlong: OverlongBuffer | None = None

    def make(
        self, step: int, progress: Progress | None = None, stop_wanted: Callable[[], bool] = lambda: False
    ) -> tuple[list[SampledGroup], list[float], dict[str, float]]:
        """Groups of one step, the greedy baselines of their prompts (empty without), and numbers about the filtering.

        Raises StopAsked when `stop_wanted` between two tries of the filtering, and TrainingError when the tries are over or,
        where their number is not limited, when an epoch gave no group to keep.
        """
        groups: list[SampledGroup] = []
        baselines: list[float] = []
        seen = tries = dropped_in_a_row = 0
        while len(groups) < self.prompts:
            if self.filter_key is not None and tries and stop_wanted():
                raise StopAsked
            if self.filter_key is not None:
                limits = FilterLimits(self.filter_key, self.filter_low, self.filter_high, self.max_tries, len(self.dataset))
                limits.check(step, tries, len(groups), self.prompts, dropped_in_a_row)
            made, made_baselines = self._make_once(step, seen, progress)
            seen += self.prompts_a_call
            tries += 1
            if self.filter_key is not None:
                kept = self._kept(made)
                made_baselines = [b for b, keep in zip(made_baselines, kept, strict=False) if keep]
                made = [g for g, keep in zip(made, kept, strict=True) if keep]
                dropped_in_a_row = 0 if made else dropped_in_a_row + self.prompts_a_call
                if progress is not None:
                    progress("filtering", len(groups) + len(made), f"kept {len(made)} of {self.prompts_a_call} groups")
            groups += made
            baselines += made_baselines
        facts = {"filter/tries": float(tries), "filter/kept_frac": len(groups) / seen} if self.filter_key else {}
        return groups[: self.prompts], baselines[: self.prompts], facts

    def _make_once(self, step: int, seen: int, progress: Progress | None) -> tuple[list[SampledGroup], list[float]]:
        indices = self.order.next_indices(self.prompts_a_call)
        # with online filtering nobody knows whether another call follows
        is_enough = self.filter_key is None and seen + self.prompts_a_call >= self.prompts
        is_last = step == self.last_step and is_enough
        prompts = self.dataset.batch(indices, [] if is_last else self.order.upcoming(self.prompts_a_call))
        seeds = [prompt_seed(self.seed, step, seen + i) for i in range(len(prompts))]
        baselines = []
        if self.greedy_baseline:
            greedy = replace(self.params, n=1, temperature=0.0, top_p=1.0, top_k=-1)
            baselines = [g.scores[0]["overall"] for g in self._sample(prompts, greedy, seeds, progress)]
        return self._sample(prompts, self.params, seeds, progress), baselines

    def _sample(
        self, prompts: Sequence[EncodedPrompt], params: SamplingParams, seeds: Sequence[int], progress: Progress | None
    ) -> list[SampledGroup]:
        groups = self.sampler.sample(prompts, params, seeds, progress)
        return groups if self.overlong is None else [_shaped(group, self.overlong) for group in groups]

    def _kept(self, groups: Sequence[SampledGroup]) -> list[bool]:
        assert self.filter_key is not None
        scores_B = reward_part([s for g in groups for s in g.scores], self.filter_key, "algorithm.filter_key")
        ids_B = torch.arange(len(groups)).repeat_interleave(len(groups[0].scores))
        keep_B = filter_groups(scores_B, ids_B, self.filter_low, self.filter_high)
        return keep_B[:: len(groups[0].scores)].tolist()


def _shaped(group: SampledGroup, overlong: OverlongBuffer) -> SampledGroup:
    """A group with DAPO's punishment of long responses in its scores."""
    lengths = [len(response.token_ids_T) for response in group.responses]
    return replace(group, scores=[overlong.shaped(s, n) for s, n in zip(group.scores, lengths, strict=True)])
