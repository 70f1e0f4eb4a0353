"""The page of an evaluation, in a real browser: what it shows, what it filters, and what it never lets through."""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from gmpo_mm.errors import DataError
from gmpo_mm.evaluation.page import scale_picture, write_page
from gmpo_mm.evaluation.page_data import HEAD, TAIL, answer_span
from gmpo_mm.evaluation.results import Problem, read_result
from gmpo_mm.evaluation.statistics import summarise
from tests.browser.chromium import Browser, Tab, running_browser
from tests.evaluation.pages import HOSTILE, one_problem, sample, synthetic_result, write_result

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "geometry3k_test.parquet"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of 30 synthetic problems with 8 samples each."""
    return write_page(synthetic_result(tmp_path_factory.mktemp("pages") / "synthetic", size=30, n=8))


@pytest.fixture
def tab(browser: Browser, page: Path) -> Iterator[Tab]:
    """The synthetic page, open; afterwards it must have met no error and asked for nothing."""
    opened = browser.tab()
    opened.open(page.as_uri())
    yield opened
    assert opened.errors == []
    assert {address for address in opened.addresses if not address.startswith("data:")} <= {page.as_uri()}


def button(tab: Tab, name: str) -> str:
    """The text of a filter's button."""
    return tab.value(f"document.querySelector('[data-show={name}]').textContent.replace(/\\s+/g, ' ')")


def counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def show_all(tab: Tab) -> None:
    """Draw every problem that the filters let through."""
    while tab.value("!document.getElementById('more').hidden"):
        tab.value("document.getElementById('more').click()")


def test_the_numbers_are_the_summary_s(tab: Tab, page: Path) -> None:
    summary = summarise(read_result(page.parent))
    text = tab.value("document.body.innerText")
    score = summary["pass_at_1"]
    assert f"{100 * score['value']:.1f} %" in tab.texts(".big")[0]
    assert f"{100 * score['low']:.1f} to {100 * score['high']:.1f} %" in text
    shares = {"truncated": summary["truncated"], "no answer": summary["no_answer"], "grading timed out": summary["timeout"]}
    for name, value in {"Pass@8": summary["pass_at_k"]["8"], "majority@8": summary["majority"], **shares}.items():
        assert any(tile.startswith(f"{name}\n{100 * value:.1f} %") for tile in tab.texts(".tiles > div")), name
    assert "made up: T 0.5, n 8, top_p 1, 256 tokens, template plain" in text
    assert "math, version 3 (math-verify 0.9.0)" in text and "at most 2.5 s" in text and "hf float32" in text


def test_accuracy_stands_by_type_and_by_form(tab: Tab, page: Path) -> None:
    summary = summarise(read_result(page.parent))
    rows = [row.split("\t") for row in tab.texts(".bars tr")]
    for name, values in {**summary["by_type"], **summary["by_form"]}.items():
        row = next(row for row in rows if row[0].strip() == name)
        assert f"{100 * values['value']:.1f} %" in row[-2] and row[-1].startswith(str(values["problems"]))


def test_each_filter_shows_its_problems_and_says_how_many(tab: Tab, page: Path) -> None:
    result = read_result(page.parent)
    tests = {
        "right": lambda one: one.correct,
        "wrong": lambda one: not one.correct and one.status == "graded",
        "truncated": lambda one: one.stop_reason == "length",
        "no_answer": lambda one: one.status == "no_answer",
        "timeout": lambda one: one.status == "timeout",
    }
    for name, test in tests.items():
        hits = [sum(map(test, group)) for group in result.by_problem]
        problems = [index for index, number in enumerate(hits) if number]
        assert problems, f"the example has no {name} sample"
        assert button(tab, name).strip().endswith(f"{counted(sum(hits), 'sample')} in {counted(len(problems), 'problem')}")
        tab.click(f"[data-show={name}]")
        show_all(tab)
        assert tab.value("[...document.querySelectorAll('.problem')].map((node) => Number(node.id.split('-')[1]))") == problems
        assert tab.count(".chips button:not(.apart)") == sum(hits)
        assert tab.value("location.hash") == f"#show={name}"


