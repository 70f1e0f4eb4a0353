"""What CONTRIBUTING says has to be touched for an addition is enough: each is made in a copy of the package and used."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "gmpo_mm/"

LOSS_KEYS = '''
@dataclass
class MarginKeys:
    """Of the loss `margin`."""

    width: float = key(0.5, "Half the width of a band of log-ratios.", 0, 2)


@dataclass
class LossKeys:'''
LOSS = '''

@register_policy_loss("margin", reads=("margin.width",))
def margin_loss(
    log_probs_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, config: PolicyLossConfig
) -> Tensor:
    """The log-ratio times the advantage, within a band."""
    d_BT = log_probs_BT - old_BT
    return -advantages_BT * d_BT.clamp(-config.margin.width, config.margin.width)
'''
ESTIMATOR = '''

@register_advantage_estimator("signs", groups=True)
def signs(inputs: AdvantageInputs) -> Tensor:
    """Only whether a response is better than its group."""
    return torch.sign(_centred_B(inputs))
'''
TRACKER = '''

class Lines:
    """A line a step."""

    def __init__(self, config: Mapping[str, Any], run: RunDirectory) -> None:
        self.file = run.path / "lines.txt"

    def log(self, metrics: dict[str, float], step: int) -> None:
        with self.file.open("a") as out:
            out.write(f"{step} {sorted(metrics)[0]}\\n")

    def log_samples(self, kind: str, table: SampleTable, step: int) -> None:
        pass

    def finish(self) -> None:
        pass
'''
SAMPLER = '''
from gmpo_mm.rollout.hf import HFRollout
from gmpo_mm.rollout.protocol import RolloutRequest


class Half(HFRollout):
    name = "half"


def build(request: RolloutRequest) -> Half:
    print("half samples")
    return Half(request.policy, max_rows=128)
'''
BENCHMARK = """name: mine
made: {task: synthetic_geometry, split: test_pictures, size: 4}
count: 4
template: model
grader: exact
protocol: {name: mine, temperature: 0.0, n: 1, max_tokens: 24}
"""
GRADER = '''GRADERS["exact"] = Grader("the very text", 1, (), lambda responses, golds, kind, **_: [
    Grade(response is not None and any(gold in response for gold in rows), response, "graded", "the very text")
    for response, rows in zip(responses, golds)
])


def check_grader('''

ENGINE = '''"""An engine that trains as the local one does, on the CPU alone."""

from gmpo_mm.engines.local.engine import LocalEngine


class Loud(LocalEngine):
    name = "loud"
    about = "loud: says so"
    unread = {"trainer.dtype": "engine loud: always float32"}

    def rules(self, loaded):
        if loaded.config.trainer.device != "cpu":
            yield f"trainer.device = {loaded.config.trainer.device!r}: engine=loud has no GPU; set it to cpu."

    def preflight(self, configs):
        return "loud 1"

    def diagnose(self):
        return "ready: and loud"

    def train(self, loaded, command, progress=None, *, overwrite=False):
        print("loud trains")
        return super().train(loaded, command, progress, overwrite=overwrite)


ENGINE = Loud()
'''

# Addition, as the table names it -> file -> (text that stands in it, what replaces it); None: at its end, or a new file.
ADDITIONS: dict[str, dict[str, tuple[str | None, str]]] = {
    "a policy loss": {
        "algorithms/config.py": ("\n@dataclass\nclass LossKeys:", LOSS_KEYS),
        "algorithms/losses.py": (None, LOSS),
    },
    "an advantage estimator": {"algorithms/advantages.py": (None, ESTIMATOR)},
    "a tracker": {
        "runs/trackers.py": (None, TRACKER),
        "config/backends.py": ("TRACKERS = {\n", 'TRACKERS = {\n    "lines": Backend(_TRACKERS + "Lines"),\n'),
    },
    "a rollout backend": {
        "rollout/half.py": (None, SAMPLER),
        "config/backends.py": ("SAMPLERS = {\n", 'SAMPLERS = {\n    "half": Backend("gmpo_mm.rollout.half:build"),\n'),
    },
    "a benchmark": {"evaluation/benchmarks/mine.yaml": (None, BENCHMARK)},
    "an engine": {
        "engines/loud/engine.py": (None, ENGINE),
        "config/engine_facts.py": ("own_actor=True),", 'own_actor=True), EngineFacts("loud"),'),
    },
    "a grader": {"verifiers/graders.py": ("def check_grader(", GRADER)},
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with one addition of each kind, and data for a step of training."""
    folder = tmp_path_factory.mktemp("additions")
    shutil.copytree(ROOT / "gmpo_mm", folder / "gmpo_mm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "configs", folder / "configs")
    for files in ADDITIONS.values():
        for name, (place, text) in files.items():
            file = folder / PACKAGE / name
            content = file.read_text(encoding="utf-8") if file.exists() else ""
            file.parent.mkdir(exist_ok=True)
            assert place is None or content.count(place) == 1, (name, place)
            file.write_text(content + text if place is None else content.replace(place, text), encoding="utf-8")
    config = folder / PACKAGE / "algorithms/config.py"
    gmpo = "    gmpo: GMPOKeys = field(default_factory=GMPOKeys)\n"
    text = config.read_text(encoding="utf-8")
    assert text.count(gmpo) == 1
    config.write_text(text.replace(gmpo, gmpo + "    margin: MarginKeys = field(default_factory=MarginKeys)\n"))
    sizes = ["--train-size", "32", "--test-size", "4"]
    run(folder, "data", "synthetic_geometry", "--out", "data/synthetic_geometry", *sizes)
    return folder


def run(folder: Path, *arguments: str, fails: bool = False) -> str:
    """Output of a `gmpo-mm` command of the copy."""
    done = subprocess.run(
        [sys.executable, "-m", "gmpo_mm", *arguments], cwd=folder, text=True, capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1", "COLUMNS": "200"},
    )  # fmt: skip
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_table_of_contributing_names_the_files_that_an_addition_touches() -> None:
    """Whole, and none too many: the copies below are made with just these."""
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Where things are added")[2]
    rows = {cells[1].strip(): cells[2] for line in table.splitlines() if len(cells := line.split("|")) == 5}
    for what, files in ADDITIONS.items():
        named = re.findall(r"`gmpo_mm/([^`]+)`", rows[what])
        assert len(named) == len(files), what
        for name in files:
            assert any(name == known or Path(known) in Path(name).parents for known in named), (what, name)


def test_a_loss_an_estimator_a_tracker_and_a_sampler_that_were_added_train_a_step(copy: Path) -> None:
    said = run(
        copy, "train", "quickstart", "worker.actor.loss_type=margin", "worker.actor.margin.width=0.25",
        "algorithm.adv_estimator=signs", "trainer.logger=[console,lines]", "worker.rollout.name=half",
        "trainer.max_steps=1", "data.val_files=''", "data.rollout_batch_size=4", "worker.rollout.n=4",
        "trainer.val_freq=-1", "trainer.run_dir=run", "worker.reward.reward_function_kwargs.grader=exact",
    )  # fmt: skip
    assert "half samples" in said
    assert (copy / "run" / "lines.txt").read_text().startswith("1 ")
    assert "loss_type: margin" in (copy / "run" / "config.yaml").read_text()
    assert "width: 0.25" in (copy / "run" / "config.yaml").read_text()


def test_the_key_of_an_added_loss_has_its_range_and_is_refused_where_another_loss_is_trained(copy: Path) -> None:
    dry = ("train", "quickstart", "--dry-run", "data.val_files=''")
    said = run(copy, *dry, "worker.actor.loss_type=margin", "worker.actor.margin.width=3", fails=True)
    assert "worker.actor.margin.width" in said
    assert "at most 2" in said
    said = run(copy, *dry, "worker.actor.margin.width=0.1", fails=True)
    assert "worker.actor.margin.width" in said
    assert "gmpo" in said


def test_a_benchmark_and_a_grader_that_were_added_evaluate_a_model(copy: Path) -> None:
    said = run(copy, "evaluate", "model=bundled:qwen2_5_vl_tiny", "benchmarks=[mine]", "out=evaluated")
    assert "mine" in said
    assert '"name": "exact"' in (copy / "evaluated" / "mine" / "evaluation.json").read_text()


def test_an_engine_that_was_added_checks_plans_and_trains(copy: Path) -> None:
    small = ("engine=loud", "trainer.max_steps=1", "data.val_files=", "data.rollout_batch_size=4", "worker.rollout.n=4")
    loud = ("train", "quickstart", *small, "trainer.val_freq=-1", "trainer.run_dir=loud")
    assert "engine=loud has no GPU; set it to cpu" in run(copy, *loud, "trainer.device=auto", fails=True)
    said = run(copy, *loud, "trainer.device=cpu", "trainer.dtype=float32", "--dry-run")
    assert "loud: says so" in said
    assert "engine loud: always float32: trainer.dtype=float32" in said
    assert "loud trains" in run(copy, *loud, "trainer.device=cpu")
    assert "and loud" in run(copy, "doctor")
    assert "local, loud, easyr1" in run(copy, "train", "quickstart", "--dry-run", "engine=other", fails=True)
