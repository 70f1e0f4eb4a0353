"""The loss vectors on the real verl: what docs/project/conformance.md says of it is what this verl gives."""

import json

from conformance import vectors
from conformance.check import find_adapter, run
from conformance.table import RESULTS


def test_the_published_findings_are_this_verls() -> None:
    published = json.loads((RESULTS / "verl.json").read_text())["findings"]
    findings = run(find_adapter("verl"), vectors.load())
    assert [(f.case, f.result, f.where) for f in findings] == [
        (entry["case"], entry["result"], entry["where"]) for entry in published
    ]
