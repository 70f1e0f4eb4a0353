"""Over-long prompts are counted and never lost in silence; prompts are encoded when they are used."""

from __future__ import annotations

from pathlib import Path

import pytest

from gmpo_mm.data import PromptDataset, Records
from gmpo_mm.data.dataset import CACHED_PROMPTS
from gmpo_mm.errors import DataError
from gmpo_mm.models.processing import Processor
from tests.data.helpers import DataSection, plain, records_of


def mixed() -> Records:
    """Short text, long text, small picture, large picture (10 x 10 patch groups), short text."""
    return records_of(
        {"problem": "short"},
        {"problem": "9" * 200},
        {"problem": "<image>", "images": [plain(56, 56)]},
        {"problem": "<image>", "images": [plain(280, 280)]},
        {"problem": "last"},
    )


def test_overlong_prompts_are_dropped_from_training_and_reported(processor: Processor) -> None:
    seen: list[tuple[int, int]] = []
    section = DataSection(max_prompt_length=60)
    data = PromptDataset(mixed(), processor, section, training=True, progress=lambda *step: seen.append(step))
    assert len(data) == 3
    assert [data[i].record.row for i in range(3)] == [data.record(i).row for i in range(3)] == [0, 2, 4]
    assert [dropped.row for dropped in data.dropped] == [1, 3]
    everything = PromptDataset(mixed(), processor, DataSection(), training=True)
    assert [dropped.tokens for dropped in data.dropped] == [len(everything[i].input_ids_S) for i in (1, 3)]
    report = data.overlong_report()
    assert "dropped 2 of 5" in report and "max_prompt_length=60" in report and "row 3 of test data" in report
    assert everything.overlong_report() == "" and everything.dropped == ()
    assert seen == [(i, 5) for i in range(1, 6)]


def test_a_prompt_of_exactly_the_limit_is_kept(processor: Processor) -> None:
    tokens = len(PromptDataset(mixed(), processor, DataSection(), training=True)[3].input_ids_S)
    exact = PromptDataset(mixed(), processor, DataSection(max_prompt_length=tokens), training=True)
    below = PromptDataset(mixed(), processor, DataSection(max_prompt_length=tokens - 1), training=True)
    assert [3 in [d.row for d in data.dropped] for data in (exact, below)] == [False, True]


@pytest.mark.parametrize("filter_overlong", [True, False])
def test_validation_never_drops_and_says_what_would_be_enough(processor: Processor, filter_overlong: bool) -> None:
    section = DataSection(max_prompt_length=60, filter_overlong_prompts=filter_overlong)
    with pytest.raises(DataError) as caught:
        PromptDataset(mixed(), processor, section, training=False)
    message = str(caught.value)
    assert (
        "2 of 5 validation prompts" in message and "row 1 of test data" in message and "row 3 of test data" in message
    )
    needed = int(message.split("raise data.max_prompt_length to ")[1].split()[0])
    enough = DataSection(max_prompt_length=needed, filter_overlong_prompts=filter_overlong)
    assert len(PromptDataset(mixed(), processor, enough, training=False)) == 5


def test_without_the_filter_all_overlong_training_prompts_are_named_before_training(processor: Processor) -> None:
    section = DataSection(max_prompt_length=60, filter_overlong_prompts=False)
    with pytest.raises(DataError, match=r"of 5 training prompts are longer than data.max_prompt_length=60: row 1 of .*"
                       "row .*filter_overlong_prompts=true"):  # fmt: skip
        PromptDataset(mixed(), processor, section, training=True)
    fits = DataSection(max_prompt_length=4000, filter_overlong_prompts=False)
    assert len(PromptDataset(mixed(), processor, fits, training=True)) == 5


def test_all_prompts_that_cannot_be_one_are_named_at_once(processor: Processor) -> None:
    rows = [{"problem": text} for text in ("<|im_end|> 1?", "2?", "<|im_start|> 3?")]
    with pytest.raises(DataError, match=r"(?s)2 of 3 rows can't be used:\nrow 0 .*im_end.*\nrow 2 .*im_start"):
        PromptDataset(records_of(*rows), processor, DataSection(), training=True)


def test_nothing_left_is_an_error(processor: Processor) -> None:
    with pytest.raises(
        DataError, match=r"all 5 prompts are longer than data.max_prompt_length=2 \(the shortest has \d+ tok"
    ):
        PromptDataset(mixed(), processor, DataSection(max_prompt_length=2), training=True)


def test_pictures_are_decoded_only_when_their_row_is_used(processor: Processor, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(plain(280, 280))
    data = PromptDataset(
        records_of({"problem": "<image>", "images": [path]}, {}), processor, DataSection(), training=True
    )
    path.write_bytes(plain(280, 280)[:60])
    assert data[1].record.row == 1
    with pytest.raises(DataError, match="row 0 of test data, image 0: broken image"):
        data[0]


def test_the_last_prompts_are_kept_and_older_ones_are_let_go(processor: Processor) -> None:
    data = PromptDataset(records_of(*[{}] * (CACHED_PROMPTS + 1)), processor, DataSection(), training=True)
    first = data[0]
    assert data[0] is first
    for i in range(1, CACHED_PROMPTS + 1):
        data[i]
    assert data[0] is not first


def test_the_end_of_the_data_ends_iteration(processor: Processor) -> None:
    data = PromptDataset(mixed(), processor, DataSection(), training=True)
    assert [prompt.record.row for prompt in data] == [0, 1, 2, 3, 4]
    assert data[-1].record.row == 4


def test_template_and_pixel_limits_come_from_the_config(processor: Processor, tmp_path: Path) -> None:
    template = tmp_path / "a.jinja"
    template.write_text("{{ content }} Think.", encoding="utf-8")
    section = DataSection(format_prompt=str(template), min_pixels=112 * 112, max_pixels=140 * 140)
    data = PromptDataset(mixed(), processor, section, training=False)
    assert "short Think.<|im_end|>" in data[0].text
    assert [data[i].images[0].size for i in (2, 3)] == [(112, 112), (140, 140)]


def test_the_fingerprint_knows_content_and_kept_rows(processor: Processor) -> None:
    def fingerprint(records: Records, limit: int) -> str:
        return PromptDataset(records, processor, DataSection(max_prompt_length=limit), training=True).fingerprint()

    assert fingerprint(mixed(), 500) == fingerprint(mixed(), 501)
    assert len({fingerprint(mixed(), 500), fingerprint(mixed(), 60), fingerprint(records_of({}), 500)}) == 3
