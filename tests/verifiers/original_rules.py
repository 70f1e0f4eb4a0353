"""Record what the original of a rule says about each pair of rule_pairs.jsonl, in an environment of its own:

    python tests/verifiers/original_rules.py easyr1 FOLDER_OF_THE_REPOSITORY

Imports nothing of this package. Each original's file is loaded from its repository as it is; only what that
file imports besides the grading (AReaL's coloured log) is replaced by an empty stand-in. The verdicts go
into the pairs' file.
"""

import gzip
import importlib
import importlib.util
import json
import logging
import sys
import types
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("rule_pairs.jsonl.gz")
PACKAGES = ("mathruler", "math-verify", "sympy", "pylatexenc", "latex2sympy2_extended", "trl", "verl")


def load(path: Path) -> Any:
    """A module from its file, under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"original_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def easyr1(root: Path) -> Any:
    module = load(root / "examples/reward_function/math.py")

    def score(row: dict[str, Any]) -> Any:
        return module.compute_score([{"response": row["response"], "ground_truth": row["gold"]}])[0]

    return lambda row: [score(row)["overall"], score(row)["accuracy"]]


def easyr1_r1v(root: Path) -> Any:
    module = load(root / "examples/reward_function/r1v.py")

    def score(row: dict[str, Any]) -> Any:
        found = module.compute_score({"response": row["response"], "ground_truth": row["gold"]})
        return [found["overall"], found["accuracy"]]

    return score


def verl(root: Path) -> Any:
    module = load(root / "verl/utils/reward_score/geo3k.py")
    return lambda row: [
        module.compute_score(row["response"], row["gold"]),
        module.acc_reward(row["response"], row["gold"]),
    ]


def areal(root: Path) -> Any:
    for name in ("areal", "areal.utils"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(root / name.replace(".", "/"))]
    sys.modules["areal.utils.logging"] = sys.modules["areal.utils"].logging = logging  # type: ignore[attr-defined]
    reward = importlib.import_module("areal.reward.geometry3k").geometry3k_reward_fn
    return lambda row: [reward(None, row["response"], None, None, row["gold"])] * 2


def nemo_rl(root: Path) -> Any:
    module = load(root / "nemo_rl/environments/rewards.py")
    # examples/configs/vlm_grpo_3B.yaml, env.geometry3k
    both = module.combine_reward_functions(
        [(module.format_reward, 0.1), (module.math_expression_reward, 0.9)]
    )
    return lambda row: [
        float(both(row["gold"], row["response"])[0]),
        float(both(row["gold"], row["response"])[1]),
    ]


def nemo_rl_geo3k(root: Path) -> Any:
    reward = load(root / "nemo_rl/environments/rewards.py").geo3k_reward
    return lambda row: list(map(float, reward(row["gold"], row["response"])))


def lmms_eval(root: Path) -> Any:
    module = load(root / "lmms_eval/tasks/geometry3k/utils.py")

    def score(row: dict[str, Any]) -> Any:
        if "letter" not in row:
            return [None, None]
        doc = {"ground_truth": row["letter"], "choices": row["choices"]}
        return [module.geometry3k_process_results(doc, [row["response"]])["exact_match"]] * 2

    return score


def trl(root: Path) -> Any:
    from trl.rewards import accuracy_reward

    return lambda row: accuracy_reward([[{"content": row["response"]}]], [row["gold"]]) * 2


def drgrpo_fast(root: Path) -> Any:
    reward = load(root / "understand_r1_zero/math_grader.py").boxed_reward_fn
    return lambda row: [reward(row["response"], row["gold"], fast=True)[1]] * 2


def drgrpo_slow(root: Path) -> Any:
    reward = load(root / "understand_r1_zero/math_grader.py").boxed_reward_fn
    return lambda row: [reward(row["response"], row["gold"], fast=False)[1]] * 2


ORIGINALS = {
    function.__name__: function
    for function in (
        easyr1, easyr1_r1v, verl, areal, nemo_rl, nemo_rl_geo3k, lmms_eval, trl, drgrpo_fast, drgrpo_slow
    )
}  # fmt: skip


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def read_lines() -> list[dict[str, Any]]:
    """The header (`originals`: packages of each in the order of the verdicts) and the pairs."""
    return [json.loads(line) for line in gzip.decompress(FILE.read_bytes()).decode().splitlines()]


def write_lines(lines: Sequence[dict[str, Any]]) -> None:
    """The pairs' file, the same bytes for the same lines."""
    text = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)
    FILE.write_bytes(gzip.compress(text.encode(), mtime=0))


def main(name: str, root: str) -> None:
    """Ask one original about every pair; [overall, accuracy] of each is written under its name, null where it skips one."""
    header, *rows = read_lines()
    ask = ORIGINALS[name](Path(root))
    header["originals"][name] = _versions()
    for row in rows:
        said = ask(row)
        row.setdefault("said", {})[name] = [None if score is None else round(score, 6) for score in said]
    write_lines([header, *rows])


if __name__ == "__main__":
    main(*sys.argv[1:])
