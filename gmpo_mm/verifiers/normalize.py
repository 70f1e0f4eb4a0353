r"""Bring the many spellings of a short answer to one: Unicode mathematics, LaTeX wrappers, spaces.

In `canonical` texts, brackets that LaTeX writes as commands are one character each, so that the later stages count depth
without reading commands: `\{ \}` are `⟬ ⟭`, `\langle \rangle` are `⟨ ⟩`, floors `⌊ ⌋`, ceilings `⌈ ⌉`, a row's end `\\` is `␞`.
Callers bound the length first (see `equivalence.MAX_LENGTH`).
"""

import re
from functools import lru_cache

from gmpo_mm.verifiers.extraction import remove_invisible
from gmpo_mm.verifiers.words import has_words

ROW_END = "␞"
DOLLAR = "＄"  # a currency sign, as opposed to the `$` around mathematics
UPRIGHT = "ᵘ"  # before a single letter behind a number that LaTeX sets upright: the unit of `5 \\text{ m}`, no variable

_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉"
_GREEK_LETTERS = "αβγδεζηθικλνξρστυφχψωΓΔΘΛΞΣΦΨϵϕϑ"
_GREEK_NAMES = str.split(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda nu xi rho sigma tau upsilon phi chi psi omega Gamma Delta "
    "Theta Lambda Xi Sigma Phi Psi epsilon phi theta"
)
_CHARACTERS = str.maketrans(
    {
        **{chr(0xFF01 + i): chr(0x21 + i) for i in range(94)},  # full-width ASCII
        "\u2212": "-", "\u2013": "-", "\u2014": "-", "\u2010": "-", "\u2011": "-", "\ufe63": "-",
        "\u00d7": " * ", "\u00b7": " * ", "\u22c5": " * ", "\u2217": " * ",
        "\u00f7": " / ", "\u2215": "/", "\u2044": "/",
        "\u03c0": r" \pi ", "\u221a": r" \sqrt ", "\u221b": r" \sqrt[3] ", "\u221c": r" \sqrt[4] ",
        **{letter: rf" \{name} " for letter, name in zip(_GREEK_LETTERS, _GREEK_NAMES, strict=True)},
        "\u221e": r" \infty ", "\u2220": r" \angle ", "\u25b3": r" \triangle ",
        "\u2245": r" \cong ", "\u223c": r" \sim ", "\u00b1": r" \pm ", "\u2213": r" \mp ",
        "\u22a5": r" \perp ", "\u2225": r" \parallel ", "\u2248": r" \approx ",
        "\u222a": r" \cup ", "\u2229": r" \cap ", "\u2208": r" \in ", "\u2205": r" \emptyset ", "\u211d": r" \reals ",
        "\u2124": r" \integers ", "\u2115": r" \naturals ",
        "\u2264": " <= ", "\u2265": " >= ", "\u2a7d": " <= ", "\u2a7e": " >= ", "\u2260": " != ", "\u2236": ":",
        "\u00ba": "\u00b0", "\u02da": "\u00b0", "\u2026": "...", "\u27e8": "⟨", "\u27e9": "⟩",
        "\u00bd": r" \frac{1}{2}", "\u00bc": r" \frac{1}{4}", "\u00be": r" \frac{3}{4}",
        "\u2153": r" \frac{1}{3}", "\u2154": r" \frac{2}{3}",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2002": " ", "\u2003": " ", "\u2005": " ", "\u3000": " ",
        "\u2032": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2018": "'",
        **{digit: f"^{{{i}}}" for i, digit in enumerate(_SUPERSCRIPTS)},
        **{digit: f"_{{{i}}}" for i, digit in enumerate(_SUBSCRIPTS)},
    }
)  # fmt: skip
_WRAPPERS = frozenset(
    str.split(
        "text textbf textit textrm textnormal textup textsf texttt mathrm mathbf mathit mathsf mathcal mathnormal mbox "
        "operatorname boxed fbox bm boldsymbol mathbb vec hat widehat underline emph overrightarrow"
    )
)
_SETS_OF_NUMBERS = {"R": "reals", "Z": "integers", "N": "naturals"}
_NUMBER_SETS = re.compile(r"\\mathbb\s*(?:\{\s*([RZN])\s*\}|([RZN]))(?![A-Za-z])")
_UPRIGHT_WRAPPERS = frozenset(
    {"text", "mathrm", "textrm", "mbox", "operatorname", "rm", "textnormal", "textup"}
)
_ENDS_NUMBER = re.compile(r"[\d})°]\s*$")
_BRACE_TOKEN = re.compile(r"\\([A-Za-z]+)\*?\s*\{|\\.|[{}]", re.DOTALL)
_SPACING = re.compile(
    r"\\[,;:! ]|~|\\q?quad|\\(?:displaystyle|textstyle|limits|[bB]igg?[lr]?|left|right|hfill)(?![A-Za-z])"
    r"|\\(?:rm|it|bf|sf|tt|phantom ?\{ ?\})(?![A-Za-z])"
)
_DECIMAL = r"(?<![\d.,])(-?)(\d{0,12})\.(\d{0,24})"
_REPEATING = (
    re.compile(_DECIMAL + r"\s*\\(?:overline|bar|dot)\s*\{\s*(\d{1,24})\s*\}"),
    re.compile(r"(?<![\d.,])(-?)(\d{0,12})\.(\d{0,2})\((\d{1,24})\)"),
    re.compile(_DECIMAL + r"\s*(?:\.{3}|\\[lc]?dots(?![A-Za-z]))"),
)
# The shortest period that stands there three times, or twice where it is longer than one digit.
_REPEATED_DIGITS = re.compile(r"(?:(\d)\1\1+|(\d{2,6}?)\2+)$")
_FUNCTION_NAMES = (
    "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp|sqrt"
    "|pi|theta|alpha|beta|gamma|lambda|phi|omega"
)
_BOLD = re.compile(r"^([\s$]*)\*\*([^*]+)\*\*[\s$]*$")  # Markdown's, around all of it
_RENAMED = (
    (re.compile(r"\\(?:text)?color\s*\{[^{}]*\}"), ""),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![A-Za-z])"), r"\\binom"),
    (re.compile(r"\\var(epsilon|theta|rho|phi|sigma)(?![A-Za-z])"), r"\\\1"),
    (re.compile(r"[µμ](?![mgsAFLCVWN](?![a-z]))"), r" \\mu "),
    (re.compile(r"\^\s*(?:\{\s*(?:\\circ|°)\s*\}|\\circ(?![A-Za-z])|°)|\\degrees?(?![A-Za-z])"), "°"),
    (re.compile(r"(?<![A-Za-z\\])(?:degrees?|deg)(?![A-Za-z])"), "°"),
    (re.compile(r"\^\s*\{\s*\\prime\s*\\prime\s*\}"), "''"),
    (re.compile(r"\^\s*(?:\{\s*\\prime\s*\}|\\prime(?![A-Za-z]))"), "'"),
    (re.compile(r"\\(?:cdot|times|ast)(?![A-Za-z])"), " * "),
    (re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*(?:\^|\*\*))"), " * "),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\\div(?![A-Za-z])"), " / "),
    (re.compile(r"\\(?:leq?q?|leqslant)(?![A-Za-z])|=<|≤"), " <= "),
    (re.compile(r"\\(?:geq?q?|geqslant)(?![A-Za-z])|=>"), " >= "),
    (re.compile(r"\\lt(?![A-Za-z])"), " < "),
    (re.compile(r"\\gt(?![A-Za-z])"), " > "),
    (re.compile(r"\\neq?(?![A-Za-z])|\\not\s*="), " != "),
    (re.compile(r"=="), "="),
    (re.compile(r"\\(?:colon)(?![A-Za-z])"), ":"),
    (re.compile(r"\\(?:mid|vert|lvert|rvert)(?![A-Za-z])|\\\|"), "|"),
    (re.compile(r"\\(?:varnothing|empty)(?![A-Za-z])"), r" \\emptyset "),
    (re.compile(r"\\(?:backslash|smallsetminus)(?![A-Za-z])"), r" \\setminus "),
    (
        re.compile(r"\\infin(?![A-Za-z])|(?<![A-Za-z\\])(?:infinity|infty|oo)(?![A-Za-z])", re.IGNORECASE),
        r" \\infty ",
    ),
    (re.compile(r"\\l?dots(?![A-Za-z])|\\cdots(?![A-Za-z])"), "..."),
    (re.compile(r"\\(?:lbrace|\{)"), "⟬"),
    (re.compile(r"\\(?:rbrace|\})"), "⟭"),
    (re.compile(r"\\langle"), "⟨"),
    (re.compile(r"\\rangle"), "⟩"),
    (re.compile(r"\\lfloor"), "⌊"),
    (re.compile(r"\\rfloor"), "⌋"),
    (re.compile(r"\\lceil"), "⌈"),
    (re.compile(r"\\rceil"), "⌉"),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\\[#&]"), " "),
    (re.compile(r"\\\$"), DOLLAR),
    (re.compile(r"\$|\\\(|\\\)|\\\[|\\\]"), " "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"(?<=[)\]⟭])\s*U\s*(?=[(\[⟬])"), r" \\cup "),
    (re.compile(rf"(?<![A-Za-z\\])({_FUNCTION_NAMES})(?![A-Za-z])"), r"\\\1"),
    (re.compile(r"(?<=\d)(sqrt|pi)(?![A-Za-z])"), r"\\\1"),
)
_IN_LATEX = str.maketrans(
    {"⟬": "\\{", "⟭": "\\}", "⟨": r" \langle ", "⟩": r" \rangle ", "⌊": r" \lfloor ", "⌋": r" \rfloor "}
    | {"⌈": r" \lceil ", "⌉": r" \rceil ", ROW_END: "\\\\", DOLLAR: "", UPRIGHT: ""}
)
_SPACES = re.compile(r"\s+")
_SPACE_NOT_BETWEEN_DIGITS = re.compile(r"(?<!\d) | (?!\d)")
_ONE_CHARACTER_GROUP = re.compile(r"\{ ?(\w) ?\}")
_COMMAND = re.compile(r"\\[A-Za-z]+")


