"""A user's reward file: loaded as EasyR1 loads it, held to the contract, its faults named."""

import sys
from pathlib import Path
from typing import Any

import pytest

from gmpo_mm.errors import ConfigError, RewardError
from gmpo_mm.rewards import load_reward_function

INPUTS = [{"response": f"answer {i}", "response_length": 2, "ground_truth": str(i)} for i in range(4)]


def write(folder: Path, text: str, name: str = "reward.py") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_a_batch_function_and_its_keyword_arguments(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "REWARD_NAME = 'mine'\nREWARD_TYPE = 'batch'\n"
        "def compute_score(reward_inputs, scale=1.0):\n"
        "    return [{'overall': scale * int(r['ground_truth']), 'accuracy': 1} for r in reward_inputs]\n",
    )
    reward = load_reward_function(f"{path}:compute_score", {"scale": 2})
    assert (reward.name, reward.reward_type) == ("mine", "batch")
    assert reward(INPUTS) == [{"overall": 2.0 * i, "accuracy": 1.0} for i in range(4)]
    assert type(reward(INPUTS)[0]["accuracy"]) is float
    assert reward([]) == []


def test_a_sequential_function_is_called_row_by_row(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "REWARD_TYPE = 'sequential'\ndef main(row):\n    return {'overall': float(row['ground_truth'])}\n",
    )
    assert load_reward_function(path)(INPUTS) == [{"overall": float(i)} for i in range(4)]


def test_main_and_batch_are_the_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "def main(rows):\n    return [{'overall': 1} for _ in rows]\n")
    reward = load_reward_function(path)
    assert (reward.name, reward.reward_type) == ("unknown", "batch")
    assert reward(INPUTS) == [{"overall": 1.0}] * 4


def test_numbers_of_numpy_and_torch_are_floats(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = write(
        tmp_path,
        "import numpy, torch\ndef main(rows):\n"
        "    return [{'overall': torch.tensor(0.5), 'accuracy': numpy.float32(1), 'format': True} for _ in rows]\n",
    )
    assert load_reward_function(path)(INPUTS)[0] == {"overall": 0.5, "accuracy": 1.0, "format": 1.0}


def test_two_files_of_one_name_keep_their_own_modules(tmp_path: Path) -> None:
    rewards = []
    for value in (1, 2):
        folder = tmp_path / str(value)
        folder.mkdir()
        text = f"from dataclasses import dataclass\n@dataclass\nclass S:\n    v: int = {value}\n"
        rewards.append(load_reward_function(write(folder, text + "def main(r):\n    return [{'overall': S().v} for _ in r]\n")))
    assert [reward(INPUTS)[0]["overall"] for reward in rewards] == [1.0, 2.0]
    modules = [reward.function.__module__ for reward in rewards]
    assert modules[0] != modules[1] and all(module in sys.modules for module in modules)


@pytest.mark.parametrize(
    ("kind", "head"), [("batch", "def main(rows):\n  for r in rows:\n"), ("sequential", "def main(r):\n  if True:\n")]
)
def test_a_file_that_raises_names_the_row_and_its_traceback(tmp_path: Path, kind: str, head: str) -> None:
    body = (
        "    if r['ground_truth'] == '2':\n        raise KeyError('lost the plot')\n"
        "  return [{'overall': 0}] * len(rows)\n" if kind == "batch" else
        "    if r['ground_truth'] == '2':\n        raise KeyError('lost the plot')\n  return {'overall': 0}\n"
    )  # fmt: skip
    path = write(tmp_path, f"REWARD_TYPE = '{kind}'\n{head}{body}")
    with pytest.raises(RewardError) as caught:
        load_reward_function(path)(INPUTS)
    message = str(caught.value)
    assert f"{path}:main raised KeyError: 'lost the plot'" in message
    assert "row 2, ground truth '2'" in message and "'answer 2'" in message
    assert f'File "{Path(path).resolve()}", line 5' in message and "raise KeyError('lost the plot')" in message


def test_a_batch_that_fails_only_together_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, "def main(rows):\n    assert len(rows) < 2\n    return [{'overall': 0}]\n")
    with pytest.raises(RewardError, match="no row fails alone"):
        load_reward_function(path)(INPUTS)


