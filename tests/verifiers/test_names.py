"""Which names may be exchanged between two formulas, and which never."""

import pytest

from gmpo_mm.verifiers.expressions import parse_expression
from gmpo_mm.verifiers.names import MAX_RENAMINGS, renamings
from gmpo_mm.verifiers.normalize import canonical
from gmpo_mm.verifiers.scalars import Rules, compare_scalars


def same(a: str, b: str, indices: str = "") -> bool:
    return compare_scalars(canonical(a), canonical(b), Rules(indices=frozenset(indices))) is True


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("C e^{-2t}", "c e^{-2t}"), ("K e^{2t}", "C e^{2t}"), ("\\frac{C}{2} e^x", "\\frac{c}{2} e^x"),
        ("x^2 + C", "x^2 + k"),
        ("x^2 + C", "x^2 + c"), ("c_1 e^x + c_2 e^{-x}", "C_1 e^x + C_2 e^{-x}"),
        ("c_1 e^x + c_2 e^{-x}", "c_2 e^x + c_1 e^{-x}"),
        ("c1 e^x + c2 e^{-x}", "A e^x + B e^{-x}"), ("c_1 x^2 + c_2 x^3", "C_1 x^2 + C_2 x^3"),
        ("(C_1 + C_2 t) e^{-t}", "(A + B t) e^{-t}"),
        ("e^x(A \\cos x + B \\sin x)", "e^x(c_1 \\cos x + c_2 \\sin x)"),
        ("A 2^n + B 3^n", "c_1 2^n + c_2 3^n"),
    ],
)  # fmt: skip
def test_an_arbitrary_constant_has_any_name(a: str, b: str) -> None:
    assert same(a, b) and same(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("m c^2", "m C^2"), ("c t", "C t"), ("a + c", "a + b"), ("a + c", "a + d"),
        ("x^2 + c", "x^2 + k"), ("c", "C"), ("c x", "C x"),
        ("\\frac12 k x^2", "\\frac12 K x^2"), ("A e^x + B e^{-x}", "B e^x + A e^{-x}"),
        ("C_1 V_1 + C_2 V_2", "C_2 V_1 + C_1 V_2"),
        ("C e^{-t/C}", "c e^{-t/C}"), ("C e^{-t/C}", "c e^{-t/c}"), ("C e^{-t/(RC)}", "K e^{-t/(RK)}"),
        ("C e^t + c", "c e^t + C"),
        ("C e^t + c", "c e^t + c"), ("x^2 + C", "x^2 + 2k"), ("C e^t", "2 c e^t"),
        ("C e^{-2t}", "c e^{-3t}"), ("C e^{-2t}", "c e^{-2s}"),
        ("C_1 e^x + C_2 e^{-x}", "c e^x + c e^{-x}"), ("C e^t + k", "C e^t + m"), ("g e^t", "h e^t"),
        ("x + y", "x + z"),
        ("C(t) e^t", "c e^t"),
        ("2C e^t", "c e^t + \\frac{C^2}{C} e^t"), ("C e^{-t} + V C", "c e^{-t} + V c"),
        ("\\frac{C}{d^2} e^{-h/kT}", "\\frac{A}{d^2} e^{-h/kT}"),
    ],
)  # fmt: skip
def test_a_given_name_stays_what_it_is(a: str, b: str) -> None:
    assert not same(a, b) and not same(b, a)


def test_an_index_has_any_name_where_it_is_declared() -> None:
    assert (
        same("n \\pi", "k \\pi", "k")
        and same("n \\pi", "k \\pi", "n")
        and same("\\frac{2n+1}{2}\\pi", "\\frac{2m+1}{2}\\pi", "m")
    )
    assert not same("n \\pi", "k \\pi") and not same("n \\pi", "k \\pi", "m")
    assert (
        not same("n + 2k", "k + 2n", "n")
        and not same("n x", "k x + k", "k")
        and not same("n \\pi", "x^2 \\pi", "n")
    )


@pytest.mark.parametrize(
    ("a", "b"),
    [("X_d + 1", "Xd + 1"), ("k_B T", "kB T"), ("\\frac{1}{T_e}", "\\frac{1}{Te}")],
)
def test_a_subscript_may_be_written_beside_its_letter(a: str, b: str) -> None:
    assert same(a, b) and same(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("a_b + a", "ab + a"),
        ("X_d", "dX"),
        ("X_d", "X \\cdot 2d"),
        ("X_d + d", "Xd + d"),
        ("X_d Xd", "Xd X_d^2"),
        ("x_1", "x"),
    ],
)
def test_a_product_is_no_subscript_where_its_letters_have_a_meaning(a: str, b: str) -> None:
    assert not same(a, b) and not same(b, a)


def test_a_prime_is_the_derivative_by_whatever_variable() -> None:
    assert same("x' + x", "\\dot x + x") and same("y''", "\\frac{d^2 y}{dx^2}") and same("\\ddot x", "x''")
    assert not same("x'", "\\dot y") and not same("x''", "\\dot x") and not same("\\dot x", "\\frac{dx}{ds}")
    assert not same("2y'", "\\frac{dy}{dx} + \\frac{dy}{dt}") and not same(
        "\\frac{dy}{dx} + \\frac{dy}{dt}", "2y'"
    )
    assert not same("x'", "x") and not same("y' + 1", "\\frac{dy}{dx} + \\frac{dy}{dt}")


def test_there_are_few_renamings() -> None:
    first = parse_expression("+".join(f"C_{i} e^({i}x)" for i in range(1, 5)))
    second = parse_expression("+".join(f"c_{i} e^({i}x)" for i in range(1, 5)))
    assert 0 < len(list(renamings(first, second, frozenset()))) <= MAX_RENAMINGS
    many = [parse_expression("+".join(f"{letter}_{i} e^({i}x)" for i in range(1, 10))) for letter in "Cc"]
    assert not list(renamings(*many, frozenset()))
