"""Says aloud when a run can't learn: which sign of it a step shows, how often, and what the likeliest causes are.

It reads a step's metrics alone, so that every engine can use it. A warning comes after the first step, a summary at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gmpo_mm.runs.progress import Progress

Metrics = Mapping[str, Any]
OFTEN = 0.25
"""A sign that at least this share of the steps showed is in the summary; one that the first step showed always is."""
CAUSES_SHOWN = 3
MAX_SKIPPED_IN_A_ROW = 3
"""So many updates in a row without a finite gradient end a run, in every engine."""


@dataclass(frozen=True)
class Cause:
    """A cause with its fix. `speaks`: whether the step's numbers point to it, which puts it first."""

    text: str
    speaks: Callable[[Metrics], bool] = lambda metrics: False


@dataclass(frozen=True)
class Sign:
    """What a step that teaches nothing looks like: `holds` says whether, `what` says it in words."""

    name: str
    holds: Callable[[Metrics], bool]
    what: Callable[[Metrics], str]
    causes: tuple[Cause, ...]


def _get(metrics: Metrics, name: str) -> float | None:
    return float(metrics[name]) if name in metrics else None


def _is(name: str, value: float) -> Callable[[Metrics], bool]:
    return lambda metrics: _get(metrics, name) == value


def _above(name: str, bound: float) -> Callable[[Metrics], bool]:
    return lambda metrics: (_get(metrics, name) or 0.0) > bound


def _same_reward(metrics: Metrics) -> bool:
    low, high = _get(metrics, "critic/score/min"), _get(metrics, "critic/score/max")
    return low is not None and high is not None and high - low <= 1e-9


def _all_right(metrics: Metrics) -> bool:
    return _is("reward/accuracy", 1.0)(metrics) or (_get(metrics, "critic/score/min") or 0.0) >= 1.0


CUT_OFF = Cause(
    "the responses are cut off before their answer: raise data.max_response_length (see response/truncated_frac)",
    _above("response/truncated_frac", 0.5),
)
NO_FORMAT = Cause(
    "the prompt does not name the form that the reward reads: look at data.format_prompt, data.override_chat_template and "
    "worker.reward.reward_function_kwargs (format)",
    _is("reward/format", 0.0),
)
WRONG_GOLD = Cause(
    "the reward compares with the wrong text: look at data.answer_key, worker.reward.reward_function and the golds in samples/",
    _is("reward/accuracy", 0.0),
)
TOO_HARD = Cause(
    "the problems are too hard for this model: take easier data (data.train_files), a stronger worker.actor.model.model_path, "
    "or more samples (worker.rollout.n)",
    _is("reward/accuracy", 0.0),
)
TOO_EASY = Cause(
    "the problems are too easy for this model: take harder data (data.train_files), or filter them "
    "(algorithm.online_filtering=true)",
    _all_right,
)
CONSTANT = Cause(
    "the reward function gives every response the same number: call worker.reward.reward_function by hand on two rows of "
    "samples/"
)
NO_VARIETY = Cause(
    "all responses of a group are alike: raise worker.rollout.temperature or worker.rollout.n", _is("actor/entropy", 0.0)
)
TIMEOUTS = Cause(
    "grading runs out of time: raise worker.reward.reward_function_kwargs (timeout), or look for what is slow in it",
    _above("verifier/timeout_frac", 0.5),
)
ALL_MASKED = Cause(
    "worker.rollout.correction masks everything (correction/masked_frac is 1): widen its bounds, correction_floor and "
    "correction_cap, or take one that is not by sequence",
    _is("correction/masked_frac", 1.0),
)