def test_a_long_response_is_shown_by_its_start(tmp_path: Path) -> None:
    path = write(tmp_path, "def main(rows):\n    return [1 / 0]\n")
    with pytest.raises(RewardError) as caught:
        load_reward_function(path)([{"response": "y" * 10_000, "response_length": 1, "ground_truth": "g"}])
    assert "response (10000 characters): 'yyyy" in str(caught.value) and len(str(caught.value)) < 2000


def test_a_file_that_leaves_the_interpreter_is_an_error_too(tmp_path: Path) -> None:
    path = write(tmp_path, "import sys\ndef main(rows):\n    sys.exit(0)\n")
    with pytest.raises(RewardError, match="raised SystemExit"):
        load_reward_function(path)(INPUTS)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("[{'overall': 1}] * 3", "returned 3 scores for 4 rows"),
        ("{'overall': 1}", "returned dict; return a list"),
        ("None", "returned NoneType"),
        ("[1.0] * 4", "row 0"),
        ("[{'overall': 1}] * 3 + [{'accuracy': 1}]", "returned no 'overall' .keys: accuracy.\n  row 3"),
        ("[{'overall': 1}, {'overall': float('nan')}] * 2", "overall=nan, which is not finite\n  row 1"),
        ("[{'overall': float('inf')}] * 4", "overall=inf, which is not finite\n  row 0"),
        ("[{'overall': '1'}] * 4", "overall='1', which is not a number\n  row 0"),
        ("[{'overall': 1, 'format': None}] * 4", "format=None, which is not a number\n  row 0"),
    ],
)
def test_a_broken_contract_is_named(tmp_path: Path, returned: str, message: str) -> None:
    path = write(tmp_path, f"def main(rows):\n    return {returned}\n")
    with pytest.raises(RewardError, match=message):
        load_reward_function(path)(INPUTS)


@pytest.mark.parametrize(
    ("text", "name", "kwargs", "message"),
    [
        (
            "def compute_score(r): ...",
            ":compute_scor",
            {},
            r"no function 'compute_scor' \(did you mean 'compute_score'\?\)",
        ),
        ("def compute_score(r): ...", "", {}, "no function 'main'"),
        ("main = 3", "", {}, "no function 'main'"),
        ("REWARD_TYPE = 'rows'\ndef main(r): ...", "", {}, "REWARD_TYPE = 'rows'; use batch or sequential"),
        (
            "def main(r, weight=1, *, power=2): ...",
            "",
            {"wieght": 2},
            r"did you mean 'weight'\?\); known: weight, power",
        ),
        ("def main(r): ...", "", {"weight": 2}, "the function takes none"),
        ("def main(r, weight=1): ...", "", {"r": 2}, "does not know 'r'"),
        ("import not_a_module_of_anyone", "", {}, "can't be loaded: ModuleNotFoundError"),
        ("def main(:", "", {}, "can't be loaded: SyntaxError"),
    ],
)
def test_a_file_that_can_not_be_used_is_a_config_error(
    tmp_path: Path, text: str, name: str, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_reward_function(write(tmp_path, text) + name, kwargs)


@pytest.mark.parametrize("spec", ["no/such/file.py", "no/such/file.py:main", "file", ":main", ""])
def test_a_missing_file_is_an_error_and_never_no_reward(spec: str) -> None:
    with pytest.raises(ConfigError, match="worker.reward.reward_function: no file"):
        load_reward_function(spec)


def test_open_keyword_arguments_are_the_functions_own_affair(tmp_path: Path) -> None:
    path = write(tmp_path, "def main(rows, **options):\n    return [{'overall': options['a']} for _ in rows]\n")
    assert load_reward_function(path, {"a": 3})(INPUTS)[0] == {"overall": 3.0}


def test_prepare_gets_the_keyword_arguments_once_at_loading(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "SEEN = []\ndef prepare(**kwargs):\n    SEEN.append(kwargs)\n"
        "def main(rows, a=1):\n    return [{'overall': len(SEEN)} for _ in rows]\n",
    )
    reward = load_reward_function(path, {"a": 5})
    assert sys.modules[reward.function.__module__].SEEN == [{"a": 5}]
    assert reward(INPUTS)[0] == reward(INPUTS)[0] == {"overall": 1.0}
