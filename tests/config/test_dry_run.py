"""`train --dry-run`: the plan comes first and says what is open; EasyR1's scripts pass it; the reward is really called."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from gmpo_mm.cli import app
from gmpo_mm.config import load_config, to_yaml
from gmpo_mm.config.paths import split_data_spec
from gmpo_mm.config.preparations import PREPARATIONS, find_preparation, missing_preparations, preparing_command
from gmpo_mm.engines.checks import validate_for_training
from gmpo_mm.errors import ConfigError, DataError, GMPOError, RewardError
from gmpo_mm.planning.counts import describe_plan, plan_run
from gmpo_mm.runs import run_data
from gmpo_mm.start.commands import DATA_TOOLS
from tests.config.conftest import VALID
from tests.config.easyr1_facts import SCRIPT_OVERRIDES
from tests.config.test_validate import easyr1_checkout  # noqa: F401

ROOT = Path(__file__).parents[2]
FOLDERS = ("countdown", "geometry3k", "language", "moe")
FILES = sorted(
    str(path.relative_to(ROOT))
    for path in (*(ROOT / "configs").glob("*.yaml"), *(p for f in FOLDERS for p in (ROOT / "configs" / f).glob("*.yaml")))
)
TINY = "worker.actor.model.model_path=bundled:qwen2_tiny"
TWO_ON_EASYR1 = [TINY, "engine=easyr1", "trainer.n_gpus_per_node=2", "worker.rollout.tensor_parallel_size=1"]


def dry_run(*arguments: str, error: type[GMPOError] | None = None) -> Result:
    result = CliRunner(env={"COLUMNS": "400"}).invoke(app, ["train", *arguments, "--dry-run"])
    if error is None:
        assert result.exit_code == 0, result.exception
    else:
        assert isinstance(result.exception, error), (result.exception, result.output)
    return result


def rows(result: Result) -> dict[str, str]:
    """The first table's."""
    lines = [line.split("│") for line in result.stdout.partition("└")[0].splitlines() if line.startswith("│")]
    return {cells[1].strip(): cells[2].strip() for cells in lines}


@pytest.fixture
def fresh_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_every_shipped_file_gets_its_plan_in_a_fresh_clone(fresh_clone: Path, name: str) -> None:
    """Through the engine that plans no memory, because a rehearsal of a large model takes its time."""
    engine = ["engine=easyr1", "trainer.n_gpus_per_node=8", "worker.rollout.tensor_parallel_size=1"]
    if name.startswith(("configs/quickstart", "configs/countdown", "configs/geometry3k/tiny", "configs/language/smol")):
        engine[1:2] = ["trainer.n_gpus_per_node=1", "worker.rollout.max_num_batched_tokens=8192"]
    engine += ["trainer.nnodes=4"] if "deepscaler" in name else []
    if "_verl_" in name:
        engine = []
    result = dry_run(name, *engine)
    assert result.stdout.startswith("What would happen")
    found = rows(result)
    wanted = ("engine", "device", "model", "algorithm", "training data", "steps", "a step", "tokens", "reward", "run directory")
    assert [key for key in wanted if key not in found] == []
    config = load_config(name).config
    missing = list(missing_preparations(config))
    if "hiyouga/" not in config.data.train_files:
        assert missing and found["training data"].endswith("not there yet")
        assert f"  {preparing_command([item.preparation for item in missing])}" in result.stdout
        with pytest.raises(ConfigError, match="it is not there yet; make it with"):
            validate_for_training(load_config(name, engine))
    assert not (fresh_clone / "runs").exists()


def test_the_commands_are_those_of_the_readme_and_of_tools_that_exist() -> None:
    readme = (ROOT / "configs" / "README.md").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "configs").rglob("*.yaml"))
    for preparation in PREPARATIONS:
        assert preparation.command in readme or preparation.command in sources, preparation.command
        program, kind, tool = preparation.command.split()[:3]
        assert (program, kind) == ("python", "-m") or ((program, kind) == ("gmpo-mm", "data") and tool in DATA_TOOLS)
        if preparation.reads is not None:
            assert find_preparation(preparation.reads) is not None
    for name in FILES:
        data = load_config(ROOT / name).config.data
        for spec in filter(None, (data.train_files, data.val_files)):
            assert "hiyouga/" in spec or find_preparation(split_data_spec(spec)[0]), f"{name}: {spec}"


