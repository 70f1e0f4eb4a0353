"""Units of measure and counted things behind (or currency before) a number; nothing else is a unit."""

import re
from functools import lru_cache

from gmpo_mm.verifiers.normalize import DOLLAR, UPRIGHT

Unit = tuple[tuple[str, int], ...]
"""Sorted (name, exponent): `kcal m^{-2}` and `kcal/m^2` are the same. Nothing is converted."""

_PREFIXES = {
    "k": "kilo", "m": "milli", "c": "centi", "d": "deci", "n": "nano", "p": "pico", "f": "femto", "M": "mega",
    "G": "giga", "T": "tera", "u": "micro", "µ": "micro", "μ": "micro", "h": "hecto", "da": "deca",
}  # fmt: skip
# symbol=spellings; each of these takes prefixes
_SCALED = (
    "m=meter,metre g=gram,gramme s=second A=ampere,amp K=kelvin mol=mole Hz=hertz N=newton J=joule W=watt "
    "Pa=pascal V=volt C=coulomb F=farad T=tesla H=henry Ω=ohm eV=electronvolt L=liter,litre cal=calorie "
    "pc=parsec bar=bar rad=radian B=byte b=bit Wb=weber S=siemens lm=lumen Bq=becquerel"
)
# name=spellings
_UNITS = (
    "in=in,inch,inches ft=ft,foot,feet yd=yd,yard mi=mi,mile lb=lb,lbs,pound oz=oz,ounce "
    "min=min,mins,minute h=h,hr,hrs,hour s=sec,secs d=day week=week,wk month=month yr=yr,yrs,year mph=mph "
    "kph=kph,kmh,kmph L=l mL=ml,cc kg=Kg,KG,kgs g=gm,gms kHz=khz acre=acre ha=hectare gal=gal,gallon "
    "qt=quart pt=pint cup=cup t=ton,tonne AU=AU,au ly=lightyear Å=Å,angstrom dB=dB,decibel rpm=rpm "
    "rev=revolution atm=atm microm=micron arcsec=arcsec,arcsecond arcmin=arcmin,arcminute sr=sr,steradian "
    "erg=erg dyn=dyne M_\\odot=M_\\odot L_\\odot=L_\\odot R_\\odot=R_\\odot unit=unit °=°,degree,deg,degs "
    f"ppm=ppm M=molar knot=knot kn=kts mmHg=mmHg torr=torr hp=horsepower USD={DOLLAR},dollar,USD,usd,buck "
    "EUR=€,euro,EUR GBP=£,GBP JPY=¥,yen,JPY cent=¢,cent CNY=yuan,RMB INR=rupee,Rs peso=peso ruble=ruble "
    "penny=penny,pennies person=person,people child=child,children man=man,men woman=woman,women "
    "vertex=vertex,vertices die=die,dice"
)
_COUNTED = (
    "student boy girl member player team point way coin marble ball card book page apple orange egg tree "
    "car house room seat table chair bag pair set group row column element solution root value digit number "
    "integer prime factor divisor multiple term side edge face diagonal angle triangle square circle line "
    "segment region path step move game win vote word letter question problem test handshake color colour "
    "song cookie candy pencil pen paper bin ticket stamp piece slice flower rose dog cat horse cow sheep "
    "chicken duck fish bird animal shirt shoe sock hat jar bottle can cube block tile brick stick toy box "
    "bus class match loss dish glass berry city penalty nickel dime arrangement combination permutation "
    "outcome subset function sequence pattern possibility case chocolate sandwich pizza pancake muffin "
    "cupcake worker teacher adult friend guest passenger citizen resident plant seed acorn balloon sticker "
    "photo picture video chip bead button crayon marker lap trip mark turn cycle period shelf rod hole "
    "peach pear banana lemon grape watermelon strawberry potato tomato carrot onion bean zero lattice "
    "pirate goat rabbit zebra lion tiger"
)
_SQUARES = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
_COMPOUND = {"mph": (("mi", 1), ("h", -1)), "kph": (("kilom", 1), ("h", -1))}
_CURRENCY_SIGNS = f"{DOLLAR}€£¥¢"
_SIGNS = (
    (re.compile(r"(?<=\d)\s*''$"), "arcsec"),
    (re.compile(r"(?i) ?(?:%|percent(?:age(?: points?)?)?|pct\.?)$"), "%"),
    (re.compile(r"(?i)° ?(?:C|celsius)$|(?<=[\d ])celsius$"), "°C"),
    (re.compile(r"(?i)° ?(?:F|fahrenheit)$|(?<=[\d ])fahrenheit$"), "°F"),
)
_TOKEN = re.compile(
    rf"(?P<word>(?:{UPRIGHT} ?)?(?:\\mu ?)?(?:{UPRIGHT} ?)?"
    rf"(?:[MLR] ?_ ?\{{? ?\\odot ?\}}?|\\?[A-Za-zµμÅΩ]+|[°{_CURRENCY_SIGNS}]))(?:\.(?!\d))?"
    r"(?: ?\^ ?\{? ?(?P<power>-? ?[1-9]) ?\}?)?|(?P<slash>/)|(?P<joint>[ *·.()~{}-]+)|(?P<other>.)",
    re.DOTALL,
)
_PLAIN_NUMBER = re.compile(
    r"[-+]?[\d.,]+(?: ?(?:\*|x) ?10 ?\^ ?\{? ?-?\d+ ?\}?|[eE][-+]?\d+)?"
    r"|-? ?\\frac ?\{ ?\d+ ?\} ?\{ ?\d+ ?\}|-?\d+ ?/ ?\d+"
)
_ENDS_VALUE = re.compile(r"[\d)}\].°!]$|(?<=\d) ?\\pi$")
_OF_AN_ANGLE = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
MAX_UNIT = 80  # characters


