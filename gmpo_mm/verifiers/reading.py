r"""What an answer says: one value, the conditions behind it, or the letter of an option.

The rule: an answer has one value. A text is read in one way only, whatever the gold is, and what is not understood whole
stays prose, which equals nothing but the same prose. Words around a value must be on the list `words.AROUND`.
"""

import itertools
import re
from dataclasses import dataclass
from functools import lru_cache

from gmpo_mm.verifiers.extraction import BOX_OPENING, all_boxes
from gmpo_mm.verifiers.normalize import canonical
from gmpo_mm.verifiers.structure import Node, parse, split
from gmpo_mm.verifiers.units import split_unit
from gmpo_mm.verifiers.words import AROUND, has_words


@dataclass(frozen=True)
class Reading:
    """`text` is canonical. `letter` is the option's letter in `(B)`, `B. 12`; `indices` are names declared as integers."""

    text: str
    conditions: tuple[str, ...] = ()
    indices: frozenset[str] = frozenset()
    letter: str | None = None


_ONLY_BETWEEN = re.compile(
    r"(?:[\s,;.$&:]|\\[,;:!() \[\]]|\\q?quad|\\text\s*\{\s*(?:and|or)[\s,]*\}|and|or)*", re.IGNORECASE
)
_PROSE = Node("scalar", "any prose")
_CHOICE = re.compile(
    r"(?:(?:the )?(?:option|choice|answer)(?: is)?:? ?)?(?:\( ?([A-J]) ?\)|([A-J])(?=$|[.):]))(?:$|[.):]*)(?:$| (.*))",
    re.IGNORECASE | re.DOTALL,
)
_OTHER_LETTER = re.compile(
    r"(?<![A-Za-z\\])(?:[A-J](?= ?(?:[).:,/]|$|or\b|and\b))|(?:or|and|not|but) \(?[A-J](?![A-Za-z]))"
)
_DENIES = re.compile(
    r"(?<![A-Za-z])(?:not?|nor|neither|never|none|without|except|but|or|wrong|incorrect|false|unless|instead|isn't|aren't|n't)"
    r"(?![A-Za-z])",
    re.IGNORECASE,
)
_GOES_ON = re.compile(r"(?:[-=<>+*/^!|]|\\approx)")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_TOKEN = re.compile(r"[A-Za-z]+(?:'s)?|\\[A-Za-z]+(?: ?_ ?\{? ?\w+ ?\}?)?|\s+|.", re.DOTALL)
_SAYS = frozenset(
    str.split(
        "is are was be equals equal : get have find obtain gives give thus so hence therefore then that answer"
    )
)
_LETTER = re.compile(r"\(?[A-Ja-j]\)?")
_COPULAS = frozenset({"is", "are", "equals", "equal", ":", "was", "be"})
_BEFORE_NAMES = frozenset(
    str.split("of to by from for in triangle angle segment line point circle number and side")
)
_OF_AN_ANSWER = re.compile(
    r"\bof (?:the |my |our |this |a )?(?:\w+ )?(?:answer|result|solution|value)\b", re.IGNORECASE
)
_NAME_PIECE = re.compile(
    r"[A-Za-z]|[A-Z]{2,5}|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|phi|omega|triangle|angle)(?: ?_.*)?"
)
_BEHIND = re.compile(
    r",? (?:is|as|are|be) (?:the |our |my |a )?(?:final |correct |required |only |exact )?"
    r"(?:answers?|solutions?|results?|values?)$",
    re.IGNORECASE,
)
_CONDITION = re.compile(
    r"[,;.]? ?(?<![A-Za-z\\])(?:for|where|when|whenever|if|with|provided|given|assuming|as long as|such that)(?: that)?"
    r"(?![A-Za-z]) ?",
    re.IGNORECASE,
)
_IN_BRACKETS = re.compile(r"(.*\S) \(([^()]*(?:\\in ?\\(?:integers|naturals|reals)|<=|>=|!=|<|>)[^()]*)\)")
_CONSTANT = re.compile(
    r"(?:an? )?([A-Za-z])(?: ?_ ?\{? ?\d ?\}?)? (?:is|are|being) (?:an? )?(?:(?:arbitrary|real|any|positive) )*constants?"
)
_INTEGER = re.compile(
    r"(?:for )?(?:any|all|every|some|each)? ?(?:(?:positive|nonnegative|non-negative|arbitrary) )*"
    r"(?:(?:integers?|natural numbers?) )?((?:[a-zA-Z](?: ?, ?| and )?)+)"
    r"(?: ?(?:\\in (?:\\integers|\\naturals|Z|N)(?: ?\^ ?\{? ?\+ ?\}?| ?_ ?\{? ?[+>].{0,5})?"
    r"|(?:is|are|be|being) (?:an?|any|arbitrary) ?(?:\w+ )?integers?|are integers|(?:an? )?(?:any )?integers?))?"
)
_SAYS_INTEGER = re.compile(r"integer|\\naturals|natural|\\in [ZN](?![A-Za-z])")
_ALL = re.compile(
    r"(?:all|any|every) (?:(?:real|positive|natural)(?: numbers?)? )?([a-z])(?: ?\\in \\?\w+)?|([a-z]) ?\\in ?\\reals"
)
_RELATION = re.compile(r"<=|>=|!=|<|>|\\in(?![A-Za-z])")


