"""Units of measure and counted things behind (or currency before) a number. What is not on the lists here is no unit."""

import re
from functools import lru_cache

from gmpo_mm.verifiers.normalize import DOLLAR, UPRIGHT

Unit = tuple[tuple[str, int], ...]
"""Sorted (name, exponent); `kcal m^{-2}` and `kcal/m^2` are the same. Nothing is converted: 1 m is not 100 cm."""

_PREFIXES = {
    "k": "kilo", "m": "milli", "c": "centi", "d": "deci", "n": "nano", "p": "pico", "f": "femto",
    "M": "mega", "G": "giga",
}  # fmt: skip
_PREFIXES |= {"T": "tera", "u": "micro", "µ": "micro", "μ": "micro", "h": "hecto", "da": "deca"}
# symbol -> names; each of these takes prefixes
_SCALED = {
    "m": "meter metre", "g": "gram gramme", "s": "second", "A": "ampere amp", "K": "kelvin", "mol": "mole",
    "Hz": "hertz", "N": "newton", "J": "joule", "W": "watt", "Pa": "pascal", "V": "volt", "C": "coulomb",
    "F": "farad", "T": "tesla", "H": "henry", "Ω": "ohm", "eV": "electronvolt", "L": "liter litre",
    "cal": "calorie", "pc": "parsec", "bar": "bar", "rad": "radian", "B": "byte", "b": "bit", "Wb": "weber",
    "S": "siemens", "lm": "lumen", "Bq": "becquerel",
}  # fmt: skip
_NAMES = {
    "in": "in inch inches", "ft": "ft foot feet", "yd": "yd yard", "mi": "mi mile", "lb": "lb lbs pound",
    "oz": "oz ounce", "min": "min mins minute", "h": "h hr hrs hour", "s": "sec secs", "d": "day",
    "week": "week wk", "month": "month", "yr": "yr yrs year", "mph": "mph", "kph": "kph kmh kmph", "L": "l",
    "mL": "ml cc", "kg": "Kg KG kgs", "g": "gm gms", "kHz": "khz", "acre": "acre", "ha": "hectare",
    "gal": "gal gallon", "qt": "quart", "pt": "pint", "cup": "cup", "t": "ton tonne", "AU": "AU au",
    "ly": "lightyear", "Å": "Å angstrom", "dB": "dB decibel", "rpm": "rpm", "rev": "revolution",
    "atm": "atm", "arcsec": "arcsec arcsecond", "arcmin": "arcmin arcminute", "sr": "sr steradian",
    "erg": "erg", "dyn": "dyne", "M_\\odot": "M_\\odot", "L_\\odot": "L_\\odot", "R_\\odot": "R_\\odot",
    "unit": "unit", "°": "° degree deg degs", "ppm": "ppm", "M": "molar", "knot": "knot", "kn": "kts",
    "mmHg": "mmHg", "torr": "torr", "hp": "horsepower", "USD": f"{DOLLAR} dollar USD usd buck",
    "EUR": "€ euro EUR", "GBP": "£ GBP", "JPY": "¥ yen JPY", "cent": "¢ cent", "CNY": "yuan RMB",
    "INR": "rupee Rs", "peso": "peso", "ruble": "ruble", "penny": "penny pennies",
    "person": "person people", "child": "child children", "man": "man men", "woman": "woman women",
    "vertex": "vertex vertices", "die": "die dice",
}  # fmt: skip
# Things that are counted, in the plural (or the singular behind 1).
_COUNTED = frozenset(
    str.split(
        "student boy girl member player team point way coin marble ball card book page apple orange egg "
        "tree car house room seat table chair bag pair set group row column element solution root value "
        "digit number integer prime factor divisor multiple term side edge face diagonal angle triangle "
        "square circle line segment region path step move game win vote word letter question problem test "
        "handshake color colour song cookie candy pencil pen paper bin ticket stamp piece slice flower "
        "rose dog cat horse cow sheep chicken duck fish bird animal shirt shoe sock hat jar bottle can "
        "cube block tile brick stick toy box bus class match loss dish glass berry city penalty nickel "
        "dime arrangement combination permutation outcome subset function sequence pattern possibility "
        "case chocolate sandwich pizza pancake muffin cupcake worker teacher adult friend guest passenger "
        "citizen resident sock plant seed acorn balloon sticker photo picture video game chip bead button "
        "crayon marker lap trip mark turn cycle period shelf pound rod hole peach pear banana lemon grape "
        "watermelon strawberry potato tomato carrot onion bean zero lattice pirate goat rabbit zebra lion "
        "tiger"
    )
)
_SQUARES = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
_CURRENCY_SIGNS = f"{DOLLAR}€£¥¢"
_COMPOUND = {"mph": (("mi", 1), ("h", -1)), "kph": (("kilom", 1), ("h", -1))}
_PERCENT = re.compile(r" ?(?:%|percent(?:age(?: points?)?)?|pct\.?)$", re.IGNORECASE)
_TEMPERATURE = re.compile(
    r"° ?(?:(?:C|celsius)|(F|fahrenheit))$|(?<=[\d ])(?:degrees? )?(?:celsius|(fahrenheit))$", re.IGNORECASE
)
_TOKEN = re.compile(
    rf"(?P<word>(?:{UPRIGHT} ?)?(?:\\mu ?)?(?:{UPRIGHT} ?)?"
    rf"(?:[MLR] ?_ ?\{{? ?\\odot ?\}}?|\\?[A-Za-zµμÅΩ]+|[€£¥¢{DOLLAR}°]))(?:\.(?!\d))?"
    r"(?: ?\^ ?\{? ?(?P<power>-? ?[1-9]|-? ?1/2) ?\}?)?|(?P<slash>/)|(?P<joint>[ *·.()~{}-]+)"
)
_PLAIN_NUMBER = re.compile(
    r"[-+]?[\d.,]+(?: ?(?:\*|x) ?10 ?\^ ?\{? ?-?\d+ ?\}?|[eE][-+]?\d+)?|-? ?\\frac ?\{ ?\d+ ?\} ?\{ ?\d+ ?\}|-?\d+ ?/ ?\d+"
)
_ENDS_VALUE = re.compile(r"[\d)}\].°!]$|(?<=\d) ?\\pi$")
_OF_AN_ANGLE = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
MAX_UNIT = 80  # characters


