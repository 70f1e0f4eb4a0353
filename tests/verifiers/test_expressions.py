"""What the grammar reads, what it refuses, and which formulas are one tree in canonical form."""

import random
from fractions import Fraction

import pytest

from gmpo_mm.verifiers.evaluation import Evaluator, OutsideDomain
from gmpo_mm.verifiers.expressions import NotExpression, parse_expression
from gmpo_mm.verifiers.normalize import canonical
from gmpo_mm.verifiers.trees import Tree, canonical_tree, replaced, variables


def tree(text: str) -> Tree:
    return parse_expression(canonical(text))


def same(a: str, b: str) -> bool:
    return canonical_tree(tree(a)) == canonical_tree(tree(b))


def kind(text: str) -> str:
    return str(tree(text)[0])


@pytest.mark.parametrize(
    "text",
    [
        "y(0)",
        "x(-1)",
        "I(0)",
        "y(\\pi)",
        "x(t)",
        "P(A)",
        "y'(0)",
        "f(x+1)",
        "g(2x)",
        "M(x, y)",
        "v_0(t)",
        "f^{-1}(x)",
        "f(g(x))",
        "F(x^2)",
        "f'(2x)",
    ],
)
def test_a_name_before_one_number_one_name_or_a_list_is_a_function(text: str) -> None:
    assert kind(text) == "call"


@pytest.mark.parametrize(
    "text",
    [
        "n(n+1)",
        "x(y-1)",
        "a(b+c)",
        "r(r+h)",
        "x(2y)",
        "n(-1)^n",
        "P(1.05)^t",
        "x(x)",
        "G(M+m)",
        "g(h-x)",
        "\\pi(2)",
        "2(3)",
    ],
)
def test_a_name_before_anything_else_is_a_factor(text: str) -> None:
    assert kind(text) == "mul"


def test_a_quotient_on_one_line_has_all_the_letters_behind_the_bar_below_it() -> None:
    assert (
        same("e^{-t/RC}", "e^{-\\frac{t}{RC}}")
        and same("GM/r^2 c^2", "\\frac{GM}{r^2 c^2}")
        and same("1/2x", "\\frac{1}{2} x")
    )
    assert same("a/b(c+d)", "\\frac{a}{b}(c+d)")


def test_a_value_of_an_unknown_function_is_not_a_multiple_of_it() -> None:
    assert not same("y(0)", "0 y") and not same("x(2)", "2x") and not same("f^{-1}(x)", "\\frac{1}{f(x)}")
    assert same("C(5, 2)", "\\binom{5}{2}") and not same("P(5, 2)", "\\binom{5}{2}")


@pytest.mark.parametrize(
    "text",
    ["145 3", "2 3", "17 23", "x 3", "1.5 2.5", "1.5.2", "2{3}", "{2}3", "2{3x}", "\\frac{1}{2} 3",
    "2^3 4", "(B) 7", "(1)(2) 3",
     "x^2 3", "\\sqrt{2} 3", "n! 3", "3 to 4", "1\\frac{5}{4}", "2 3/2", "5 3 2^n", "2 3^n", "{2} 3^n"],
)  # fmt: skip
def test_numbers_side_by_side_are_no_formula(text: str) -> None:
    with pytest.raises(NotExpression):
        tree(text)


def test_a_number_with_an_exponent_may_follow_a_factor() -> None:
    assert (
        same("n2^n - 2^{n+1}", "n \\cdot 2^n - 2^{n+1}")
        and same("2^6 3^5", "2^6 \\cdot 3^5")
        and same("(n+1)2^n", "2^n(1+n)")
    )