def test_disagreed_shows_problems_with_right_and_other_samples(tab: Tab, page: Path) -> None:
    groups = read_result(page.parent).by_problem
    wanted = [index for index, group in enumerate(groups) if 0 < sum(one.correct for one in group) < len(group)]
    assert 0 < len(wanted) < len(groups)
    tab.click("[data-show=disagreed]")
    show_all(tab)
    assert tab.value("[...document.querySelectorAll('.problem')].map((node) => Number(node.id.split('-')[1]))") == wanted


def test_a_grade_is_said_in_words_and_not_by_colour_alone(tab: Tab) -> None:
    show_all(tab)
    states = {text.split(" ×")[0] for text in tab.contents(".group .state")}
    assert states == {"✓ right", "✗ wrong", "∅ no answer", "◷ timed out"}
    colours = "new Set([...document.querySelectorAll('.group')].map((node) => getComputedStyle(node).borderLeftColor)).size"
    assert tab.value(colours) == 4


def test_a_response_opens_with_formulas_and_its_answer_marked(tab: Tab, page: Path) -> None:
    result = read_result(page.parent)
    first = next(one for one in result.by_problem[0] if one.status == "graded")
    tab.click(".wrong .chips button")
    tab.wait("document.querySelector('.response .text')")
    assert tab.count(".response .text mfrac") > 0
    assert tab.count(".response mark menclose mfrac") == 1
    assert tab.value("document.querySelector('.response mark .formula').title") == rf"\boxed{{{first.extracted}}}"
    assert "different" in tab.texts(".response .about")[0] and f"{first.tokens} tokens" in tab.texts(".response .about")[0]
    tab.click(".wrong .chips button")
    assert tab.value("document.querySelector('.response').hidden")


def test_the_search_finds_what_only_a_response_says(tab: Tab, page: Path) -> None:
    groups = read_result(page.parent).by_problem
    wanted = [index for index, group in enumerate(groups) if any("can't tell" in one.response for one in group)]
    assert 0 < len(wanted) < len(groups)
    tab.press("/", "/")
    tab.type("CAN'T tell")
    tab.wait(f"document.documentElement.dataset.shown === '{len(wanted)}'")
    assert "q=CAN%27T+tell" in tab.value("location.hash")
    tab.press("Escape")
    tab.wait(f"document.documentElement.dataset.shown === '{len(groups)}'")


def test_type_and_form_narrow_and_a_chart_s_row_leads_there(tab: Tab, page: Path) -> None:
    problems = read_result(page.parent).problems
    triangles = sum(problem.type == "triangle" for problem in problems)
    tab.click('.bars a[href="#type=triangle"]')
    tab.wait(f"document.documentElement.dataset.shown === '{triangles}'")
    assert tab.value("document.getElementById('type').value") == "triangle"
    assert button(tab, "all").strip().endswith(counted(triangles, "problem"))


