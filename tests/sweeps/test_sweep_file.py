"""A sweep file's mistakes are one error that names key, value and fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gmpo_mm.errors import ConfigError
from gmpo_mm.sweeps.sweep_file import load_sweep

VALID: dict[str, Any] = {
    "base": "base.yaml",
    "overrides": ["trainer.max_steps=2"],
    "variants": {"grpo": {"label": "GRPO", "overrides": ["worker.actor.loss_type=default"]}, "gmpo": {}},
    "seeds": [1, 2],
}


def write(folder: Path, **keys: Any) -> Path:
    content = {key: value for key, value in {**VALID, **keys}.items() if value != "absent"}
    (folder / "mine.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "mine.yaml"


def test_a_file_with_little_in_it_gets_its_name_from_the_path(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path))
    assert (sweep.name, sweep.seeds, [v.label for v in sweep.variants]) == ("mine", (1, 2), ["GRPO", "gmpo"])
    assert sweep.budget_hours is None and sweep.evaluation is None and sweep.target_score is None


def test_every_key_is_read(tmp_path: Path) -> None:
    keys = {
        "name": "n", "title": "t", "evaluation": "e.yaml", "target_score": 0.5, "budget": {"hours": 0.25},
        "paper": {"table": 4, "model": "m"}, "ray_address": "auto",
    }  # fmt: skip
    variants = {"a": {"label": "A", "base": "other.yaml", "overrides": ["trainer.max_steps=3"], "paper_line": 2}}
    sweep = load_sweep(write(tmp_path, **keys, variants=variants))
    assert sweep.to_dict() == {**VALID, **keys, "variants": variants}
    assert sweep.budget_hours == 0.25


def test_the_resolved_file_reads_back_to_the_same_sweep(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, budget={"hours": 1}, title="a: b"))
    (tmp_path / "resolved.yaml").write_text(yaml.safe_dump(sweep.to_dict(), sort_keys=False))
    again = load_sweep(tmp_path / "resolved.yaml")
    assert again == sweep


def test_keys_of_the_command_line_go_before_the_files(tmp_path: Path) -> None:
    file = write(tmp_path, budget={"hours": 1})
    given = ["seeds=[7]", "budget.hours=0.5", "variants.gmpo.overrides=[worker.actor.gmpo.clip=none]", "overrides=[]"]
    sweep = load_sweep(file, given)
    assert (sweep.seeds, sweep.budget_hours, sweep.overrides) == ((7,), 0.5, ())
    assert sweep.variants[1].overrides == ("worker.actor.gmpo.clip=none",)
    assert sweep.variants[0].overrides == ("worker.actor.loss_type=default",)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"seed": [1]}, ["seed = [1]", "Did you mean seeds?"]),
        ({"evaluate": "x.yaml"}, ["evaluate", "Did you mean evaluation?"]),
        ({"trainer": {"max_steps": 2}}, ["trainer", "a key of the runs", "overrides="]),
        ({"variants": {"a": {"override": []}}}, ["variants.a.override", "Did you mean variants.a.overrides?"]),
        ({"budget": {"hour": 1}}, ["budget.hour", "Did you mean budget.hours?"]),
        ({"budget": {"hours": 0}}, ["budget.hours = 0", "above 0"]),
        ({"budget": 2}, ["budget = 2", "hours"]),
        ({"base": "absent"}, ["base is not set"]),
        ({"variants": {}}, ["variants is not set"]),
        ({"seeds": []}, ["seeds is not set"]),
        ({"seeds": [1, 1]}, ["seeds = [1, 1]", "1 stands there twice"]),
        ({"seeds": 3}, ["seeds = 3", "seeds: [1, 2, 3]"]),
        ({"seeds": [True]}, ["seeds = [True]"]),
        ({"seeds": [-1]}, ["seeds = [-1]"]),
        ({"variants": ["a"]}, ["variants = ['a']", "mapping"]),
        ({"variants": {"a": ["x=1"]}}, ["variants.a = ['x=1']", "a: {overrides: [key=value, ...]}"]),
        ({"variants": {0.2: {}}}, ["variants.0.2", "float"]),
        ({"variants": {"../up": {}}}, ["'../up'", "names folders"]),
        ({"name": "a/b"}, ["'a/b'", "names folders"]),
        ({"overrides": "trainer.max_steps=2"}, ["overrides = 'trainer.max_steps=2'", "a list"]),
        ({"overrides": [{"trainer.max_steps": 2}]}, ["no key=value"]),
        ({"overrides": ["data.seed=3"]}, ["data.seed=3", "its seeds"]),
        ({"variants": {"a": {"overrides": ["worker.rollout.seed=3"]}}}, ["variants.a.overrides", "its seeds"]),
        ({"variants": {"a": {"overrides": ["trainer.run_dir=x"]}}}, ["trainer.run_dir=x", "--out"]),
        ({"overrides": ["trainer.experiment_name=x"]}, ["trainer.experiment_name=x", "NAME_VARIANT_seed_N"]),
        ({"target_score": "high"}, ["target_score = 'high'", "a number"]),
        ({"variants": {"a": {"paper_line": "two"}}}, ["variants.a.paper_line", "'two'"]),
    ],
)  # fmt: skip
def test_a_mistake_names_key_value_and_fix(tmp_path: Path, keys: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_sweep(write(tmp_path, **keys))
    for text in named:
        assert text in str(caught.value)


def test_a_missing_file_and_a_runs_own_configuration_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ConfigError, match=r"there is no such file; there are: .*mine\.yaml"):
        load_sweep(tmp_path / "other.yaml")
    (tmp_path / "run.yaml").write_text("trainer: {max_steps: 2}\n")
    with pytest.raises(ConfigError, match=r"configures one run; gmpo-mm train .*run\.yaml trains it"):
        load_sweep(tmp_path / "run.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(ConfigError, match=r"broken\.yaml is not readable YAML"):
        load_sweep(tmp_path / "broken.yaml")


@pytest.mark.parametrize("text", ["seeds", "=1"])
def test_an_argument_without_key_or_value_says_how_to_write_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="write it as key=value"):
        load_sweep(write(tmp_path), [text])
