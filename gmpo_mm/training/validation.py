"""Validation: every prompt of the validation set, graded by the run's own reward function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gmpo_mm.data import PromptDataset
from gmpo_mm.rollout.protocol import SamplingParams
from gmpo_mm.rollout.seeds import evaluation_seed
from gmpo_mm.runs.accuracy import not_0_or_1
from gmpo_mm.training.batch import SampledGroup, mean_of_scores
from gmpo_mm.training.sampling import Progress, Sampler


@dataclass
class Validator:
    """Samples a data set with fixed seeds, so that two validations, of other runs too, differ by the weights alone."""

    sampler: Sampler
    dataset: PromptDataset
    params: SamplingParams
    seed: int
    prompts_a_call: int
    forget_images: Callable[[], None]
    """Called after every sampling call, so that image features of the whole set are never held at once."""

    def run(self, progress: Progress | None = None) -> tuple[dict[str, float], list[SampledGroup]]:
        """Metrics under EasyR1's names (`accuracy.accuracy_of` tells which of them is Pass@1), and all groups.

        `val/reward_score` is the mean of `overall`; every other number of the reward function is `val/<key>_reward`.
        """
        groups: list[SampledGroup] = []
        for start in range(0, len(self.dataset), self.prompts_a_call):
            end = min(start + self.prompts_a_call, len(self.dataset))
            after = min(end + self.prompts_a_call, len(self.dataset))
            prompts = self.dataset.batch(range(start, end), range(end, after))
            seeds = [evaluation_seed(self.seed, i) for i in range(start, end)]
            groups += self.sampler.sample(prompts, self.params, seeds, progress)
            self.forget_images()
            if progress is not None:
                progress("validation", end, f"{end} of {len(self.dataset)} problems")
        metrics = {f"val/{key}_reward": value for key, value in mean_of_scores(groups).items()}
        metrics |= not_0_or_1(score for group in groups for score in group.scores)
        metrics["val/reward_score"] = metrics["val/overall_reward"]
        lengths = [len(r.token_ids_T) for g in groups for r in g.responses]
        metrics |= {
            "val_response_length/mean": sum(lengths) / len(lengths),
            "val_response_length/max": float(max(lengths)),
            "val_response_length/min": float(min(lengths)),
            "val/truncated_frac": sum(r.stop_reason == "length" for g in groups for r in g.responses) / len(lengths),
        }
        return metrics, groups
