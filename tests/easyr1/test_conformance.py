"""The loss vectors on the real EasyR1: what the published page says of it is what this gives."""

import json
from pathlib import Path

from conformance import vectors
from conformance.check import find_adapter, run
from conformance.table import RESULTS


def test_the_published_findings_are_this_checkouts(checkout: Path) -> None:
    published = json.loads((RESULTS / "easyr1.json").read_text())["findings"]
    findings = run(find_adapter(f"easyr1:{checkout}"), vectors.load())
    assert [(f.case, f.result, f.where) for f in findings] == [
        (entry["case"], entry["result"], entry["where"]) for entry in published
    ]