def normalise(text: str) -> str:
    """One spelling of an answer, still LaTeX; spaces collapsed, wrappers such as `\\text{}` and a final period gone."""
    marked = canonical(text)
    return marked if marked.isascii() else _SPACES.sub(" ", marked.translate(_IN_LATEX)).strip()


@lru_cache(maxsize=8192)
def canonical(text: str) -> str:
    """As `normalise`, with one character for each bracket, row end and currency sign."""
    text = _BOLD.sub(r"\2", remove_invisible(text)).translate(_CHARACTERS)
    if "\\" in text:
        text = _rows(text)
        text = re.sub(r",\s*\\!\s*", ",", text)
    if "." in text:
        for pattern in _REPEATING:
            text = pattern.sub(_repeating_fraction, text)
    if "\\" in text:
        text = re.sub(r"\\(?:left|right)\s*\.", " ", text)
        text = _NUMBER_SETS.sub(
            lambda found: f" \\{_SETS_OF_NUMBERS[found.group(1) or found.group(2)]} ", text
        )
        text = unwrap(_SPACING.sub(" ", text))
    if not text.isdigit():
        for pattern, replacement in _RENAMED:
            text = pattern.sub(replacement, text)
    text = _SPACES.sub(" ", text).strip()
    while text.endswith((".", ",", ";", "\\")) and not text.endswith("..."):
        text = text[:-1].rstrip()
    while text.endswith("}") and text.count("}") > text.count("{"):
        text = text[:-1].rstrip()
    return text


