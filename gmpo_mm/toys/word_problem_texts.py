"""The texts of the word problems: what each kind of problem calculates, and the stories that are told about it.

A story names its numbers `{a}`, `{b}`, `{c}`, `{d}`, a person `{name}`, another person `{friend}` and things `{items}`. The
stories of training and of the test are two lists, and no story is in both.
"""

from __future__ import annotations

from dataclasses import dataclass

NAMES = ("Ana", "Ben", "Carla", "David", "Elif", "Femi", "Grace", "Hugo", "Ines", "Jonas", "Kofi", "Lena", "Mei", "Nora")
ITEMS = ("apples", "books", "cards", "coins", "eggs", "flowers", "marbles", "oranges", "pencils", "shells", "stamps", "toys")

SMALL = (2, 9)
"""Least and largest factor of a product; also of a divisor and of a quotient."""
LARGE = (2, 20)
"""Least and largest term of a sum or a difference."""


@dataclass(frozen=True)
class Kind:
    """One kind of problem.

    `steps` are calculations `left sign right`, one after the other, where `x` is the result before (and `y` the one before
    that, where two results are joined); `ranges` bound each number that is drawn. A dividend is drawn as a product: `a` of
    `quotient` is the number of parts times what each part holds.
    """

    name: str
    steps: tuple[str, ...]
    ranges: dict[str, tuple[int, int]]
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    transfer: tuple[str, ...] = ()


