"""Dr. GRPO's grader without computer algebra: answers taken from responses, texts brought to a form.

The behaviour is that of `math_grader.py` in github.com/sail-sg/understand-r1-zero (commit dfca49d), oddities
included: grades are only comparable with the paper's when `\\text{m}` and a stray brace count here as there.
"""

import contextlib
import itertools
import re
from collections.abc import Callable
from functools import cache, reduce
from os.path import commonprefix

# Words that the MATH form drops where they stand alone. Order and repetitions matter: a word is dropped once
# a pass and two neighbours need two. A point stands for any character, as it does where the list comes from.
_UNIT_TEXT = (
    "east|degree|mph|kmph|ft|m sqaure| m east|sq m|deg|mile|q .|monkey|prime|ratio|profit of rs|rd|o|gm|"
    "p . m|lb|tile|per|dm|lt|gain|ab|way|west|a .|b .|c .|d .|e .|f .|g .|h .|t|a|h|no change|men|soldier|"
    "pie|bc|excess|st|inches|noon|percent|by|gal|kmh|c|acre|rise|a . m|th|π r 2|sq|mark|l|toy|coin|sq . m|"
    "gallon|° f|profit|minw|yr|women|feet|am|pm|hr|cu cm|square|v â € ™|are|rupee|rounds|cubic|cc|mtr|s|ohm|"
    "number|kmph|day|hour|minute|min|second|man|woman|sec|cube|mt|sq inch|mp|∏ cm ³|hectare|more|sec|unit|"
    "cu . m|cm 2|rs .|rs|kg|g|month|km|m|cm|mm|apple|liter|loss|yard|pure|year|increase|decrease|d|less|"
    "Surface|litre|pi sq m|s .|metre|meter|inch"
)
# Dropped by the form for sympy, even inside a longer word, with a plural and a power behind them.
_MEASURES = str.split(
    "degree cm centimeter meter mile second minute hour day week month year foot feet inch yard"
)

_WHOLE_TEXT = re.compile(r"^\\text\{(.+?)\}$")
_PLAIN_RATIO = re.compile(r"(0|-?[1-9][0-9]*)/(0|-?[1-9][0-9]*)")
_THOUSANDS = re.compile(r"(\d),(\d\d\d)($|\D)")


