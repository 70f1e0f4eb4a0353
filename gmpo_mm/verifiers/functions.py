"""The functions that formulas may name; what is rare is written by the common ones."""

from gmpo_mm.verifiers.trees import ONE, TWO, Tree

TRIGONOMETRIC = frozenset(("sin", "cos", "tan", "cot", "sec", "csc"))
FUNCTIONS = TRIGONOMETRIC | frozenset(
    str.split(
        "arcsin arccos arctan sinh cosh tanh ln exp asin acos atan abs floor ceil coth sech csch arsinh"
    )
    + str.split("arcosh artanh arcsinh arccosh arctanh arcsec arccsc arccot")
)
RENAMED = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
RENAMED |= {"arsinh": "arcsinh", "arcosh": "arccosh", "artanh": "arctanh"}


def known_function(name: str, argument: Tree) -> Tree:
    """A known function; those that are rare, by others: `coth`, `arcsinh`, `arcsec`."""
    square: Tree = ("pow", argument, TWO)
    match name:
        case "coth" | "sech" | "csch":
            return ("div", ONE, ("fn", {"coth": "tanh", "sech": "cosh", "csch": "sinh"}[name], argument))
        case "arcsinh":
            return ("fn", "ln", ("add", argument, ("root", ("add", square, ONE), TWO)))
        case "arccosh":
            return ("fn", "ln", ("add", argument, ("root", ("add", square, ("neg", ONE)), TWO)))
        case "arctanh":
            quotient = ("div", ("add", ONE, argument), ("add", ONE, ("neg", argument)))
            return ("div", ("fn", "ln", quotient), TWO)
        case "arcsec" | "arccsc":
            return ("fn", "arccos" if name == "arcsec" else "arcsin", ("div", ONE, argument))
        case "arccot":
            return ("add", ("div", ("const", "pi"), TWO), ("neg", ("fn", "arctan", argument)))
    return ("fn", name, argument)