def test_one_command_makes_what_others_read_first_and_nothing_twice(fresh_clone: Path) -> None:
    math = find_preparation("data/math/train.parquet")
    assert math is not None
    suite = find_preparation("data/eval_suite/math500.parquet")
    assert suite is not None
    assert preparing_command([math, suite]) == f"{suite.command} && {math.command}"
    Path("data/eval_suite").mkdir(parents=True)
    Path("data/eval_suite/math500.parquet").touch()
    assert preparing_command([math]) == math.command


def test_a_path_that_no_command_makes_is_still_an_error(fresh_clone: Path) -> None:
    for path in ("data/math/trian.parquet", "data/mine.parquet"):
        result = dry_run("configs/quickstart.yaml", f"data.train_files={path}", error=ConfigError)
        assert "there is no file or folder" in str(result.exception)


@pytest.fixture
def run_file(workplace: Path) -> Path:
    (workplace / "run.yaml").write_text(to_yaml(load_config(None, VALID).config))
    return workplace


def test_the_plan_says_what_comparing_losses_costs(run_file: Path) -> None:
    def told(*overrides: str) -> str | None:
        config = load_config("run.yaml", [TINY, *overrides]).config
        return dict(describe_plan(config, plan_run(config, 8, 3))).get("compared losses")

    compared = "trainer.compare_losses=[default, gmpo, gspo]"
    assert told() is None
    assert told(compared) == "default, gmpo, gspo: from the update's own log-probabilities, no forward pass more"
    found = told(compared, "trainer.compare_losses_gradients_every=5")
    assert found is not None
    assert "on each step that 5 divides also their gradients: 2 more forward and backward passes" in found
    assert "over the last of 2 mini-batches, and a second gradient in memory (4 bytes for each trained parameter)" in found


def test_the_plan_comes_first_and_the_yaml_only_when_it_is_asked_for(run_file: Path) -> None:
    plain = dry_run("run.yaml", TINY, "trainer.max_steps=5")
    found = rows(plain)
    assert found["engine"].startswith("local")
    assert found["device"].endswith(("float32", "bfloat16"))
    assert found["tokens"].startswith("at most 16,384 a step (16 responses x (512 of the prompt + 512)), 81,920 in total")
    assert "mean over sequences" in found["algorithm"]
    assert re.search(r"│ memory\s+│ [\d.]+ GiB at most", plain.stdout)
    assert "loss_type: gmpo" not in plain.stdout
    assert plain.stdout.index("What would happen") < plain.stdout.index("Set, but without effect here:")
    both = dry_run("run.yaml", *TWO_ON_EASYR1, "--print-config")
    assert both.stdout.startswith("What would happen")
    assert "loss_type: gmpo" in both.stdout
    alone = CliRunner().invoke(app, ["train", "run.yaml", "worker.rollout.n=2", "--print-config"])
    assert alone.exit_code == 0
    assert yaml.safe_load(alone.stdout)["worker"]["rollout"]["n"] == 2
    (run_file / "again.yaml").write_text(alone.stdout)
    assert load_config("again.yaml").config == load_config("run.yaml", ["worker.rollout.n=2"]).config


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        ("import nothing_of_that_name\ndef compute_score(rows): return []", ConfigError, "nothing_of_that_name"),
        ("def compute_score(rows): return []", RewardError, "returned 0 scores for 1 rows"),
        ("def compute_score(rows): return [{'accuracy': 1.0}]", RewardError, "no 'overall'"),
        ("def compute_score(rows): return [{'overall': float('nan')}]", RewardError, "not finite"),
        ("def compute_score(rows): return [1 / 0 for _ in rows]", RewardError, "ZeroDivisionError"),
        ("def compute_score(rows): return [{'overall': rows[0]['no_such_key']}]", RewardError, "no_such_key"),
        ("REWARD_TYPE = 'rows'\ndef compute_score(rows): return []", ConfigError, "REWARD_TYPE"),
    ],
)
def test_the_reward_is_imported_and_called_once_by_a_dry_run(
    run_file: Path, code: str, error: type[GMPOError], said: str
) -> None:
    (run_file / "reward.py").write_text(code + "\n")
    assert said in str(dry_run("run.yaml", *TWO_ON_EASYR1, error=error).exception)


