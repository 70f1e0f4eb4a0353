"""The same responses under the rules of several projects, and what of a difference each part of a rule makes.

From rule A to rule B the score changes in steps that add up exactly: A's format share goes, verdicts change,
B's format share comes. Each changed verdict has one cause, found by exchanging one part at a time:
`extraction` where A's comparison of B's answer gives B's verdict and B's comparison of A's answer gives A's;
`equivalence` where it is the reverse; `both` where neither part alone, or each of them, makes the change;
`choice` where a letter is asked for. A rule that finds the answer within its comparison (TRL) is exchanged
as far as it can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gmpo_mm.data.sources import read_rows
from gmpo_mm.errors import ConfigError, DataError, GMPOError
from gmpo_mm.evaluation.early_stop import stopping_words
from gmpo_mm.evaluation.grade_file import GradeFileSettings, read_row
from gmpo_mm.evaluation.response_files import LETTERS, read_responses
from gmpo_mm.evaluation.results import read_result
from gmpo_mm.runs.progress import Progress
from gmpo_mm.verifiers import DEFAULT_TIMEOUT, VerifierUnavailableError
from gmpo_mm.verifiers.rules import RULES, Choice, Rule, Score, find_rules

FORMAT = 1
IN_PAGE = "regrade.json"  # in an evaluation's folder: what its page shows of it
"""Raised when a key of the JSON changes its meaning."""

CAUSES = ("extraction", "equivalence", "both", "choice")


@dataclass(frozen=True)
class Response:
    """One response with what a rule needs; `weight` is 1 / (rows x samples of its row), so that scores are Pass@1."""

    id: str
    text: str | None
    golds: tuple[str, ...]
    choice: Choice | None
    weight: float


@dataclass(frozen=True)
class Example:
    """One response whose verdict a step changes."""

    id: str
    gold: str
    response: str
    before: str | None
    """What A compared."""
    after: str | None
    """What B compared."""


@dataclass(frozen=True)
class Step:
    """One step from rule A to rule B: the change of the mean score, and of verdicts right and wrong."""

    name: str
    change: float
    gained: int
    """Verdicts from wrong to right; of a format step, responses whose score rises."""
    lost: int
    """Verdicts from right to wrong; of a format step, responses whose score falls."""
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Waterfall:
    """From rule A to rule B: `start` + the steps' changes = `end`. `changed` counts verdicts that differ in the end."""

    a: str
    b: str
    start: float
    end: float
    changed: int
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class RuleScore:
    """All responses under one rule. `overall` is the number that the rule's project reports."""

    rule: str
    title: str
    source: str
    version: str
    format_weight: float
    overall: float
    accuracy: float
    format: float | None
    statuses: dict[str, int]