def _rows(text: str) -> str:
    r"""Mark the ends of rows; a doubled backslash elsewhere is one that was escaped once too often."""
    if r"\\begin" in text:
        text = text.replace("\\\\", "\\")
    if r"\begin" in text:
        return text.replace("\\\\", f" {ROW_END} ")
    return re.sub(r"\\\\+(?=[A-Za-z{}])", r"\\", text)


def _repeating_fraction(match: "re.Match[str]") -> str:
    r"""`0.1\overline{6}` as `\frac{15}{90}`; three dots after digits that repeat mean the same."""
    sign, whole, fixed, *period_group = match.groups()
    if period_group:
        period = period_group[0]
    else:
        repeated = _REPEATED_DIGITS.search(fixed)
        if repeated is None:
            return match.group()
        period, fixed = repeated.group(1) or repeated.group(2), fixed[: repeated.start()]
    top = int((whole or "0") + fixed + period) - int((whole or "0") + fixed)
    return rf"{sign}\frac{{{top}}}{{{(10 ** len(period) - 1) * 10 ** len(fixed)}}}"


def unwrap(text: str) -> str:
    r"""Drop `\text{...}` and its like around their contents, however nested; one pass."""
    pieces: list[str] = []
    wrapped: list[bool] = []
    last = 0
    for token in _BRACE_TOKEN.finditer(text):
        symbol = token.group()
        if symbol == "}":
            if wrapped and wrapped.pop():
                pieces += [text[last : token.start()], " "]
                last = token.end()
        elif symbol.endswith("{") and symbol != "\\{":
            is_wrapper = (
                token.group(1) in _WRAPPERS and not _MARKED_NUMBER.match(text, token.start())
            ) or bool(_SEGMENT.match(text, token.start()))
            wrapped.append(is_wrapper)
            if is_wrapper:
                pieces += [text[last : token.start()], _mark(text, token)]
                last = token.end()
    return "".join([*pieces, text[last:]]) if pieces else text


