"""What text models are warm-started on: CountDown problems with their solutions, or, for a share of them, one sign wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from gmpo_mm.toys.countdown import CountdownProblem

IGNORED = -100
"""The label that transformers' loss leaves out."""

_OTHER_SIGN = {"+": "-", "-": "+", "*": "+", "/": "*"}


def demonstration(problem: CountdownProblem, is_wrong: bool) -> str:
    """A response in the task's format; a wrong one has another first sign, and so misses the target of a sum or difference."""
    text = problem.solution.replace(" ", "")
    if is_wrong:
        place = next(index for index, character in enumerate(text) if character in _OTHER_SIGN)
        text = text[:place] + _OTHER_SIGN[text[place]] + text[place + 1 :]
    return f"<answer>{text}</answer><|im_end|>"


def make_batch(prompts: Sequence[str], responses: Sequence[str], tokenizer: Any) -> dict[str, torch.Tensor]:
    """Model inputs, padded on the right: ids, mask, labels (the response's tokens only)."""
    rows, labels = [], []
    for prompt, response in zip(prompts, responses, strict=True):
        prompt_ids = torch.tensor(tokenizer.encode(prompt, add_special_tokens=False))
        response_ids = torch.tensor(tokenizer.encode(response, add_special_tokens=False))
        rows.append(torch.cat([prompt_ids, response_ids]))
        labels.append(torch.cat([torch.full_like(prompt_ids, IGNORED), response_ids]))
    pad = nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(rows, batch_first=True, padding_value=tokenizer.pad_token_id),
        "attention_mask": pad([torch.ones_like(row) for row in rows], batch_first=True),
        "labels": pad(labels, batch_first=True, padding_value=IGNORED),
    }


def countdown_batches(
    problems: Sequence[CountdownProblem], processor: Any, batch_size: int, wrong_share: float, draws: random.Random
) -> Callable[[int], dict[str, torch.Tensor]]:
    """Step -> batch: problems in an order drawn anew for each pass, wrong answers by the draws."""
    order: list[int] = []

    def batch_of(_: int) -> dict[str, torch.Tensor]:
        while len(order) < batch_size:
            order.extend(sorted(range(len(problems)), key=lambda _: draws.random()))
        chosen = [problems[order.pop(0)] for _ in range(batch_size)]
        prompts = [processor.chat_text([{"role": "user", "content": problem.text("short")}]) for problem in chosen]
        responses = [demonstration(problem, draws.random() < wrong_share) for problem in chosen]
        return make_batch(prompts, responses, processor.tokenizer)

    return batch_of
