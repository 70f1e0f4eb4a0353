"""Which letters are words, which words may stand around an answer, and which words are numbers."""

import re
from fractions import Fraction
from functools import lru_cache
from string import ascii_lowercase

_COMMAND = re.compile(r"\\(?:begin|end)\s*\{\s*[a-z]+\*?\s*\}|\\[A-Za-z]+")
_LETTERS = re.compile(
    r"(?i)[A-Z]{3,}|(?<![A-Z\\])(?:and|or|no|is|of|to|at|in|if|by|not|as|on|an|be|it|we|so)(?![A-Z])"
)
_GEOMETRY = re.compile(r"\\(?:angle|cong|parallel|perp|triangle|sim)(?![A-Za-z])")
_FUNCTIONS = str.split(
    "sin cos tan cot sec csc arcsin arccos arctan log exp sinh cosh tanh min max lim mod gcd lcm det floor "
    "ceil binom sqrt coth sech csch arcsec arccsc arccot arcsinh arccosh arctanh arsinh arcosh artanh"
)
_NEXT_TO_LETTERS = frozenset("{}()[]^_+-*/=|<>,")

# Words that only say that an answer follows; none changes a value, as `not`, `twice` or `except` would.
AROUND = frozenset(
    str.split(
        "a an the this that these our your its we i so thus hence therefore then finally and since when is "
        "are was be equals equal to of for in by from with which here as follows get have find obtain gives "
        "give conclude see it there exist exists answer answers final correct exact required desired "
        "requested asked total value values solution solutions result results number numbers sum product "
        "difference quotient ratio length width height area volume perimeter circumference radius diameter "
        "distance angle measure degree slope probability expected average mean median mode range cost price "
        "time speed velocity acceleration force energy mass age amount quantity coordinates point points "
        "vertex center equation function expression formula polynomial matrix vector interval domain set "
        "identity zero special unique only smallest largest greatest least minimum maximum possible real "
        "integer positive triangle rectangle circle polygon line segment side base surface units simplified "
        "simplify form interest rate percent fraction fractions multiplying adding computing solving must "
        "can written multiplication general distinct last first determinant sequence term terms remainder "
        "coefficient coefficients limit integral derivative choice option count students people ways roots "
        "root letter digits digit number's"
    )
)

_ONES = str.split(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_NUMBERS = {word: n for n, word in enumerate(_ONES)}
for _i, _ten in enumerate(str.split("twenty thirty forty fifty sixty seventy eighty ninety"), 2):
    _NUMBERS |= {f"{_ten} {word}": 10 * _i + n for word, n in _NUMBERS.items() if 0 < n < 10}
    _NUMBERS[_ten] = 10 * _i
_PART_WORDS = str.split("half third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth")
_PARTS = [*enumerate(_PART_WORDS, 2), (4, "quarter"), (100, "hundredth"), (1000, "thousandth")]
# What a word behind a number multiplies it by: `3 fourths`, `5 million`, `2 dozens`.
_MULTIPLIERS = {
    **{part + plural: Fraction(1, n) for n, part in _PARTS for plural in ("", "s")},
    "halves": Fraction(1, 2), "dozen": Fraction(12), "dozens": Fraction(12), "hundred": Fraction(100),
    "thousand": Fraction(10**3), "million": Fraction(10**6), "billion": Fraction(10**9),
    "trillion": Fraction(10**12),
}  # fmt: skip


@lru_cache(maxsize=8192)
def has_words(canonical: str) -> bool:
    """Whether a canonical text is prose or a statement of geometry, and no formula."""
    if _GEOMETRY.search(canonical):
        return True
    text = _COMMAND.sub(lambda found: " " * len(found.group()), canonical)
    return any(_is_word(canonical, run) for run in _LETTERS.finditer(text))


def _is_word(text: str, run: "re.Match[str]") -> bool:
    r"""`odd`, but neither `abc` and `xyz`, letters in a row or without a vowel, nor the `mga` of `{mga}`."""
    letters = run.group().lower()
    if letters in ("and", "not", "or", "no"):
        return True
    in_a_row = set(letters).isdisjoint("aeiou") or "".join(sorted(letters)) in ascii_lowercase
    if letters in _FUNCTIONS or (in_a_row if len(letters) > 2 else run.group().isupper()):  # the segment BE
        return False
    around = [piece for piece in (text[: run.start()].rstrip()[-1:], text[run.end() :].lstrip()[:1]) if piece]
    return len(letters) > 5 or not around or not _NEXT_TO_LETTERS.issuperset(around)


def number_in_words(text: str) -> int | None:
    """`twelve` and `twenty-one`; None for anything else."""
    return _NUMBERS.get(re.sub(r"[ -]+", " ", text.strip().lower()))


def split_multiplier(text: str) -> tuple[str, Fraction]:
    """`5 million` as `5` and a million; 1 where no such word stands there."""
    head, _, last = text.strip().rpartition(" ")
    factor = _MULTIPLIERS.get(last.lower()) if head else None
    if factor and (head[-1].isdigit() or head[-1] in "})" or number_in_words(head) is not None):
        return head, factor
    return text, Fraction(1)
