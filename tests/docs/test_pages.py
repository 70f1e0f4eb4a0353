"""The README and the documentation: short, in plain words, without dead ends. `make docs` checks the links between pages."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from gmpo_mm.cli import app

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
README = ROOT / "README.md"
OWN_WORDS = re.compile(r"\b(mend\w*|pushed|house|told as|so many seeds)\b", re.IGNORECASE)
"""Words that readers had to read twice."""
LINK = re.compile(r"(?:\]\(|src(?:set)?=\")([^)\s\"]+)")


def prose(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def test_the_readme_is_one_page() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1300
    long = [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|") and "](" not in line]
    assert [line for line in long if not line.startswith("$$")] == []
    assert "make quickstart" in text and "make test" in text


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_links_to_is_there(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]
    files = [target.partition("#")[0] for target in targets]
    assert [name for name in files if name and not (page.parent / name).exists()] == []


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_use_plain_words(page: Path) -> None:
    assert OWN_WORDS.findall(prose(page.read_text(encoding="utf-8"))) == []


def test_messages_use_plain_words() -> None:
    """Every text in the package, but for the graders' lists of words."""
    found = [
        (path.name, node.lineno, node.value)
        for path in sorted((ROOT / "gmpo_mm").rglob("*.py"))
        if path.parent.name != "verifiers"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and OWN_WORDS.search(node.value)
    ]
    assert found == []


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page() -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11

    def pages(node: object) -> list[str]:
        if isinstance(node, str):
            return [node]
        return [page for part in (node.values() if isinstance(node, dict) else node) for page in pages(part)]  # type: ignore[attr-defined]

    listed = pages(tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"])
    assert sorted(listed) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in PAGES)
    assert len(set(listed)) == len(listed)


def test_the_readmes_configuration_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small model in the place of one from the hub, and made data."""
    text = re.search(r"```yaml\n(data:.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert text is not None and len(text[1].splitlines()) <= 20
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_run.yaml").write_text(text[1])
    (tmp_path / "figures").mkdir()
    Image.new("RGB", (60, 60)).save(tmp_path / "figures/1.png")
    record = json.loads(re.search(r"# (\{.*\})", text[1])[1])  # type: ignore[index]
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text((json.dumps(record) + "\n") * 64)
    model = "worker.actor.model.model_path=bundled:qwen2_5_vl_tiny"
    done = CliRunner().invoke(app, ["train", "my_run.yaml", model, "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "loss gmpo" in done.output and "64 prompts x 8 samples" in done.output
