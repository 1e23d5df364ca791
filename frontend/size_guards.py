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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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
from frontend.dynamic_shapes import Call, resized
from frontend.errors import SizeError, kind_and_line
from frontend.export_errors import KEEP_SYMBOLIC, suggested
from frontend.program import runnable

# So many computations of a condition take a few seconds.
_MOST_SIZES = 20_000
# Sizes at which the program is run beside the model, a fraction of a second each.
_MOST_RUNS = 12
# The program is the model's own operators in float32: it differs by rounding alone.
_TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}
_NOT_THE_MODEL = (str(Path(torch.__file__).parent), str(Path(__file__).parent))

Sizes = dict[str, int]


@dataclass(frozen=True)
class _Condition:
    """A condition in the names of the Dims, and the source line it comes from."""

    text: str
    line: str | None
    fixes: bool


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


def check_guards(program: ExportedProgram, model: nn.Module, call: Call, error: Exception) -> None:
    """Decides what torch left open, and gives ``program`` the whole range that was asked for.

    Raises:
        SizeError: a condition fails at a size where the model runs, or the model itself does
            not; names the source line of the condition.
        ConstraintViolationError: ``error``, where the sizes are too many to go through.
    """
    places = _symbols(program, call)
    environment = next(iter(places.values()))[0] if places else None
    if environment is None:
        raise error
    dims = {symbol: dim for symbol, (_, dim) in places.items()}
    named = {symbol: sympy.Symbol(dim.__name__) for symbol, dim in dims.items()}
    failing: dict[tuple[tuple[str, int], ...], _Condition] = {}
    for guard in environment.guards:
        condition = _Condition(str(guard.expr.xreplace(named)), _line(guard), _fixes(guard.expr))
        for sizes in _where_false(guard.expr, dims, error):
            failing.setdefault(tuple(sorted(sizes.items())), condition)
            if len(failing) > _MOST_RUNS:
                raise _fails(condition, list(failing), error)
    for assignment, condition in failing.items():
        if not _runs_alike(program, model, call, dict(assignment), condition):
            raise _fails(condition, [assignment], error)
    for symbol, dim in dims.items():
        if not hasattr(dim, "root"):
            _widen(program, environment, symbol, dim)


def _symbols(program: ExportedProgram, call: Call) -> dict[sympy.Symbol, tuple[ShapeEnv, Dim]]:
    """The symbol that torch gave each dynamic size of the call, and its Dim."""
    names = program.graph_signature.user_inputs
    values = {n.name: n.meta.get("val") for n in program.graph.find_nodes(op="placeholder")}
    found: dict[sympy.Symbol, tuple[ShapeEnv, Dim]] = {}
    for position, axis, dim in call.sizes:
        value = values.get(str(names[position]))
        size = value.shape[axis] if isinstance(value, Tensor) else None
        if isinstance(size, torch.SymInt) and isinstance(size.node._expr, sympy.Symbol):
            found[size.node._expr] = size.node.shape_env, dim
    return found


def _where_false(
    condition: sympy.Basic, dims: Mapping[sympy.Symbol, Dim], error: Exception
) -> Iterator[Sizes]:
    symbols = sorted(condition.free_symbols, key=str)
    if any(symbol not in dims for symbol in symbols):
        raise error
    roots = {(root := getattr(dims[s], "root", dims[s])).__name__: root for s in symbols}
    if len(roots) > 1 and not isinstance(condition, sympy.Eq):
        return  # such as n <= end of a cache: the caller's, as it is to torch
    ranges = [range(max(1, int(root.min)), _highest(root, error) + 1) for root in roots.values()]
    total = 1
    for values in ranges:
        total *= len(values)
    if total > _MOST_SIZES:
        raise error
    for combination in itertools.product(*ranges):
        sizes = dict(zip(roots, combination, strict=True))
        known = {symbol: _size(dims[symbol], sizes) for symbol in symbols}
        if not sympy_interp(PythonReferenceAnalysis, known, condition):
            yield sizes


def _highest(dim: Dim, error: Exception) -> int:
    if not isinstance(dim.max, int) or dim.max > sys.maxsize // 2:
        raise error
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
        raise SizeError(
            f"the model does not run at {where}, which dynamic_shapes asks for",
            source=condition.line,
            expected="a model that runs for every size in the range",
            found=kind_and_line(error),
            hint="leave the size out of the range of its Dim",
        ) from error
    with _buffers_kept(model):  # the program writes the model's own, before it is functional
        found = runnable(program)(*args, **kwargs)
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
    condition: _Condition, failing: Sequence[tuple[tuple[str, int], ...]], error: Exception
) -> SizeError:
    sizes = ["(" + ", ".join(f"{n} = {v}" for n, v in entry) + ")" for entry in failing]
    return SizeError(
        "a size that was to be dynamic cannot vary as dynamic_shapes asks",
        source=condition.line,
        expected="one program for every size in the range",
        found=f"the model does something else unless {condition.text}: at {', '.join(sizes[:4])}"
        + (" and more" if len(sizes) > 4 else ""),
        hint=suggested(str(error))
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