def test_the_made_row_holds_the_first_records_problem_and_gold(run_file: Path) -> None:
    (run_file / "reward.py").write_text(
        "from pathlib import Path\n"
        "def compute_score(rows):\n"
        "    Path('calls.txt').open('a').write(repr(rows) + '\\n')\n"
        "    return [{'overall': 0.25, 'format': 1.0}]\n"
    )
    result = dry_run("run.yaml", *TWO_ON_EASYR1)
    assert "the first gold as its answer scores overall 0.25, format 1" in rows(result)["reward"]
    (call,) = (run_file / "calls.txt").read_text().splitlines()
    for text in ("'ground_truth': '2'", "'problem': '1+1'", "'response_length'", "\\\\boxed{2}"):
        assert text in call


def test_a_reward_that_wants_other_golds_is_no_error_while_the_data_is_not_here(run_file: Path) -> None:
    (run_file / "reward.py").write_text(
        "import json\ndef compute_score(rows):\n    return [{'overall': json.loads(r['ground_truth'])['x']} for r in rows]\n"
    )
    hub = ["data.train_files=owner/name@train", "data.val_files=owner/name@test"]
    result = dry_run("run.yaml", *hub, *TWO_ON_EASYR1)
    assert "raised TypeError" in rows(result)["reward"]
    dry_run("run.yaml", *TWO_ON_EASYR1, error=RewardError)


MATH = f"worker.reward.reward_function={ROOT}/gmpo_mm/rewards/math.py:compute_score"
SENTENCE = "The two lines are parallel, since the angles that they make with the third are equal"