def _known() -> dict[str, str]:
    known: dict[str, str] = {}
    for symbol, names in _SCALED.items():
        for prefix, word in _PREFIXES.items():
            known.setdefault(prefix + symbol, word + symbol)
            known |= {word + name: word + symbol for name in names.split()}
        known |= {symbol: symbol, **dict.fromkeys(names.split(), symbol)}
    known["micron"] = "microm"
    for name, spellings in _NAMES.items():
        known |= dict.fromkeys(spellings.split(), name)
    return known


_KNOWN = _known()


@lru_cache(maxsize=8192)
def split_unit(text: str, bare: bool = False) -> tuple[str, Unit | None]:
    r"""The text without its unit, and the unit; None where there is none.

    A single letter is a unit only where LaTeX sets it upright (`5 \text{ m}`), within a compound (`5 m/s`) or, with `bare`,
    behind a plain number: `2\pi h` and `3 k` are products.
    """
    text = text.strip()
    sign = "-" if text[:1] == "-" else ""
    if text[len(sign) : len(sign) + 1] in tuple(_CURRENCY_SIGNS):
        return sign + split_unit(text[len(sign) + 1 :])[0], ((_KNOWN[text[len(sign)]], 1),)
    if text.endswith("''") and text[:-2].rstrip()[-1:].isdigit():
        return text[:-2].rstrip(), (("arcsec", 1),)
    percent = _PERCENT.search(text)
    if percent:
        return text[: percent.start()], (("%", 1),)
    temperature = _TEMPERATURE.search(text)
    if temperature:
        return text[: temperature.start()], (
            ("°F" if temperature.group(1) or temperature.group(2) else "°C", 1),
        )
    start = max(0, len(text) - MAX_UNIT)
    tokens = list(_TOKEN.finditer(text, start))
    first = len(tokens)
    while first and tokens[first - 1].end() == (tokens[first].start() if first < len(tokens) else len(text)):
        first -= 1
    for k in range(first, len(tokens)):  # the longest tail that is a unit
        if not tokens[k].group("word"):
            continue
        rest = text[: tokens[k].start()].rstrip(" *·~")
        if tokens[k].group("word") == "°" and _OF_AN_ANGLE.search(rest):  # `\\sin 30°` is one number
            continue
        unit = (
            _read(tokens[k:], rest, text[tokens[k].start() - 1] == " ", bare)
            if _ENDS_VALUE.search(rest)
            else None
        )
        if unit is not None:
            return rest, unit
    return text, None


