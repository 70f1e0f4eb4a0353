r"""Bring the many spellings of a short answer to one: Unicode mathematics, LaTeX wrappers, spaces.

In `canonical` texts, brackets that LaTeX writes as commands are one character each: `\{ \}` are `⟬ ⟭`,
`\langle \rangle` `⟨ ⟩`, floors `⌊ ⌋`, ceilings `⌈ ⌉`, a row's end `\\` is `␞`. Callers bound the length.
"""

import re
from functools import lru_cache

from gmpo_mm.verifiers.extraction import remove_invisible
from gmpo_mm.verifiers.words import has_words

ROW_END = "␞"
DOLLAR = "＄"  # a currency sign, as opposed to the `$` around mathematics
UPRIGHT = "ᵘ"  # before one letter behind a number that LaTeX sets upright: the unit of `5 \text{ m}`

_SYMBOLS = "παβγδεζηθικλνξρστυφχψωΓΔΘΛΞΣΦΨϵϕϑ√∞∠△≅∼±∓⊥∥≈∪∩∈∅ℝℤℕ"
_SYMBOL_NAMES = str.split(
    "pi alpha beta gamma delta epsilon zeta eta theta iota kappa lambda nu xi rho sigma tau upsilon phi chi "
    "psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi epsilon phi theta sqrt infty angle triangle cong "
    "sim pm mp perp parallel approx cup cap in emptyset reals integers naturals"
)
_SPELLINGS = {
    "\u2212\u2013\u2014\u2010\u2011\ufe63": "-", "\u00d7\u00b7\u22c5\u2217": " * ", "\u00f7": " / ",
    "\u2215\u2044": "/", "\u221b": r" \sqrt[3] ", "\u221c": r" \sqrt[4] ", "\u2264\u2a7d": " <= ",
    "\u2265\u2a7e": " >= ", "\u2260": " != ", "\u2236": ":", "\u00ba\u02da": "°", "\u2026": "...",
    "\u27e8": "⟨", "\u27e9": "⟩", "\u2032\u2019\u2018": "'", "\u201c\u201d": '"',
    "\u00a0\u2009\u202f\u2002\u2003\u2005\u3000": " ", "½": r" \frac{1}{2}", "¼": r" \frac{1}{4}",
    "¾": r" \frac{3}{4}", "⅓": r" \frac{1}{3}", "⅔": r" \frac{2}{3}",
}  # fmt: skip
_CHARACTERS = str.maketrans(
    {chr(0xFF01 + i): chr(0x21 + i) for i in range(94)}  # full-width ASCII
    | {symbol: rf" \{name} " for symbol, name in zip(_SYMBOLS, _SYMBOL_NAMES, strict=True)}
    | {character: spelling for characters, spelling in _SPELLINGS.items() for character in characters}
    | {digit: f"^{{{i}}}" for i, digit in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
    | {digit: f"_{{{i}}}" for i, digit in enumerate("₀₁₂₃₄₅₆₇₈₉")}
)
_COMMAND_SPELLINGS = {
    ", ; : ! ( ) [ ] # & quad qquad displaystyle textstyle limits left right hfill rm it bf sf tt big bigg "
    "bigl biggl bigr biggr Big Bigg Bigl Biggl Bigr Biggr": " ",
    "cdot times ast": " * ", "div": " / ", "lt": " < ", "gt": " > ", "ne neq": " != ", "colon": ":", "%": "%",
    "le leq leqq leqslant": " <= ", "ge geq geqq geqslant": " >= ", "mid vert lvert rvert |": "|",
    "degree degrees": "°", "prime": "'", "dots ldots cdots": "...", "infin": r" \infty ", "$": DOLLAR,
    "varnothing empty": r" \emptyset ", "backslash smallsetminus": r" \setminus ", "lbrace {": "⟬",
    "rbrace }": "⟭", "langle": "⟨", "rangle": "⟩", "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉",
    "dfrac tfrac cfrac": r"\frac", "dbinom tbinom": r"\binom",
}  # fmt: skip
_COMMANDS = {name: spelling for names, spelling in _COMMAND_SPELLINGS.items() for name in names.split()}
_COMMANDS |= {f"var{letter}": f"\\{letter}" for letter in ("epsilon", "theta", "rho", "phi", "sigma")}
_COMMANDS[" "] = " "
_COMMAND = re.compile(r"\\([lr]floor|[lr]ceil|[A-Za-z]+|[,;:! ()\[\]#&%|${}])")
_BOLD = re.compile(r"^[\s$]*\*\*([^*]+)\*\*[\s$]*$")  # Markdown's, around all of it
_REPEATING = re.compile(
    r"(?<![\d.,])(-?)(\d{0,12})\.(?:(\d{0,24})\s*\\(?:overline|bar|dot)\s*\{\s*(\d{1,24})\s*\}"
    r"|(\d{0,2})\((\d{1,24})\)|(\d{0,24})\s*(?:\.{3}|\\[lc]?dots(?![A-Za-z])))"
)
# The shortest period that stands there three times, or twice where it is longer than one digit.
_REPEATED_DIGITS = re.compile(r"(?:(\d)\1\1+|(\d{2,6}?)\2+)$")
_NUMBER_SETS = re.compile(r"\\mathbb\s*(?:\{\s*([RZN])\s*\}|([RZN]))(?![A-Za-z])")
_SETS_OF_NUMBERS = {"R": r" \reals ", "Z": r" \integers ", "N": r" \naturals "}
# A bar over one letter is another name, and a hat over a digit another number.
_GROUP = re.compile(
    r"(\\(?:(?P<upright>text|mathrm|textrm|mbox|operatorname|textnormal|textup)|text(?:bf|it|sf|tt)|emph"
    r"|math(?:bf|it|sf|cal|normal|bb)|boxed|fbox|bm|boldsymbol|overrightarrow"
    r"|(?:vec|(?:wide)?hat|underline)(?!\s*\{\s*-?[\d.])"
    r"|(?:overline|bar)(?=\s*\{\s*[A-Z](?:\s*[A-Z])+\s*\}))\*?\s*\{)|[{}]"
)
_UPRIGHT_LETTER = re.compile(r"\s*[mgsAKNJWVCFTHLlhdΩ]\s*\}")
_ENDS_NUMBER = re.compile(r"[\d})°]\s*$")
_RENAMED = [
    (re.compile(pattern), replacement)
    for pattern, replacement in {
        r"\\(?:text)?color\s*\{[^{}]*\}": "", r"[µμ](?![mgsAFLCVWN](?![a-z]))": r" \\mu ",
        r"\^\s*(?:\{\s*(?:\\circ|°)\s*\}|\\circ(?![A-Za-z])|°)": "°",
        r"(?<![A-Za-z\\])(?:degrees?|deg)(?![A-Za-z])": "°",
        r"\^\s*\{\s*(')\s*('?)\s*\}|\^\s*(?=')": r"\1\2",
        r"(?<=\d)\s*[xX]\s*(?=10\s*(?:\^|\*\*))": " * ", r"\*\*": "^", r"=<": " <= ", r"=>": " >= ",
        r"\\not\s*=": " != ", r"==": "=", r"\$": " ", r"\{,\}": ",",
        r"(?i)(?<![A-Za-z\\])(?:infinity|infty|oo)(?![A-Za-z])": r" \\infty ",
        r"(?<=[)\]⟭])\s*U\s*(?=[(\[⟬])": r" \\cup ",
        r"(?<=[\d}/])\s*secs?\.?$": " seconds",  # `30 sec` is no secant
        r"\\(begin|end) ?\{ ?(?:align|gathered|gather|split|equation|eqnarray)\*? ?\}": r"\\\1{aligned}",
        r"(?<![A-Za-z\\])(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp|sqrt"
        r"|pi|theta|alpha|beta|gamma|lambda|phi|omega)(?![A-Za-z])": r"\\\1",
        r"\s+": " ",
    }.items()
]  # fmt: skip
# Chinese words that models write around a number.
_CHINESE = dict(
    pair.split("=")
    for pair in str.split(
        "平方=square 立方=cubic 厘米=centimeter 毫米=millimeter 分米=decimeter 千米=kilometer 公里=kilometer 米=meter "
        "千克=kilogram 公斤=kilogram 克=gram 毫升=milliliter 升=liter 小时=hour 分钟=minute 秒=second 天=day 元=yuan "
        "人=people 个= 度=° 或者=or 或=or 和=and 、=, 。=. 答案是=the_answer_is 答案为=the_answer_is 最终= 因此=so 所以=so"
    )
)
_CHINESE_WORD = re.compile("|".join(_CHINESE))
_IN_LATEX = str.maketrans(
    {"⟬": "\\{", "⟭": "\\}", "⟨": r" \langle ", "⟩": r" \rangle ", "⌊": r" \lfloor ", "⌋": r" \rfloor "}
    | {"⌈": r" \lceil ", "⌉": r" \rceil ", ROW_END: "\\\\", DOLLAR: "", UPRIGHT: ""}
)


def normalise(text: str) -> str:
    r"""One spelling of an answer, still LaTeX: no wrappers such as `\text{}`, no final period."""
    marked = canonical(text)
    return marked if marked.isascii() else re.sub(r"\s+", " ", marked.translate(_IN_LATEX)).strip()


@lru_cache(maxsize=8192)
def canonical(text: str) -> str:
    """As `normalise`, with one character for each bracket, row end and currency sign."""
    text = _BOLD.sub(r"\1", remove_invisible(text)).translate(_CHARACTERS)
    if not text.isascii():
        text = _CHINESE_WORD.sub(lambda word: f" {_CHINESE[word[0]]} ".replace("_", " "), text)
    if "\\" in text:
        if r"\\begin" in text:  # escaped once too often
            text = text.replace("\\\\", "\\")
        if r"\begin" in text:
            text = text.replace("\\\\", f" {ROW_END} ")
        text = re.sub(r"\\\\+(?=[A-Za-z{}])", r"\\", text)
        text = re.sub(r",\s*\\!\s*", ",", text)
    text = _REPEATING.sub(_repeating_fraction, text)
    if "\\" in text:
        text = re.sub(r"\\(?:left|right)\s*\.|~", " ", text)
        text = _NUMBER_SETS.sub(lambda found: _SETS_OF_NUMBERS[found[1] or found[2]], text)
        text = _unwrapped(_COMMAND.sub(lambda found: _COMMANDS.get(found[1], found[0]), text))
    for pattern, replacement in () if text.isdigit() else _RENAMED:
        text = pattern.sub(replacement, text)
    text = text.strip()
    while text.endswith((".", ",", ";", "\\")) and not text.endswith("..."):
        text = text[:-1].rstrip()
    while text.endswith("}") and text.count("}") > text.count("{"):
        text = text[:-1].rstrip()
    return text


def _repeating_fraction(match: "re.Match[str]") -> str:
    r"""`0.1\overline{6}` as `\frac{15}{90}`; three dots after digits that repeat mean the same."""
    fixed, period = match[3] or match[5] or match[7] or "", match[4] or match[6]
    if not period:
        repeated = _REPEATED_DIGITS.search(fixed)
        if repeated is None:
            return match[0]
        period, fixed = repeated[1] or repeated[2], fixed[: repeated.start()]
    top = int(f"{match[2] or 0}{fixed}{period}") - int(f"{match[2] or 0}{fixed}")
    return rf"{match[1]}\frac{{{top}}}{{{(10 ** len(period) - 1) * 10 ** len(fixed)}}}"


def _unwrapped(text: str) -> str:
    r"""Drop `\text{...}` and its like around their contents, however nested; a unit's letter gets UPRIGHT."""
    pieces: list[str] = []
    wrapped: list[bool] = []
    last = 0
    for token in _GROUP.finditer(text):
        if token[0] != "}":
            wrapped.append(bool(token[1]))
        if not (token[1] if token[0] != "}" else wrapped and wrapped.pop()):
            continue
        is_unit = token["upright"] and _UPRIGHT_LETTER.match(text, token.end())
        before = text[max(0, token.start() - 8) : token.start()]
        mark = f" {UPRIGHT}" if is_unit and _ENDS_NUMBER.search(before) else " "
        pieces += [text[last : token.start()], mark]
        last = token.end()
    return "".join([*pieces, text[last:]])


@lru_cache(maxsize=8192)
def text_key(normalised: str) -> str:
    """Key under which two texts are the same: no spaces or degree signs, `{x}` is `x`, `and` is a comma."""
    key = re.sub(rf"[°{DOLLAR}{UPRIGHT}]", "", normalised)
    if has_words(normalised):
        key = re.sub(r"(?<![A-Za-z\\])and(?![A-Za-z])", ",", key, flags=re.IGNORECASE)
        key = re.sub(r"(\\[A-Za-z]+)|.[^\\]*", lambda found: found[1] or found[0].casefold(), key, flags=re.S)
        key = re.sub(r"\s*,[\s,]*", ",", re.sub(r"^(?:the|an?) ", "", key))
    key = re.sub(r"\{ ?(\w) ?\}", r"\1", re.sub(r"\s+", " ", key).strip())
    # The space between two digits stays: `4 1/2` is not `41/2`.
    return re.sub(r"(?<!\d) | (?!\d)", "", key)