@pytest.mark.parametrize(
    ("key", "row", "said"),
    [
        ("train_files", {"problem": " ", "answer": "2"}, "row 5 of own.jsonl: no problem text"),
        ("train_files", {"problem": "1+1", "answer": None}, "row 5 of own.jsonl"),
        ("val_files", {"problem": "<image>1+1", "answer": "2"}, "0 image(s) in column 'images' but 1 <image>"),
        ("val_files", {"problem": "<image>1+1", "answer": "2", "images": ["x.png"]}, "row 5 of own.jsonl, image 0"),
        ("train_files", {"problem": "<image>1+1", "answer": "2", "images": ["text.png"]}, "row 5 of own.jsonl, image 0"),
    ],
)
def test_a_dry_run_refuses_a_row_that_the_start_of_training_refuses(
    run_file: Path, key: str, row: dict[str, object], said: str
) -> None:
    (run_file / "text.png").write_text("no picture")
    lines = [*[{"problem": "1+1", "answer": "2"}] * 5, row, {"problem": "1+1", "answer": "2"}]
    (run_file / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert said in str(dry_run("run.yaml", *TWO_ON_EASYR1, f"data.{key}=own.jsonl", error=DataError).exception)


def test_a_dry_run_refuses_golds_that_are_no_answers_and_tells_of_a_few(run_file: Path) -> None:
    def golds(*answers: str) -> None:
        lines = [json.dumps({"problem": "1+1", "answer": answer}) + "\n" for answer in answers]
        (run_file / "train.jsonl").write_text("".join(lines))

    golds(*["2"] * 2, *[SENTENCE] * 6)
    error = dry_run("run.yaml", *TWO_ON_EASYR1, MATH, error=DataError).exception
    assert "6 of 8 golds are no short answer" in str(error)
    golds(*["2"] * 6, *[SENTENCE] * 2)
    result = dry_run("run.yaml", *TWO_ON_EASYR1, MATH)
    assert "2 of 8 golds are no short answer" in result.stdout
    assert "Looked at all 8 rows of train.jsonl and all 3 rows of test.jsonl" in result.stdout


def test_a_dry_run_looks_at_rows_all_over_a_large_file(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_data, "LOOKED_AT", 5)
    good = '{"problem": "1+1", "answer": "2"}\n'
    (run_file / "train.jsonl").write_text(good * 101)
    assert "Looked at 5 of 101 rows of train.jsonl and all 3" in dry_run("run.yaml", *TWO_ON_EASYR1).stdout
    (run_file / "train.jsonl").write_text(good * 75 + '{"problem": "", "answer": "2"}\n' + good * 25)
    error = str(dry_run("run.yaml", *TWO_ON_EASYR1, error=DataError).exception)
    assert "row 75 of train.jsonl" in error and "5 of 101 rows were looked at" in error


# What an example script of EasyR1 needs changed, by engine: docs/migrate/easyr1.md lists the same.
NEEDS = {
    ("qwen2_5_vl_3b_android_gui_grpo", "easyr1"): ["worker.rollout.top_p=1.0"],
    ("qwen2_5_vl_3b_android_gui_grpo", "local"): ["worker.rollout.top_p=1.0"],
    ("qwen3_14b_dapo17k_dapo", "local"): ["worker.actor.optim.strategy=adamw"],
    ("qwen2_5_vl_32b_geo3k_grpo", "local"): ["worker.actor.optim.strategy=adamw"],
    ("qwen3_vl_30b_geo3k_grpo", "local"): ["worker.actor.optim.strategy=adamw"],
}
SAYS = {
    "qwen2_5_vl_7b_geo3k_cispo": ["raises every ratio below 1 to 1", "worker.actor.clip_ratio_low=1.0"],
    "qwen2_5_vl_3b_android_gui_grpo": ["the first step of the warm-up has rate 0"],
    "qwen3_14b_dapo17k_dapo": ["the first step of the warm-up has rate 0"],
}


@pytest.fixture
def trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """wandb and swanlab as an environment has them that the scripts are run in."""
    for name in ("wandb", "swanlab"):
        (tmp_path / "packages" / name).mkdir(parents=True)
        (tmp_path / "packages" / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "packages")


def test_there_are_twenty_example_scripts() -> None:
    assert len(SCRIPT_OVERRIDES) == 20


@pytest.mark.parametrize("script", SCRIPT_OVERRIDES)
def test_every_example_script_of_easyr1_passes_a_dry_run_but_for_what_the_page_lists(
    easyr1_checkout: Path, trackers: None, script: str  # noqa: F811
) -> None:
    options = ["easyr1.yaml", *SCRIPT_OVERRIDES[script]]
    needs = NEEDS.get((script, "easyr1"), [])
    if needs:
        assert needs[0].partition("=")[0] in str(dry_run(*options, "engine=easyr1", error=ConfigError).exception)
    result = dry_run(*options, *needs, "engine=easyr1")
    assert rows(result)["model"] == load_config(None, SCRIPT_OVERRIDES[script]).config.worker.actor.model.model_path
    notes = [line for line in result.stdout.splitlines() if line.startswith("Note: ")]
    assert len(notes) == (1 if script in SAYS else 0), notes
    for text in SAYS.get(script, []):
        assert text in notes[0]
    local = NEEDS.get((script, "local"), [])
    if local:
        with pytest.raises(ConfigError, match=re.escape(local[0].partition("=")[0])):
            validate_for_training(load_config("easyr1.yaml", SCRIPT_OVERRIDES[script]))
    validate_for_training(load_config("easyr1.yaml", [*SCRIPT_OVERRIDES[script], *local]))


def test_the_migration_page_lists_what_a_script_needs_changed() -> None:
    page = (ROOT / "docs/migrate/easyr1.md").read_text()
    for (script, _), changes in NEEDS.items():
        assert script in page
        for change in changes:
            assert change in page
    assert "qwen2_5_vl_7b_geo3k_cispo" in page