@lru_cache(maxsize=8192)
def read(text: str) -> Reading:
    """The one reading of an answer's text, as it was written (not canonical)."""
    said = canonical(_boxed(text))
    choice = _CHOICE.fullmatch(said)
    if choice and (choice.group(3) is None or _one_thing(choice.group(3))):
        bare = choice.group(3) is None
        letter = choice.group(1) or choice.group(2)
        if bare or letter.isupper() or choice.group(1):
            return Reading(letter if bare else said, letter=letter.upper())
    if has_words(said):
        said = canonical(_value_in_prose(said))
        if (inner := _CHOICE.fullmatch(said)) and inner.group(3) is None:
            return Reading(said, letter=(inner.group(1) or inner.group(2)).upper())
    return _without_conditions(said)


def _boxed(text: str) -> str:
    """The boxes of a text that has some: all of them where only commas, `and`, `or` stand between; else the last."""
    if "\\boxed" not in text and "\\fbox" not in text:
        return text
    spans = all_boxes(text)
    if not spans:
        return text
    between = [BOX_OPENING.sub("", text[a[1] + 1 : b[0]]) for a, b in itertools.pairwise(spans)]
    if len(spans) > 1 and all(_ONLY_BETWEEN.fullmatch(piece) for piece in between):
        return ", ".join(text[start:end].strip() for start, end in spans)
    if len(spans) > 1 and all(
        not has_words(split_unit(item.text)[0]) for item in parse(canonical(text)).items or [_PROSE]
    ):
        return text  # `y_1 = \\boxed{2} and y_2 = \\boxed{3}`, `\\boxed{1} papers and \\boxed{2} bins`
    last = text[spans[-1][0] : spans[-1][1]]
    behind = canonical(text[spans[-1][1] + 1 :])
    return f"{last} {behind}" if behind and split_unit(f"1 {behind}")[0] == "1" else last


def _one_thing(text: str) -> bool:
    """Whether an option's text names no other option, denies nothing and has at most one number or formula."""
    if _OTHER_LETTER.search(text) or _DENIES.search(text) or _GOES_ON.match(text):
        return False
    return len(_NUMBER.findall(text)) <= 1 or not has_words(text)


def _value_in_prose(text: str) -> str:
    """`5` in `the value of x is 5` and `5 is the answer`; the text itself where any word is not on the list."""
    shorter = _BEHIND.sub("", text)
    value_from, before, before_last, name, named = 0, "", "", "", False
    for token in _TOKEN.finditer(shorter):
        piece = token.group()
        word = "A, not a" if piece == "A" and before else piece.lower()
        if piece.isspace():
            continue
        if name and not (
            word in _COPULAS or before in _BEFORE_NAMES
        ):  # `the answer is C, ...`: C is said, not named
            break
        if name and before in _COPULAS:  # `the answer is A is 5`
            break
        before, name = (before, piece) if _NAME_PIECE.fullmatch(piece) and word not in AROUND else (word, "")
        if not (name or piece in ",:." or word in AROUND):
            break
        named |= bool(name)
        if word in _SAYS or (word == "to" and before_last == "equal"):
            value_from = token.end()
        before_last = word
    if named and _LETTER.fullmatch(shorter[value_from:].strip()):  # `the value C is B`
        return text
    if _OF_AN_ANSWER.search(shorter[:value_from]):
        return text
    return shorter[value_from:].strip(" ,:") or text


def _without_conditions(text: str) -> Reading:
    """Conditions behind a value that depends on what they restrict: `x + 1, x != 2`; `n\\pi, n \\in \\integers`."""
    if in_brackets := _IN_BRACKETS.fullmatch(text):
        text = f"{in_brackets.group(1)}, {in_brackets.group(2)}"
    found = _CONDITION.search(text, 1) if has_words(text) or " if " in text else None
    if found is not None and text[: found.start()].strip():
        value, behind = text[: found.start()].strip(" ,;."), text[found.end() :]
    else:
        pieces, commas = split(text, "comma")
        if not commas or not _is_condition(pieces[-1]) or _RELATION.search(pieces[0]):
            return Reading(text)
        first = next(i for i in range(len(pieces)) if all(_is_condition(piece) for piece in pieces[i:]))
        if first == 0:
            return Reading(text)
        value, behind = ",".join(pieces[:first]).strip(), ",".join(pieces[first:])
    conditions, indices = [], set()
    for piece in re.split(r",| and (?=[a-zA-Z] )|;", behind):
        piece = piece.strip()
        if (declared := _INTEGER.fullmatch(piece)) and _SAYS_INTEGER.search(piece):
            indices |= {name for name in re.split(r"[ ,]+|and", declared.group(1)) if len(name) == 1}
        elif everything := _ALL.fullmatch(piece) or _CONSTANT.fullmatch(piece):
            if not any(name and _has_name(value, name) for name in everything.groups()):
                return Reading(text)
        elif (
            piece
            and _is_condition(piece)
            and any(_has_name(value, name) for name in re.findall(r"[A-Za-z]+", piece))
        ):
            conditions.append(piece)
        elif piece:
            return Reading(text)
    if not value or (indices and not any(_has_name(value, name) for name in indices)):
        return Reading(text)
    return Reading(value, tuple(conditions), frozenset(indices))


def _is_condition(piece: str) -> bool:
    """A relation other than an equation, or the declaration of an integer."""
    piece = piece.strip()
    if _INTEGER.fullmatch(piece) and _SAYS_INTEGER.search(piece):
        return True
    relation = _RELATION.search(piece)
    return (
        relation is not None
        and "=" not in _RELATION.sub("", piece)
        and re.search("[A-Za-z]", piece) is not None
    )


def _has_name(text: str, name: str) -> bool:
    return (
        re.search(
            rf"(?<![A-Za-z\\]){re.escape(name)}(?![A-Za-z])|(?<=[0-9A-Za-z]){re.escape(name)}(?![A-Za-z])",
            text,
        )
        is not None
    )
