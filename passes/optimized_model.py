"""An optimized program that is called like the model it came from."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.utils import _pytree as pytree

from frontend.capturing import result_structure
from frontend.errors import InputError
from frontend.late_code import late_code
from frontend.program import runnable
from passes.base import Pass
from passes.pipeline import PassReport


class OptimizedModel(nn.Module):
    """Callable like the original, exportable and traceable again.

    Attributes:
        program: the rewritten program.
        reports: one report per pass, in order.
        pipeline: the passes that ran.
        captured: the program before the passes, which shares its weights with the model; ``None``
            where it is not known.
    """

    def __init__(
        self,
        program: ExportedProgram,
        reports: Sequence[PassReport] = (),
        pipeline: Sequence[Pass] = (),
        forward: Callable[..., Any] | None = None,
        captured: ExportedProgram | None = None,
    ) -> None:
        super().__init__()
        self.program = program
        self.captured = captured
        self.reports = tuple(reports)
        self.pipeline = tuple(pipeline)
        with late_code():
            self._call = runnable(program)
        self._signature = inspect.signature(forward) if forward is not None else None
        self._structure = result_structure(program)
        self._in_spec = program.call_spec.in_spec
        self._expected = _expected_leaves(program)
        self.training = False
        if self._signature is not None:
            # torch.export reads the names of the arguments, for dynamic shapes, from here.
            self.forward = _with_signature(self, self._signature)  # type: ignore[method-assign]

    def forward(self, *args: object, **kwargs: object) -> Any:
        """Runs the rewritten program.

        Takes the original's arguments, positionally or by name, as many as it was captured
        with, and returns the original's kind of result.

        Raises:
            InputError: an argument is missing, unknown, or of another shape or dtype.
        """
        args, kwargs = self._bound(args, kwargs)
        self._check(args, kwargs)
        leaves = self._call(*args, **kwargs)
        return leaves if self._structure is None else self._structure.unflatten(leaves)

    def train(self, mode: bool = True) -> OptimizedModel:
        """Stays in inference mode: the program was captured for it."""
        return self

    def _bound(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call as it was captured: the same arguments by position and by name."""
        positional, named = _captured_call(self._in_spec)
        if self._signature is None or (len(args) == positional and set(kwargs) == set(named)):
            return args, {name: kwargs[name] for name in named if name in kwargs}
        try:
            given = dict(self._signature.bind(*args, **kwargs).arguments)
        except TypeError as error:
            raise InputError(
                "the arguments do not fit the model's forward",
                op=f"forward{self._signature}",
                found=str(error),
                expected=f"{positional} positional arguments and {named or 'no keywords'}",
            ) from error
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD and name in given:
                given.update(given.pop(name))
        order = [n for n in self._signature.parameters if n not in named][:positional]
        missing = [n for n in (*order, *named) if n not in given]
        extra = [
            name
            for name in given
            if name not in (*order, *named) and not self._is_default(name, given[name])
        ]
        if missing or extra:
            raise InputError(
                "the model was captured for other arguments",
                op=f"forward{self._signature}",
                expected=", ".join([*order, *named]),
                found=f"missing {missing or 'none'}, not captured {extra or 'none'}",
                hint="call optimize_for_ane again with example inputs for these arguments",
            )
        return tuple(given[n] for n in order), {n: given[n] for n in named}

    def _is_default(self, name: str, value: object) -> bool:
        """True for what leaves the call as it is without the argument."""
        parameter = self._signature.parameters.get(name) if self._signature else None
        return value is None or (parameter is not None and _same_value(value, parameter.default))

    def _check(self, args: object, kwargs: object) -> None:
        leaves = pytree.tree_leaves((args, kwargs))
        if len(leaves) != len(self._expected):
            raise InputError(
                "the arguments do not fit the captured model",
                expected=f"{len(self._expected)} tensors and values: "
                + ", ".join(leaf.name for leaf in self._expected),
                found=f"{len(leaves)} of them",
                hint="call it with arguments nested like the example inputs",
            )
        for value, leaf in zip(leaves, self._expected, strict=True):
            if not leaf.fits(value):
                raise InputError(
                    f"input {leaf.name} does not fit the captured model",
                    expected=leaf.spelled,
                    found=_spelled(value),
                    hint="pad or cast the input, or capture with these inputs or dynamic_shapes",
                )


def _with_signature(model: OptimizedModel, signature: inspect.Signature) -> types.MethodType:
    """``model.forward`` with the original's signature."""

    def forward(self: OptimizedModel, *args: object, **kwargs: object) -> Any:
        return OptimizedModel.forward(self, *args, **kwargs)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    whole = signature.replace(parameters=[own, *signature.parameters.values()])
    forward.__signature__ = whole  # type: ignore[attr-defined]
    return types.MethodType(forward, model)


@dataclass(frozen=True)
class _Leaf:
    """One tensor or value of the flattened call, as it was captured.

    Attributes:
        name: of the program's input, or ``argument N`` for a value that is part of the program.
        shape: sizes, ``None`` where any will do; ``None`` for a value.
        dtype: of a tensor; type of a value.
        value: of a value that is part of the program, ``None`` for a number that may vary.
    """

    name: str
    shape: tuple[int | None, ...] | None
    dtype: Any
    value: Any = None

    def fits(self, given: object) -> bool:
        if self.shape is None:
            varies = self.value is None and isinstance(given, int | float)
            return _same_value(given, self.value) or (varies and self.dtype is not type(None))
        if not isinstance(given, torch.Tensor) or given.dtype is not self.dtype:
            return False
        return len(given.shape) == len(self.shape) and all(
            want is None or want == have for want, have in zip(self.shape, given.shape, strict=True)
        )

    @property
    def spelled(self) -> str:
        if self.shape is None:
            return repr(self.value)
        return f"{self.dtype} {['any' if n is None else n for n in self.shape]}"


def _spelled(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)


def _same_value(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return one is other
    return type(one) is type(other) and bool(one == other)


def _captured_call(spec: pytree.TreeSpec) -> tuple[int, tuple[str, ...]]:
    """How many positional arguments, and which keywords, the program was captured with."""
    args, kwargs = spec.child(0), spec.child(1)
    return args.num_children, tuple(kwargs.context or ())


def _expected_leaves(program: ExportedProgram) -> list[_Leaf]:
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    found = []
    specs = [s for s in program.graph_signature.input_specs if s.kind is InputKind.USER_INPUT]
    for position, spec in enumerate(specs):
        if isinstance(spec.arg, ConstantArgument):
            value = spec.arg.value
            found.append(_Leaf(f"argument {position} ({spec.arg.name})", None, type(value), value))
            continue
        value = nodes[spec.arg.name].meta.get("val")
        if isinstance(value, torch.Tensor):
            shape = tuple(n if isinstance(n, int) else None for n in value.shape)
            found.append(_Leaf(spec.arg.name, shape, value.dtype))
        else:
            found.append(_Leaf(spec.arg.name, None, type(value)))
    return found
