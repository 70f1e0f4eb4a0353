r"""What an answer says: one value, the conditions behind it, or the letter of an option.

The rule: an answer has one value. A text is read in one way, whatever the gold is, and what is not understood
whole stays prose, which equals nothing but the same prose. Words around a value must be on `words.AROUND`.
"""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from gmpo_mm.verifiers.extraction import BOX_OPENING, all_boxes
from gmpo_mm.verifiers.normalize import canonical
from gmpo_mm.verifiers.structure import parse, split
from gmpo_mm.verifiers.units import split_unit
from gmpo_mm.verifiers.words import AROUND, has_words


@dataclass(frozen=True)
class Reading:
    """A canonical text; `letter` is the option's letter, as in `B. 12`; `indices` are declared integers."""

    text: str
    conditions: tuple[str, ...] = ()
    indices: frozenset[str] = frozenset()
    letter: str | None = None


_CHOICE = re.compile(
    r"(?is)(?:(?:the )?(?:option|choice|answer)(?: is)?:? ?)?(?:\( ?([A-J]) ?\)|([A-J])(?=$|[.):]))"
    r"(?:$|[.):]*)(?:$| (.*))"
)
# Another option, a denial, or a formula that goes on behind the letter.
_SAYS_MORE = re.compile(
    r"(?<![A-Za-z\\])(?:[A-J](?= ?(?:[).:,/]|$|or\b|and\b))|and \(?[A-J](?![A-Za-z]))"
    r"|^(?:[-=<>+*/^!|]|\\approx)|(?<![A-Za-z])(?i:not?|nor|neither|never|none|without|except|but|or|wrong"
    r"|incorrect|false|unless|instead|isn't|aren't)(?![A-Za-z])"
)
_TOKEN = re.compile(r"[A-Za-z]+(?:'s)?|\\[A-Za-z]+(?: ?_ ?\{? ?\w+ ?\}?)?|\S")
_COPULAS = set(str.split("is are was be equals equal :"))
_SAYS = _COPULAS.union(str.split("get have find obtain gives give thus so hence therefore then that answer"))
_NAMED_BY = set(str.split("of to by from for in triangle angle segment line point circle number and side"))
_OF_AN_ANSWER = re.compile(r"(?i)\bof (?:(?:the|my|our|this|a) )?(?:\w+ )?(?:answer|result|solution|value)\b")
_NAME_PIECE = re.compile(
    r"[A-Za-z]|[A-Z]{2,5}|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|phi|omega|triangle|angle)(?: ?_.*)?"
)
_BEHIND = re.compile(
    r"(?i),? (?:is|as|are|be) (?:(?:the|our|my|a) )?(?:(?:final|correct|required|only|exact) )?"
    r"(?:answer|solution|result|value)s?$"
)
_CONDITION = re.compile(
    r"(?i)[,;.]? ?(?<![A-Za-z\\])(?:for|where|when|whenever|if|with|provided|given|assuming"
    r"|as long as|such that)(?: that)?(?![A-Za-z]) ?"
)
_IN_BRACKETS = re.compile(r"^(.*\S) \(([^()]*(?:\\in ?\\(?:integers|naturals|reals)|<=|>=|!=|<|>)[^()]*)\)$")
_SAYS_INTEGER = re.compile(r"integer|\\naturals|natural|\\in [ZN](?![A-Za-z])")
_INTEGER = re.compile(
    r"(?:for )?(?:any|all|every|some|each)? ?(?:(?:positive|non-?negative|arbitrary) )*"
    r"(?:(?:integers?|natural numbers?) )?((?:[a-zA-Z](?: ?, ?| and )?)+)"
    r"(?: ?(?:\\in (?:\\integers|\\naturals|Z|N)(?: ?\^ ?\{? ?\+ ?\}?| ?_ ?\{? ?[+>].{0,5})?"
    r"|(?:is|are|be|being) (?:an?|any|arbitrary) ?(?:\w+ )?integers?|(?:are )?(?:an? )?(?:any )?integers?))?"
)
_ANY = re.compile(
    r"(?:all|any|every) (?:(?:real|positive|natural)(?: numbers?)? )?([a-z])(?: ?\\in \\?\w+)?"
    r"|([a-z]) ?\\in ?\\reals|(?:an? )?([A-Za-z])(?: ?_ ?\{? ?\d ?\}?)? (?:is|are|being) (?:an? )?"
    r"(?:(?:arbitrary|real|any|positive) )*constants?"
)
_RELATION = re.compile(r"<=|>=|!=|<|>|\\in(?![A-Za-z])")


@lru_cache(maxsize=8192)
def read(text: str) -> Reading:
    """The one reading of an answer's text, as it was written (not canonical)."""
    said = canonical(_boxed(text))
    choice = _CHOICE.fullmatch(said)
    if choice and choice[3] is not None and _is_option(choice[1] or choice[2], choice[3], bool(choice[1])):
        return Reading(said, letter=(choice[1] or choice[2]).upper())
    if has_words(said):
        said = canonical(_value_in_prose(said))
    if (choice := _CHOICE.fullmatch(said)) and choice[3] is None:
        return Reading(choice[1] or choice[2], letter=(choice[1] or choice[2]).upper())
    return _without_conditions(said)