def test_the_page_can_be_used_with_the_keyboard_alone(tab: Tab) -> None:
    tab.press("3", "3")
    assert tab.value("document.querySelector('[data-show=wrong]').ariaPressed") == "true"
    tab.press("j", "j")
    tab.press("j", "j")
    assert tab.value("document.activeElement === document.querySelectorAll('.problem')[1]")
    for _ in range(2):  # past the problem's link, to its first sample
        tab.press("Tab")
    tab.press("Enter")
    tab.wait("document.activeElement.getAttribute('aria-expanded') === 'true'")
    tab.wait("document.querySelectorAll('.problem')[1].querySelector('.response .text')")
    assert tab.value("getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_an_address_keeps_the_view(browser: Browser, page: Path) -> None:
    tab = browser.tab()
    tab.open(page.as_uri() + "#show=right&type=segments&sort=hard&open=1")
    tab.wait("document.querySelector('.response .text')")
    shares = [int(text.split()[0]) for text in tab.contents(".share")]
    assert shares == sorted(shares) and shares
    assert set(tab.contents(".problem a + span + .tag")) == {"segments"}
    tab.open(page.as_uri() + "#problem=27&open=1")
    tab.wait("Math.abs(document.getElementById('problem-26').getBoundingClientRect().top) < 200")
    assert tab.errors == []


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_in_light_and_dark(browser: Browser, page: Path, dark: bool) -> None:
    tab = browser.tab(dark=dark)
    tab.open(page.as_uri() + "#open=1")
    tab.wait("document.querySelector('.response .text')")
    contrast = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8")
    assert tab.value(f"({contrast})()") == []


def test_nothing_sticks_out_at_a_phone_s_width(browser: Browser, page: Path, tmp_path: Path) -> None:
    tab = browser.tab(width=360, height=800)
    tab.open(page.as_uri() + "#open=1")
    tab.wait("document.querySelector('.response .text')")
    assert tab.value("document.documentElement.scrollWidth") == 360
    wide = write_page(one_problem(tmp_path, "w" * 3000 + " $" + "x" * 900 + "$", "y" * 280, "z" * 280, "v" * 2000))
    tab.open(wide.as_uri() + "#open=1")
    tab.wait("document.querySelector('.response .text')")
    assert tab.value("document.documentElement.scrollWidth") == 360
    # A card clips what sticks out of it, so each part is asked too; what can be scrolled by itself is all there.
    clipped = (
        "[...document.querySelectorAll('h1, td, .question, .gold, .group, .chips, .response, .problem > *')].filter((node) =>"
        " node.scrollWidth > node.clientWidth + 1 && getComputedStyle(node).overflowX !== 'auto').map((node) => node.className)"
    )
    assert tab.value(clipped) == []


def test_printing_holds_every_problem(tab: Tab) -> None:
    tab.call("Page.printToPDF", {})
    assert tab.count(".problem") == 30


def test_hostile_text_is_shown_and_never_run(browser: Browser, tmp_path: Path) -> None:
    math = rf"$\text{{{HOSTILE}}}$ and \boxed{{{HOSTILE}}}"
    for state, text in enumerate((HOSTILE, math, "{{ 7 * 7 }}", "\ud800\x00\u202e", "</scr\u0130pt>")):
        folder = tmp_path / str(state)
        problem = Problem(0, text, text, (text, math), text)
        name = text.replace("\ud800", "")
        path = write_page(write_result(folder, [problem], [sample(0, 0, text, text, why=text)], model=name, name=name))
        tab = browser.tab()
        tab.open(path.as_uri() + "#open=1")
        tab.wait("document.querySelector('.response .text')")
        assert tab.value("document.documentElement.dataset.hacked") is None
        assert tab.count("img, .problem script, .box script") == 0 and tab.errors == []
        assert {address for address in tab.addresses if not address.startswith("data:")} == {path.as_uri()}
        if text == HOSTILE:
            assert HOSTILE.strip() in tab.texts(".response .text")[0]
            assert HOSTILE.strip() in tab.texts("h1 + p")[0] or "onerror" in tab.texts("h1 + p")[0]


def test_markup_that_got_in_would_not_run(tab: Tab) -> None:
    """The policy in the page's head is a second wall: a script in the page's own text is refused."""
    picture = '<img src="data:image/png;base64,AA" onerror="document.documentElement.dataset.hacked=1">'
    tab.value(f"document.body.insertAdjacentHTML('beforeend', {json.dumps(picture)})")
    tab.wait("document.querySelector('body > img').complete")
    assert tab.value("document.documentElement.dataset.hacked") is None
    assert any("Content Security Policy" in error for error in tab.errors)
    tab.errors.clear()


def test_a_response_that_is_too_long_loses_its_middle_and_says_so(browser: Browser, tmp_path: Path) -> None:
    text = "start " + "x" * 300_000 + r" end \boxed{8}"
    path = write_page(one_problem(tmp_path, text, "8"))
    tab = browser.tab()
    tab.open(path.as_uri() + "#open=1")
    tab.wait("document.querySelector('.response .text')")
    shown = tab.texts(".response .text")[0]
    assert shown.startswith("start") and f"{len(text) - HEAD - TAIL:,} characters left out" in shown
    assert tab.count(".response mark menclose") == 1


@pytest.mark.parametrize(
    "response",
    [r"\boxed{" * 20_000, "$" * 100_000, r"$\frac{1}{" * 5_000, "{" * 100_000, r"\(" * 50_000, "<" * 100_000, "$x_1$" * 20_000,
     r"$\sqrt" * 20_000, "\u200b\u0301" * 50_000, r"\begin{align}" * 9_000],
)  # fmt: skip
def test_hostile_formulas_leave_the_page_small(response: str, tmp_path: Path) -> None:
    samples = [sample(0, number, response + str(number), "7") for number in range(8)]
    path = write_page(write_result(tmp_path, [Problem(0, "p", response, (response,))], samples, n=8))
    assert path.stat().st_size < 2_000_000


@pytest.mark.parametrize(
    ("text", "extracted", "marked"),
    [
        (r"first \boxed{3}, then \boxed{ 7 }.", "7", r"\boxed{ 7 }"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", r"\boxed{\frac{1}{2}}"),
        ("so <answer>it is 7</answer> done", "7", "<answer>it is 7</answer>"),
        ("The final answer is 7. I hope it is correct.", "7", "7"),
        ("17 and 77 and x7", "7", None),
        ("nothing", None, None),
        ("the grader wrote it otherwise: 1/2", r"\frac{1}{2}", None),
        (r"\boxed{never closed 7", "7", "7"),
    ],
)
def test_the_mark_is_where_the_answer_was_taken_from(text: str, extracted: str | None, marked: str | None) -> None:
    span = answer_span(text, extracted)
    assert (None if span is None else text[slice(*span)]) == marked


def repeated_result(folder: Path) -> Path:
    """One problem: four times the same right response, once another one with the same answer, twice one that is wrong."""
    right, other, wrong = r"So \boxed{7}.", r"Thus \boxed{7}.", r"Perhaps \boxed{8}."
    texts = [right, wrong, right, other, right, wrong, right]
    samples = [
        sample(0, number, text, "8" if text is wrong else "7", correct=text is not wrong, why="", tokens=9 + (number == 4))
        for number, text in enumerate(texts)
    ]
    return write_result(folder, [Problem(0, "p", "How many?", ("7",))], samples, n=len(texts))


def test_identical_responses_are_one_with_a_count(browser: Browser, tmp_path: Path) -> None:
    tab = browser.tab()
    path = write_page(repeated_result(tmp_path))
    tab.open(path.as_uri())
    assert tab.contents(".group .state") == ["✓ right × 5", "✗ wrong × 2"]
    assert tab.contents(".right .chips button") == ["4 identical responses · 9 to 10 tokens", "response 4 · 9 tokens"]
    assert tab.contents(".wrong .chips button") == ["2 identical responses · 9 tokens"]
    tab.click(".right .chips button")
    tab.wait("document.querySelector('.response .text')")
    assert tab.texts(".response .about")[0].startswith("samples 1, 3, 5, 7 · ✓ right")
    assert tab.contents(".right .response .text") == ["So 7."] and tab.count(".response") == 1
    assert tab.texts("#shown") == ["1 of 1 problems, 7 of 7 samples"]
    tab.open(path.as_uri() + "#q=perhaps")
    assert tab.texts("#shown") == ["1 of 1 problems, 2 of 7 samples"]
    assert [node.split(" · ")[0] for node in tab.contents(".chips button:not(.apart)")] == ["2 identical responses"]
    assert tab.errors == []


def test_equal_texts_are_apart_where_grade_or_truncation_differ(browser: Browser, tmp_path: Path) -> None:
    text = r"So \boxed{7}."
    samples = [
        sample(0, 0, text, "7", correct=True), sample(0, 1, text, "7", correct=True, stop_reason="length"),
        sample(0, 2, text, None, status="timeout"), sample(0, 3, text + " ", "7", correct=True),
    ]  # fmt: skip
    tab = browser.tab()
    tab.open(write_page(write_result(tmp_path, [Problem(0, "p", "?", ("7",))], samples, n=4)).as_uri() + "#open=1")
    tab.wait("document.querySelectorAll('.response .text').length === 4")
    assert [text.split(" · ")[0] for text in tab.contents(".chips button")] == [f"response {i}" for i in (1, 2, 4, 3)]
    marked = tab.value("[...document.querySelectorAll('.response')].map((node) => node.querySelector('mark') !== null)")
    assert marked == [True, True, True, False]  # no answer was taken from the one that timed out


def test_a_button_says_what_it_does(tab: Tab) -> None:
    buttons = tab.contents("[data-show]:not([hidden])")
    meanings = ("all", "right", "wrong", "some right, some not", "truncated", "no answer", "grading timed out")
    for text, meaning in zip(buttons, meanings, strict=True):
        assert meaning in text
        assert re.search(r"\d problems?$|none$", text.strip()), text
    for text in tab.contents(".chips button"):
        assert re.fullmatch(r"(response \d+|\d+ identical responses) · [\d,]+( to [\d,]+)? tokens?( ✂ truncated)?", text), text
    assert "open every response" in tab.texts(".filters label")[0]
    assert re.fullmatch(r"Show 10 more of the 10 problems that are left", tab.contents("#more")[0])
    names = tab.value("[...document.querySelectorAll('*')].flatMap((node) => [...node.attributes].map((one) => one.name))")
    assert not [name for name in names if name.startswith("on")]


@pytest.mark.parametrize("width", [390, 1280])
def test_a_long_path_wraps_at_its_folders(browser: Browser, tmp_path: Path, width: int) -> None:
    folders = ["runs", *(f"folder_{i}_with_a_long_name" for i in range(9)), "checkpoints", "step_60", "huggingface"]
    model = "/".join(folders)
    problem = Problem(0, "p/" + model, "How many?", ("7",), model)
    tab = browser.tab(width=width)
    tab.open(write_page(write_result(tmp_path, [problem], [sample(0, 0, "7", "7")], model=model)).as_uri())
    assert tab.value("document.documentElement.scrollWidth") == width
    assert tab.texts("h1 + p") == [model]
    for selector in ("h1 + p", ".facts td", ".problem > header span", ".problem .tag", ".bars .label"):
        inside = (
            f"[...document.querySelectorAll('{selector}')].every((node) => node.scrollWidth <= node.clientWidth + 1 &&"
            " node.getBoundingClientRect().right <= innerWidth)"
        )
        assert tab.value(inside), selector
    line_ends = tab.value(
        "(() => { const found = []; const walk = document.createTreeWalker(document.querySelector('h1 + p'), 4);"
        " const range = document.createRange(); while (walk.nextNode()) { range.selectNodeContents(walk.currentNode);"
        " found.push(range.getClientRects().length); } return found; })()"
    )
    assert len(line_ends) == len(folders) and set(line_ends) == {1}  # each folder stands on one line


@pytest.mark.parametrize(("golds", "types"), [((), (None,)), (("7",), (None,)), (("7",), ("triangle", "circle"))])
def test_the_boxes_above_the_problems_leave_no_hole(
    browser: Browser, tmp_path: Path, golds: tuple[str, ...], types: tuple[str | None, ...]
) -> None:
    problems = [Problem(i, f"p{i}", "?", golds, types[i % len(types)]) for i in range(4)]
    samples = [sample(i, 0, "7", "7") for i in range(4)]
    tab = browser.tab()
    tab.open(write_page(write_result(tmp_path, problems, samples)).as_uri())
    boxes = tab.value(
        "[...document.querySelectorAll('.grid, .grid > .box')].map((node) => node.getBoundingClientRect())"
        ".map((box) => [box.left, box.top, box.right, box.bottom])"
    )
    (left, top, right, bottom), *cards = boxes
    assert min(card[0] for card in cards) == pytest.approx(left, abs=1)
    assert max(card[2] for card in cards) == pytest.approx(right, abs=1)
    for edge in {card[0] for card in cards}:
        column = [card for card in cards if card[0] == edge]
        assert min(card[1] for card in column) == pytest.approx(top, abs=1)
        assert max(card[3] for card in column) == pytest.approx(bottom, abs=1)


def test_an_unfinished_evaluation_has_a_page_that_says_so(browser: Browser, tmp_path: Path) -> None:
    folder = synthetic_result(tmp_path, size=5, n=4)
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "samples.jsonl").write_text("".join(lines[:14]), encoding="utf-8")
    tab = browser.tab()
    tab.open(write_page(folder).as_uri())
    assert "Not finished: 6 of 20 samples are not there yet" in tab.texts(".warning")[-1]
    assert "2 of 4 samples are not there yet" in tab.texts(".problem")[3]
    assert tab.errors == []


def test_the_paper_s_numbers_are_marked_and_stand_beside_their_own_protocol_only(browser: Browser, tmp_path: Path) -> None:
    folder = synthetic_result(tmp_path, size=4, n=2)
    data = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    protocol = {**data["protocol"], "name": "geometry3k", "n": 16}
    tab = browser.tab()
    rows = []
    for changes in ({"n": 2}, {"n": 16}):
        data.update(benchmark="geometry3k", protocol={**protocol, **changes})
        (folder / "evaluation.json").write_text(json.dumps(data), encoding="utf-8")
        lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        if changes["n"] == 16:
            rows_of_16 = [{**row, "sample": 2 * copy + row["sample"]} for copy in range(8) for row in map(json.loads, lines)]
            (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of_16), encoding="utf-8")
        tab.open(write_page(folder).as_uri())
        rows.append([row for row in tab.texts(".bars tr") if "paper, Table" in row])
        assert ("under another protocol are not shown" in tab.value("document.body.innerText")) == (changes["n"] == 2)
    assert rows[0] == []
    assert [re.sub(r"\s+", " ", row) for row in rows[1]] == [
        "GRPO-7B (multimodal) 53.3 % paper, Table 2", "GMPO-7B (multimodal) 54.7 % paper, Table 2"
    ]  # fmt: skip


