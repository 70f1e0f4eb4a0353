"""OlympiadBench: parts in any order, sets, intervals, tuples, the judge's tolerance, and its 675 golds."""

from pathlib import Path
from typing import Any

import pytest

from gmpo_mm.verifiers import pool
from gmpo_mm.verifiers.olympiadbench import grade_olympiadbench, number_of_parts
from gmpo_mm.verifiers.reading import read
from gmpo_mm.verifiers.structure import Node, parse

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
TRIPLES = "$(1,8,19), (2,7,13), (4,5,7)$"


def correct(prediction: str, gold: str) -> bool:
    (grade,) = grade_olympiadbench([prediction], [gold], "answer")
    assert grade.status == "graded"
    return grade.correct


@pytest.mark.parametrize(
    ("gold", "prediction"),
    [
        ("1,3,5", "5, 1, 3"),
        ("1,3,5", r"\{1, 3, 5\}"),
        ("1,3,5", r"x \in \{5, 3, 1\}"),
        ("1,3,5", "1, 3 and 5"),
        ("1,3,5", "n = 1, 3, 5"),
        ("1,3,5", r"1; 3; \frac{10}{2}"),
        ("16,3,1,1", "1,3,1,16"),
        ("-2,-2", "-2, -2"),
        ("$69$,$84$", "84, 69"),
        ("$-1$,$2$,$-2$", r"-1, \pm 2"),
        ("$221,$8$", "8, 221"),
        ("$2,-2$", r"$\pm 2$"),
        ("$a=2$, $a=-6-4 \\sqrt{2}$", r"-6-4\sqrt{2}, 2"),
        ("$f(x)=x$,$f(x)=2-x$", "f(x) = 2 - x or f(x) = x"),
        ("$f(n)=n$, $g(n)=1$", "g(n)=1, f(n)=n"),
        ("$f(x)=\\frac{1}{x}$", "1/x"),
        ("$k=2 n-1$", "2n-1"),
        ("$n(n-1)$", "n^2-n"),
        (TRIPLES, "(4,5,7), (1,8,19) and (2,7,13)"),
        ("$(0,2),(0,-2),(4,23),(4,-23)$", r"(0, \pm 2), (4, \pm 23)"),
        ("$(10^{4}, 10^{3}, 10^{10}),(10^{2}, 10^{-1}, 10^{-2})$", "(100, 0.1, 0.01), (10000, 1000, 10000000000)"),
        ("$(4, \\log _{10} 2)$", r"\left(4, \log_{10} 2\right)"),
        ("(6,5)", "(a,b) = (6,5)"),
        ("1000,10", "(1000, 10)"),
        ("1000,10", "(x, y) = (1000, 10)"),
        ("$[\\frac{1}{2}, 8]$", "[0.5, 8]"),
        ("$(-\\sqrt{11},-2)\\cup (\\sqrt{11},9)$", r"(-\sqrt{11},-2) \cup (\sqrt{11}, 9)"),
        ("$(-\\infty, 0) \\cup\\{1\\}$.", r"\{1\} \cup (-\infty, 0)"),
        ("$t(0,4]$", "(0,4]"),
        ("$t(0,4]$", r"t \in (0, 4]"),
        ("$90^{\\circ}$,$60^{\\circ}$", "60, 90"),
        ("62.5%", "0.625"),
        ("62.5%", "62.5"),
        ("62.5%", r"\frac{5}{8}"),
        ("$8 \\%$", r"8\%"),
        ("2500,7500", "2,500 and 7,500"),
        ("1000", "1,000"),
        ("1000", "1{,}000"),
        ("$\\frac{1}{3}$", "0.333333333"),
        ("$\\frac{2}{7} \\sqrt{53}$", "2.080031396"),
        ("4.25", r"\frac{17}{4}"),
        ("$k \\geqslant 2$", r"k \ge 2"),
        ("$\\sqrt{2}$", r"The answer is $\sqrt{2}$."),
        ("1,3", "So we get $n=1$ and $n=3$"),
    ],
)
def test_the_same_parts_in_any_order_and_spelling_are_right(gold: str, prediction: str) -> None:
    assert correct(prediction, gold)


@pytest.mark.parametrize(
    ("gold", "prediction"),
    [
        ("1,3,5", "1,3"),
        ("1,3", "1,3,5"),
        ("1,3", "1,1"),
        ("1,3", "13"),
        ("16,3,1,1", "16,3,3,1"),
        ("$2,-2$", "2"),
        ("41352", "41,35,2"),
        ("(6,5)", "(5,6)"),
        (TRIPLES, "(1,8,19), (2,7,13)"),
        (TRIPLES, "(1,8,19), (2,7,13), (4,7,5)"),
        ("$[\\frac{1}{2}, 8]$", "(0.5, 8]"),
        ("$t(0,4]$", "(0,4)"),
        ("$t(0,4]$", "[0,4]"),
        ("(-7,-1)", "-7,-1"),
        ("62.5%", "6250"),
        ("2", "200"),  # the judge takes this for right
        ("200", "2"),
        ("$\\frac{1}{3}$", "0.3333"),
        ("$2^{-99}$", "2^{-98}"),
        ("$f(n)=n$, $g(n)=1$", "n"),
        ("$n(n-1)$", "n(n+1)"),
        ("$f(x)=x+1$", "g = x + 2"),
        ("5", "\\{5, 5\\}"),
    ],
)
def test_other_parts_counts_orders_of_tuples_and_brackets_are_wrong(gold: str, prediction: str) -> None:
    assert not correct(prediction, gold)


