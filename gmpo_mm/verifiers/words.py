"""Which letters are words, which words may stand around an answer, and which words are numbers."""

import re
from fractions import Fraction
from functools import lru_cache

_COMMAND = re.compile(r"\\[A-Za-z]+")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{\s*[a-z]+\*?\s*\}")
_LETTERS = re.compile(
    r"[A-Za-z]{3,}|(?<![A-Za-z\\])(?:and|or|no|is|of|to|at|in|if|by|not|as|on|an|be|it|we|so)(?![A-Za-z])",
    re.I,
)
_GEOMETRY = re.compile(r"\\(?:angle|cong|parallel|perp|triangle|sim)(?![A-Za-z])")
_FUNCTIONS = frozenset(
    str.split(
        "sin cos tan cot sec csc arcsin arccos arctan log exp sinh cosh tanh min max lim mod gcd lcm det "
        "floor ceil binom sqrt coth sech csch arcsec arccsc arccot arcsinh arccosh arctanh arsinh arcosh "
        "artanh"
    )
)
_NEXT_TO_LETTERS = frozenset("{}()[]^_+-*/=|<>,")

AROUND = frozenset(
    str.split(
        "a an the this that these our your its we i so thus hence therefore then finally and since when is "
        "are was be equals equal to of for in by from with which here as follows get have find obtain "
        "gives give conclude see it there exist exists answer answers final correct exact required desired "
        "requested asked total value values solution solutions result results number numbers sum product "
        "difference quotient ratio length width height area volume perimeter circumference radius diameter "
        "distance angle measure degree slope probability expected average mean median mode range cost "
        "price time speed velocity acceleration force energy mass age amount quantity coordinates point "
        "points vertex center equation function expression formula polynomial matrix vector interval "
        "domain set identity zero special unique only smallest largest greatest least minimum maximum "
        "possible real integer positive triangle rectangle circle polygon line segment side base "
        "surface units simplified simplify form interest rate percent fraction fractions multiplying "
        "adding computing solving must can written multiplication general distinct last first determinant "
        "sequence term terms remainder coefficient coefficients limit integral derivative choice "
        "option count students people ways roots root letter digits digit number's"
    )
)
"""Words of sentences that only say that an answer follows; none changes a value, as `not`, `twice` or `except` would."""

_CARDINALS = {
    word: value
    for value, word in enumerate(
        str.split(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
            "sixteen seventeen eighteen nineteen twenty"
        )
    )
}
_TENS = {
    word: 10 * (i + 3) for i, word in enumerate(str.split("thirty forty fifty sixty seventy eighty ninety"))
} | {"twenty": 20}
_PARTS = {
    word: Fraction(1, i + 3)
    for i, word in enumerate(
        str.split("third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth")
    )
}
MULTIPLIERS: dict[str, Fraction] = {
    "half": Fraction(1, 2), "halves": Fraction(1, 2), "quarter": Fraction(1, 4), "quarters": Fraction(1, 4),
    **_PARTS, **{f"{word}s": value for word, value in _PARTS.items()},
    "tenths": Fraction(1, 10), "hundredth": Fraction(1, 100), "hundredths": Fraction(1, 100), "thousandth": Fraction(1, 1000),
    "thousandths": Fraction(1, 1000), "dozen": Fraction(12), "dozens": Fraction(12), "hundred": Fraction(100),
    "thousand": Fraction(10**3), "million": Fraction(10**6), "billion": Fraction(10**9), "trillion": Fraction(10**12),
}  # fmt: skip
"""What a word behind a number multiplies it by: `3 fourths`, `5 million`, `2 dozens`."""


@lru_cache(maxsize=8192)
def has_words(canonical: str) -> bool:
    """Whether a canonical text is prose or a statement of geometry, and no formula."""
    if _GEOMETRY.search(canonical):
        return True
    text = _ENVIRONMENT.sub(lambda found: " " * len(found.group()), canonical)
    text = _COMMAND.sub(lambda found: " " * len(found.group()), text)
    return any(_is_word(text, canonical, run) for run in _LETTERS.finditer(text))


def _is_word(text: str, canonical: str, run: "re.Match[str]") -> bool:
    """`odd`, but neither `abc` and `xyz`, letters in a row or without a vowel, nor `mga` in `\\frac{mga}{2}`."""
    letters = run.group().lower()
    if letters in _FUNCTIONS:
        return False
    if letters in ("and", "not", "or", "no"):
        return True
    if len(letters) == 2 and run.group().isupper():  # the segment BE
        return False
    codes = sorted(map(ord, letters))
    if len(letters) > 2 and (
        not set(letters) & set("aeiou") or codes == list(range(codes[0], codes[0] + len(codes)))
    ):
        return False
    before, after = canonical[: run.start()].rstrip(), canonical[run.end() :].lstrip()
    if len(letters) > 5 or not (before or after):
        return True
    attached = [piece[:1] in _NEXT_TO_LETTERS for piece in (before[-1:], after[:1]) if piece]
    return not all(attached)


def number_in_words(text: str) -> int | None:
    """`twelve` and `twenty-one`; None for anything else."""
    words = re.split(r"[ -]+", text.strip().lower())
    if len(words) == 1:
        return _CARDINALS.get(words[0], _TENS.get(words[0]))
    if len(words) == 2 and words[0] in _TENS and 0 < _CARDINALS.get(words[1], 0) < 10:
        return _TENS[words[0]] + _CARDINALS[words[1]]
    return None


def split_multiplier(text: str) -> tuple[str, Fraction]:
    """`5 million` as `5` and a million; 1 where no such word stands there."""
    head, _, last = text.strip().rpartition(" ")
    if (
        head
        and last.lower() in MULTIPLIERS
        and (head[-1].isdigit() or number_in_words(head) is not None or head[-1] in "})")
    ):
        return head, MULTIPLIERS[last.lower()]
    return text, Fraction(1)