def test_a_copy_of_the_problem_is_a_state_of_its_own(browser: Browser, tmp_path: Path) -> None:
    problems = [Problem(0, "p", "What is $2^{10}$?", ("1024",))]
    copied = sample(0, 0, r"\boxed{2^{10}}", "2^{10}", status="not_evaluated")
    with_copy = write_page(write_result(tmp_path / "with", problems, [copied]))
    without = write_page(write_result(tmp_path / "without", problems, [sample(0, 0, "7", "7")]))
    for page, has_copy in ((with_copy, True), (without, False)):
        opened = browser.tab()
        opened.open(page.as_uri() + "#show=not_evaluated")
        assert opened.value("document.querySelector('[data-show=not_evaluated]').hidden") is not has_copy
        assert ("copied, not worked out" in page.read_text(encoding="utf-8").split("<script")[0]) is has_copy
        assert opened.value("document.documentElement.dataset.shown") == str(int(has_copy))
        assert (opened.contents(".group .state") == ["⧉ not worked out"]) is has_copy
        assert opened.errors == []


def test_a_picture_is_scaled_flattened_and_small() -> None:
    transparent = Image.new("RGBA", (1600, 400), (0, 0, 0, 0))
    transparent.paste((255, 0, 0, 255), (800, 0, 1600, 400))
    scaled = Image.open(io.BytesIO(scale_picture(transparent)))
    assert scaled.size == (320, 80) and scaled.format == "PNG"
    colours = scaled.convert("RGB")
    assert colours.getpixel((10, 10)) == (255, 255, 255) and colours.getpixel((300, 10)) == (255, 0, 0)
    rng = random.Random(0)
    noise = Image.frombytes("RGB", (900, 900), bytes(rng.randrange(256) for _ in range(900 * 900 * 3)))
    assert len(scale_picture(noise)) < 90_000
    tiny = Image.open(io.BytesIO(scale_picture(Image.new("L", (56, 56), 0))))
    assert tiny.size == (56, 56)