def _is_option(letter: str, option: str, in_brackets: bool) -> bool:
    """Whether a text behind a letter is that option's; `(b) h` is a product."""
    letters = re.sub(r"\\[A-Za-z]+|[^A-Za-z]", "", option)
    is_product = len(letters) == len(option) == 1 or (letter.islower() and letters and not has_words(option))
    one_thing = len(re.findall(r"\d+(?:[.,]\d+)*", option)) <= 1 or not has_words(option)
    is_letter = in_brackets or letter.isupper()
    return is_letter and one_thing and not is_product and not _SAYS_MORE.search(option)


def _boxed(text: str) -> str:
    """The boxes of a text that has some: all where only commas, `and`, `or` stand between; else the last."""
    spans = all_boxes(text) if "\\boxed" in text or "\\fbox" in text else []
    if not spans:
        return text
    if len(spans) > 1:
        between = [BOX_OPENING.sub("", text[a[1] + 1 : b[0]]) for a, b in itertools.pairwise(spans)]
        if all(re.fullmatch(r"(?i)(?:[\s,;.&:]|and|or)*", canonical(piece)) for piece in between):
            return ", ".join(text[start:end].strip() for start, end in spans)
        items = parse(canonical(text)).items
        if items and not any(has_words(split_unit(item.text)[0]) for item in items):
            return text  # `y_1 = \\boxed{2} and y_2 = \\boxed{3}`, `\\boxed{1} papers and \\boxed{2} bins`
    (start, end), behind = spans[-1], canonical(text[spans[-1][1] + 1 :])
    return text[start:end] + (f" {behind}" if split_unit(f"1 {behind}")[0] == "1" else "")


def _value_in_prose(text: str) -> str:
    """`5` in `the value of x is 5`, `5 is the answer`; the text itself where a word is not on the list."""
    shorter = _BEHIND.sub("", text)
    value_from, before, name, named = 0, "", "", False
    for token in _TOKEN.finditer(shorter):
        piece = token.group()
        word = piece if piece == "A" and before else piece.lower()
        # `the answer is C, ...` says C, it names nothing; `the answer is A is 5` says nothing
        if name and (before in _COPULAS or not (word in _COPULAS or before in _NAMED_BY)):
            break
        before, name = (before, piece) if _NAME_PIECE.fullmatch(piece) and word not in AROUND else (word, "")
        if not (name or piece in ",:." or word in AROUND):
            break
        named |= bool(name)
        if word in _SAYS or shorter[token.start() - 6 : token.end()].lower() == "equal to":
            value_from = token.end()
    value = shorter[value_from:].strip(" ,:")
    if (named and re.fullmatch(r"\(?[A-Ja-j]\)?", value)) or _OF_AN_ANSWER.search(shorter[:value_from]):
        return text  # `the value C is B`
    return value or text


def _without_conditions(text: str) -> Reading:
    r"""Conditions behind a value with a name that they restrict: `x + 1, x != 2`; `n\pi, n \in \integers`."""
    text = _IN_BRACKETS.sub(r"\1, \2", text)
    if has_words(text) and (found := _CONDITION.search(text, 1)):
        value, behind = text[: found.start()].strip(" ,;."), text[found.end() :]
    else:
        pieces = split(text, "comma")[0]
        of_value = list(itertools.dropwhile(_is_condition, reversed(pieces)))[::-1]
        value, behind = ",".join(of_value).strip(), ",".join(pieces[len(of_value) :])
        if not behind or _RELATION.search(pieces[0]):
            return Reading(text)
    conditions: list[str] = []
    indices: frozenset[str] = frozenset()
    for piece in filter(None, map(str.strip, re.split(r",| and (?=[a-zA-Z] )|;", behind))):
        declared, any_of = _declared(piece), _ANY.fullmatch(piece)
        is_condition = not declared and not any_of and _is_condition(piece)
        names = declared or (filter(None, any_of.groups()) if any_of else re.findall(r"[A-Za-z]+", piece))
        if not (declared or any_of or is_condition) or not (declared or _has_name(value, names)):
            return Reading(text)
        indices |= declared
        conditions += [piece] * is_condition
    if not value or (indices and not _has_name(value, indices)):
        return Reading(text)
    return Reading(value, tuple(conditions), indices)


def _declared(piece: str) -> frozenset[str]:
    """Names that a text declares integers."""
    found = _INTEGER.fullmatch(piece.strip()) if _SAYS_INTEGER.search(piece) else None
    return frozenset(re.findall(r"\b[A-Za-z]\b", found[1])) if found else frozenset()


def _is_condition(piece: str) -> bool:
    """A relation other than an equation, or the declaration of an integer."""
    without, relations = _RELATION.subn("", piece)
    is_relation = relations and "=" not in without and re.search("[A-Za-z]", piece)
    return bool(is_relation or _declared(piece))


def _has_name(text: str, names: Iterable[str]) -> bool:
    return any(re.search(rf"(?<!\\){name}(?![A-Za-z])", text) for name in names)
