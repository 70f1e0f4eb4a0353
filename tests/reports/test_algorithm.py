"""An algorithm has one colour, on every page and in every figure."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from gmpo_mm.evaluation import page as evaluation_page
from gmpo_mm.reports.algorithm import ALGORITHMS, GMPO, GRPO, algorithm_of, series_of_run, series_of_variants
from gmpo_mm.reports.figure_style import DARK, LIGHT
from gmpo_mm.reports.run_figure import draw_run
from gmpo_mm.reports.study import Run, Variant
from tests.reports.made import write_run


def config(loss: str, estimator: str = "grpo", **gmpo: Any) -> dict[str, Any]:
    return {"algorithm": {"adv_estimator": estimator}, "worker": {"actor": {"loss_type": loss, "gmpo": gmpo}}}


def variant(label: str, settings: dict[str, Any] | None = None, *overrides: str) -> Variant:
    run = Run(Path(label), "1", {}, "gmpo-mm", "finished", config=settings)
    return Variant(label, label, (run,), overrides)


def test_an_algorithm_keeps_its_series_in_any_company_and_order() -> None:
    grpo, gmpo, gspo = (
        variant("a", config("default")),
        variant("b", config("gmpo")),
        variant("c", config("gspo")),
    )
    for variants in ([grpo, gmpo, gspo], [gspo, gmpo, grpo], [gmpo], [gmpo, grpo], [grpo, gspo]):
        expected = {"a": GRPO, "b": GMPO, "c": ALGORITHMS.index("GSPO")}
        assert series_of_variants(variants) == tuple(expected[one.label] for one in variants)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (config("default"), "GRPO"), (config("default", "dr_grpo"), "Dr. GRPO"), (config("gmpo"), "GMPO"),
        (config("gspo_token"), "GSPO"), (config("cispo"), "CISPO"), (config("sapo"), "SAPO"), (config("own_loss"), None),
        (config("default", "rloo"), None), ({"worker": {"actor": None}}, None), (None, None),
    ],
)  # fmt: skip
def test_the_algorithm_is_read_from_the_configuration(
    settings: dict[str, Any] | None, name: str | None
) -> None:
    assert algorithm_of(settings) == name
    assert series_of_run(settings) == (len(ALGORITHMS) if name is None else ALGORITHMS.index(name))


def test_of_several_variants_of_an_algorithm_the_plain_one_has_its_colour() -> None:
    """As in the paper's Table 4, where GMPO is the last line."""
    variants = [
        variant("GRPO", config("default")), variant("no clip", config("gmpo", clip="none")),
        variant("no norm", config("gmpo", normalize=False)), variant("ours", config("gmpo", clip="token", log_clip_low=0.4)),
    ]  # fmt: skip
    series = series_of_variants(variants)
    assert (series[0], series[3]) == (GRPO, GMPO)
    assert len(set(series)) == 4
    named = [variant("GMPO, twice the rate", config("gmpo")), variant("GMPO", config("gmpo"))]
    assert series_of_variants(named)[1] == GMPO


def test_runs_without_a_configuration_are_known_by_settings_or_label() -> None:
    variants = [
        variant("easyr1_gmpo_7b"),
        variant("GRPO of EasyR1"),
        variant("x", None, "worker.actor.loss_type=gspo"),
    ]
    assert series_of_variants(variants) == (GMPO, GRPO, ALGORITHMS.index("GSPO"))
    assert series_of_variants([variant("drgrpo_1"), variant("megagrpox")])[0] == ALGORITHMS.index("Dr. GRPO")


def test_many_variants_have_series_of_their_own_and_never_grpo_s_or_gmpo_s_colour() -> None:
    variants = [variant(f"v{i}") for i in range(20)] + [variant("GMPO", config("gmpo"))]
    series = series_of_variants(variants)
    assert len(set(series)) == 21
    assert {one % len(LIGHT) for one in series[:20]} == set(range(len(LIGHT))) - {GRPO, GMPO}


def test_the_evaluation_s_page_has_the_colours_of_the_figures() -> None:
    css = (evaluation_page.TEMPLATES / "page.css").read_text(encoding="utf-8")
    for name, series in (("grpo", GRPO), ("gmpo", GMPO)):
        assert re.findall(rf"--{name}: (#\w+);", css) == [LIGHT[series], DARK[series]]
    ours = re.findall(r"--ours: (#\w+);", css)
    assert len(ours) == 2 and not set(ours) & {*LIGHT, *DARK}


def test_the_picture_of_one_run_is_in_its_algorithm_s_colour(tmp_path: Path) -> None:
    from PIL import Image

    text = "algorithm: {adv_estimator: grpo}\nworker: {actor: {loss_type: LOSS}}\n"
    metrics = {"actor/grad_norm": 1.0, "ratio/token_min": 0.9, "ratio/token_max": 1.1, "actor/entropy": 1.0}
    found = {}
    for loss, series in (("default", GRPO), ("gmpo", GMPO)):
        run = write_run(tmp_path / loss, [0.1, 0.5, 0.7], config=text.replace("LOSS", loss), metrics=metrics)
        pixels = (
            Image.open(draw_run(run, [], "title", tmp_path / f"{loss}.png")).convert("RGB").getcolors(1 << 24)
        )
        found[series] = {f"#{r:02x}{g:02x}{b:02x}" for _, (r, g, b) in pixels}
    assert LIGHT[GRPO] in found[GRPO] and LIGHT[GMPO] not in found[GRPO]
    assert LIGHT[GMPO] in found[GMPO] and LIGHT[GRPO] not in found[GMPO]