def _known() -> dict[str, str]:
    """The name of the unit for each of its spellings, the plural among them."""
    known: dict[str, str] = {}
    for entry in _SCALED.split():
        symbol, names = entry.split("=")
        for prefix, word in _PREFIXES.items():
            known.setdefault(prefix + symbol, word + symbol)
            known |= {word + name: word + symbol for name in names.split(",")}
        known |= dict.fromkeys([symbol, *names.split(",")], symbol)
    for entry in _UNITS.split():
        name, spellings = entry.split("=")
        known |= dict.fromkeys(spellings.split(","), name)
    plurals = {f"{spelling}s": name for spelling, name in known.items() if len(spelling) > 2}
    for name in _COUNTED.split():
        plurals |= dict.fromkeys([name, f"{name}s", f"{name}es", re.sub("y$", "ies", name)], name)
    return plurals | known


_KNOWN = _known()


@lru_cache(maxsize=8192)
def split_unit(text: str, bare: bool = False) -> tuple[str, Unit | None]:
    r"""The text without its unit, and the unit; None where there is none.

    A single letter is one only where LaTeX sets it upright (`5 \text{ m}`), in a compound (`5 m/s`) or, with
    `bare`, behind a plain number: `2\pi h` and `3 k` are products.
    """
    text = text.strip()
    sign, amount = ("-", text[1:]) if text.startswith("-") else ("", text)
    if amount.startswith(tuple(_CURRENCY_SIGNS)):
        return sign + split_unit(amount[1:])[0], ((_KNOWN[amount[0]], 1),)
    for pattern, name in _SIGNS:
        if found := pattern.search(text):
            return text[: found.start()], ((name, 1),)
    tail: list[re.Match[str]] = []
    for token in _TOKEN.finditer(text, max(0, len(text) - MAX_UNIT)):
        tail = [] if token["other"] else [*tail, token]
    for k, token in enumerate(tail):  # the longest tail that is a unit
        rest = text[: token.start()].rstrip(" *·~")
        is_angle = token["word"] == "°" and _OF_AN_ANGLE.search(rest)  # `\\sin 30°` is one number
        plain = text[token.start() - 1] == " " and _PLAIN_NUMBER.fullmatch(rest) is not None
        unit = _read(tail[k:], plain, bare) if token["word"] and _ENDS_VALUE.search(rest) else None
        if unit is not None and not is_angle:
            return rest, unit
    return text, None


def _read(tokens: "list[re.Match[str]]", plain: bool, bare: bool) -> Unit | None:
    """Exponents of a compound of units; None where a part is no unit."""
    exponents: dict[str, int] = {}
    sign, power, certain, depth, last = 1, 0, False, 0, ""
    for token in tokens:
        word = token["word"] or ""
        if joint := token["joint"]:
            depth += joint.count("(") - joint.count(")")
            if depth < 0 or joint.count("-") > 1:
                return None
        elif word in ("", "per"):
            sign = -1
        elif word.lower() in _SQUARES and not token["power"]:
            power = _SQUARES[word.lower()]
            if word.lower().endswith("ed") and exponents:
                exponents[last] *= power
                power = 0
        else:
            spelling = re.sub(rf"[ {{}}{UPRIGHT}]", "", word).replace("\\mu", "µ").replace("\\Omega", "Ω")
            name = _KNOWN.get(spelling) or _KNOWN.get(spelling.lower() if len(spelling) > 3 else "")
            if name is None:
                return None
            size = int((token["power"] or "1").replace(" ", ""))
            certain |= len(word) > 1 or not word.isalpha() or size < 0 or (word == "m" and size > 1)
            for last, factor in _COMPOUND.get(name, ((name, 1),)):
                exponents[last] = exponents.get(last, 0) + sign * size * factor * (power or 1)
            power = 0
    certain |= plain and (bare or sign < 0)
    if depth or power or not exponents or ("unit" in exponents and len(exponents) > 1) or not certain:
        return None
    return tuple(sorted((name, size) for name, size in exponents.items() if size))


def same_unit(a: Unit | None, b: Unit | None) -> bool:
    """Whether one of two units is missing, or they are the same; `°` is any angle's or temperature's."""
    if a is None or b is None or a == b or "unit" in [unit[0][0] for unit in (a, b) if len(unit) == 1]:
        return True  # `12 square units` says no more than 12
    degrees = [((name, 1),) for name in ("°", "°C", "°F")]
    return degrees[0] in (a, b) and a in degrees and b in degrees
