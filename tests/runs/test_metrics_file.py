import json
import math

import pytest
import torch

from gmpo_mm.errors import DataError
from gmpo_mm.runs.metrics_file import MetricsFile, lost_lines, read_events, read_metrics


@pytest.fixture
def metrics(tmp_path):
    return MetricsFile(tmp_path / "metrics.jsonl")


def test_lines_come_back_in_order_with_numbers_of_any_kind(metrics):
    metrics.log_metrics(0, "validation", {"val/accuracy_reward": 0.1 + 0.2})
    metrics.log_metrics(1, "train", {"a": torch.tensor(2.5), "b": torch.tensor([3]).sum().numpy(), "note": "x"})
    assert read_metrics(metrics.path) == [
        {"step": 0, "kind": "validation", "val/accuracy_reward": 0.1 + 0.2},
        {"step": 1, "kind": "train", "a": 2.5, "b": 3, "note": "x"},
    ]
    assert read_metrics(metrics.path.parent) == read_metrics(metrics.path)


def test_non_finite_numbers_survive_in_strict_json(metrics):
    metrics.log_metrics(1, "train", {"a": math.inf, "b": -math.inf, "c": torch.tensor(math.nan)})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    json.loads(metrics.path.read_text(), parse_constant=refuse)
    [line] = read_metrics(metrics.path)
    assert line["a"] == math.inf and line["b"] == -math.inf and math.isnan(line["c"])


def test_numbers_in_lists_and_mappings_survive_too(metrics):
    metrics.log_metrics(1, "compare", {"points": {"ratio": [1.0, math.inf], "gmpo": [math.nan, torch.tensor(2.0)]}})
    [line] = read_metrics(metrics.path)
    assert line["points"]["ratio"] == [1.0, math.inf]
    assert math.isnan(line["points"]["gmpo"][0]) and line["points"]["gmpo"][1] == 2.0


def test_steps_repeated_after_a_resume_count_once_and_steps_not_yet_repeated_do_not_count(metrics):
    for step in (1, 2, 3, 4):
        metrics.log_metrics(step, "train", {"value": step})
    metrics.log_metrics(4, "validation", {"value": 40})
    metrics.log_event("resume", from_step=2)
    metrics.log_metrics(3, "train", {"value": 300})
    assert [(line["kind"], line["step"], line["value"]) for line in read_metrics(metrics.path)] == [
        ("train", 1, 1),
        ("train", 2, 2),
        ("train", 3, 300),
    ]
    assert len(metrics.path.read_text().splitlines()) == 7, "nothing is ever taken out of the file"


def test_a_file_cut_at_any_byte_reads_as_the_whole_lines_before_and_goes_on_after_a_resume(metrics):
    metrics.log_metrics(1, "train", {"text": "é"})
    whole = len(metrics.path.read_bytes())
    metrics.log_metrics(2, "train", {"text": "ü\n", "value": -0.125})
    data = metrics.path.read_bytes()
    for cut in range(whole, len(data) + 1):
        metrics.path.write_bytes(data[:cut])
        # A line that lacks nothing but its newline is whole.
        expected = [1, 2] if cut >= len(data) - 1 else [1]
        assert [line["step"] for line in read_metrics(metrics.path)] == expected, cut
        metrics.log_event("resume", from_step=1)
        metrics.log_metrics(2, "train", {"value": 9})
        assert [line["step"] for line in read_metrics(metrics.path)] == [1, 2], cut
        assert metrics.path.read_bytes().startswith(data[:cut])


def test_a_kill_while_the_resume_event_was_written_is_explained_by_the_next_resume(metrics):
    metrics.path.write_bytes(b'{"step": 1, "kind": "train"}\n{"step": 2, "ki\n{"event": "res')
    assert [line["step"] for line in read_metrics(metrics.path)] == [1]
    metrics.log_event("resume", from_step=1)
    metrics.log_metrics(2, "train", {})
    assert [line["step"] for line in read_metrics(metrics.path)] == [1, 2]


@pytest.mark.parametrize("bad", ["{half", "[1]", "3", '{"step": 1}'])
def test_a_bad_line_that_no_kill_explains_is_an_error_with_its_number(metrics, bad):
    metrics.log_metrics(1, "train", {})
    with metrics.path.open("a") as file:
        file.write(bad + "\n")
    metrics.log_metrics(2, "train", {})
    with pytest.raises(DataError, match="line 2"):
        read_metrics(metrics.path)


def test_a_missing_file_is_an_error_that_says_what_to_give(tmp_path):
    with pytest.raises(DataError, match="run directory"):
        read_metrics(tmp_path)


def test_events_are_listed(metrics):
    metrics.log_event("resume", from_step=0)
    metrics.log_metrics(1, "train", {})
    metrics.log_event("tracker_failed", tracker="wandb")
    assert [event["event"] for event in read_events(metrics.path)] == ["resume", "tracker_failed"]


def test_a_line_that_is_whole_and_no_json_is_damage_and_one_without_its_end_the_trace_of_a_kill(tmp_path):
    file = tmp_path / "metrics.jsonl"
    whole = b'{"step": 1, "kind": "train", "a": 1}\n{"step": 1, "kind": "validation", "a": 2}\n'
    file.write_bytes(whole.replace(b'{"step": 1, "kind": "v', b'{"step": 1, "kind": \xf6'))
    with pytest.raises(DataError, match="line 2: not a JSON object"):
        read_metrics(file)
    file.write_bytes(whole[:-20])
    assert [line["kind"] for line in read_metrics(file)] == ["train"]


@pytest.mark.parametrize("lost", [1, 30, 60])
def test_a_finished_run_whose_metrics_lost_their_end_says_so(tmp_path, lost):
    whole = b'{"step": 1, "kind": "train"}\n{"step": 2, "kind": "train"}\n{"step": 2, "kind": "validation", "a": 2}\n'
    (tmp_path / "metrics.jsonl").write_bytes(whole)
    assert lost_lines(tmp_path, 2, finished=True) is None
    (tmp_path / "metrics.jsonl").write_bytes(whole[:-lost])
    assert "was cut or removed" in lost_lines(tmp_path, 2, finished=True)
    assert (lost_lines(tmp_path, 2, finished=False) is None) == (lost < 60)
