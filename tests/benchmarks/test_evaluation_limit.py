"""What the sampler is counted to do, against a count by hand: the work that the benchmark's limit is made of."""

from __future__ import annotations

import pytest

from benchmarks.evaluation_limit import CountingRollout, Counts, Rates, bundled_case
from gmpo_mm.rollout.hf import MIN_LINES
from gmpo_mm.rollout.seeds import evaluation_seed


def test_a_prompt_is_encoded_once_equal_samples_are_one_line_and_finished_ones_leave() -> None:
    policy, prompts, params = bundled_case(3)
    rollout = CountingRollout(policy)
    groups = rollout.generate(prompts, params, [evaluation_seed(1, i) for i in range(3)])
    texts = [(i, tuple(r.token_ids_T.tolist())) for i, group in enumerate(groups) for r in group]
    lines = needed = 0
    for step in range(1, params.max_tokens):
        # a sample that ended in time needs no further step; one that was cut off is open to the last
        open_now = {(i, ids[:step]) for i, ids in texts if len(ids) > step}
        if not open_now:
            break
        lengths = [len(prompts[i].input_ids_S) + step for i, _ in open_now]
        lines += max(MIN_LINES, len(open_now))
        needed += sum(lengths)
    counts = rollout.counts
    assert counts.prompt_tokens == sum(len(prompt.input_ids_S) for prompt in prompts)
    assert counts.lines == lines < sum(len(ids) for _, ids in texts)
    assert needed <= counts.columns_needed <= counts.columns_read  # copies up to MIN_LINES are among them
    weights = sum(
        p.numel() for name, p in policy.module.named_parameters() if p.dim() > 1 and ".visual." not in name
    )
    (_, read), *steps = counts.passes
    assert read == 4 * weights and all(flops > 0 and more > read for flops, more in steps)


def test_the_limit_takes_the_narrower_of_computing_and_reading_in_each_pass() -> None:
    counts = Counts(passes=[(10.0, 1.0), (1.0, 10.0), (4.0, 4.0)])
    assert counts.limit(Rates(flops=2.0, bytes=1.0)) == pytest.approx((5 + 10 + 4, 10 + 4))