def test_mixed_numbers_and_products_of_numbers() -> None:
    assert (
        same("4 1/2", "4\\frac{1}{2}")
        and same("4\\frac12", "{4}\\frac{1}{2}")
        and not same("4 1/2", "4 \\cdot \\frac12")
    )
    assert same("2(3)", "(2)(3)") and same("2(3)", "2 \\cdot 3")


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("\\frac12", "1/2"), ("\\frac1{2}", "\\frac{1}{2}"), ("\\frac x2", "x/2"), ("\\sqrt3", "3^{1/2}"),
        ("x^{-1}", "\\frac1x"),
        ("\\frac{abc}{4R}", "\\frac{cab}{4R}"), ("xyz", "zyx"), ("2n \\choose n", "\\binom{2n}{n}"),
        ("{2n \\choose n}", "\\binom{2n}{n}"),
        ("v^2_0", "v_0^2"), ("v^n_0", "v_0^n"),
        ("I_{\\max }", "I_{max}"), ("\\sqrt{2 C L}", "\\sqrt{2 L C}"), ("x1 + x2", "x_1 + x_{2}"),
        ("x1^2", "x_1^2"), ("a_{n+1}", "a_{1+n}"), ("a_{n-1+k}", "a_{k+n-1}"), ("\\ln^2 x", "(\\ln x)^2"),
        ("\\sin^{-1} x", "\\arcsin x"),
        ("\\log_2 8", "\\log_{2}(8)"),
        ("\\ln 8 / \\ln 2", "\\frac{\\ln 8}{\\ln 2}"), ("\\cos 2\\pi/7", "\\cos\\frac{2\\pi}{7}"),
        ("e^x", "\\exp(x)"),
        ("\\max\\{a, b\\}", "\\max(b, a)"),
        ("\\dot v", "\\frac{dv}{dt}"), ("\\ddot{x}", "\\frac{d^2 x}{dt^2}"), ("dy/dx", "\\frac{dy}{dx}"),
        ("\\tanh^{-1} x", "\\operatorname{arctanh} x"),
        ("-(a-b)", "b-a"),
        ("\\frac{1}{ab}", "(ab)^{-1}"), ("a/(b/c)", "\\frac{ac}{b}"), ("(-a)(-b)c", "abc"), ("(-a)b", "-ab"),
        ("x + 0", "x^1 \\cdot 1 / 1"),
        ("99^2+99+1", "1 + 99*1 + (99)^2"),
        ("\\sum_{k=0}^{n-1} F_{n-k-1} F_k", "\\sum_{j=0}^{n-1} F_j F_{n-1-j}"),
        ("\\sum_{i=1}^n i^2", "\\sum_{k=1}^{n} k^2"),
        ("\\sum^n_{k=1} a_k", "\\sum_{i=1}^{n} a_i"),
        ("\\prod_{k=1}^n \\sum_{j=1}^k j", "\\prod_{a=1}^n \\sum_{b=1}^a b"),
    ],
)  # fmt: skip
def test_spellings_of_one_formula_are_one_tree(text: str, other: str) -> None:
    assert same(text, other) and same(other, text)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("99^2+99+1", "9901"), ("2+3", "5"), ("2-3", "3-2"), ("a/b", "b/a"), ("x", "-x"), ("(-a)b", "ab"),
        ("x^2", "2x"),
        ("(-1)^2", "-1^2"),
        ("x'", "x"), ("x'", "x''"), ("\\dot x", "\\ddot x"), ("\\frac{dv}{dt}", "\\frac{v}{t}"),
        ("\\frac{dv}{dt}", "\\frac{dt}{dv}"),
        ("\\frac{\\partial u}{\\partial t}", "\\frac{du}{dt}"), ("\\log x", "\\ln x"),
        ("\\log_2 x", "\\log_3 x"), ("x_1", "x"),
        ("\\sum_{k=1}^n k", "\\sum_{k=1}^n n"), ("\\sum_{k=1}^n k", "\\sum_{k=0}^n k"),
        ("\\sum_{k=1}^n k", "\\prod_{k=1}^n k"),
        ("\\sum_{k=1}^n a_{kj}", "\\sum_{k=1}^n a_{jk}"),
        ("\\sum_{k=1}^n\\sum_{j=1}^n k^2 j", "\\sum_{k=1}^n\\sum_{j=1}^n k j^2"),
        ("\\sum_{k=1}^n k + 1", "\\sum_{k=1}^n (k + 1)"), ("f(x)", "f(y)"), ("x_{n+1}", "x_n + 1"),
        ("x_{n+1}", "x_{n-1}"), ("x_{n-k+1}", "x_{k-n+1}"), ("x_{+}", "x_{-}"), ("x_{n-+1}", "x_{n+1}"),
        ("1/(1/0)", "0"),
        ("\\max(a, b)", "\\min(a, b)"),
        ("\\sinh^{-1} x", "1/\\sinh x"),
    ],
)  # fmt: skip
def test_different_formulas_are_different_trees_and_nothing_is_evaluated(text: str, other: str) -> None:
    assert not same(text, other)


def test_a_bound_name_is_not_replaced() -> None:
    values: dict[str, Tree] = {"k": ("var", "m")}
    assert replaced(tree("k + \\sum_{k=1}^{n} k"), values) == tree("m + \\sum_{k=1}^{n} k")
    assert replaced(tree("\\sum_{j=1}^{k} k"), values) == tree("\\sum_{j=1}^{m} m")


@pytest.mark.parametrize(
    ("text", "value"), [("\\max(1, 2)", 2)]
)
def test_functions_of_whole_numbers_are_read_with_their_values(text: str, value: int) -> None:
    assert Evaluator({}, False, 192).evaluate(tree(text)) == value