_MARKED_NUMBER = re.compile(r"\\(?:hat|widehat|vec|underline)\s*\{\s*-?[\d.]")
_SEGMENT = re.compile(
    r"\\(?:overline|bar)\s*\{\s*[A-Z](?:\s*[A-Z])+\s*\}"
)  # a bar over one letter is another name
_UPRIGHT_LETTER = re.compile(r"\s*[mgsAKNJWVCFTHLlhdΩ]\s*\}")


def _mark(text: str, token: "re.Match[str]") -> str:
    r"""UPRIGHT before the one letter of a unit, as in `5 \text{ m}`, and a space before all else that was wrapped."""
    before = text[max(0, token.start() - 8) : token.start()]
    is_unit = (
        token.group(1) in _UPRIGHT_WRAPPERS
        and _UPRIGHT_LETTER.match(text, token.end())
        and _ENDS_NUMBER.search(before)
    )
    return f" {UPRIGHT}" if is_unit else " "


@lru_cache(maxsize=8192)
def text_key(normalised: str) -> str:
    """Key under which two texts are the same answer: no spaces or degree signs, `{x}` is `x`, `and` is a comma."""
    key = normalised.replace("°", "").replace(DOLLAR, "").replace(UPRIGHT, "")
    if has_words(normalised):
        key = re.sub(r"(?<![A-Za-z\\])and(?![A-Za-z])", ",", key, flags=re.IGNORECASE)
        key = re.sub(r"^(?:the|an?) ", "", _casefold_outside_commands(key))
        key = re.sub(r"\s*,[\s,]*", ",", key)
    key = _ONE_CHARACTER_GROUP.sub(r"\1", _SPACES.sub(" ", key).strip())
    # The space between two digits stays: `4 1/2` is not `41/2`.
    return _SPACE_NOT_BETWEEN_DIGITS.sub("", key)


def _casefold_outside_commands(text: str) -> str:
    pieces, last = [], 0
    for command in _COMMAND.finditer(text):
        pieces += [text[last : command.start()].casefold(), command.group()]
        last = command.end()
    return "".join([*pieces, text[last:].casefold()])