def boxed_answer(response: str) -> str | None:
    """What the last `\\boxed{...}` holds; None where it is not closed, whatever stands before it."""
    start = response.rfind("\\boxed")
    if start < 0 or not response.startswith("\\boxed{", start):
        return None
    depth = 0
    for brace in re.finditer("[{}]", response[start:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return response[start + len("\\boxed{") : start + brace.start()]
    return None


def tagged_answer(response: str) -> str | None:
    """What follows the last `<answer>`; None unless `</think> <answer>` (one space) and `</answer>` occur.

    Text behind `</answer>` belongs to it. Where it holds a `\\boxed`, the box is the answer.
    """
    if "</think> <answer>" not in response or "</answer>" not in response:
        return None
    answer = response.rpartition("<answer>")[2].replace("</answer>", "")
    return boxed_answer(answer) if "\\boxed" in answer else answer


def _replaced(text: str, *replacements: tuple[str, str]) -> str:
    return reduce(lambda so_far, pair: so_far.replace(*pair), replacements, text)


def math_form(text: str) -> str:
    """The text as the MATH data set's evaluation would compare it; the text itself where that one stops."""
    text = text.strip()
    if whole := _WHOLE_TEXT.search(text):
        text = whole[1].strip()
    form = _replaced(text, ("\n", ""), ("\\!", ""), ("\\\\", "\\"))
    form = re.sub(r"\\begin\{array\}\{.*?\}", r"\\begin{pmatrix}", form)
    form = _replaced(form, ("\\end{array}", "\\end{pmatrix}"), ("bmatrix", "pmatrix"), ("tfrac", "frac"))
    form = _replaced(form, ("dfrac", "frac"), ("\\neq", "\\ne"), ("\\leq", "\\le"), ("\\geq", "\\ge"))
    form = _replaced(form, ("\\left", ""), ("\\right", ""))
    form = _without_unit_words(re.sub(r"\\text{.*?}$", "", form).strip() or form)
    form = _replaced(form, ("^{\\circ}", ""), ("^\\circ", ""), ("\\$", ""))
    form, *spaced_texts = form.split("\\text{ ")  # with its space it opens a unit
    return text if len(spaced_texts) > 1 else standard_form(form.replace("\\%", ""), text)


def standard_form(form: str, text: str) -> str:
    """Numbers, fractions and roots in one spelling, without spaces; `text` where the MATH evaluation stops."""
    form = _replaced(form, (" .", " 0."), ("{.", "{0."))
    if form.startswith("."):
        form = "0" + form
    left, equals, right = form.partition("=")
    if equals and "=" not in right and len(left) <= 2:
        form = right
    if re.search(r"\\sqrt(\\sqrt|\Z)", form):
        return text
    form = re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", form).replace(" ", "")
    if short := re.search(r"\\frac([^{]?)(?=\\frac|\Z)", form):  # too little behind it
        return form if short[1] else text
    form = re.sub(r"\\frac([^{])([^{])", r"\\frac{\1}{\2}", form)
    form = re.sub(r"\\frac([^{])\{", r"\\frac{\1}{", form)
    if form == "0.5":
        return "\\frac{1}{2}"
    return _PLAIN_RATIO.sub(r"\\frac{\1}{\2}", form) if _PLAIN_RATIO.fullmatch(form) else form


@cache
def _units() -> list[tuple[str, re.Pattern[str]]]:
    """Of each unit a text that every match holds, which spares most searches, and the pattern."""
    words = _UNIT_TEXT.split("|")
    words += [f"{word}s" for word in words]
    return [(max(word.split("."), key=len), re.compile(rf"(^|\W){word}($|\W)")) for word in words]


def _without_unit_words(text: str) -> str:
    for key, pattern in _units() * 2:
        if key in text:
            text = pattern.sub(r"\1\2", text) or text  # a unit alone stays
    return text


def sympy_form(text: str, plain: Callable[[str], str]) -> str:
    """The text as it goes on to sympy; `plain` turns LaTeX into unicode text, and may raise."""
    if whole := _WHOLE_TEXT.search(text):
        text = whole[1]
    text = _replaced(text, ("\\%", ""), ("\\$", ""), ("$", ""), ("%", ""), (" or ", " , "), (" and ", " , "))
    text = _replaced(text, ("million", "*10^6"), ("billion", "*10^9"), ("trillion", "*10^12"))
    for measure in _MEASURES:
        text = re.sub(rf"{measure}(es)?(s)? *(\^[0-9]+)?", "", text)
    text = re.sub(r"\^ *\\circ", "", text)
    if text[:1] == "{" and text[-1:] == "}":
        text = text[1:-1]
    text = re.sub(r",\\! *", "", text)
    number = _integral(text)
    if number is not None:
        text = str(round(number))
    if "\\" in text:
        with contextlib.suppress(Exception):  # a text that it can't read is graded as it stands
            text = plain(text)
    text = re.sub("- *", "-", text)
    text = re.sub("([0-9]) +([0-9])", r"\1+\2", text)  # 7 3/4 is 7+3/4
    text = _replaced(text, (" ", ""), ("{", ""), ("}", "")).lower()
    return str(int(float(text.replace(",", "")))) if is_integral(text) else text


def without_thousands_commas(text: str) -> str:
    """`1,234,567` without its commas; commas that are followed by other than three digits stay."""
    while (shorter := _THOUSANDS.sub(r"\1\2\3", text)) != text:
        text = shorter
    return text


def is_integral(text: str) -> bool:
    """Whether the text is a number that is whole within 1e-7, thousands commas aside."""
    return _integral(without_thousands_commas(text)) is not None


def _integral(text: str) -> float | None:
    try:
        number = float(text)
        return number if abs(number - round(number)) <= 1e-7 else None
    except (ValueError, OverflowError):  # no number; not a number; infinite
        return None


def is_repetitive(text: str) -> bool:
    """Whether more than a fifth of the text's substrings, counted by position, are repeats of another."""
    suffixes = sorted(text[start:] for start in range(len(text)))  # neighbours share what is repeated
    repeats = sum(len(commonprefix(pair)) for pair in itertools.pairwise(suffixes))  # noqa: RUF071
    return 5 * repeats > len(text) * (len(text) + 1) / 2