@dataclass(frozen=True)
class Regrade:
    """The report: rules in the order in which they were asked for, and waterfalls from the first to each other one."""

    source: str
    rows: int
    responses: int
    scores: tuple[RuleScore, ...]
    waterfalls: tuple[Waterfall, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {"format": FORMAT, **asdict(self)}


def regrade(
    source: str,
    rules: Sequence[str] = (),
    *,
    form: str = "auto",
    choices: str | None = None,
    examples: int = 2,
    timeout: float = DEFAULT_TIMEOUT,
    keys: GradeFileSettings | None = None,
    progress: Progress | None = None,
) -> Regrade:
    """Score a file, an evaluation's folder or a run's last validation under each rule; the first one is what
    others stand beside.

    `choices` is a data file with `id`, `letter` and `choices`, for rules that ask for a letter. Raises
    ConfigError for an unknown rule or one that lacks its letters, DataError for a source that can't be read.
    """
    try:
        chosen = find_rules(list(rules) or list(RULES))
    except ValueError as error:
        raise ConfigError(f"--rules: {error}") from None
    responses, notes = _read(source, form, keys, choices)
    lettered = all(response.choice for response in responses)
    if not lettered and (asking := [rule.name for rule in chosen if rule.wants_letter]):
        why = f"{', '.join(asking)} asks for a letter, and not every row has `letter` and `choices`"
        if rules:
            raise ConfigError(
                f"--rules: {why}; give --choices a data file with id, letter and choices, or leave the rule out"
            )
        chosen = [rule for rule in chosen if not rule.wants_letter]
        notes = [*notes, f"left out: {why}"]
    if any(rule.wants_letter for rule in chosen) and (
        bare := sum(not one.choice.options for one in responses if one.choice)
    ):
        notes = [
            *notes,
            f"{bare:,} responses have a letter and no choices: one is not found by an option's text",
        ]
    scores: dict[str, list[Score]] = {}
    with progress or Progress() as shown, shown.stage("regrading", len(chosen), "rules") as stage:
        try:
            for number, rule in enumerate(chosen):
                scores[rule.name] = _score(rule, responses, timeout)
                stage.update(number + 1)
            falls = [_waterfall(chosen[0], rule, scores, responses, examples, timeout) for rule in chosen[1:]]
        except VerifierUnavailableError as error:
            raise GMPOError(str(error)) from error
    rows = len({response.id for response in responses})
    table = tuple(_rule_score(rule, scores[rule.name], responses) for rule in chosen)
    return Regrade(source, rows, len(responses), table, tuple(falls), tuple(notes))


def _score(rule: Rule, responses: Sequence[Response], timeout: float) -> list[Score]:
    choices = [response.choice for response in responses]
    return rule.score([one.text for one in responses], [one.golds for one in responses], choices, timeout)


def _rule_score(rule: Rule, scores: Sequence[Score], responses: Sequence[Response]) -> RuleScore:
    def mean(name: str) -> float:
        return sum(getattr(score, name) * one.weight for score, one in zip(scores, responses, strict=True))

    statuses: dict[str, int] = {}
    for score in scores:
        statuses[score.status] = statuses.get(score.status, 0) + 1
    form = mean("format") if rule.form else None
    return RuleScore(
        rule.name,
        rule.title,
        rule.source,
        rule.version,
        rule.format_weight,
        mean("overall"),
        mean("accuracy"),
        form,
        statuses,
    )


def _waterfall(
    a: Rule,
    b: Rule,
    scores: dict[str, list[Score]],
    responses: Sequence[Response],
    examples: int,
    timeout: float,
) -> Waterfall:
    before, after = scores[a.name], scores[b.name]
    causes = _causes(a, b, before, after, responses, timeout)

    def step(name: str, changes: dict[int, float]) -> Step:
        gained, lost = [[i for i, change in changes.items() if change * sign > 0] for sign in (1, -1)]
        listed = (
            []
            if name.startswith("format")
            else [i for some in (gained, lost) for i in _different(some, responses, examples)]
        )
        shown = (
            Example(one.id, " | ".join(one.golds), _tail(one.text), before[i].extracted, after[i].extracted)
            for i, one in ((i, responses[i]) for i in listed)
        )
        total = sum(change * responses[i].weight for i, change in changes.items())
        return Step(name, total, len(gained), len(lost), tuple(shown))

    verdicts = {i: y.accuracy - x.accuracy for i, (x, y) in enumerate(zip(before, after, strict=True))}
    steps = [
        step(f"format of {a.name}", {i: score.accuracy - score.overall for i, score in enumerate(before)}),
        *(step(cause, {i: verdicts[i] for i, found in causes.items() if found == cause}) for cause in CAUSES),
        step(f"format of {b.name}", {i: score.overall - score.accuracy for i, score in enumerate(after)}),
    ]
    start, end = (
        sum(score.overall * one.weight for score, one in zip(some, responses, strict=True))
        for some in (before, after)
    )
    return Waterfall(
        a.name, b.name, start, end, len(causes), tuple(one for one in steps if one.gained or one.lost)
    )


def _causes(
    a: Rule,
    b: Rule,
    before: Sequence[Score],
    after: Sequence[Score],
    responses: Sequence[Response],
    timeout: float,
) -> dict[int, str]:
    """The cause of each verdict that differs, by the response's number."""
    changed = [i for i, (x, y) in enumerate(zip(before, after, strict=True)) if x.accuracy != y.accuracy]
    if a.wants_letter or b.wants_letter:
        return dict.fromkeys(changed, "choice")
    some = [responses[i] for i in changed]
    # A's comparison of B's answer, and B's of A's; an answer found while comparing can't be exchanged.
    crossed_a = (
        None if b.reads_response else _compared(a, [after[i].extracted for i in changed], some, timeout)
    )
    crossed_b = (
        None if a.reads_response else _compared(b, [before[i].extracted for i in changed], some, timeout)
    )
    causes = {}
    for number, i in enumerate(changed):
        extraction = None if crossed_a is None else crossed_a[number] == after[i].accuracy
        equivalence = None if crossed_b is None else crossed_b[number] == after[i].accuracy
        extraction = not equivalence if extraction is None else extraction
        equivalence = not extraction if equivalence is None else equivalence
        causes[i] = "both" if extraction == equivalence else "extraction" if extraction else "equivalence"
    return causes


def _compared(
    rule: Rule, answers: Sequence[str | None], responses: Sequence[Response], timeout: float
) -> list[float]:
    """Accuracy of answers that another rule found, compared as this rule compares."""
    if rule.reads_response:
        answers = [None if answer is None else f"\\boxed{{{answer}}}" for answer in answers]
    return [
        float(grade.correct) for grade in rule.compare(answers, [one.golds for one in responses], timeout)
    ]


def _different(indices: Sequence[int], responses: Sequence[Response], count: int) -> list[int]:
    """The first few of different problems."""
    firsts = {responses[i].id: i for i in reversed(indices)}
    return sorted(firsts.values())[:count]


def _tail(text: str | None, length: int = 160) -> str:
    text = text or ""
    return text if len(text) <= length else f"... {text[-length:]}"


def _read(
    source: str, form: str, keys: GradeFileSettings | None, choices: str | None
) -> tuple[list[Response], list[str]]:
    """The responses of a file, an evaluation or a run, and what should be known about them."""
    folder = Path(source).expanduser()
    known = {} if choices is None else _choices(choices)
    notes: list[str] = []
    rows: list[tuple[str, list[str | None], list[str], Choice | None]]
    if (folder / "evaluation.json").is_file():
        result = read_result(folder)
        if not result.samples:
            raise DataError(f"{source}: the evaluation has no sample yet; `gmpo-mm evaluate` goes on with it")
        if early := stopping_words(result.summary):
            notes.append(f"the evaluation {early}")
        elif not result.complete:
            notes.append("the evaluation is not complete: only the samples that are there count")
        rows = [
            (problem.id, [sample.response for sample in group], list(problem.golds), known.get(problem.id))
            for problem, group in zip(result.problems, result.by_problem, strict=True)
            if group
        ]
    else:
        if (folder / "run.json").is_file():
            source = str(_last_validation(folder))
            notes.append(f"the run's last validation, {source}")
        rows, file_notes = _rows_of_file(source, form, keys, known)
        notes += file_notes
    if choices is not None and not any(row[3] for row in rows):
        raise DataError(f"--choices {choices}: none of its ids is one of {source}'s, such as {rows[0][0]!r}")
    return [
        Response(name, text, tuple(golds), choice, 1 / (len(rows) * len(texts)))
        for name, texts, golds, choice in rows
        for text in texts
    ], notes


def _rows_of_file(
    source: str, form: str, keys: GradeFileSettings | None, known: dict[str, Choice]
) -> tuple[list[tuple[str, list[str | None], list[str], Choice | None]], list[str]]:
    settings = replace(keys or GradeFileSettings(source), file=source)
    named = settings.response_key != "response" or settings.gold_key is not None
    table, form = read_responses(source, "rows" if named and form == "auto" else form)
    if not len(table):
        raise DataError(f"{source}: no rows in it, so there is nothing to grade")
    if settings.response_key.split(".")[0] not in table.columns:
        raise DataError(
            f"{source}: no column {settings.response_key!r}; give --response-key, there are {', '.join(table.columns)}"
        )
    rows: dict[str, tuple[list[str | None], list[str], Choice | None]] = {}
    for index in range(len(table)):
        row = read_row(table, index, settings)
        name = str(row.data.get("id", index))
        choice = _choice(row.data) or known.get(name)
        texts, golds, _ = rows.setdefault(name, ([], row.gold, choice))
        if golds != row.gold:
            raise DataError(
                f"{source}: rows of id {name} have different golds, {golds[0]!r} and {row.gold[0]!r}"
            )
        texts += row.responses
    notes = [] if form == "rows" else [f"read as a file of {form}"]
    return [(name, texts, golds, choice) for name, (texts, golds, choice) in rows.items()], notes


def _choice(row: dict[str, Any]) -> Choice | None:
    letter, options = row.get("letter"), row.get("choices")
    if not isinstance(letter, str) or letter.strip().upper() not in LETTERS:
        return None
    return Choice(letter, tuple(map(str, options)) if isinstance(options, (list, tuple)) else ())


def _choices(file: str) -> dict[str, Choice]:
    rows = read_rows(file)
    if missing := [name for name in ("id", "letter", "choices") if name not in rows.columns]:
        raise DataError(
            f"--choices {file}: no column {', '.join(missing)}; there are {', '.join(rows.columns)}"
        )
    columns = zip(rows.column("id"), rows.column("letter"), rows.column("choices"), strict=True)
    return {
        str(name): choice
        for name, letter, options in columns
        if (choice := _choice({"letter": letter, "choices": options})) is not None
    }


def _last_validation(run: Path) -> Path:
    """The newest validation's responses of a run directory."""
    files = {int(path.name.split("_")[1]): path for path in (run / "samples").glob("step_*_validation.jsonl")}
    if not files:
        raise DataError(f"{run}: no samples/step_N_validation.jsonl in it; the run has not validated yet")
    return files[max(files)]
