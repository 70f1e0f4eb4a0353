"""The registry of graders: names, stamps, every gold of the language benchmarks, and texts that would stop a run."""

import json
import random
from importlib.metadata import version
from pathlib import Path

import pytest

from gmpo_mm.verifiers import DEFAULT_TIMEOUT, GRADERS, check_grader, grade_batch, grade_responses, grader_info

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
NAMES = ["math", "geometry3k", "minerva", "olympiadbench", "countdown", "drgrpo_fast", "drgrpo_slow"]
RIGHT = {"countdown": (r"\boxed{6*4}", '{"numbers": [4, 6], "target": 24}')}
SUITES = {"eval_aime24": 30, "eval_amc": 83, "eval_math500": 500, "eval_minerva": 272, "math_l3to5_train": 8886}


def right(grader: str) -> tuple[str, str]:
    """A right response and its gold."""
    return RIGHT.get(grader, (r"so \boxed{\frac{3}{11}}", r"\frac{3}{11}"))


def test_the_names_are_the_known_ones_and_each_grades() -> None:
    assert list(GRADERS) == NAMES
    for grader in NAMES:
        response, gold = right(grader)
        graded = grade_responses(grader, [response, "no box", None], [gold] * 3)
        assert [(grade.correct, grade.status) for grade in graded] == [(True, "graded")] + [(False, "no_answer")] * 2, grader
        assert all(grade.why for grade in graded), grader


def test_math_and_geometry3k_are_the_engine_itself() -> None:
    responses, golds = [r"\boxed{60^\circ}", r"\boxed{b+a}", "x"], ["60", ["7", "a+b"], "1"]
    for grader in ("math", "geometry3k"):
        assert grade_responses(grader, responses, golds) == grade_batch(responses, golds, "response")


def test_a_bare_answer_is_graded_as_the_same_answer_in_a_box() -> None:
    for grader in NAMES:
        response, gold = right(grader)
        answer = response[response.index("{") + 1 : -1]
        assert grade_responses(grader, [answer], [gold], kind="answer")[0].correct, grader
        assert not grade_responses(grader, ["7 - 1"], [gold], kind="answer")[0].correct, grader


def test_the_answer_is_looked_for_where_the_extraction_says() -> None:
    for grader in NAMES:
        boxed, gold = right(grader)
        answer = boxed[boxed.index("{") + 1 : -1]
        responses = [f"<think>so</think> <answer>{answer}</answer>", f"so \\boxed{{{answer}}}"]
        for extraction, expected in (("answer_tags", [True, False]), ("boxed", [False, True])):
            grades = grade_responses(grader, responses, [gold] * 2, extraction=extraction)
            assert [grade.correct for grade in grades] == expected, (grader, extraction)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grader": "minerve"}, r"grader='minerve' is not known \(did you mean 'minerva'\?\); use one of math, geometry3k"),
        ({"grader": ""}, "grader='' is not known; use one of"),
        ({"grader": None}, "grader=None is not known"),
        ({"extraction": "tags"}, "extraction='tags' is not known; use one of auto, boxed, answer_tags"),
        ({"kind": "text"}, "kind='text' is not known"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": float("inf")}, "timeout=inf"),
        ({"golds": []}, "1 responses for 0 golds"),
    ],
)
def test_a_wrong_argument_is_an_error_that_lists_the_known(arguments: dict[str, object], message: str) -> None:
    given = {"grader": "math", "responses": ["x"], "golds": ["x"], **arguments}
    with pytest.raises(ValueError, match=message):
        grade_responses(**given)  # type: ignore[arg-type]


def test_the_stamp_has_the_versions_that_a_grade_depends_on() -> None:
    for grader in NAMES:
        stamp = grader_info(grader, "boxed", 2)
        assert list(stamp) == ["name", "extraction", "version", "timeout", "unevaluated", "packages"]
        assert (stamp["name"], stamp["extraction"], stamp["timeout"]) == (grader, "boxed", 2.0)
        assert isinstance(stamp["version"], int) and stamp["version"] >= 1
        assert json.loads(json.dumps(stamp)) == stamp
    assert grader_info("math", "auto", 3)["packages"]["sympy"] == version("sympy")
    assert grader_info("countdown", "auto", 3)["packages"] == {}
    with pytest.raises(ValueError, match="is not known"):
        grader_info("nobody", "auto", 3)
    assert check_grader("math") == "math" and DEFAULT_TIMEOUT == 3.0


def test_the_stamp_fits_the_results_of_an_evaluation() -> None:
    results = pytest.importorskip("gmpo_mm.evaluation.results")
    assert results.GraderInfo(**grader_info("minerva", "boxed", 3)).name == "minerva"


def golds_of(name: str) -> list[str]:
    parquet = pytest.importorskip("pyarrow.parquet")
    if not (DATA / f"{name}.parquet").is_file():
        pytest.skip(f"{name}.parquet is not beside this repository (../shared/data)")
    golds: list[str] = parquet.read_table(DATA / f"{name}.parquet").column("answer").to_pylist()
    return golds