SIGNS = (
    Sign(
        "equal rewards",
        _same_reward,
        lambda m: f"every response got the reward {float(m['critic/score/max']):g}",
        (TIMEOUTS, CUT_OFF, TOO_EASY, NO_FORMAT, WRONG_GOLD, TOO_HARD, CONSTANT),
    ),
    Sign(
        "no advantage",
        _is("group/zero_advantage_frac", 1.0),
        lambda m: "no group had a response that was better than another, so nothing was learned",
        (CUT_OFF, TOO_EASY, NO_FORMAT, TOO_HARD, NO_VARIETY, WRONG_GOLD),
    ),
    Sign(
        "all cut off",
        _is("response/truncated_frac", 1.0),
        lambda m: "every response was cut off at its longest length",
        (
            Cause("data.max_response_length is too short for this model's answers: raise it"),
            Cause(
                "the model does not end its answers: take an instruction-tuned worker.actor.model.model_path, or its chat "
                "template (data.override_chat_template)"
            ),
            Cause("worker.rollout.ignore_eos=true samples on after the end of an answer: set it to false"),
        ),
    ),
    Sign(
        "all empty",
        _is("response_length/max", 1.0),
        lambda m: "every response was empty",
        (
            Cause("the prompt looks finished to the model: check data.format_prompt and data.override_chat_template"),
            Cause("data.max_response_length leaves room for one token", _is("response/truncated_frac", 1.0)),
            Cause("worker.actor.model.tokenizer_path is not the model's own tokenizer"),
        ),
    ),
    Sign(
        "no format",
        _is("reward/format", 0.0),
        lambda m: "no response had the format that the reward asks for",
        (CUT_OFF, NO_FORMAT, Cause("the base model does not follow instructions: take an instruction-tuned model_path"),
         Cause("the format is another one: set format in worker.reward.reward_function_kwargs to what the prompt asks for")),
    ),
    Sign(
        "none right",
        lambda m: _is("reward/accuracy", 0.0)(m) or _is("reward/accuracy", -1.0)(m),
        lambda m: "no response was right",
        (TIMEOUTS, CUT_OFF, NO_FORMAT, WRONG_GOLD, TOO_HARD),
    ),
    Sign(
        "all timed out",
        _is("verifier/timeout_frac", 1.0),
        lambda m: "no response could be graded in time",
        (
            TIMEOUTS,
            Cause("the machine is overloaded: leave cores to the graders (trainer.threads)"),
            Cause("the golds are expressions that take very long to compare: look at data.answer_key"),
        ),
    ),
    Sign(
        "no gradient",
        lambda m: _is("actor/grad_norm", 0.0)(m) and not _is("group/zero_advantage_frac", 1.0)(m),
        lambda m: "there were advantages, but the gradient was exactly 0",
        (
            Cause("no weight is trained: look at worker.actor.model.freeze_vision_tower and worker.actor.model.lora"),
            Cause("every token is clipped: look at the clip keys of worker.actor and at clip/high_frac"),
            Cause("the reward of every advantage is lost in rounding: look at critic/advantages/max and trainer.dtype"),
            ALL_MASKED,
        ),
    ),
    Sign(
        "all skipped",
        lambda m: _is("actor/updates", 0.0)(m) and _above("actor/skipped_updates", 0.0)(m),
        lambda m: "every update was skipped: its gradient was not finite",
        (
            Cause("the rate is too high: lower worker.actor.optim.lr"),
            Cause("numbers overflow: set trainer.dtype=float32 (locally) or worker.actor.fsdp.mp_param_dtype=fp32"),
            Cause("the loss is not bounded: tighten its clip keys"),
        ),
    ),
)  # fmt: skip


@dataclass
class LearningWatch:
    """Counts the signs of a run's steps."""

    progress: Progress
    steps: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    _last: dict[str, Metrics] = field(default_factory=dict)
    _first: tuple[str, ...] = ()
    _missing_said: set[str] = field(default_factory=set)

    def step(self, step: int, metrics: Metrics) -> None:
        """Take a step's metrics; warns after the first one that it is given."""
        self.steps += 1
        found = [sign for sign in SIGNS if sign.holds(metrics)]
        for sign in found:
            self.counts[sign.name] = self.counts.get(sign.name, 0) + 1
            self._last[sign.name] = metrics
        self._warn_of_missing_parts(step, metrics)
        if self.steps > 1 or not found:
            return
        self._first = tuple(sign.name for sign in found)
        lines = [f"step {step} shows that this run may not learn:"]
        lines += [f"  {sign.what(metrics)}" for sign in found]
        self.progress.warn("\n".join([*lines, *_likeliest(found, metrics)]))

    def summary(self) -> None:
        """Say which signs the steps showed often, and what the likeliest causes are; nothing where all was well."""
        often = [
            sign for sign in SIGNS
            if (count := self.counts.get(sign.name, 0)) and (count >= OFTEN * self.steps or sign.name in self._first)
        ]  # fmt: skip
        if not often:
            return
        lines = ["steps from which the run could not learn, or hardly:"]
        lines += [
            f"  in {self.counts[sign.name]} of {self.steps} steps: {sign.what(self._last[sign.name])}" for sign in often
        ]
        worst = max(often, key=lambda sign: self.counts[sign.name])
        self.progress.warn("\n".join([*lines, *_likeliest(often, self._last[worst.name])]))

    def _warn_of_missing_parts(self, step: int, metrics: Metrics) -> None:
        for name, share in metrics.items():
            if name.startswith("reward/") and name.endswith("_not_finite") and share > 0 and name not in self._missing_said:
                self._missing_said.add(name)
                part = name.removeprefix("reward/").removesuffix("_not_finite")
                self.progress.warn(
                    f"step {step}: the reward function returned a {part} that is no finite number for {float(share):.1%} of "
                    f"the responses; they count as missing in reward/{part} (the share of every step is {name}, the "
                    f"responses are in samples/ with {part}_not_finite = 1)"
                )


def _likeliest(signs: list[Sign], metrics: Metrics) -> list[str]:
    """Up to three causes: those that the numbers point to first, then by how many of the signs they would explain."""
    causes = [cause for sign in signs for cause in sign.causes]
    ranked = sorted(dict.fromkeys(causes), key=lambda cause: (not cause.speaks(metrics), -causes.count(cause)))
    return ["likeliest causes:", *(f"  {i}. {cause.text}" for i, cause in enumerate(ranked[:CAUSES_SHOWN], start=1))]
