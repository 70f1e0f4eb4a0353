"""Every kind of page that we write, with hostile texts in it: one policy, no handler, no script and style but its own."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gmpo_mm.evaluation.page import write_page
from gmpo_mm.evaluation.results import Problem
from gmpo_mm.reports.report import write_report
from tests.evaluation.pages import HOSTILE, sample, write_result
from tests.reports.made import change_sweep, write_run, write_sweep_file

QUOTED = "\" onload='alert(1)' x=\"' onclick=alert(1) <style>*{display:none}</style> javascript:alert(1) {{ 7 * 7 }}"
TEXTS = [
    HOSTILE, QUOTED, "</title></style></textarea><svg onload=alert(1)>",
    '<meta http-equiv="Content-Security-Policy" content="">',
]  # fmt: skip


class Elements(HTMLParser):
    """Counts elements, and keeps policies, handlers and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.policies: list[str] = []
        self.handlers: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] += 1
        values = dict(attrs)
        if (values.get("http-equiv") or "").lower() == "content-security-policy":
            self.policies.append(values["content"] or "")
        self.handlers += [name for name in values if name.startswith("on")]
        self.addresses += [values[name] or "" for name in ("href", "src", "action", "xlink:href") if name in values]


def evaluation_page(folder: Path, text: str) -> Path:
    problem = Problem(0, text, text, (text,), text)
    return write_page(write_result(folder, [problem], [sample(0, 0, text, text, why=text)], model=text, name=text))


def run_report(folder: Path, text: str) -> Path:
    run = write_run(folder / "run", [0.1, 0.2], state=text, config="data: {seed: 1}\n")
    write_report([run], folder / "report")
    return folder / "report" / "report.html"


def sweep_report(folder: Path, text: str) -> Path:
    for name in ("grpo", "gmpo"):
        for seed in (1, 2, 3):
            write_run(folder / f"runs/{name}/seed_{seed}", [0.1, 0.2])
    write_sweep_file(folder, title=text, command=["gmpo-mm", text])

    def rename(data: dict) -> None:
        for variant in data["variants"]:
            variant["label"] = f"{text} {variant['name']}"
            variant["overrides"] = [f"a.b={text}"]

    change_sweep(folder, rename)
    write_report([folder], folder / "report")
    return folder / "report" / "report.html"


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("make", [evaluation_page, run_report, sweep_report])
def test_a_page_has_one_policy_its_own_style_and_no_handler(make, text: str, tmp_path: Path) -> None:
    found = Elements(make(tmp_path / "hostile", text).read_text())
    harmless = Elements(make(tmp_path / "harmless", "a text").read_text())
    assert len(found.policies) == 1 and found.policies == harmless.policies and "default-src 'none'" in found.policies[0]
    assert "base-uri 'none'" in found.policies[0] and "form-action 'none'" in found.policies[0]
    assert found.handlers == []
    for tag in ("style", "script", "meta", "img", "iframe", "object", "base", "form"):
        assert found.count[tag] == harmless.count[tag], tag
    outside = ("javascript:", "http:", "https:")
    assert not [address for address in found.addresses if address.strip().lower().startswith(outside)]
