"""Data with a line without end, an adapter that is a pickle, a model that brings code, pages that could run something."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from gmpo_mm.config.paths import resolve_model_path
from gmpo_mm.data import sources
from gmpo_mm.errors import ConfigError, DataError
from gmpo_mm.models.loading import load_model, read_config

BASE = Path(resolve_model_path("bundled:qwen2_tiny"))


class Runs:
    """What a pickle can do when it is read."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return Path.write_text, (Path("ran"), "it ran")  # type: ignore[return-value]


@pytest.mark.parametrize("read", [sources.read_rows, sources.first_rows])
def test_a_line_without_end_is_named_and_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: object
) -> None:
    monkeypatch.setattr(sources, "MAX_LINE", 1000)
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": "' + "x" * 5000)
    with pytest.raises(DataError, match=r"a.jsonl: line 2 has more than 1,000 characters"):
        read(str(tmp_path / "a.jsonl"))  # type: ignore[operator]


@pytest.mark.slow
def test_a_line_of_200_megabytes_is_named(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("w") as file:
        file.write('{"problem": "1 + 1?", "answer": "' + "x" * (200 << 20) + '"}\n')
    with pytest.raises(DataError, match="line 1 has more than 67,108,864 characters"):
        sources.read_rows(str(tmp_path / "a.jsonl"))


def test_an_adapter_stored_as_a_pickle_is_refused_and_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = {"peft_type": "LORA", "base_model_name_or_path": str(BASE), "r": 2, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    torch.save(Runs(), tmp_path / "adapter_model.bin")
    with pytest.raises(ConfigError, match=r"stored as a pickle.*convert it with"):
        load_model(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_a_model_with_code_of_its_own_is_refused_in_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(BASE, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ConfigError, match=r"brings Python code of its own, which is not run.*trust_remote_code=true") as caught:
        read_config(str(folder))
    assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()
