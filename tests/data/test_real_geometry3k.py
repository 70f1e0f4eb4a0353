"""Real Geometry3K: all 3,002 rows are usable, and what the scan counts is what the model gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from gmpo_mm.data import PromptDataset, PromptSampler, check_records, data_fingerprint, load_records
from gmpo_mm.models.processing import Processor
from tests.data.helpers import KEYS, DataSection

COUNTS = {"train": 2101, "validation": 300, "test": 601}


@pytest.mark.parametrize("split", COUNTS)
def test_every_row_passes_the_check(geometry3k: Path, split: str) -> None:
    records = load_records(str(geometry3k / f"geometry3k_{split}.parquet"), KEYS)
    assert len(records) == COUNTS[split]
    check_records(records)
    assert all(len(record.images) == 1 and record.problem.startswith("<image>") for record in records[::50])
    assert records[0].where == f"row 0 of geometry3k_{split}.parquet (id {records[0].id})"
    assert set(records[0].extra) >= {"letter", "choices", "problem_type_goal"}


def test_the_folder_with_its_splits_is_one_data_set(geometry3k: Path, tmp_path: Path) -> None:
    for split in COUNTS:
        (tmp_path / f"geometry3k_{split}.parquet").symlink_to(geometry3k / f"geometry3k_{split}.parquet")
    fingerprints = {data_fingerprint(load_records(f"{tmp_path}@{split}", KEYS)) for split in COUNTS}
    assert len(fingerprints) == 3
    assert len(load_records(f"{tmp_path}@test[:40]", KEYS)) == 40


def test_counted_lengths_are_the_encoded_ones_and_a_batch_is_drawn(geometry3k: Path, processor: Processor) -> None:
    records = load_records(f"{geometry3k / 'geometry3k_test.parquet'}@train[:60]", KEYS)
    section = DataSection(min_pixels=None, max_pixels=64 * 64, max_prompt_length=1)
    counted = PromptDataset(
        records, processor, DataSection(max_pixels=64 * 64, max_prompt_length=10_000), training=False
    )
    lengths = [len(prompt.input_ids_S) for prompt in counted]
    section.max_prompt_length = sorted(lengths)[45]
    data = PromptDataset(records, processor, section, training=True)
    assert {d.row: d.tokens for d in data.dropped} == {
        row: tokens for row, tokens in enumerate(lengths) if tokens > section.max_prompt_length
    }
    assert 0 < len(data.dropped) < 15 and len(data) + len(data.dropped) == 60
    sampler = PromptSampler(len(data), shuffle=True, seed=1, fingerprint=data.fingerprint())
    batch = [data[i] for i in sampler.next_indices(8)]
    assert len({prompt.record.id for prompt in batch}) == 8
    assert all(len(prompt.input_ids_S) <= section.max_prompt_length for prompt in batch)


@pytest.mark.parametrize(
    ("name", "rows"),
    [("eval_amc", 83), ("eval_minerva", 272), ("math_l3to5_train", 8886)],
)
def test_the_text_sets_pass_too(geometry3k: Path, name: str, rows: int) -> None:
    records = load_records(str(geometry3k / f"{name}.parquet"), KEYS)
    assert len(records) == rows
    check_records(records)
    assert records[0].source is not None and records[0].images == ()