@pytest.mark.parametrize("name", ["pictures/none.png", "../secret.png", "/etc/hostname", "problems.jsonl"])
def test_a_picture_that_is_missing_elsewhere_or_none_is_named(name: str, tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "secret.png")
    problem = Problem(0, "p", "<image>?", ("1",), pictures=(name,))
    folder = write_result(tmp_path / "result", [problem], [sample(0, 0, "1", "1")])
    with pytest.raises(DataError, match=re.escape(name.split("/")[-1])):
        write_page(folder)


def test_what_a_sampler_could_not_promise_stands_on_the_page(browser: Browser, tmp_path: Path) -> None:
    folder = synthetic_result(tmp_path, size=2, n=1)
    data = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    data["environment"] = {"caveats": ["the server ignores seeds", "its template is its own"]}
    (folder / "evaluation.json").write_text(json.dumps(data), encoding="utf-8")
    tab = browser.tab()
    tab.open(write_page(folder).as_uri())
    assert "caveats\tthe server ignores seeds; its template is its own" in tab.texts(".facts tr")


def test_the_stored_summary_is_what_is_shown(browser: Browser, tmp_path: Path) -> None:
    folder = synthetic_result(tmp_path, size=3, n=1)
    summary = summarise(read_result(folder))
    summary["pass_at_1"]["value"] = 0.1234
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    tab = browser.tab()
    tab.open(write_page(folder).as_uri())
    assert tab.texts(".big") == ["12.3 %"]


