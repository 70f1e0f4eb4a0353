"""Other projects' rules beside what their originals said about the same responses, and what they do with hostile text."""

import re
from importlib.metadata import version

import pytest

from gmpo_mm.verifiers import rule_texts as texts
from gmpo_mm.verifiers.rules import RULES, Choice, find_rules
from tests.verifiers.original_rules import ORIGINALS, read_lines

pytest.importorskip("pylatexenc", reason="the drgrpo extra is not installed")
pytest.importorskip("math_verify", reason="the drgrpo extra is not installed")
HEADER, *PAIRS = read_lines()
CHOICES = [Choice(pair["letter"], tuple(pair["choices"])) for pair in PAIRS]


@pytest.mark.parametrize("every", [13, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ORIGINALS)
def test_a_rule_gives_what_its_original_gave(name: str, every: int) -> None:
    recorded = HEADER["originals"][name]
    if "math" in RULES[name].version and version("math-verify") != recorded["math-verify"]:
        pytest.skip(f"recorded with math-verify {recorded['math-verify']}")
    assert len(PAIRS) == 2000
    pairs = PAIRS[::every]  # 13 has no factor in common with the number of forms
    responses, golds = [pair["response"] for pair in pairs], [[pair["gold"]] for pair in pairs]
    scores = RULES[name].score(responses, golds, CHOICES[::every], timeout=20.0)
    ours = [
        [None] * 2 if score.status == "skipped" else [round(score.overall, 6), score.accuracy]
        for score in scores
    ]
    differing = [
        (pair["response"], pair["gold"], pair["said"][name], said)
        for pair, said in zip(pairs, ours, strict=True)
        if pair["said"][name] != said
    ]
    assert not differing, f"{len(differing)} of {len(pairs)} pairs differ: {differing[:5]}"
    assert 0.05 < sum(score.accuracy for score in scores) / len(scores) < 0.6, "pairs that a rule tells apart"


def test_every_rule_but_ours_has_an_original_and_names_its_source_version_and_date() -> None:
    assert set(RULES) - {"ours"} == set(ORIGINALS) == set(HEADER["originals"])
    for name, rule in RULES.items():
        assert name == "ours" or ("github.com/" in rule.source and re.search(r"20\d\d-\d\d", rule.version)), (
            name
        )


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("verl", "trl", "lmms_eval") else pytest.param(name, marks=pytest.mark.slow)
        for name in RULES
    ],
)
def test_hostile_and_missing_responses_are_wrong_under_every_rule(name: str) -> None:
    hostile = [
        None, "", "[" * 50_000, "<answer>" * 10_000, "\\boxed{" * 10_000, "<think>" * 5_000 + "</think>" * 5_000, " " * 50_000,
        "\\boxed{__import__('os').system('true')}", "\\boxed{9**9**9**9}", "\ud800", "a" * 50_000 + "]",
    ]  # fmt: skip
    choice = Choice("D", ("1", "2", "3", "y+4"))
    scores = RULES[name].score(hostile, [["y+4"]] * len(hostile), [choice] * len(hostile), timeout=0.3)
    assert [score.accuracy for score in scores] == [0.0] * len(hostile)


def test_a_gold_that_is_a_list_is_met_by_any_of_its_texts() -> None:
    for rule in find_rules(["ours", "verl", "nemo_rl_geo3k", "trl", "drgrpo_fast"]):
        (score,) = rule.score([r"\boxed{5}"], [["7", "5"]], timeout=20.0)
        assert score.accuracy == 1.0, rule.name


def test_a_letter_is_needed_where_the_rule_asks_for_one() -> None:
    with pytest.raises(ValueError, match="lmms_eval: response 0 has no choices"):
        RULES["lmms_eval"].score(["A"], [["5"]])


def test_an_unknown_rule_is_named_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match="rule 'verll' is not known .did you mean 'verl'."):
        find_rules(["ours", "verll"])


@pytest.mark.parametrize(
    "text, found",
    [
        ("so [a] and [b]", "b"),
        ("[] 7", "7"),
        ("[[x]", "[x"),
        ("1,234.5 m", "1234.5"),
        ("none", None),
        ("[open 3", "3"),
    ],
)
def test_areal_reads_the_last_bracket_or_number(text: str, found: str | None) -> None:
    assert texts.areal_answer(text) == found
