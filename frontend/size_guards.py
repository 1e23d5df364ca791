"""What a captured program takes for granted about its dynamic sizes, held at every size.

While it records, torch notes conditions on sizes (``n // 2 <= n``, ``n - n // 2 != 1``), and
refuses a range of which it cannot prove them. Here they are computed at each size of the range.
Where one does not hold, the program is run at that size beside the model: many only say which
spelling of the same operator was recorded.
"""

from __future__ import annotations

import itertools
import linecache
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from types import FrameType
from typing import Any

import sympy
import torch
from torch import Tensor, nn
from torch._export import non_strict_utils
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram
from torch.export import _trace as export_trace
from torch.fx.experimental.symbolic_shapes import ConstraintViolationError, ShapeEnv
from torch.utils import _pytree as pytree
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis
from torch.utils._sympy.value_ranges import ValueRanges

from frontend.branches.ask import replaced
from frontend.dynamic_shapes import Call, HintedDim, resized
from frontend.errors import SizeError, kind_and_line
from frontend.export_errors import KEEP_SYMBOLIC, decomposed, suggested
from frontend.preserve import decomposition_table
from frontend.program import runnable

# So many computations of a condition take a few seconds.
_MOST_SIZES = 20_000
# Sizes at which the program is run beside the model, a fraction of a second each.
_MOST_RUNS = 32
# Of conditions on several sizes so many of each are looked at.
_MOST_OF_SEVERAL = 128
# Of two sizes at a time: a condition that fails at more of them says how they hang together.
_MOST_PAIRS = 12
# The program is the model's own operators in float32: it differs by rounding alone.
_TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}
_NOT_THE_MODEL = (str(Path(torch.__file__).parent), str(Path(__file__).parent))

Sizes = dict[str, int]


class NarrowedSizeWarning(UserWarning):
    """The program takes fewer sizes than the range of a hint."""


@dataclass(frozen=True)
class _Condition:
    """A condition in the names of the Dims, and the source line it comes from.

    Attributes:
        text, line: those.
        fixes: whether a size has to be one number.
        is_open: whether a size in it has no range that was asked for.
    """

    text: str
    line: str | None
    fixes: bool
    is_open: bool


