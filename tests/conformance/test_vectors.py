"""The vectors: what they hold, that they come from their seed, and that the reference and gmpo_mm agree."""

import dataclasses
import json
import math
from pathlib import Path

import jsonschema
import pytest

from conformance import generate, reference, vectors
from conformance.adapters import gmpo_mm as adapter
from conformance.check import main, run
from conformance.table import PUBLISHED, markdown
from gmpo_mm.algorithms import known_loss_types

FILES = sorted(vectors.FOLDER.glob("*.json"))
SCHEMA = json.loads((Path(vectors.__file__).parent / "schema.json").read_text())
CASES = vectors.load()
LOSSES = [case for case in CASES if "loss" in case.config]
INPUTS = {
    "loss": ("log_probs", "old_log_probs", "ref_log_probs", "advantages"),
    "advantages": ("rewards", "groups", "baselines"),
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_fits_the_schema_and_its_lists_fit_one_another(file):
    content = json.loads(file.read_text())
    jsonschema.validate(content, SCHEMA)
    kind = "loss" if "loss" in content else "advantages"
    shapes = {}
    for batch_name, batch in content["batches"].items():
        shapes[batch_name] = shape = [len(row) for row in batch["mask"]]
        assert len(set(shape)) == 1
        for name in INPUTS[kind]:
            assert (batch[name] and len(batch[name])) == len(shape)
            assert kind == "advantages" or [len(row) for row in batch[name]] == shape
        for cut in batch.get("cuts", {}).values():
            assert sorted(row for part in cut for row in part) == list(range(len(shape)))
    for case in content["cases"]:
        assert case["name"].startswith(f"{file.stem}: ")
        assert kind == "advantages" or case["config"]["loss"] == content["loss"] == file.stem
        for name, expected in case["expected"].items():
            numbers = expected["grad" if kind == "loss" else "advantages"]
            assert [len(row) for row in numbers] == shapes[name]
            for row, valid in zip(numbers, content["batches"][name]["mask"], strict=True):
                assert all(x == 0 for x, v in zip(row, valid, strict=True) if not v)


def test_a_file_outside_the_schema_is_found():
    content = json.loads((vectors.FOLDER / "cispo.json").read_text())
    for change in (
        {"format": 2},
        {"loss": "ppoo"},
        {"cases": []},
        {"batches": {"mixed": content["batches"]["mixed"]}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(content | change, SCHEMA)


def test_the_seed_gives_the_committed_bytes(tmp_path):
    generate.write(tmp_path)
    made = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    kept = {file.name: file.read_bytes() for file in vectors.FOLDER.iterdir()}
    assert made == kept


def test_every_loss_of_gmpo_mm_has_vectors():
    names = {"default" if case.config["loss"] == "ppo" else case.config["loss"] for case in LOSSES}
    assert names == set(known_loss_types())


def test_gmpo_mm_is_equal_everywhere_clip_shares_too():
    findings = {finding.case: finding for finding in run(adapter, CASES)}
    published = json.loads(PUBLISHED[0].read_text())["findings"]
    assert [dataclasses.asdict(f) | {"missing_cuts": []} for f in findings.values()] == published
    scaled = findings.pop(
        "ppo: fixed"
    )  # the token mean, with another constant: N tokens for B responses of L
    assert (scaled.result, scaled.detail) == ("equal up to a scale", "x B*L/N")
    assert {finding.result for finding in findings.values()} == {"equal"}
    no_share = {name.split(":")[0] for name, finding in findings.items() if finding.clip_share != "equal"}
    assert no_share == {"sapo", "gpg", "reinforce", "vespo", "gmpo", "power_mean", "advantages"}
    assert [n for n in findings if n.startswith(("gmpo", "power")) and not findings[n].clip_share] == [
        "gmpo: none",
        "gmpo: none no_power",
        "power_mean: p=0.5 none",
    ]


@pytest.mark.parametrize("loss", [file.stem for file in FILES])
def test_no_two_configurations_of_a_loss_have_one_result(loss):
    """Else an option that is not read could not be seen."""
    own = [case for case in CASES if case.name.startswith(f"{loss}: ")]
    first = next(iter(own[0].batches))
    gradients = [json.dumps(case.expected[first]["grad"]) for case in own]
    assert len(set(gradients)) == len(own)


def test_the_batches_hold_what_losses_go_wrong_on():
    for batch in (LOSSES[0].batches["mixed"], LOSSES[0].batches["far"]):
        lengths = [sum(row) for row in batch["mask"]]
        assert 0 in lengths and 1 in lengths and len(set(lengths)) > 3
        tokens = [
            (batch["log_probs"][i][t] - batch["old_log_probs"][i][t], batch["advantages"][i][t])
            for i, row in enumerate(batch["mask"])
            for t, valid in enumerate(row)
            if valid
        ]
        for sign in (1, -1):
            ratios = [math.exp(d) for d, a in tokens if a * sign > 0]
            assert any(r < 0.6 for r in ratios) and any(0.8 < r < 1.3 for r in ratios)
            assert any(r > 3 for r in ratios)
        assert any(a == 0 and d != 0 for d, a in tokens)
    assert max(abs(d) for d, _ in tokens) > 10
    padding, mask = LOSSES[0].batches["padding"], LOSSES[0].batches["mixed"]["mask"]
    hidden = [
        padding["advantages"][i][t] for i, row in enumerate(mask) for t, valid in enumerate(row) if not valid
    ]
    assert any(hidden) and padding["mask"] == mask
    for case in LOSSES:
        assert case.expected["padding"] == case.expected["mixed"]


@pytest.mark.parametrize("loss", ["ppo", "gmpo", "power_mean", "gspo", "luspo", "sapo", "gpg", "reinforce"])
def test_gradients_of_the_reference_are_the_slopes_of_its_value(loss):
    """Central differences, for the losses in which nothing is held constant."""
    for case in (case for case in LOSSES if case.config["loss"] == loss):
        batch = case.batches["mixed"]
        for i, t in ((3, 1), (6, 4), (8, 0)):
            values = []
            for step in (1e-6, -1e-6):
                moved = [list(row) for row in batch["log_probs"]]
                moved[i][t] += step
                values.append(reference.evaluate(case.config, batch | {"log_probs": moved}).loss)
            slope = (values[0] - values[1]) / 2e-6
            assert slope == pytest.approx(case.expected["mixed"]["grad"][i][t], rel=1e-5, abs=1e-8), case.name


@pytest.mark.parametrize("fault", ["cut off", "one digit", "missing", "no sums"])
def test_a_file_that_was_cut_off_or_changed_is_an_error_that_names_it(tmp_path, capsys, fault):
    for file in vectors.FOLDER.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    file = tmp_path / ("SHA256SUMS" if fault == "no sums" else "gmpo.json")
    text = file.read_text()
    if fault == "cut off":
        file.write_text(text[:1000])
    elif fault == "one digit":
        file.write_text(text.replace("1.5", "1.6", 1))
    else:
        file.unlink()
    assert main(["gmpo_mm", "--vectors", str(tmp_path), "--only", "gpg*"]) == 2
    message = capsys.readouterr().err
    assert str(file) in message and "python -m conformance.generate" in message


def test_the_published_table_is_that_of_the_published_findings():
    page = (Path(vectors.__file__).parents[1] / "docs/project/conformance.md").read_text()
    assert markdown(list(PUBLISHED)) in page, "paste what python -m conformance.table prints"
    for file in PUBLISHED:
        assert [entry["case"] for entry in json.loads(file.read_text())["findings"]] == [
            c.name for c in CASES
        ]
