"""Results to make pages of: the synthetic task with pictures, invented samples, and hostile ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from gmpo_mm.evaluation.page import scale_picture
from gmpo_mm.evaluation.results import GraderInfo, Problem, Protocol, Sample, Spec, spec_to_json, to_json_line
from gmpo_mm.toys.synthetic_geometry import draw, make_problem

HOSTILE = (
    '</script><script>document.documentElement.dataset.hacked="1"</script>'
    '<img src=x onerror="document.documentElement.dataset.hacked=1"><!-- '
)
"""Text that changes a page which writes it as markup."""


def write_result(
    folder: Path, problems: Sequence[Problem], samples: Sequence[Sample], n: int = 1, model: str = "tiny", name: str = "made up"
) -> Path:
    """A result's directory without its summary, as an evaluation leaves it before its last step."""
    folder.mkdir(parents=True, exist_ok=True)
    protocol = Protocol(name, temperature=0.5 if n > 1 else 0.0, n=n, max_tokens=256, template="plain", stop=("</answer>",))
    grader = GraderInfo("math", "auto", 3, 2.5, {"math-verify": "0.9.0"})
    spec = Spec("invented", protocol, grader, model, "hf float32", 7, len(problems), "ab" * 32, command=("gmpo-mm", "evaluate"))
    (folder / "evaluation.json").write_text(spec_to_json(spec), encoding="utf-8")
    for file, rows in (("problems.jsonl", problems), ("samples.jsonl", samples)):
        (folder / file).write_text("".join(map(to_json_line, rows)), encoding="utf-8", errors="surrogatepass")
    return folder


def sample(index: int, number: int, response: str, extracted: str | None, **changes: object) -> Sample:
    """A sample that was graded wrong, but for the changes."""
    values = {"correct": False, "status": "graded", "why": "different", "tokens": len(response) // 3, "stop_reason": "stop"}
    return Sample(index=index, id=str(index), sample=number, response=response, extracted=extracted, **{**values, **changes})  # type: ignore[arg-type]


def one_problem(folder: Path, response: str, extracted: str | None = None, gold: str = "7", text: str = "How many?") -> Path:
    """A result of one problem and one wrong sample."""
    return write_result(folder, [Problem(0, "p", text, (gold,))], [sample(0, 0, response, extracted)])


def synthetic_result(folder: Path, size: int, n: int, seed: int = 0) -> Path:
    """The synthetic task with pictures; a fifth of the problems never right, a fifth always, some samples without grade."""
    rng = random.Random(seed)
    problems, samples = [], []
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for index in range(size):
        problem = make_problem("test_combinations", index)
        name = f"pictures/{index:05d}_0.png"
        (folder / name).write_bytes(scale_picture(draw(problem)))
        problems.append(Problem(index, problem.id, problem.text, (problem.answer,), problem.combination.kind, pictures=(name,)))
        chance = (0.0, 0.3, 0.5, 0.7, 1.0)[index % 5]
        samples += [_sample(index, number, problem.answer, rng.random() < chance, rng) for number in range(n)]
    return write_result(folder, problems, samples, n, model="bundled/synthetic")


def _sample(index: int, number: int, gold: str, right: bool, rng: random.Random) -> Sample:
    a, b = rng.randrange(2, 30), rng.randrange(2, 30)
    thought = f"The sides are ${a}$ and \\({b}\\), so \\[ \\frac{{{a} \\cdot {b}}}{{2}} = {a * b / 2:g} \\]\n"
    chance = rng.random()
    if not right and chance < 0.1:
        return sample(index, number, thought * 9, None, status="no_answer", why="no answer", tokens=256, stop_reason="length")
    if not right and chance < 0.2:
        return sample(index, number, thought + "I can't tell.", None, status="no_answer", why="no answer")
    if not right and chance < 0.25:
        return sample(index, number, thought + r"\boxed{9^{9^9}}", "9^{9^9}", status="timeout", why="no verdict in 2.5 s")
    answer = gold if right else rf"\frac{{{a}}}{{{b}}}"
    why = "equal as text" if right else "different"
    return sample(index, number, f"{thought}So it is \\boxed{{{answer}}}.", answer, correct=right, why=why)
