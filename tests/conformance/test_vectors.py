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
    "corrections": ("log_probs", "old_log_probs", "ref_log_probs", "sampler_log_probs", "advantages"),
    "advantages": ("rewards", "groups", "baselines"),
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_fits_the_schema_and_its_lists_fit_one_another(file):
    content = json.loads(file.read_text())
    jsonschema.validate(content, SCHEMA)
    kind = next(kind for kind in INPUTS if kind in (*content, "advantages"))
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
        assert kind != "loss" or case["config"]["loss"] == content["loss"] == file.stem
        for name, expected in case["expected"].items():
            numbers = expected["advantages" if kind == "advantages" else "grad"]
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


def test_a_correction_without_a_sampler_or_with_an_unknown_kind_is_outside_the_schema():
    content = json.loads((vectors.FOLDER / "corrections.json").read_text())
    batches = {name: dict(batch) for name, batch in content["batches"].items()}
    del batches["far"]["sampler_log_probs"]
    case = content["cases"][0]
    unknown = {**case, "config": case["config"] | {"correction": {"kind": "truncate", "cap": 2.0}}}
    none = {**case, "config": {key: x for key, x in case["config"].items() if key != "correction"}}
    for change in ({"batches": batches}, {"cases": [unknown]}, {"cases": [none]}):
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
    not_offered = [name for name, finding in findings.items() if finding.result == "not offered"]
    assert not_offered == [
        "corrections: ppo tokens masked left_out",
        "corrections: ppo tokens geometric_masked left_out",
        "corrections: gspo truncated arithmetic",
        "corrections: gspo masked arithmetic",
    ]
    assert {f.result for name, f in findings.items() if name not in not_offered} == {"equal"}
    no_share = {name.split(":")[0] for name, finding in findings.items() if finding.clip_share != "equal"}
    assert no_share == {
        "sapo",
        "gpg",
        "reinforce",
        "vespo",
        "gmpo",
        "power_mean",
        "corrections",
        "advantages",
    }
    assert [n for n in findings if n.startswith(("gmpo", "power")) and not findings[n].clip_share] == [
        "gmpo: none",
        "gmpo: none no_power",
        "power_mean: p=0.5 none",
    ]


@pytest.mark.parametrize("loss", [file.stem for file in FILES])
def test_no_two_configurations_of_a_loss_have_one_result(loss):
    """Else an option that is not read could not be seen."""
    own = [case for case in CASES if case.name.startswith(f"{loss}: ")]
    for batch in {name for case in own for name in case.expected} - {"far", "padding"}:
        gradients = [json.dumps(case.expected[batch]["grad"]) for case in own if batch in case.expected]
        assert len(set(gradients)) == len(gradients), batch


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


@pytest.mark.parametrize("name", ["mixed", "far"])
def test_the_samplers_of_the_corrections_are_on_both_sides_of_every_bound(name):
    cases = {case.name: case for case in CASES if case.name.startswith("corrections: ppo tokens")}
    batch = next(iter(cases.values())).batches[name]
    rows = []
    for i, mask in enumerate(batch["mask"]):
        if any(mask):
            places = [t for t, valid in enumerate(mask) if valid]
            rows.append([batch["old_log_probs"][i][t] - batch["sampler_log_probs"][i][t] for t in places])
    for case in cases.values():
        bounds = case.config["correction"]
        low, high = math.log(bounds.get("floor") or 1e-9), math.log(bounds["cap"])
        of_kind = {"sequence": [sum(r) for r in rows], "geometric": [sum(r) / len(r) for r in rows]}
        values = of_kind.get(bounds["kind"].split("_")[0], [d for r in rows for d in r])
        assert any(d > high for d in values) and any(low <= d <= high for d in values), case.name
        assert not bounds.get("floor") or any(d < low for d in values), case.name
        assert all(min(abs(d - low), abs(d - high)) > 1e-3 for d in values), (
            case.name
        )  # no matter of rounding
    if name == "mixed":
        outside = [[not math.log(0.5) <= d <= math.log(2) for d in r] for r in rows]
        assert any(all(r) and len(r) > 1 for r in outside) and any(any(r) and not all(r) for r in outside)
        assert any(any(o) and abs(sum(r)) < 0.3 for o, r in zip(outside, rows, strict=True))
        assert any(not any(o) and sum(r) > 1.1 for o, r in zip(outside, rows, strict=True))


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
