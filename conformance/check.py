"""Does a project compute the losses as their papers do? `python -m conformance.check TARGET`, see
README.md."""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from conformance.compare import Finding, Other, Place, judge
from conformance.vectors import FOLDER, Case, VectorError, as_gradient, load

OWN_ADAPTERS = ("gmpo_mm", "trl", "verl", "easyr1", "openrlhf")
IN_A_FOLDER = {"easyr1": "verl/trainer/core_algos.py", "openrlhf": "openrlhf/models/loss.py"}
"""Targets that are named with a folder, NAME:/path, and a file that is in it."""
FAILURES = ("different", "another loss", "error")


def main(arguments: list[str] | None = None) -> int:
    """0 if all that the target offers is equal; 1 if something is not; 2 for a target or vectors that can't
    be used."""
    parser = argparse.ArgumentParser(prog="python -m conformance.check", description=__doc__)
    parser.add_argument(
        "target", help="gmpo_mm, trl, verl, easyr1:/path, openrlhf:/path, or path.to.module:adapter"
    )
    parser.add_argument("--only", default="*", metavar="PATTERN", help="cases by name, as 'gmpo*'")
    parser.add_argument("--allow-scale", action="store_true", help="'equal up to a scale' is no failure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings there too")
    parser.add_argument("--vectors", type=Path, default=FOLDER, metavar="FOLDER")
    options = parser.parse_args(arguments)
    try:
        adapter = find_adapter(options.target)
        findings = run(adapter, load(options.vectors), options.only)
    except (VectorError, TargetError) as error:
        print(error, file=sys.stderr)
        return 2
    print(table(adapter, findings))
    if options.json:
        lines = ",\n".join(json.dumps(dataclasses.asdict(finding)) for finding in findings)
        head = json.dumps({"target": adapter.NAME, "tolerance": adapter.TOLERANCE})[:-1]
        options.json.write_text(f'{head}, "findings": [\n{lines}\n]}}\n', encoding="utf-8")
    failures = {*FAILURES, *(() if options.allow_scale else ("equal up to a scale",))}
    return int(any(finding.result in failures for finding in findings))


class NotOffered(Exception):
    """As an adapter's."""


class TargetError(Exception):
    """A target that can't be imported; the message says what to do."""


def find_adapter(target: str) -> Any:
    """The adapter of a target: a module or object with `loss`, `NAME` and `TOLERANCE`.

    Raises:
        TargetError: it can't be imported, or has no `loss`.
    """
    name, _, rest = target.partition(":")
    folder = Path(rest)
    if name in IN_A_FOLDER:
        if not (folder / IN_A_FOLDER[name]).is_file():
            raise TargetError(f"{target}: write {name}:/path; {rest!r} holds no {IN_A_FOLDER[name]}.")
        sys.path.insert(0, str(folder.resolve()))
    elif not rest and name not in OWN_ADAPTERS:
        raise TargetError(f"{target}: write path.to.module:adapter, or one of {', '.join(OWN_ADAPTERS)}.")
    own = name in OWN_ADAPTERS
    try:
        found = importlib.import_module(f"conformance.adapters.{name}" if own else name)
        adapter = found if own else getattr(found, rest)
        if hasattr(adapter, "load"):
            adapter = adapter.load(folder.resolve())
    except (ImportError, AttributeError) as error:
        raise TargetError(
            f"{target}: {error}. Run this in the environment of the project that is checked."
        ) from error
    if not hasattr(adapter, "loss"):
        if not callable(adapter):
            raise TargetError(
                f"{target} has no function `loss(config, batch, cut)`; see conformance/README.md."
            )
        adapter = SimpleNamespace(loss=adapter)
    for key, default in (("NAME", target), ("TOLERANCE", 1e-9)):
        if not hasattr(adapter, key):
            setattr(adapter, key, default)
    return adapter


def run(adapter: Any, cases: list[Case], only: str = "*") -> list[Finding]:
    """One finding for each case whose name fits the pattern.

    Raises:
        TargetError: none fits.
    """
    chosen = [case for case in cases if fnmatch.fnmatch(case.name, only)]
    if not chosen:
        raise TargetError(f"--only {only}: no case has such a name; the first is {cases[0].name!r}.")
    others = [Other(case.name, case.expected) for case in cases]
    return [_check(adapter, case, others) for case in chosen]


def _check(adapter: Any, case: Case, others: list[Other]) -> Finding:
    outputs: dict[Place, dict[str, Any]] = {}
    missing: list[str] = []
    for batch_name, batch in case.batches.items():
        for cut_name, cut in batch.get("cuts", {"whole": []}).items():
            try:
                outputs[batch_name, cut_name] = _ask(adapter, case, batch, cut)
            except Exception as error:
                if type(error).__name__ != "NotOffered":  # an adapter may have a class of its own
                    return Finding(
                        case.name, "error", f"{batch_name}, {cut_name}: {type(error).__name__}: {error}"
                    )
                if cut_name == "whole":
                    return Finding(case.name, "not offered", str(error))
                missing.append(cut_name)
    finding = judge(case, outputs, others, adapter.TOLERANCE)
    return dataclasses.replace(finding, missing_cuts=tuple(missing))


def _ask(adapter: Any, case: Case, batch: dict[str, Any], cut: list[list[int]]) -> dict[str, Any]:
    if "advantages" not in case.config:
        return _checked(adapter.loss(case.config, batch, cut), batch)
    if not hasattr(adapter, "advantages"):
        raise NotOffered("the adapter has no `advantages`")
    output = _checked(as_gradient(adapter.advantages(case.config, batch)), batch)
    rows = zip(output["grad"], batch["mask"], strict=True)  # no loss looks at those under a 0 of the mask
    output["grad"] = [[a if valid else 0.0 for a, valid in zip(row, m, strict=True)] for row, m in rows]
    return output


def _checked(output: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
    shape = [len(row) for row in batch["mask"]]
    if [len(row) for row in output["grad"]] != shape:
        raise ValueError(f"the result must have {len(shape)} rows of {shape[0]} numbers")
    return {"clip_share": None} | output | {"loss": float(output["loss"])}


def table(adapter: Any, findings: list[Finding]) -> str:
    """What is printed: a line for each case, then how many of each kind."""
    width = max(len(finding.case) for finding in findings)
    lines = [f"{adapter.NAME}, tolerance {adapter.TOLERANCE:g}", ""]
    for finding in findings:
        shares = (
            ""
            if finding.clip_share in ("", "equal")
            else f"clip share counted otherwise: {finding.clip_share}"
        )
        detail = "; ".join(filter(None, (finding.detail, shares)))
        lines.append(f"{finding.case:{width}}  {finding.result:19}  {detail}".rstrip())
    kinds: dict[str, int] = {}
    for finding in findings:
        kinds[finding.result] = kinds.get(finding.result, 0) + 1
    lines += ["", ", ".join(f"{count} {kind}" for kind, count in kinds.items())]
    missing = sorted({cut for finding in findings for cut in finding.missing_cuts})
    if missing:
        lines.append(f"micro-batches that it does not offer, and which were left out: {', '.join(missing)}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