KINDS = (
    Kind(
        "sum",
        ("a + b",),
        {"a": LARGE, "b": LARGE},
        train=(
            "{name} has {a} {items}. {friend} gives {name} {b} more. How many {items} does {name} have now?",
            "There are {a} {items} in a box and {b} {items} on the table. How many {items} are there in all?",
            "{name} found {a} {items} on Monday and {b} {items} on Tuesday. How many {items} did {name} find in total?",
            "A shop sold {a} {items} in the morning and {b} in the afternoon. How many {items} did it sell that day?",
        ),
        test=(
            "A bag holds {a} {items}. {name} puts {b} {items} into it. How many {items} does the bag hold then?",
            "{name} owns {a} {items} and {friend} owns {b}. How many {items} do they own together?",
        ),
    ),
    Kind(
        "difference",
        ("a - b",),
        {"a": (8, 30), "b": LARGE},
        train=(
            "{name} had {a} {items} and gave {b} of them to {friend}. How many {items} does {name} have left?",
            "There were {a} {items} in a basket. {name} took {b} out. How many {items} are still in the basket?",
            "{name} has {a} {items}. {friend} has {b} fewer than {name}. How many {items} does {friend} have?",
            "A shop had {a} {items} and sold {b}. How many {items} remain?",
        ),
        test=(
            "{name} needs {a} {items} and has {b} so far. How many more {items} does {name} need?",
            "Of {a} {items} on a shelf, {b} fell down. How many {items} stayed on the shelf?",
        ),
    ),
    Kind(
        "product",
        ("a * b",),
        {"a": SMALL, "b": SMALL},
        train=(
            "{name} has {a} boxes with {b} {items} in each. How many {items} does {name} have?",
            "Each of {a} children brings {b} {items}. How many {items} do they bring in all?",
            "{name} buys {b} {items} every day for {a} days. How many {items} does {name} buy?",
            "There are {a} rows of {b} {items}. How many {items} are there?",
        ),
        test=(
            "A pack contains {b} {items}. How many {items} are in {a} packs?",
            "{name} fills {a} bags and puts {b} {items} into every bag. How many {items} does {name} use?",
        ),
    ),
    Kind(
        "quotient",
        ("a / b",),
        {"a": SMALL, "b": SMALL},
        train=(
            "{name} shares {a} {items} equally among {b} friends. How many {items} does each friend get?",
            "{a} {items} are put into {b} equal piles. How many {items} are in each pile?",
            "{name} packs {a} {items} into boxes of {b}. How many boxes does {name} fill?",
            "{name} has {a} {items} and uses {b} each day. For how many days do the {items} last?",
        ),
        test=(
            "{a} {items} are split evenly between {b} teams. How many {items} does one team get?",
            "A bag has room for {b} {items}. How many bags are needed for {a} {items}?",
        ),
    ),
    Kind(
        "sum_difference",
        ("a + b", "x - c"),
        {"a": LARGE, "b": LARGE, "c": (2, 12)},
        train=(
            "{name} had {a} {items}, bought {b} more and lost {c}. How many {items} does {name} have now?",
            "A box held {a} {items}. {name} added {b} and {friend} took {c} away. How many {items} are in the box?",
            "{name} picked {a} {items} and {friend} picked {b}. They gave {c} of them away. How many {items} are left?",
        ),
        test=(
            "{name} and {friend} put {a} and {b} {items} on a table. Then {c} {items} were sold. How many {items} were left?",
            "On Monday {name} got {a} {items}, on Tuesday {b}. On Friday {name} gave {c} to {friend}. How many {items} are "
            "left?",
        ),
    ),
    Kind(
        "product_sum",
        ("a * b", "x + c"),
        {"a": SMALL, "b": SMALL, "c": (2, 12)},
        train=(
            "{name} has {a} boxes of {b} {items} and {c} {items} more. How many {items} does {name} have in all?",
            "{name} buys {a} bags with {b} {items} each. {name} already had {c} {items}. How many {items} are there now?",
            "There are {a} rows of {b} {items} and {c} extra {items}. How many {items} are there in total?",
        ),
        test=(
            "{name} gets {b} {items} from each of {a} friends and finds {c} more. How many {items} does {name} have?",
            "A shelf has {a} drawers of {b} {items}, and {c} {items} lie on top. How many {items} is that?",
        ),
    ),
    Kind(
        "product_difference",
        ("a * b", "x - c"),
        {"a": SMALL, "b": SMALL, "c": (2, 12)},
        train=(
            "{name} has {a} boxes of {b} {items} and gives away {c} {items}. How many {items} are left?",
            "{name} buys {a} packs with {b} {items} each. {c} of the {items} are broken. How many {items} are not broken?",
            "Each of {a} children has {b} {items}. Together they lose {c}. How many {items} do they have then?",
        ),
        test=(
            "{name} fills {a} trays with {b} {items} each and sells {c} {items}. How many {items} does {name} still have?",
            "There were {a} piles of {b} {items}. {friend} used {c} {items}. How many {items} remain?",
        ),
    ),
    Kind(
        "sum_product",
        ("a + b", "x * c"),
        {"a": (2, 9), "b": (2, 9), "c": SMALL},
        train=(
            "Each box holds {a} {items} from {name} and {b} from {friend}. How many {items} are in {c} boxes?",
            "{name} finds {a} {items} every morning and {b} every evening. How many {items} does {name} find in {c} days?",
            "A pack has {a} red and {b} blue {items}. {name} buys {c} packs. How many {items} does {name} buy?",
        ),
        test=(
            "In each of {c} rooms there are {a} old and {b} new {items}. How many {items} are there in all?",
            "{name} sells {a} {items} and {friend} sells {b} {items} every hour. How many do they sell in {c} hours?",
        ),
    ),
    # What training never calculates: three steps, an average, a perimeter.
    Kind(
        "two_products",
        ("a * b", "c * d", "y + x"),
        {"a": SMALL, "b": SMALL, "c": SMALL, "d": SMALL},
        transfer=(
            "{name} has {a} boxes of {b} {items} and {c} bags of {d} {items}. How many {items} does {name} have?",
            "{a} children bring {b} {items} each, and {c} others bring {d} each. How many {items} are there in all?",
        ),
    ),
    Kind(
        "average",
        ("a + b", "x / 2"),
        {"a": LARGE, "b": LARGE},
        transfer=(
            "{name} found {a} {items} on Monday and {b} on Tuesday. What is the average number of {items} a day?",
            "{name} and {friend} have {a} and {b} {items}. They share them all equally. How many does each get?",
        ),
    ),
    Kind(
        "perimeter",
        ("a + b", "x * 2"),
        {"a": (3, 30), "b": (3, 30)},
        transfer=(
            "A rectangle is {a} meters long and {b} meters wide. What is its perimeter in meters?",
            "{name} walks once around a field that is {a} meters long and {b} meters wide. How many meters is that?",
        ),
    ),
    Kind(
        "change",
        ("a * b", "c - x"),
        {"a": SMALL, "b": SMALL, "c": (82, 100)},
        transfer=(
            "{name} has {c} dollars and buys {a} {items} for {b} dollars each. How many dollars are left?",
            "{a} {items} cost {b} dollars each. {name} pays with {c} dollars. How many dollars does {name} get back?",
        ),
    ),
)