def _read(tokens: "list[re.Match[str]]", number: str, spaced: bool, bare: bool) -> Unit | None:
    """Exponents of a compound of units; None where a part is no unit."""
    exponents: dict[str, int] = {}
    sign, power, letters, certain, words, depth, last = 1, 0, 0, False, 0, 0, ""
    for token in tokens:
        if token.group("slash"):
            sign = -1
            continue
        if token.group("joint"):
            joint = token.group("joint")
            depth += joint.count("(") - joint.count(")")
            if depth < 0 or joint.strip(" *·.(){}~-") or joint.count("-") > 1:
                return None
            continue
        word, exponent = token.group("word"), token.group("power")
        if word.lower() in _SQUARES and not exponent:
            if word.lower().endswith("ed") and exponents:
                exponents[last] *= _SQUARES[word.lower()]
            else:
                power = _SQUARES[word.lower()]
            continue
        if word == "per":
            sign = -1
            continue
        upright = UPRIGHT in word
        name = _name(word.replace(UPRIGHT, "").replace("\\mu", "µ"))
        if name is None:
            return None
        size = int(exponent.replace(" ", "")) if exponent and "/" not in exponent else 1
        letters += len(word) == 1 and word.isalpha()
        words += 1
        certain |= upright or len(word) > 1 or not word.isalpha() or size < 0 or (word == "m" and size > 1)
        for last, factor in _COMPOUND.get(name, ((name, 1),)):
            exponents[last] = exponents.get(last, 0) + sign * size * factor * (power or 1)
        power = 0
    if depth or power or not words or ("unit" in exponents and len(exponents) > 1):
        return None
    plain = spaced and _PLAIN_NUMBER.fullmatch(number) is not None
    if letters == words and not certain and not (plain and (bare or sign < 0)):
        return None
    return tuple(sorted((name, size) for name, size in exponents.items() if size))


def _name(word: str) -> str | None:
    word = re.sub(r"[ {}]", "", word).replace("\\Omega", "Ω")
    for spelling in (word, word.lower() if len(word) > 3 else word):
        for form in (spelling, spelling[:-1] if spelling.endswith("s") and len(spelling) > 3 else spelling):
            if form in _KNOWN:
                return _KNOWN[form]
            if form in _COUNTED:
                return form
    lower = word.lower()
    if lower.endswith("ies") and lower[:-3] + "y" in _COUNTED:
        return lower[:-3] + "y"
    if lower.endswith("es") and lower[:-2] in _COUNTED:
        return lower[:-2]
    return None


def same_unit(a: Unit | None, b: Unit | None) -> bool:
    """Whether two units go together: one of them missing, or the same; a degree sign is any temperature's and angle's."""
    if a is None or b is None or a == b:
        return True
    degrees = {(("°", 1),), (("°C", 1),), (("°F", 1),)}
    return (a in degrees and b in degrees and (("°", 1),) in (a, b)) or _is_generic(a) or _is_generic(b)


def _is_generic(unit: Unit) -> bool:
    """`12 square units` says no more than 12."""
    return len(unit) == 1 and unit[0][0] == "unit"
