"""Without assertions (`python -O`) bad input ends in the same clear errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gmpo_mm.config.json_text import read_mapping
from gmpo_mm.errors import ConfigError
from gmpo_mm.models.adapters import lineage
from gmpo_mm.runs.run_results import run_results

BAD = [
    ["train", "configs/quickstart.yaml", "worker.rollout.n=-1"],
    ["train", "configs/quickstart.yaml", "trainer.run_dir={folder}/list", "--dry-run"],
    ["train", "{folder}/list.yaml"],
    ["evaluate", "benchmarks=[]"],
    ["evaluate", "--model", "{folder}/adapter", "--benchmark", "synthetic_pictures"],
    ["evaluate", "--model", "bundled:qwen2_5_vl_tiny", "--benchmark", "{folder}/list.yaml"],
    ["sweep", "{folder}/list.yaml"],
    ["report", "{folder}/list"],
]
PROGRAM = """
import json, sys
from gmpo_mm import cli
assert False, "assertions are off"
for argv in json.loads(sys.argv[1]):
    sys.argv = ["gmpo-mm", *argv]
    try:
        cli.main()
    except SystemExit as end:
        print(end.code)
"""


def test_bad_input_without_assertions(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("[1, 2]\n")
    (tmp_path / "list").mkdir()
    for name in ("run.json", "config.yaml", "metrics.jsonl"):
        (tmp_path / "list" / name).write_text("[1, 2]\n")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("[1]")
    commands = [[word.format(folder=tmp_path) for word in argv] for argv in BAD]
    done = subprocess.run(
        [sys.executable, "-O", "-c", PROGRAM, json.dumps(commands)], capture_output=True, text=True, timeout=200,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout.split().count("2") == len(BAD), done.stdout + done.stderr


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b'{"a": ', b"[" * 100_000, b"null"])
def test_damaged_json_is_named(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "adapter_config.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"adapter_config.json can't be read \(.*restore it"):
        read_mapping(file, "restore it")
    with pytest.raises(ConfigError, match="adapter_config.json can't be read"):
        lineage(str(tmp_path))
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.json"):
        run_results(tmp_path)
