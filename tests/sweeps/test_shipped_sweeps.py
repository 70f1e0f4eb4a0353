"""The sweeps in configs/sweeps pass a dry run beside prepared data, and their variants differ as they say."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from gmpo_mm.config import config_differences, load_config
from gmpo_mm.evaluation.benchmark import load_benchmark
from gmpo_mm.evaluation.paper import FILE as PAPER_TABLES
from gmpo_mm.sweeps.planning import NAMES_OF_A_RUN
from gmpo_mm.sweeps.sweep_file import Sweep, load_sweep
from tests.engine.runs import ROOT
from tests.engine.test_text_models import make_text_model

ALL = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs/sweeps").glob("*.yaml"))
MAPS = [name for name in ALL if "/stability_" in name]  # hundreds of runs each: test_shipped_maps.py
FILES = [name for name in ALL if name not in MAPS]
LOSS = re.compile(r"worker\.actor\.(loss_type|loss_avg_mode|clip_ratio_\w+|gmpo\.\w+)|algorithm\.adv_estimator")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """The configurations beside prepared data: as many problems as each benchmark counts, all made up."""
    folder = tmp_path_factory.mktemp("work")
    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copytree(data, folder / "data/synthetic_geometry")
    picture = io.BytesIO()
    Image.new("RGB", (28, 28)).save(picture, "PNG")
    made = [("math/train", 256, None), ("countdown_tiny/train", 256, None), ("countdown_tiny/test", 16, None)]
    made.append(("word_problems/train", 1024, None))
    names = ("aime24", "amc", "math500", "minerva", "olympiadbench", "geometry3k", "word_problems", "word_problems_transfer")
    for name in names:
        benchmark = load_benchmark(name)
        assert benchmark.records is not None and benchmark.count is not None
        path = benchmark.records.removeprefix("data/").removesuffix(".parquet")
        made.append((path, benchmark.count, benchmark.type_key))
    for name, rows, type_key in made:
        gold = '{"numbers": [1, 2], "target": 3}' if "countdown" in name else "1"
        row = {"answer": gold} | ({type_key: "a"} if type_key else {})
        texts = [f"{i} + 1" for i in range(rows)]
        table = [{"problem": text, **row} for text in texts]
        if "geometry3k" in name:
            table = [{"problem": f"<image>{text}", "images": [{"bytes": picture.getvalue()}], **row} for text in texts]
        (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(table), folder / "data" / f"{name}.parquet")
    make_text_model(folder / "models/smollm2-135m-form", "dense")
    return folder


@pytest.fixture(scope="module")
def dry_runs(workplace: Path) -> dict[str, tuple[int, str]]:
    """File -> exit code and output, all by one process."""
    script = (
        "import sys, io, json, contextlib\n"
        "from gmpo_mm.cli import app\n"
        "from gmpo_mm.errors import GMPOError\n"
        "for name in sys.argv[1:]:\n"
        "    out, code = io.StringIO(), 0\n"
        "    with contextlib.redirect_stdout(out):\n"
        "        try: app(['sweep', name, '--dry-run'], standalone_mode=False)\n"
        "        except GMPOError as error: code = 2; print(error)\n"
        "    print(json.dumps([name, code, out.getvalue()]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *FILES],
        cwd=workplace, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT), "COLUMNS": "250"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {name: (code, text) for name, code, text in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", FILES)
def test_a_dry_run_lists_its_runs(dry_runs: dict[str, tuple[int, str]], workplace: Path, name: str) -> None:
    code, text = dry_runs[name]
    assert code == 0, text
    sweep = load_sweep(ROOT / name)
    for variant in sweep.variants:
        for seed in sweep.seeds:
            assert re.search(rf"│ {variant.name}\s+│\s+{seed} │ new\s+│\s+0/(\d+|\?) │", text), text
    runs = len(sweep.variants) * len(sweep.seeds)
    assert f"{runs} runs in sweeps/{Path(name).stem}, 1 at once: the time is unknown until the first steps" in text
    assert not (workplace / "sweeps").exists()


def test_a_dry_run_names_what_differs_beyond_the_loss(dry_runs: dict[str, tuple[int, str]]) -> None:
    def remarks(name: str) -> str:
        return dry_runs[f"configs/sweeps/{name}.yaml"][1].rpartition("┘")[2]

    text = remarks("geometry3k")
    assert "the mean (worker.actor.loss_avg_mode): over tokens (grpo); over sequences (grpo_eq1, gmpo)" in text
    assert "the dual clip (worker.actor.clip_ratio_dual): 3.0 (grpo); none (grpo_eq1, gmpo)" in text
    assert "is not the loss's alone" in text
    assert "The variants differ in the loss only." in remarks("table4_objectives")
    assert "algorithm.adv_estimator: grpo (grpo, gmpo); dr_grpo (drgrpo)" in remarks("math_l3to5")
    assert "the dual clip (worker.actor.clip_ratio_dual): 3.0 (grpo); none (gmpo)" in remarks("quickstart")


@pytest.mark.parametrize("name", FILES)
def test_its_variants_differ_in_the_loss_only(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(ROOT)
    sweep = load_sweep(name)
    first, *others = [load_config(v.base or sweep.base, [*sweep.overrides, *v.overrides]).config for v in sweep.variants]
    for other in others:
        keys = [key for key, _, _ in config_differences(first, other) if key not in NAMES_OF_A_RUN]
        assert keys and all(LOSS.fullmatch(key) for key in keys), keys


def test_the_quickstarts_grpo_is_the_one_of_quickstart_grpo_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    sweep = load_sweep("configs/sweeps/quickstart.yaml")
    mine = load_config(sweep.base, sweep.variants[0].overrides).config
    theirs = load_config("configs/quickstart_grpo.yaml").config
    assert [key for key, _, _ in config_differences(mine, theirs)] == ["trainer.experiment_name"]


def paper_lines(sweep: Sweep) -> dict[int, str]:
    """Line -> model of the paper's table, lines counted without the model before reinforcement learning."""
    assert sweep.paper is not None
    tables = yaml.safe_load(PAPER_TABLES.read_text(encoding="utf-8"))["tables"]
    table = next(table for table in tables if table["number"] == sweep.paper["table"])
    return dict(enumerate((row["model"] for row in table["rows"] if row["method"] != "none"), start=1))


@pytest.mark.parametrize("name", ["table4_objectives", "table5_clip"])
def test_lines_of_the_paper_are_those_of_its_table(name: str) -> None:
    sweep = load_sweep(ROOT / f"configs/sweeps/{name}.yaml")
    assert {v.paper_line: v.label for v in sweep.variants} == paper_lines(sweep)


def test_the_cpu_forms_have_the_tables_variants_and_claim_no_line_of_the_paper() -> None:
    for number, paper in (("4", "table4_objectives"), ("5", "table5_clip")):
        cpu = load_sweep(ROOT / f"configs/sweeps/table{number}_cpu.yaml")
        full = load_sweep(ROOT / f"configs/sweeps/{paper}.yaml")
        assert [(v.name, v.label) for v in cpu.variants] == [(v.name, v.label) for v in full.variants]
        assert cpu.paper is None and all(v.paper_line is None for v in cpu.variants)


def test_the_table_of_the_readme_names_every_sweep() -> None:
    text = (ROOT / "docs/guides/paper_runs.md").read_text()
    assert {f"configs/sweeps/{name}" for name in re.findall(r"`sweeps/(\S+\.yaml)`", text)} == set(ALL)
