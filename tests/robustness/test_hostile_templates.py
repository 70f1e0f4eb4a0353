"""Templates that compute for ever, fill the memory or reach for Python: a clear error in bounded time, here as there."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from gmpo_mm.data import templates
from gmpo_mm.data.prompts import build_messages, build_prompt, load_format_prompt
from gmpo_mm.errors import DataError
from gmpo_mm.models.processing import Processor
from tests.data.conftest import processor
from tests.data.helpers import records_of

__all__ = ["processor"]

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}BODY{% endfor %}{% endfor %}"
HOSTILE = {
    "silent loops": LOOP.replace("BODY", "{% set c = a %}"),
    "loops that write": LOOP.replace("BODY", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
    "a large text": "{{ 'a' * 9999999999 }}",
    "a large number": "{{ 10 ** (10 ** 10) }}",
    "a large list": "{{ ([1] * 99999999999) | length }}",
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "a wide field": "{{ '%9999999999d' | format(1) }}",
    "centred": "{{ 'a' | center(9999999999) }}",
    "a macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a reach for Python": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a wrong type": "{{ 1 + 'a' }}",
    "a division by zero": "{{ 1 // 0 }}",
    "nested deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "no end": "{% if x",
}  # fmt: skip


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One second of processor time in place of five, from a process of the test's own."""
    monkeypatch.setattr(templates, "SECONDS", 1)
    templates._forget()


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", ["format", "chat"])
def test_a_template_that_means_harm_is_a_clear_error(processor: Processor, name: str, kind: str) -> None:
    record = records_of({})[0]
    if kind == "format":
        with pytest.raises(DataError, match="row 0 of test data: data.format_prompt can't be rendered: "):
            build_messages(record, HOSTILE[name] + "{{ content }}")
    else:
        tokenizer = copy.copy(processor.tokenizer)
        tokenizer.chat_template = HOSTILE[name]
        with pytest.raises(DataError, match="row 0 of test data: the model's chat template can't be rendered: "):
            build_prompt(record, Processor(tokenizer, None, None))
    assert templates.render("format", "{{ content }}!", {"content": "the next one"}) == "the next one!"


def test_what_a_template_writes_is_bounded() -> None:
    many = "{% for a in range(60000) %}" + "x" * 100 + "{% endfor %}"
    with pytest.raises(templates.TemplateError, match="more than 4,000,000 characters"):
        templates.render("format", many, {})


def test_a_format_prompt_that_never_compiles_is_refused_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jinja").write_text("{{ content }}{{ 10 ** (10 ** 10) }}")
    with pytest.raises(DataError, match="data.format_prompt: it takes more than 1 s"):
        load_format_prompt(tmp_path / "a.jinja")


CONVERSATIONS: tuple[list[dict[str, Any]], ...] = (
    [{"role": "user", "content": "What is 1 + 1? <é>\n"}],
    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which?"}]}],
)
FEATURES = (
    None, "{{ bos_token }}{{ eos_token }}{{ messages | tojson }}", "{% generation %}{{ messages[0].role }}{% endgeneration %}",
    "{% for m in messages %}\n  {{- m.role }}\n{% break %}{% endfor %}{{ tools is none }}{{ add_generation_prompt }}",
)  # fmt: skip


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("template", FEATURES)
def test_chat_templates_give_what_transformers_gives(
    processor: Processor, messages: list[dict[str, Any]], template: str | None
) -> None:
    tokenizer = copy.copy(processor.tokenizer)
    tokenizer.chat_template = template or tokenizer.chat_template
    wanted = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert Processor(tokenizer, None, None).chat_text(messages) == wanted