@pytest.mark.parametrize("name", SUITES)
def test_every_gold_of_the_suite_equals_itself(name: str) -> None:
    golds = golds_of(name)
    assert len(golds) == SUITES[name]
    grader = "minerva" if name == "eval_minerva" else "math"
    for kind, texts in (("answer", golds), ("response", [rf"so $\boxed{{{gold}}}$." for gold in golds])):
        grades = grade_responses(grader, texts, golds, kind=kind)
        assert [gold for gold, grade in zip(golds, grades, strict=True) if not grade.correct] == []
    spelled = [gold.replace(r"\frac", r"\dfrac").replace("(", r"\left(").replace(")", r"\right)") for gold in golds]
    grades = grade_responses(grader, [f"${text}$" for text in spelled], golds, kind="answer")
    assert [gold for gold, grade in zip(golds, grades, strict=True) if not grade.correct] == []


def test_integers_of_aime_and_floats_of_amc_are_the_numbers_they_mean() -> None:
    golds = golds_of("eval_aime24")
    leading = [gold for gold in golds if gold.startswith("0")]
    assert leading
    assert all(grade.correct for grade in grade_responses("math", [str(int(gold)) for gold in golds], golds, kind="answer"))
    assert not any(
        grade.correct for grade in grade_responses("math", [str(int(gold) + 1) for gold in golds], golds, kind="answer")
    )
    amc = golds_of("eval_amc")
    assert all(grade.correct for grade in grade_responses("math", amc, [f"{float(gold)}" for gold in amc], kind="answer"))
    assert all(grade.correct for grade in grade_responses("math", [f"{float(gold)}" for gold in amc], amc, kind="answer"))


PIECES = [
    *"{}()[]$,;=<%^_!'\"\\/*xy70-+ \n", "\\{", "\\}", "**", "//", "\\frac", "\\sqrt", "\\boxed{", "\\text{", "\\left(",
    "\\right)", "\\pm", "\\cup", "\\in", "\\infty", "\\times 10^", "\\begin{pmatrix}", "\\end{pmatrix}", "\\sum_{n}", "\\int",
    "9**9**9**9", "9^{9^{9}}", "10!", "<answer>", "</answer>", "<think>", "</think>", "and", " or ", "\u200b", "\u202e", "\x00",
    "\ud800", "\u0661", "\u00b2", "\u00bd", "\u03c0", "\U0001d7d7", "None", "nan", "inf", "1e400", "0x1", "1_000", "1,000",
    "lambda: 0", "{{}}", "%s%n", "__import__('os').system('false')", "\u00e9", "\u4e2d",
]  # fmt: skip
LONG = [
    "{" * 100_000, "(" * 50_000 + "1" + ")" * 50_000, r"\frac{1}{" * 2_000, "7" * 200_000, "1," * 50_000, "$" * 100_000,
    "=" * 50_000, "\\boxed{" * 20_000, "<answer>" * 20_000, "and " * 30_000, "\\pm" * 30_000, "1+" * 50_000, " " * 200_000,
    "-" * 100_000 + "1", "\\in" * 30_000, "\\frac" * 20_000, "a" * 100_000, "1 m" * 30_000, "%" * 100_000, "10^" * 30_000,
    "10!" * 100, "The answer is " * 9_000,
]  # fmt: skip


def hostile_texts() -> list[str]:
    rng = random.Random(0)
    short = ["".join(rng.choices(PIECES, k=rng.randrange(1, 12))) for _ in range(1000 - len(LONG))]
    return short + LONG


@pytest.mark.timeout(280)
@pytest.mark.parametrize("grader", [name for name in NAMES if name != "geometry3k"])  # that is math
def test_a_thousand_hostile_texts_neither_raise_nor_hang_and_good_ones_between_are_right(grader: str) -> None:
    good, gold = right(grader)
    texts = hostile_texts()
    responses = [f"\\boxed{{{text}}}" if i % 2 else f"<answer>{text}</answer>" for i, text in enumerate(texts)]
    for i in range(0, len(responses), 50):
        responses.insert(i, good)
    grades = grade_responses(grader, responses, [gold] * len(responses), timeout=0.5)
    assert all(grade.correct for grade, response in zip(grades, responses, strict=True) if response == good)
    assert {grade.status for grade in grades} <= {"graded", "no_answer", "timeout", "error"}
    assert sum(grade.correct for grade in grades) == responses.count(good)


@pytest.mark.parametrize("grader", [name for name in NAMES if name != "countdown"])
def test_a_hostile_gold_is_survived_too(grader: str) -> None:
    texts = [text for text in hostile_texts() if text.strip()][::25]
    grades = grade_responses(grader, [r"\boxed{12345}"] * len(texts), texts, timeout=0.5)
    assert not any(grade.correct for grade in grades)
