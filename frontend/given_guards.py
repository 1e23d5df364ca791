"""The conditions on sizes under which a program that was given was exported.

``torch.export`` keeps them as text (``L['x'].size()[1] % 2 == 0``) for a check when the program
runs, which a package does not have: at a size that the program refuses, it would compute what was
recorded for others.
"""

from __future__ import annotations

import ast
import itertools
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence

import sympy
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from frontend.errors import SizeError

# Sizes of a range at which a condition is looked at, a fraction of a second for each condition.
_MOST_SIZES = 4_096
_LISTED = 4
_BINARY: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: Mapping[type[ast.cmpop], Callable[[int, int], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: Mapping[str, Callable[..., int]] = {"min": min, "max": max, "abs": abs}

# The text of a place in the call, such as ``L['x'].size()[1]``, and its size.
Sizes = Mapping[str, int]


class UncheckedSizeWarning(UserWarning):
    """A condition on sizes of a given program that the package does not check."""


def check_given_guards(program: ExportedProgram) -> None:
    """Holds the conditions of a given program at every size of its own ranges.

    Conditions on several sizes at once (``n <= m``) stay the caller's, which is said: without the
    module it cannot be told what they stand for.

    Raises:
        SizeError: the program refuses a size that its ranges include.
    """
    guards: Sequence[str] = getattr(program, "_guards_code", None) or ()
    places = _places(program) if guards else {}
    for guard in guards:
        try:
            refused = _refused(program, guard, places)
        except (SyntaxError, LookupError, TypeError, ValueError, ArithmeticError) as error:
            warnings.warn(
                f"the program takes sizes with {guard} alone, and the package does not check it "
                f"({error}): call it with such sizes, or convert the module, whose conditions are "
                "tried beside it",
                UncheckedSizeWarning,
                stacklevel=3,
            )
            continue
        if refused:
            listed = ", ".join(map(str, refused[:_LISTED]))
            raise SizeError(
                "the program refuses sizes that its ranges include, which a package does not check",
                expected=guard,
                found=f"{listed}{' and more' if refused[_LISTED:] else ''}, which the range allows",
                hint="export it with a Dim that leaves these sizes out (2 * Dim('half'), or a "
                "narrower range) or with fixed sizes, or give the module: what its conditions "
                "stand for is then tried beside it",
            )


def _refused(program: ExportedProgram, guard: str, places: Mapping[str, sympy.Expr]) -> list[int]:
    """The values of the size in ``guard``, within its range, at which the guard fails."""
    condition = ast.parse(guard, mode="eval").body
    named = _named(condition)
    symbols = {symbol for name in named for symbol in places[name].free_symbols}
    if len(symbols) > 1:
        raise TypeError("it is of several sizes")
    if not symbols:
        return []
    (symbol,) = symbols
    found = []
    for size in _range(program, symbol):
        known = {name: _at(places[name], symbol, size) for name in named}
        if not _value(condition, known):
            found.append(next(known[name] for name in named if places[name].free_symbols))
    return found


def _at(size: sympy.Expr, symbol: sympy.Symbol, value: int) -> int:
    return value if size == symbol else int(size.subs(symbol, value))


def _places(program: ExportedProgram) -> dict[str, sympy.Expr]:
    """The text of each size of the call, and its expression."""
    signature = program.module_call_graph[0].signature
    if signature is None or program.call_spec.in_spec is None:
        return {}
    names = signature.forward_arg_names or []
    nodes = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
    leaves = [nodes.get(str(name)) for name in program.graph_signature.user_inputs]
    args, kwargs = pytree.tree_unflatten(leaves, program.call_spec.in_spec)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    found: dict[str, sympy.Expr] = {}
    for name, value in given.items():
        for path, node in pytree.tree_flatten_with_path(value)[0]:
            tensor = node.meta.get("val") if isinstance(node, fx.Node) else None
            for axis, size in enumerate(tensor.shape if isinstance(tensor, Tensor) else ()):
                text = f"L[{name!r}]{pytree.keystr(path)}.size()[{axis}]"
                if isinstance(size, torch.SymInt):
                    found[text] = size.node.expr
                else:
                    found[text] = sympy.Integer(size)
    return found


def _range(program: ExportedProgram, symbol: sympy.Symbol) -> range:
    known = program.range_constraints[symbol]
    least = max(0, int(known.lower))
    most = int(known.upper) if known.upper.is_Integer else least + _MOST_SIZES
    return range(least, min(most, least + _MOST_SIZES) + 1)


def _named(condition: ast.expr) -> set[str]:
    """The sizes that ``condition`` speaks of, as text."""
    return {ast.unparse(node) for node in ast.walk(condition) if _is_size(node)}


def _is_size(node: ast.AST) -> bool:
    """``something.size()[axis]``."""
    return (
        isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Attribute)
        and node.value.func.attr == "size"
    )


def _value(node: ast.expr, sizes: Sizes) -> int:
    """``node`` computed; of integer arithmetic, comparisons and sizes alone.

    Raises:
        TypeError: it is something else.
    """
    if _is_size(node):
        return sizes[ast.unparse(node)]
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.BinOp(left, op, right) if type(op) in _BINARY:
            return _BINARY[type(op)](_value(left, sizes), _value(right, sizes))
        case ast.UnaryOp(ast.USub(), operand):
            return -_value(operand, sizes)
        case ast.UnaryOp(ast.Not(), operand):
            return not _value(operand, sizes)
        case ast.BoolOp(ast.And(), values):
            return all(_value(value, sizes) for value in values)
        case ast.BoolOp(ast.Or(), values):
            return any(_value(value, sizes) for value in values)
        case ast.Compare(left, ops, rights) if all(type(op) in _COMPARE for op in ops):
            operands = [_value(operand, sizes) for operand in (left, *rights)]
            pairs = zip(ops, itertools.pairwise(operands), strict=True)
            return all(_COMPARE[type(op)](*pair) for op, pair in pairs)
        case ast.Call(ast.Name(name), args, []) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*(_value(argument, sizes) for argument in args))
    raise TypeError(f"{ast.unparse(node)} is no arithmetic of sizes")