class Violations:
    """What torch could not prove while one program was exported."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.environment: ShapeEnv | None = None

    def fixing_line(self) -> str | None:
        """The line of the model that made a dynamic size one number, where one did."""
        guards = self.environment.guards if self.environment is not None else []
        lines = (_line(guard) for guard in guards if _fixes(guard.expr))
        return next(filter(None, lines), None)


@contextmanager
def deferring() -> Iterator[Violations]:
    """Inside, an export goes on where torch cannot prove its conditions; see ``check_guards``."""
    found = Violations()
    original = non_strict_utils.produce_guards_and_solve_constraints

    def produce(fake_mode: FakeTensorMode, *args: Any, **kwargs: Any) -> None:
        found.environment = fake_mode.shape_env
        try:
            original(fake_mode, *args, **kwargs)
        except (ConstraintViolationError, AssertionError) as error:
            # An assertion of torch's own fails where it words its advice.
            found.error = error

    with ExitStack() as stack:
        name = "produce_guards_and_solve_constraints"
        stack.enter_context(replaced(export_trace, name, produce))
        stack.enter_context(replaced(ShapeEnv, "_get_user_frame", _model_frame))
        yield found


def check_guards(
    program: ExportedProgram, model: nn.Module, call: Call, error: Exception | None
) -> None:
    """Decides what torch left open, and gives ``program`` the whole range that was asked for.

    torch leaves conditions on hints (``Dim.DYNAMIC``) to a check when the program runs, which a
    package does not have. They are held to the same as named Dims.

    Args:
        program: as it was exported.
        model: what it was exported from.
        call: the inputs and their sizes.
        error: what torch could not prove, ``None`` where all sizes that it looks at are hints.

    Raises:
        SizeError: a condition fails at a size where the model runs, or the model itself does
            not; names the source line of the condition.
        ConstraintViolationError: ``error``, where the sizes are too many to go through.
    """
    hinted = any(isinstance(dim, HintedDim) for _, _, dim in call.sizes)
    if error is None and not hinted and len({str(dim) for _, _, dim in call.sizes}) < 2:
        return  # torch has proven them; of several sizes it proves nothing
    places = _symbols(program, call)
    environment = next(iter(places.values()))[0] if places else None
    if environment is None:
        if error is not None:
            raise error
        return
    dims = {symbol: dim for symbol, (_, dim) in places.items()}
    named = {symbol: sympy.Symbol(dim.__name__) for symbol, dim in dims.items()}
    failing: dict[tuple[tuple[str, int], ...], _Condition] = {}
    for guard in environment.guards:
        is_open = any(_is_open(dims[s]) for s in guard.expr.free_symbols if s in dims)
        text = str(guard.expr.xreplace(named))
        condition = _Condition(text, _line(guard), _fixes(guard.expr), is_open)
        for sizes in _of_several(guard.expr, dims, environment):
            # Such as n <= end of a cache: the caller's, where the model itself does not run.
            failing.setdefault(tuple(sorted(sizes.items())), replace(condition, is_open=True))
        for sizes in _where_false(guard.expr, dims, environment, error):
            failing.setdefault(tuple(sorted(sizes.items())), condition)
            if len(failing) > (_MOST_RUNS if len(sizes) == 1 else _MOST_PAIRS):
                raise _fails(condition, list(failing), error)
    if failing:
        # As operators that stay, since those that torch takes apart record the example's side too.
        with _buffers_kept(model):
            core = decomposed(program, decomposition_table())
    for assignment, condition in failing.items():
        if not _runs_alike(core, model, call, dict(assignment), condition):
            raise _fails(condition, [assignment], error)
    for symbol, dim in dims.items():
        if error is not None and not hasattr(dim, "root") and not isinstance(dim, HintedDim):
            _widen(program, environment, symbol, dim)


def warn_of_narrowed(program: ExportedProgram, call: Call) -> None:
    """Says where the program takes fewer sizes than the range of a hint."""
    for size, dim in _sizes(program, call):
        if not isinstance(dim, HintedDim) or dim.hint.min is dim.hint.max is None:
            continue
        if isinstance(size, torch.SymInt):
            taken = program.range_constraints.get(size.node.expr)
        else:
            taken = ValueRanges(size, size)
        if taken is None:
            continue  # it follows from other sizes
        least, most = dim.hint.min, dim.hint.max
        if (least is not None and taken.lower > least) or (most is not None and taken.upper < most):
            warnings.warn(
                f"{dim.place} takes sizes from {taken.lower} to {taken.upper}, though {dim.hint} "
                "was asked for: torch starts the range of a hint at 2, and narrows it to what it "
                "can prove. A named Dim keeps its range, or the refusal says what is in its way",
                NarrowedSizeWarning,
                stacklevel=3,
            )


def _sizes(program: ExportedProgram, call: Call) -> Iterator[tuple[int | torch.SymInt, Dim]]:
    """What became of each dynamic size of the call, and its Dim."""
    names = program.graph_signature.user_inputs
    values = {n.name: n.meta.get("val") for n in program.graph.find_nodes(op="placeholder")}
    for position, axis, dim in call.sizes:
        value = values.get(str(names[position]))
        if isinstance(value, Tensor):
            yield value.shape[axis], dim


def _symbols(program: ExportedProgram, call: Call) -> dict[sympy.Symbol, tuple[ShapeEnv, Dim]]:
    """The symbol that torch gave each dynamic size of the call, and its Dim."""
    found: dict[sympy.Symbol, tuple[ShapeEnv, Dim]] = {}
    bound: Counter[sympy.Symbol] = Counter()
    for size, dim in _sizes(program, call):
        if isinstance(size, torch.SymInt):
            expression = size.node._expr
            if isinstance(dim, HintedDim):
                bound.update(expression.free_symbols)
            if isinstance(expression, sympy.Symbol):
                found[expression] = size.node.shape_env, dim
    # Sizes of which torch found that they hang together cannot be tried one by one.
    return {symbol: entry for symbol, entry in found.items() if bound[symbol] <= 1}


def _where_false(
    condition: sympy.Basic,
    dims: Mapping[sympy.Symbol, Dim],
    environment: ShapeEnv,
    error: Exception | None,
) -> Iterator[Sizes]:
    symbols = sorted(condition.free_symbols, key=str)
    if any(symbol not in dims for symbol in symbols):
        if error is not None:
            raise error
        return
    roots = _roots(symbols, dims)
    is_hinted = any(isinstance(root, HintedDim) for root in roots.values())
    if error is None and not is_hinted:
        return
    if len(roots) > 1 and (is_hinted or not isinstance(condition, sympy.Eq)):
        return  # see _of_several
    ranges = [range(max(1, int(root.min)), _highest(root, error) + 1) for root in roots.values()]
    if is_hinted:  # what torch narrowed is the range of the package
        taken = environment.var_to_range[symbols[0]]
        ranges = [range(max(ranges[0].start, taken.lower), min(ranges[0].stop, taken.upper + 1))]
    total = 1
    for values in ranges:
        total *= len(values)
    if total > _MOST_SIZES and error is not None:
        raise error
    yield from _failing(condition, dims, dict(zip(roots, ranges, strict=True)))


def _of_several(
    condition: sympy.Basic,
    dims: Mapping[sympy.Symbol, Dim],
    environment: ShapeEnv,
) -> list[Sizes]:
    """Some sizes at which a condition on several of them fails, spread over those that do."""
    symbols = sorted(condition.free_symbols, key=str)
    if any(symbol not in dims for symbol in symbols):
        return []
    roots = _roots(symbols, dims)
    is_hinted = any(isinstance(root, HintedDim) for root in roots.values())
    if len(roots) < 2 or (isinstance(condition, sympy.Eq) and not is_hinted):
        return []
    ranges = []
    for root in roots.values():
        taken = environment.var_to_range.get(next((s for s in symbols if dims[s] is root), None))
        least = max(1, int(root.min or 0), 1 if taken is None else int(taken.lower))
        most = root.max if isinstance(root.max, int) else sys.maxsize
        if taken is not None and taken.upper.is_Integer:
            most = min(most, int(taken.upper))
        ranges.append(range(least, min(most, least + _MOST_OF_SEVERAL) + 1))
    failing = list(_failing(condition, dims, dict(zip(roots, ranges, strict=True))))
    spread = {0, len(failing) // 2, len(failing) - 1} if failing else ()
    return [failing[at] for at in sorted(spread)]


def _roots(symbols: Sequence[sympy.Symbol], dims: Mapping[sympy.Symbol, Dim]) -> dict[str, Dim]:
    """The sizes that ``symbols`` are computed from, by name."""
    return {(root := getattr(dims[s], "root", dims[s])).__name__: root for s in symbols}


def _failing(
    condition: sympy.Basic, dims: Mapping[sympy.Symbol, Dim], ranges: Mapping[str, range]
) -> Iterator[Sizes]:
    """Where ``condition`` is false, of the sizes in ``ranges`` the first ``_MOST_SIZES``."""
    for combination in itertools.islice(itertools.product(*ranges.values()), _MOST_SIZES):
        sizes = dict(zip(ranges, combination, strict=True))
        known = {symbol: _size(dims[symbol], sizes) for symbol in condition.free_symbols}
        if not sympy_interp(PythonReferenceAnalysis, known, condition):
            yield sizes


def _highest(dim: Dim, error: Exception | None) -> int:
    if not isinstance(dim.max, int) or dim.max > sys.maxsize // 2:
        if error is not None:
            raise error
        return _MOST_SIZES
    return dim.max


def _size(dim: Dim, sizes: Mapping[str, int]) -> int:
    root = getattr(dim, "root", dim)
    apply: Callable[[int], int] = getattr(dim, "fn", int)
    return int(apply(sizes[root.__name__]))


def _runs_alike(
    program: ExportedProgram, model: nn.Module, call: Call, sizes: Sizes, condition: _Condition
) -> bool:
    """Whether both say the same at ``sizes``, the other sizes as in the example."""
    args, kwargs = resized(call, sizes)
    where = ", ".join(f"{name} = {size}" for name, size in sizes.items())
    try:
        with _buffers_kept(model):
            want = model(*pytree.tree_map_only(Tensor, torch.clone, args), **kwargs)
    except Exception as error:
        if condition.is_open:
            return True  # nobody asked for this size
        raise SizeError(
            f"the model does not run at {where}, which dynamic_shapes asks for",
            source=condition.line,
            expected="a model that runs for every size in the range",
            found=kind_and_line(error),
            hint="leave the size out of the range of its Dim",
        ) from error
    try:
        with _buffers_kept(model):  # the program writes the model's own, before it is functional
            found = runnable(program)(*args, **kwargs)
    except (RuntimeError, ValueError):
        return False  # it was recorded for the example's size
    pairs = list(zip(_tensors(found), _tensors(want), strict=False))
    return bool(pairs) and all(
        a.shape == b.shape and torch.allclose(a.double(), b.double(), equal_nan=True, **_TOLERANCE)
        for a, b in pairs
    )


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    kept = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)


def _fails(
    condition: _Condition, failing: Sequence[tuple[tuple[str, int], ...]], error: Exception | None
) -> SizeError:
    sizes = ["(" + ", ".join(f"{n} = {v}" for n, v in entry) + ")" for entry in failing]
    return SizeError(
        "a size that was to be dynamic cannot vary as dynamic_shapes asks",
        source=condition.line,
        expected="one program for every size in the range",
        found=f"the model does something else unless {condition.text}: at {', '.join(sizes[:4])}"
        + (" and more" if len(sizes) > 4 else ""),
        hint=suggested(str(error or ""))
        + (f"{KEEP_SYMBOLIC}, or " if condition.fixes else "")
        + "narrow the range of the Dim, convert one package for each part of it, or write "
        "fixed sizes in the model",
    )


def _widen(program: ExportedProgram, environment: ShapeEnv, symbol: sympy.Symbol, dim: Dim) -> None:
    for ranges in (program.range_constraints, environment.var_to_range):
        known = ranges.get(symbol)
        if known is not None:
            lower = min(known.lower, max(2, int(dim.min)))
            ranges[symbol] = ValueRanges(lower, max(known.upper, sympy.Integer(dim.max)))


def _tensors(value: object) -> Sequence[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _model_frame(environment: ShapeEnv) -> FrameType | None:
    """The innermost frame of the model's own code, for the line of a condition."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_NOT_THE_MODEL):
        frame = frame.f_back
    return frame


def _is_open(dim: Dim) -> bool:
    return isinstance(dim, HintedDim) and dim.hint.max is None


def _fixes(condition: sympy.Basic) -> bool:
    """Whether a size has to be one number: float(n) and math.sqrt(n) take it out."""
    if not isinstance(condition, sympy.Eq):
        return False
    left, right = condition.args
    return bool((left.is_Symbol and right.is_Integer) or (left.is_Integer and right.is_Symbol))


def _line(guard: Any) -> str | None:
    place = guard.sloc.framework_loc
    if place is None or isinstance(place, str):
        return None
    code = linecache.getline(place.filename, place.lineno).strip()
    return f"{PurePath(place.filename).name}:{place.lineno} {code}"
