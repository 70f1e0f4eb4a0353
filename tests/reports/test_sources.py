"""What a report can read: runs of ours, sweeps whole and partial, EasyR1's log, TensorBoard; and what it says of the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from gmpo_mm.errors import DataError
from gmpo_mm.reports.ratio_figures import clip_bounds
from gmpo_mm.reports.sources import read_study
from gmpo_mm.runs import metrics_file
from gmpo_mm.runs.metrics_file import read_metrics
from tests.reports.made import change_sweep, write_easyr1_log, write_run

CONFIG = (
    "worker: {{rollout: {{seed: {seed}}}, actor: {{loss_type: {loss}}}}}\n"
    "data: {{seed: {seed}}}\ntrainer: {{run_dir: {seed}}}\n"
)


def runs_of(sweep: Path) -> list[Path]:
    return sorted(sweep.glob("runs/*/seed_*"))


def test_runs_that_differ_in_seed_and_name_only_are_seeds_of_one_variant(sweep: Path) -> None:
    study = read_study(runs_of(sweep))
    assert [(variant.label, [run.seed for run in variant.runs]) for variant in study.variants] == [
        ("gmpo", ["1", "2"]),
        ("grpo", ["1", "2"]),
    ]
    assert 'worker.actor.loss_type="gmpo"' in study.variants[0].settings
    assert "algorithm.disable_kl=true" in study.variants[1].settings
    assert not any("seed" in setting or "run_dir" in setting for setting in study.variants[0].settings)
    assert [clip_bounds(variant) for variant in study.variants] == [pytest.approx((0.6703, 1.4918), abs=1e-4), (0.8, 1.2)]


def test_the_clip_of_a_power_mean_is_in_log_space_and_of_tokens(sweep: Path) -> None:
    variant = read_study(runs_of(sweep)).variants[0]
    for clip, expected in (("token", pytest.approx((0.7408, 2.0138), abs=1e-4)), ("sequence", None)):
        section = {"clip": clip, "log_clip_low": 0.3, "log_clip_high": 0.7}
        config = {"worker": {"actor": {"loss_type": "power_mean", "power_mean": section}}}
        assert clip_bounds(replace(variant, runs=[replace(variant.runs[0], config=config)])) == expected


def test_a_run_s_numbers_are_those_of_its_metrics_file(sweep: Path) -> None:
    path = runs_of(sweep)[0]
    run = read_study([path]).variants[0].runs[0]
    lines = read_metrics(path)
    for name in ("ratio/token_max", "actor/kl_ref", "val/accuracy_reward"):
        expected = {line["step"]: line[name] for line in lines if name in line}
        assert dict(zip(run.series[name].steps.tolist(), run.series[name].values.tolist())) == expected


@pytest.mark.parametrize("cut", [1, 60], ids=["the last newline", "the last line"])
def test_a_finished_run_whose_metrics_were_cut_is_an_error_that_names_it(tmp_path: Path, cut: int) -> None:
    run = write_run(tmp_path / "run", [0.1, 0.2, 0.3])
    (run / "run.json").write_text(json.dumps({"state": "finished", "step": 2, "begun": "now"}), encoding="utf-8")
    (run / "config.yaml").write_text("data: {seed: 1}\n", encoding="utf-8")
    file = run / "metrics.jsonl"
    file.write_bytes(b"".join(line for line in file.read_bytes().splitlines(True) if b'"validation"' not in line))
    assert read_study([run]).variants[0].runs[0].state == "finished"
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(DataError, match=r"run: metrics.jsonl was cut or removed"):
        read_study([run])


def test_a_run_s_metrics_are_read_from_the_disk_once(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    whole = metrics_file._read_lines
    monkeypatch.setattr(metrics_file, "_read_lines", lambda path: read.append(Path(path)) or whole(path))
    path = runs_of(sweep)[0]
    assert read_study([path]).variants[0].runs[0].state == "finished"
    assert read == [path]


def test_a_sweep_s_variants_come_in_its_order_with_its_labels(sweep: Path) -> None:
    study = read_study([sweep])
    assert study.title == "GRPO and GMPO, small"
    assert [variant.label for variant in study.variants] == ["GRPO", "GMPO"]
    assert study.target_score == 0.3
    assert study.notes == ()
    run = study.variants[1].runs[1]
    assert (run.seed, run.state, run.seconds, run.where) == ("2", "finished", 102.0, "runs/gmpo/seed_2")
    assert list(run.evaluations) == ["synthetic_pictures"]


def test_a_partial_sweep_is_read_and_what_is_missing_is_said(sweep_copy: Callable[[], Path]) -> None:
    folder = sweep_copy()

    def change(data: dict) -> None:  # type: ignore[type-arg]
        failed, waiting = data["runs"][1], data["runs"][2]
        failed |= {"state": "failed", "reason": "the disk was full"}
        waiting |= {"state": "waiting", "directory": "runs/not/there", "evaluations": {}}

    change_sweep(folder, change)
    study = read_study([folder])
    assert study.notes == (
        "GRPO, seed 2: waiting. It has no numbers yet.",
        "GMPO, seed 1: failed (the disk was full). Its curves are drawn as far as they go; it is not in the scores.",
    )
    assert [len(variant.counted) for variant in study.variants] == [1, 1]


def test_easyr1_s_log_is_read_with_its_seed(sweep: Path, tmp_path: Path) -> None:
    ours = runs_of(sweep)[0]
    log = write_easyr1_log(tmp_path / "stock", ours, seed=7)
    for given in (log, log.parent):
        study = read_study([given, ours])
        theirs = study.variants[0]
        assert (theirs.label, theirs.runs[0].seed, theirs.runs[0].source) == ("stock", "7", "EasyR1")
        expected = [line["val/accuracy_reward"] for line in read_metrics(ours) if "val/accuracy_reward" in line]
        assert theirs.runs[0].series["val/accuracy_reward"].values.tolist() == expected
    again = write_easyr1_log(tmp_path / "again", ours, seed=8)
    assert [run.seed for run in read_study([log, again]).variants[0].runs] == ["7", "8"]


def test_a_torn_last_line_of_easyr1_s_log_is_dropped_and_any_other_named(sweep: Path, tmp_path: Path) -> None:
    log = write_easyr1_log(tmp_path / "stock", runs_of(sweep)[0])
    whole = log.read_text()
    log.write_text(whole + '{"step": 4, "actor": {"grad')
    assert read_study([log]).variants[0].runs[0].series["actor/grad_norm"].steps.tolist() == [1, 2, 3]
    log.write_text("nonsense\n" + whole)
    with pytest.raises(DataError, match=r"experiment_log.jsonl, line 1: not one of EasyR1's"):
        read_study([log])


def test_our_own_tensorboard_folder_holds_the_same_numbers(sweep: Path) -> None:
    path = runs_of(sweep)[0]
    ours, theirs = (read_study([place]).variants[0].runs[0] for place in (path, path / "tensorboard"))
    assert theirs.source == "TensorBoard"
    for name in ("ratio/token_min", "actor/entropy", "val/accuracy_reward"):
        assert theirs.series[name].steps.tolist() == ours.series[name].steps.tolist()
        assert theirs.series[name].values.tolist() == pytest.approx(ours.series[name].values.tolist(), rel=1e-6)


def test_tensorboard_folders_inside_a_folder_are_runs_and_hyperparameters_are_not(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with SummaryWriter(str(tmp_path / "logs" / name)) as writer:
            writer.add_hparams({"lr": 1.0}, {"placeholder": 0})  # as EasyR1 does: a folder of its own inside
            writer.add_text("config", "lr: 1")
            for step in range(5):
                writer.add_scalar("val/accuracy_reward", step / 10, step)
    study = read_study([tmp_path / "logs"])
    assert [variant.label for variant in study.variants] == ["first", "second"]
    assert [set(variant.runs[0].series) for variant in study.variants] == [{"val/accuracy_reward"}] * 2
    assert study.variants[0].runs[0].series["val/accuracy_reward"].values.tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_variants_of_one_name_are_told_apart_by_their_places(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with SummaryWriter(str(tmp_path / name / "tensorboard")) as writer:
            writer.add_scalar("actor/grad_norm", 1.0, 1)
    study = read_study([tmp_path / "a/tensorboard", tmp_path / "b/tensorboard"])
    assert [variant.label for variant in study.variants] == ["a/tensorboard", "b/tensorboard"]


def test_one_run_given_twice_is_refused(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", [0.1], config=CONFIG.format(seed=1, loss="gmpo"))
    twin = write_run(tmp_path / "twin", [0.2], config=CONFIG.format(seed=1, loss="gmpo"))
    with pytest.raises(DataError, match="given twice"):
        read_study([first, tmp_path / "twin" / ".." / "first"])
    with pytest.raises(DataError, match=r"first and .*twin are the same run: .*equal seeds \(1\)"):
        read_study([first, twin])


def test_different_seeds_for_data_and_sampling_are_a_seed_of_their_own(tmp_path: Path) -> None:
    paths = [
        write_run(
            tmp_path / name, [0.1], config=CONFIG.format(seed=1, loss="gmpo").replace("data: {seed: 1}", f"data: {{seed: {n}}}")
        )
        for name, n in (("x", 1), ("y", 2))
    ]
    (variant,) = read_study(paths).variants
    assert [run.seed for run in variant.runs] == ["1", "1/2"]


def test_what_holds_no_run_is_named_with_the_fix(sweep: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, said in (
        (tmp_path / "nothing", "nothing does not exist; give a sweep's directory"),
        (tmp_path / "empty", "empty: neither a sweep"),
        (sweep / "runs" / "grpo", r"give those: gmpo-mm report .*seed_1 .*seed_2"),
        (sweep / "sweep.json", "sweep.json: neither a sweep"),
    ):
        with pytest.raises(DataError, match=said):
            read_study([path])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "Invalid JSON"),
        ('{"format": 2}', "format 2, and this version reads 1"),
        ('{"format": 1, "name": "x", "variants": []}', "can't be read"),
        ('{"format": 1, "name": "x", "variants": [], "runs": []}', "lists no variants"),
        ('{"format": 1, "name": "x", "variants": [{"name": "a"}], "runs": [{"variant": "b"}]}', "doesn't list: b"),
        ('[1]', "found a list"),
    ],
)  # fmt: skip
def test_a_broken_sweep_file_is_an_error_that_names_it(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(DataError, match=said) as error:
        read_study([tmp_path])
    assert "sweep.json" in str(error.value)


def test_sweeps_with_different_targets_want_a_choice(sweep: Path, sweep_copy: Callable[[], Path]) -> None:
    other = sweep_copy()
    change_sweep(other, lambda data: data.update(target_score=0.9))
    with pytest.raises(DataError, match="--target-score"):
        read_study([sweep, other])
    assert read_study([sweep, other], target_score=0.5).target_score == 0.5


def test_a_run_of_which_nothing_is_written_yet_is_waiting(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"state": "created", "exit_reason": None}))
    study = read_study([tmp_path])
    assert study.variants[0].runs[0].series == {}
    assert "not begun. It has no numbers yet." in study.notes[0]