def test_several_boxes_of_the_last_line_are_the_parts_of_a_gold_with_as_many() -> None:
    golds = ["-2,2", "2", "-2,2", "-2,2", "-2,2"]
    responses = [
        r"so $x=\boxed{2}$ or $x=\boxed{-2}$.",
        r"so $\boxed{3}$ and $\boxed{2}$",
        "first \\boxed{7}\nthen $\\boxed{2}$, $\\boxed{-2}$",
        "first \\boxed{2}\nthen \\boxed{-2}",
        r"so \boxed{2, -2}, as \boxed{2, -2}",
    ]
    grades = grade_olympiadbench(responses, golds)
    assert [grade.correct for grade in grades] == [True, False, True, False, True]
    assert grades[0].extracted == "2, -2" and grades[1].extracted == "3, 2"


def test_a_missing_answer_is_no_answer_and_any_of_several_golds_counts() -> None:
    grades = grade_olympiadbench([None, "I say 2", r"\boxed{2}", r"\boxed{3,1}"], ["2", "2", ["1", "$2$"], ["7", "1,3"]])
    assert [grade.status for grade in grades] == ["no_answer", "no_answer", "graded", "graded"]
    assert [grade.correct for grade in grades] == [False, False, True, True]


def test_parts_are_counted_outside_brackets_only() -> None:
    assert number_of_parts(r"(1,2), [3,4), \frac{1}{2}, f(a,b) = 3; 5 and 6") == 6
    assert number_of_parts("(1, (2, 3))") == 1 and number_of_parts("$1$") == 1 and number_of_parts(r"\pm 2") == 2


def test_hostile_parts_cost_few_timeouts_and_good_rows_beside_them_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts: list[str] = []
    shared = pool.shared_pool()
    stock_check = shared.check

    def check(*arguments: Any, **options: Any) -> Any:
        found = stock_check(*arguments, **options)
        verdicts.extend(found)
        return found

    monkeypatch.setattr(shared, "check", check)
    hostile = ",".join(f"\\sum_{{k=1}}^{{2}} ({10**8 + i})!" for i in range(10))
    gold = "27,54,108,135,189,216,270,297,351,378"
    grades = grade_olympiadbench([hostile, "378," + gold.removesuffix(",378")], [gold, gold], "answer", timeout=1.0)
    assert [(grade.correct, grade.status) for grade in grades] == [(False, "timeout"), (True, "graded")]
    assert 0 < verdicts.count("timeout") <= 8, "of the hundred pairs of parts a few may run out"


@pytest.fixture(scope="module")
def golds() -> list[str]:
    parquet = pytest.importorskip("pyarrow.parquet")
    if not (DATA / "eval_olympiadbench.parquet").is_file():
        pytest.skip("OlympiadBench's parquet file is not beside this repository (../shared/data)")
    found: list[str] = parquet.read_table(DATA / "eval_olympiadbench.parquet").column("answer").to_pylist()
    assert len(found) == 675
    return found


def parts(text: str) -> tuple[Node, ...]:
    return parse(read(text).text).items


def wrong(predictions: list[str], golds: list[str], kind: str = "answer") -> list[str]:
    grades = grade_olympiadbench(predictions, golds, kind)  # type: ignore[arg-type]
    return [gold for gold, grade in zip(golds, grades, strict=True) if not grade.correct]


def test_every_gold_equals_itself_bare_boxed_and_in_a_sentence(golds: list[str]) -> None:
    assert wrong(golds, golds) == []
    assert wrong([rf"<think>so</think> \boxed{{{gold}}}" for gold in golds], golds, "response") == []
    assert wrong([rf"so $\boxed{{{gold.replace('$', '')}}}$." for gold in golds], golds, "response") == []
    sentences = [f"The answer is {gold}." if "$" in gold else f"The answer is ${gold}$." for gold in golds]
    assert wrong(sentences, golds) == []


def test_every_list_equals_itself_backwards_and_no_list_equals_itself_less_a_part(golds: list[str]) -> None:
    lists = [gold for gold in golds if number_of_parts(gold) > 1]
    assert len(lists) == 92
    backwards = [", ".join(part.text for part in reversed(parts(gold))) for gold in lists]
    assert wrong(backwards, lists) == []
    shorter = [", ".join(part.text for part in parts(gold)[1:]) for gold in lists]
    assert len(wrong(shorter, lists)) == len(lists)


def test_a_gold_without_its_spaces_or_dollars_still_equals_itself_unless_it_has_words(golds: list[str]) -> None:
    bare = [gold.replace(" ", "").replace("$", "") for gold in golds]
    words = [gold for gold in golds if "where" in gold or "angle" in gold]
    assert [gold for gold in wrong(bare, golds) if gold not in words] == []
    assert len(words) == 2
