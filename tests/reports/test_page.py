"""The report's page in a real browser: light and dark, narrow and wide, with names that mean harm."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gmpo_mm.reports.figure_style import DARK, LIGHT
from gmpo_mm.reports.report import write_report
from tests.browser.chromium import Browser, Tab
from tests.evaluation.pages import HOSTILE
from tests.reports.made import change_sweep

CONTRAST = (Path(__file__).parents[1] / "evaluation" / "contrast.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report([sweep], tmp_path_factory.mktemp("page")).folder / "report.html"


def opened(browser: Browser, page: Path, **changes: int) -> Tab:
    """The page, which must meet no error and ask for nothing but itself."""
    tab = browser.tab(**changes)
    tab.call("Page.navigate", {"url": page.as_uri()})
    tab.wait(f"location.href === {json.dumps(page.as_uri())} && document.readyState === 'complete'")
    assert tab.errors == []
    assert {address for address in tab.addresses if not address.startswith("data:")} <= {page.as_uri()}
    return tab


@pytest.mark.parametrize("dark", [False, True])
def test_colours_follow_the_page_and_are_the_same_for_a_variant_everywhere(browser: Browser, page: Path, dark: bool) -> None:
    tab = opened(browser, page, dark=dark)
    assert tab.value(f"({CONTRAST})()") == []
    for i, colour in enumerate((DARK if dark else LIGHT)[:2]):
        red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
        strokes = tab.value(
            f"[...document.querySelectorAll('svg *')].filter((node) => node.style.stroke === 'var(--series-{i})')"
            ".map((node) => [node.closest('[id]').id, getComputedStyle(node).stroke])"
        )
        assert {stroke for _, stroke in strokes} == {f"rgb({red}, {green}, {blue})"}
        expected = {"final_score", "validation", "ratio_range", "sequence_ratio", "entropy", "grad_norm"}
        assert expected <= {section for section, _ in strokes}


def test_figures_have_their_texts_and_nothing_is_left_in_the_stand_in_colours(browser: Browser, page: Path) -> None:
    tab = opened(browser, page)
    assert "validation Pass@1 (%)" in tab.contents("#validation svg text")
    assert {"ratio (log scale)", "step"} <= set(tab.contents("#ratio_range svg text"))
    assert "#fe0" not in page.read_text()
    assert tab.count("div[role=img][aria-label] > svg") == 10


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_sticks_out(browser: Browser, page: Path, width: int) -> None:
    tab = opened(browser, page, width=width)
    assert tab.value("document.documentElement.scrollWidth") == width


def test_the_page_has_one_legend_that_stays_in_sight(browser: Browser, page: Path) -> None:
    tab = opened(browser, page)
    assert tab.contents("#legend li") == ["GRPO", "GMPO"] and tab.count(".legend") == 1
    inside = tab.contents(".figures svg text")  # names of variants that aren't the title of a panel or the name of a row
    assert {name: inside.count(name) for name in ("GRPO", "GMPO")} == {"GRPO": 2, "GMPO": 2}
    tab.value("document.querySelector('#grad_norm').scrollIntoView()")
    assert tab.value("document.querySelector('#legend').getBoundingClientRect().top") == 0


def test_a_legend_s_line_is_drawn_as_in_the_figures(browser: Browser, page: Path) -> None:
    tab = opened(browser, page)
    lines = "[...document.querySelectorAll('#legend line')].map((node) => [node.style.stroke, node.style.strokeDasharray])"
    grpo, gmpo = tab.value(lines)
    assert grpo == ["var(--series-0)", ""] and gmpo[0] == "var(--series-1)" and gmpo[1]
    dashed = tab.value(
        "[...document.querySelectorAll('#grad_norm svg path')].filter((n) => n.style.stroke === 'var(--series-1)')"
        ".map((n) => n.style.strokeDasharray)"
    )
    assert dashed and all(dashed)


def test_the_headline_and_the_command_are_seen_without_scrolling(browser: Browser, page: Path) -> None:
    tab = opened(browser, page, width=390, height=800)
    assert "between GMPO and GRPO is shown" in tab.texts(".headline")[0] or "GMPO is" in tab.texts(".headline")[0]
    (first, *_) = tab.texts("header code")
    assert first == "gmpo-mm sweep small.yaml"
    assert tab.value("document.querySelector('header code').getBoundingClientRect().bottom") < 800


def test_a_wide_table_scrolls_by_itself_on_a_phone_and_can_be_reached_by_key(browser: Browser, page: Path) -> None:
    tab = opened(browser, page, width=390)
    assert tab.value("document.documentElement.scrollWidth") == 390
    regions = "[...document.querySelectorAll('.scroll:has(table)')]"
    hidden = tab.value(f"{regions}.map((node) => node.scrollWidth - node.clientWidth)")
    assert len(hidden) == tab.count("table") and max(hidden) > 200
    assert tab.value(f"{regions}.every((node) => getComputedStyle(node).overflowX === 'auto' && node.tabIndex === 0)")
    assert tab.value(f"(() => {{ const node = {regions}[0]; node.scrollLeft = 150; return node.scrollLeft; }})()") == 150
    names = tab.value("[...document.querySelectorAll('tbody th')].map((node) => node.getBoundingClientRect().height)")
    assert max(names) < 100  # no name is squeezed into a column of letters


def test_cards_of_figures_leave_no_hole_in_the_grid(browser: Browser, page: Path) -> None:
    tab = opened(browser, page)
    boxes = tab.value(
        "[...document.querySelectorAll('.figures > .box')].map((node) => node.getBoundingClientRect())"
        ".map((box) => [Math.round(box.top), Math.round(box.left), Math.round(box.right), Math.round(box.bottom)])"
    )
    left, right = min(box[1] for box in boxes), max(box[2] for box in boxes)
    rows = {top: [box for box in boxes if box[0] == top] for top in {box[0] for box in boxes}}
    for row in rows.values():
        assert (min(box[1] for box in row), max(box[2] for box in row)) == (left, right)
        assert len({box[3] for box in row}) == 1


def test_the_page_has_no_script_and_no_handler(browser: Browser, page: Path) -> None:
    tab = opened(browser, page)
    assert tab.count("script") == 0
    names = tab.value("[...document.querySelectorAll('*')].flatMap((node) => [...node.attributes].map((one) => one.name))")
    assert not [name for name in names if name.startswith("on")]


def test_text_in_a_figure_stays_inside_it(browser: Browser, page: Path) -> None:
    tab = opened(browser, page)
    outside = tab.value(
        "[...document.querySelectorAll('svg text')].filter((node) => { const text = node.getBoundingClientRect();"
        " const card = node.closest('section').getBoundingClientRect();"
        " return text.left < card.left || text.right > card.right || text.top < card.top || text.bottom > card.bottom; })"
        ".map((node) => node.textContent)"
    )
    assert outside == []


def test_hostile_names_are_shown_and_never_run(browser: Browser, sweep_copy: Callable[[], Path], tmp_path: Path) -> None:
    folder = sweep_copy()

    def change(data: dict) -> None:  # type: ignore[type-arg]
        data["title"] = HOSTILE
        for variant in data["variants"]:
            variant |= {"label": f"{variant['name']} {HOSTILE}", "overrides": [HOSTILE, "w" * 900]}
        data["runs"][0] |= {"state": "failed", "reason": HOSTILE + "y" * 900}

    change_sweep(folder, change)
    page = write_report([folder], tmp_path / "out").folder / "report.html"
    tab = opened(browser, page, width=360)
    assert tab.value("document.documentElement.dataset.hacked === undefined")
    assert tab.value("document.title") == HOSTILE.strip()
    assert tab.texts("h1") == [HOSTILE.strip()]
    assert tab.count("script, img, iframe, object") == 0
    assert tab.value("document.documentElement.scrollWidth") == 360