def test_all_of_geometry3k_with_16_samples_each_opens_and_stays_under_15_mb(browser: Browser, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    if not DATA.is_file():
        pytest.skip("Geometry3K's test split is not beside this repository (../shared/data)")
    rows = parquet.read_table(DATA, columns=["problem", "answer", "images"]).to_pylist()
    (tmp_path / "pictures").mkdir()
    problems, samples = [], []
    rng = random.Random(0)
    for index, row in enumerate(rows):
        name = f"pictures/{index}.png"
        (tmp_path / name).write_bytes(scale_picture(Image.open(io.BytesIO(row["images"][0]["bytes"]))))
        problems.append(Problem(index, str(index), row["problem"], (row["answer"],), "geometry", pictures=(name,)))
        for number in range(16):
            words = " ".join(rng.choice(rows)["problem"].removeprefix("<image>") for _ in range(4))
            answer = row["answer"] if rng.random() < 0.4 else rng.choice(rows)["answer"]
            right = answer == row["answer"]
            samples.append(sample(index, number, rf"{words} $\boxed{{{answer}}}$", answer, correct=right))
    path = write_page(write_result(tmp_path, problems, samples, n=16))
    assert path.stat().st_size < 15_000_000
    tab = browser.tab()
    tab.open(path.as_uri() + "#show=wrong")
    assert button(tab, "all").strip().endswith("601 problems")
    assert tab.count(".problem") == 20
    tab.press("k", "k")
    show_all(tab)
    assert tab.count(".problem") == int(tab.value("document.documentElement.dataset.shown"))
    assert tab.errors == []