def test_a_bound_name_is_none_of_a_formulas_variables() -> None:
    assert variables(tree("\\sum_{k=1}^{n} k x")) == {"n", "x"}
    assert variables(tree("\\sum_{i=0}^{n} F_{n-i}")) == {"F", "n"}
    assert variables(tree("k + \\sum_{k=1}^{n} k")) == {"k", "n"}


@pytest.mark.parametrize(
    "text",
    ["n!!", "\\sum_{k=1} k", "\\sum^n k", "\\sum_{k=1}_{k=2} k", "\\int_0^1 x dx", "\\int x", "\\lim x",
    "\\frac{d}{dx}", "x_{}",
    "x_1_2", "x_{} y", "5%%", "\\foo x", "a = b",
     "1,234", "x(", "\\nabla f", "\\frac{1}", "^2", "", "|x", "\\sqrt", "1e999"],
)  # fmt: skip
def test_what_is_not_understood_whole_is_no_formula(text: str) -> None:
    with pytest.raises(NotExpression):
        tree(text)


@pytest.mark.parametrize(
    "text",
    ["\\sqrt " * 300 + "x", "{" * 150 + "x" + "}" * 150, "x^" * 150 + "x", "\\dot " * 300 + "x",
    "1" + "+1" * 199, "x " * 390,
     "\\frac{d}{dx}" * 60 + "x", "\\sin " * 300 + "x", "x/" * 180 + "x", "\\int " * 200 + "x",
     "(" * 200, "\\frac{d" * 100, "x_{" * 100],
)  # fmt: skip
def test_formulas_beyond_the_bounds_are_refused(text: str) -> None:
    with pytest.raises(NotExpression):
        parse_expression(text)


def _random_formula(random_: random.Random, depth: int) -> str:
    if depth == 0 or random_.random() < 0.15:
        return random_.choice(["x", "y", "2", "3", "1", "0", "7"])
    shapes = [
        "{} + {}",
        "{} - {}",
        "({}) ({})",
        "\\frac{{{}}}{{{}}}",
        "({}) / ({})",
        "-({}) + ({})",
        "({})^{{2}} + {}",
    ]
    shapes += ["({})^{{-1}} * ({})", "\\sqrt{{({})^2}} + {}", "({}) - ({})"]
    return random_.choice(shapes).format(
        _random_formula(random_, depth - 1), _random_formula(random_, depth - 1)
    )


def _binary(node: Tree) -> Tree:
    """A canonical tree in the parser's kinds, for evaluation."""
    if node[0] in ("add", "mul"):
        result = _binary(node[1])
        for part in node[2:]:
            result = (node[0], result, _binary(part))
        return result
    if node[0] == "inverse":
        return ("div", ("num", Fraction(1)), _binary(node[1]))
    return (node[0], *(_binary(child) if isinstance(child, tuple) else child for child in node[1:]))


def test_the_canonical_tree_has_the_formulas_value() -> None:
    random_ = random.Random(7)
    point = {"x": Fraction(7, 3), "y": Fraction(-5, 11)}
    compared = 0
    for _ in range(500):
        text = _random_formula(random_, 4)
        try:
            read = parse_expression(text)
            value = Evaluator(point, False, 192).evaluate(read)
        except (NotExpression, OutsideDomain):
            continue
        again = Evaluator(point, False, 192).evaluate(_binary(canonical_tree(read)))
        assert abs(value - again) <= abs(value) * 1e-30 + 1e-30, text
        compared += 1
    assert compared > 300


def test_no_text_raises_anything_else() -> None:
    pieces = [
        "x",
        "n",
        "c_1",
        "d",
        "e",
        "f",
        "(",
        ")",
        "{",
        "}",
        "[",
        "]",
        "|",
        "+",
        "-",
        "*",
        "/",
        "^",
        "_",
        "!",
        "'",
        ",",
        "1",
    ]
    pieces += [
        "\\frac",
        "\\sqrt",
        "\\sum_{k=1}^{n}",
        "\\int_0^1",
        "dx",
        "\\lim_{x \\to 0}",
        "\\sin",
        "\\log_2",
        "\\choose",
        "\\dot",
        "=",
        "&",
    ]
    random_ = random.Random(11)
    read = 0
    for _ in range(8000):
        text = " ".join(random_.choice(pieces) for _ in range(random_.choice([3, 6, 10, 200])))
        try:
            canonical_tree(parse_expression(text))
            read += 1
        except NotExpression:
            pass
    assert read > 100
