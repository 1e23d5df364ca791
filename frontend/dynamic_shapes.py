"""``dynamic_shapes`` checked and completed before the exporter sees it.

torch.export wants one entry for every argument, in the call's own nesting, and an example of at
least two elements along every dynamic axis: an axis of one is taken for a constant. Here entries
may be left out, mistakes are named with their place, and examples of one are repeated.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.export.dynamic_shapes import _DimHint
from torch.utils._pytree import tree_leaves

from frontend.errors import DynamicShapesError, SizeError

# Key in ``program.graph_module.meta``: name of each Dim to the expression of its size.
DIM_SYMBOLS = "ane_dim_symbols"

# Sizes 0 and 1 broadcast, so that the exporter takes a hint for something larger.
_LEAST = 2
# Of a hint without a largest size, this many are looked at.
_WINDOW = 32
_FORMS = "a Dim, an int, None, Dim.AUTO, Dim.DYNAMIC or Dim.STATIC"
_EXAMPLE = '{"x": {0: Dim("batch", max=8)}} for an argument x, one entry for each dynamic axis'


class HintedDim(Dim):
    """What stands for a hint such as ``Dim.DYNAMIC(min=4, max=32)`` where sizes are counted.

    Attributes:
        hint: as it was given.
        place: the argument and axis, in words.
    """

    def __init__(self, hint: _DimHint, path: str, axis: object) -> None:
        least = max(_LEAST, hint.min or 0)
        most = hint.max if hint.max is not None else least + _WINDOW
        super().__init__(re.sub(r"\W+", "_", f"{path}_{axis}"), min=least, max=max(most, least + 1))
        self.hint, self.place = hint, f"axis {axis} of {path}"


@dataclass(frozen=True)
class Call:
    """A call as it is exported.

    Attributes:
        args: positional inputs, repeated along dynamic axes where they had one element.
        kwargs: keyword inputs, likewise.
        dynamic_shapes: as torch.export takes it; ``None`` where every size is fixed.
        axes: of each named Dim one place, (position of the flat input, axis, the Dim).
        dims: as ``dynamic_shapes``, with a Dim of its own for each hint.
        sizes: every place of a Dim in ``dims``, as in ``axes``.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dynamic_shapes: Any
    axes: Mapping[str, tuple[int, int, Dim]]
    dims: Mapping[str, Any] = field(default_factory=dict)
    sizes: Sequence[tuple[int, int, Dim]] = ()


def normalise_call(
    forward: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    dynamic_shapes: object,
) -> Call:
    """The call and its ``dynamic_shapes``, made to fit each other.

    Args:
        forward: what is called.
        args: positional example inputs.
        kwargs: keyword example inputs.
        dynamic_shapes: by name or in order of the arguments; entries may be left out.

    Raises:
        DynamicShapesError: names the entry that does not fit, and what would.
    """
    if not dynamic_shapes or not isinstance(dynamic_shapes, Mapping | tuple | list):
        return Call(args, dict(kwargs), dynamic_shapes, {})
    try:
        bound = signature_of(forward, kwargs).bind(*args, **kwargs)
    except TypeError:
        return Call(args, dict(kwargs), dynamic_shapes, {})  # the exporter says it better
    given = _by_argument(bound.arguments, dynamic_shapes)
    specs = {
        name: _checked(value, given.get(name), name, _entry)
        for name, value in bound.arguments.items()
    }
    places = [p for name in specs for p in _axes(bound.arguments[name], specs[name], name)]
    wider = _too_narrow(places)
    if wider:
        for name, value in bound.arguments.items():
            bound.arguments[name] = _widened(value, specs[name], wider)
        places = [p for name in specs for p in _axes(bound.arguments[name], specs[name], name)]
    _check_ranges(places)
    # From the last on, since of several inputs with one size the first is the one to be named.
    order = reversed(list(enumerate(tree_leaves((bound.args, bound.kwargs)))))
    index_of = {id(leaf): index for index, leaf in order}
    axes = {
        entry.__name__: (index_of[id(tensor)], axis, entry)
        for tensor, axis, entry, _ in reversed(places)
        if isinstance(entry, Dim) and not hasattr(entry, "root")
    }
    dims = {
        name: _checked(bound.arguments[name], spec, name, _hint_as_dim)
        for name, spec in specs.items()
    }
    sizes = [
        (index_of[id(tensor)], axis, entry)
        for name in specs
        for tensor, axis, entry, _ in _axes(bound.arguments[name], dims[name], name)
        if isinstance(entry, Dim)
    ]
    return Call(bound.args, bound.kwargs, specs, axes, dims, sizes)


