"""The process that renders others' templates: questions and answers are lines of JSON. It imports nothing of ours."""

from __future__ import annotations

import json
import resource
import signal
import sys
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment


def serve(limits: dict[str, Any]) -> None:
    """Answer until the other side closes. A question that takes too long ends the process by SIGPROF."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what a package prints is no answer
    bounded = False
    for line in questions:
        question = json.loads(line)
        if question["kind"] == "chat":
            import transformers.utils.chat_template_utils  # noqa: F401  # before its memory and time are bounded
        if not bounded:
            _bound(resource.RLIMIT_AS, 4 * limits["bytes"])
            _bound(resource.RLIMIT_DATA, limits["bytes"])
            bounded = True
        signal.setitimer(signal.ITIMER_PROF, limits["seconds"])
        try:
            answer = _answer(question, limits["characters"])
        except MemoryError:
            answer = {"error": f"it takes more than {limits['bytes'] >> 20} MiB of memory"}
        except RecursionError:
            answer = {"error": "it is nested too deep, or calls itself for ever"}
        except jinja2.TemplateSyntaxError as error:
            answer = {"error": f"broken Jinja template: line {error.lineno}: {str(error)[:500]}"}
        except Exception as error:  # whatever a template makes of Python's types
            answer = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _bound(kind: int, most: int) -> None:
    """Set a limit, where the user's own (ulimit) is not lower already."""
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _answer(question: dict[str, Any], characters: int) -> dict[str, Any]:
    template = _compile(question["kind"], question["template"])
    if "values" not in question:
        environment = SandboxedEnvironment()
        tree = environment.parse(question["template"].strip())
        return {"variables": sorted(jinja2.meta.find_undeclared_variables(tree))}
    text: list[str] = []
    length = 0
    for piece in template.generate(**question["values"]):
        text.append(piece)
        length += len(piece)
        if length > characters:
            return {"error": f"it makes more than {characters:,} characters; does one of its loops never end?"}
    return {"text": "".join(text)}


@lru_cache(maxsize=16)
def _compile(kind: str, template: str) -> jinja2.Template:
    if kind == "chat":
        from transformers.utils.chat_template_utils import _compile_jinja_template

        compiled: jinja2.Template = _compile_jinja_template(template)
        return compiled
    if kind == "format":
        return SandboxedEnvironment(undefined=jinja2.StrictUndefined).from_string(template.strip())
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(template)