def resized(call: Call, sizes: Mapping[str, int]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs of ``call`` with the named sizes, cut or repeated along those axes."""
    specs = list(call.dims.values())
    args = [
        _widened(value, spec, sizes)
        for value, spec in zip(call.args, specs[: len(call.args)], strict=True)
    ]
    kwargs = {name: _widened(value, call.dims[name], sizes) for name, value in call.kwargs.items()}
    return tuple(args), kwargs


def signature_of(forward: Callable[..., Any], kwargs: Mapping[str, Any]) -> inspect.Signature:
    """The signature of ``forward`` with what goes to its ``**others`` as arguments by name.

    torch.export takes no dynamic sizes for arguments without a name of their own.
    """
    signature = inspect.signature(forward)
    named = []
    for parameter in signature.parameters.values():
        if parameter.kind is not parameter.VAR_KEYWORD:
            named.append(parameter)
            continue
        extra = [name for name in kwargs if name not in signature.parameters]
        named += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in extra]
    return signature.replace(parameters=named)


def remember_symbols(program: ExportedProgram, axes: Mapping[str, tuple[int, int, Dim]]) -> None:
    """Writes the expression of each named size into the program's metadata.

    Raises:
        SizeError: a size has a smaller range in the program than was asked for.
    """
    names = program.graph_signature.user_inputs
    values = {n.name: n.meta.get("val") for n in program.graph.find_nodes(op="placeholder")}
    symbols = {}
    for dim, (position, axis, asked) in axes.items():
        name = names[position]
        value = values.get(name) if isinstance(name, str) else None
        size: Any = value.shape[axis] if isinstance(value, Tensor) else None
        if not isinstance(size, torch.SymInt):
            continue
        expression = size.node.expr
        symbols[dim] = str(expression)
        found = program.range_constraints.get(expression)
        if found is not None and (1 <= asked.min < found.lower or asked.max > found.upper):
            raise SizeError(
                f"{dim!r} cannot take all the sizes that were asked for",
                expected=f"{asked.min} to {asked.max}",
                found=f"{found.lower} to {found.upper} along axis {axis} of {name!r}",
                hint="give every input that shares the size an entry with the same Dim",
            )
    program.graph_module.meta[DIM_SYMBOLS] = symbols


def _by_argument(arguments: Mapping[str, Any], dynamic_shapes: Any) -> dict[str, Any]:
    """The entry for each argument."""
    call = f"forward({', '.join(arguments)})"
    if not isinstance(dynamic_shapes, Mapping):
        if len(dynamic_shapes) > len(arguments):
            raise DynamicShapesError(
                "dynamic_shapes has more entries than the call has arguments",
                op=call,
                expected=f"{len(arguments)}: {', '.join(arguments)}",
                found=str(len(dynamic_shapes)),
                hint="give entries by name: " + _EXAMPLE,
            )
        return dict(zip(arguments, dynamic_shapes, strict=False))
    unknown = [str(name) for name in dynamic_shapes if name not in arguments]
    if unknown:
        raise DynamicShapesError(
            "dynamic_shapes names arguments that the call does not have",
            op=call,
            expected=", ".join(arguments),
            found=", ".join(unknown),
            hint="name the arguments as forward does, or give the entries in order, as a tuple",
        )
    return dict(dynamic_shapes)


def _checked(
    value: object, spec: object, path: str, size_of: Callable[[object, str, object], object]
) -> object:
    """``spec`` completed for ``value``; entries of tensors become {axis: ``size_of`` the entry}."""
    if spec is None:
        return _fixed(value)
    if isinstance(value, Tensor):
        return {
            _axis(value, axis, path): size_of(entry, path, axis)
            for axis, entry in _entries(value, spec, path)
        }
    if isinstance(value, Mapping) and isinstance(spec, Mapping):
        unknown = [key for key in spec if key not in value]
        if unknown:
            raise _misfit(
                path, f"entries for {', '.join(map(str, value))}", f"one for {unknown[0]}"
            )
        return {
            key: _checked(part, spec.get(key), f"{path}[{key!r}]", size_of)
            for key, part in value.items()
        }
    if isinstance(value, tuple | list) and isinstance(spec, tuple | list):
        if len(value) != len(spec):
            raise _misfit(path, f"{len(value)} entries", str(len(spec)))
        parts = [
            _checked(v, s, f"{path}[{i}]", size_of)
            for i, (v, s) in enumerate(zip(value, spec, strict=True))
        ]
        return type(spec)(parts)
    if isinstance(value, Mapping | tuple | list):
        raise _misfit(path, f"entries nested like the {type(value).__name__}", repr(spec))
    return spec  # a number, or a container that only torch knows


def _fixed(value: Any) -> object:
    """No entry for anything in ``value``: containers are spelled out, as torch.export wants."""
    if isinstance(value, Mapping):
        return {key: _fixed(part) for key, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_fixed(part) for part in value)
    return None


def _entries(value: Tensor, spec: object, path: str) -> Iterator[tuple[Any, Any]]:
    if isinstance(spec, Mapping):
        return iter(spec.items())
    if isinstance(spec, tuple | list):
        if len(spec) != value.dim():
            raise _misfit(path, f"{value.dim()} sizes, one for each axis", str(len(spec)))
        return iter(enumerate(spec))
    raise _misfit(path, "a dictionary from axis to size, such as {0: Dim('batch')}", repr(spec))


def _axis(value: Tensor, axis: object, path: str) -> int:
    if not isinstance(axis, int) or not -value.dim() <= axis < value.dim():
        raise _misfit(
            path, f"axes below {value.dim()} (shape {list(value.shape)})", f"axis {axis!r}"
        )
    return axis % value.dim()


def _entry(entry: object, path: str, axis: object) -> object:
    if entry is None or isinstance(entry, int | Dim | _DimHint):
        return entry
    raise _misfit(f"{path}, axis {axis}", _FORMS, repr(entry))


def _hint_as_dim(entry: object, path: str, axis: object) -> object:
    if isinstance(entry, _DimHint) and entry.type != Dim.STATIC.type:
        return HintedDim(entry, path, axis)
    return entry


def _misfit(path: str, expected: str, found: str) -> DynamicShapesError:
    return DynamicShapesError(
        f"dynamic_shapes does not fit argument {path}",
        expected=expected,
        found=found,
        hint="write " + _EXAMPLE,
    )


_Place = tuple[Tensor, int, Any, str]


def _axes(value: object, spec: Any, path: str) -> Iterator[_Place]:
    """Each tensor, axis and size of a checked spec, with the place in words."""
    if isinstance(value, Tensor) and spec is not None:
        for axis, entry in spec.items():
            yield value, axis, entry, path
    elif isinstance(value, Mapping) and isinstance(spec, Mapping):
        for key, part in value.items():
            yield from _axes(part, spec[key], f"{path}[{key!r}]")
    elif isinstance(value, tuple | list) and isinstance(spec, tuple | list):
        for index, (part, inner) in enumerate(zip(value, spec, strict=True)):
            yield from _axes(part, inner, f"{path}[{index}]")


def _too_narrow(places: Sequence[_Place]) -> dict[str, int]:
    """Dims whose example has one element, and the size to repeat it to."""
    return {
        entry.__name__: max(2, int(entry.min))
        for tensor, axis, entry, _ in places
        if isinstance(entry, Dim) and not hasattr(entry, "root")
        and tensor.shape[axis] == 1 and entry.max >= 2
    }  # fmt: skip


def _widened(value: Any, spec: Any, sizes: Mapping[str, int]) -> object:
    if isinstance(value, Tensor) and spec is not None:
        for axis, entry in spec.items():
            root = getattr(entry, "root", entry)
            if isinstance(entry, Dim) and root.__name__ in sizes:
                size = sizes[root.__name__]
                size = int(getattr(entry, "fn", int)(size))
                places = torch.arange(size, device=value.device) % value.shape[axis]
                value = value.index_select(axis, places)
        return value
    if isinstance(value, Mapping) and isinstance(spec, Mapping):
        return type(value)({key: _widened(part, spec[key], sizes) for key, part in value.items()})  # type: ignore[call-arg]
    if type(value) in (tuple, list) and isinstance(spec, tuple | list):
        return type(value)(_widened(v, s, sizes) for v, s in zip(value, spec, strict=True))
    return value


def _check_ranges(places: Sequence[_Place]) -> None:
    for tensor, axis, entry, path in places:
        size = tensor.shape[axis]
        if isinstance(entry, Dim) and not entry.min <= size <= entry.max:
            raise DynamicShapesError(
                f"the example is outside of the range of {entry.__name__!r}",
                expected=f"{entry.min} to {entry.max} along axis {axis} of {path}",
                found=f"shape {list(tensor.shape)}",
                hint="give an example within the range, or widen it",
            )
