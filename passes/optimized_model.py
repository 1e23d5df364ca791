"""An optimized program that is called like the model it came from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from frontend.capture import result_structure
from frontend.errors import AnePassesError
from passes.pipeline import Pass, PassReport


class InputError(AnePassesError):
    """An optimized model was called with arguments that it was not captured for."""


class OptimizedModel(nn.Module):
    """Callable like the original, exportable and traceable again.

    Attributes:
        program: the rewritten program.
        reports: one report per pass, in order.
        pipeline: the passes that ran.
    """

    def __init__(
        self,
        program: ExportedProgram,
        reports: Sequence[PassReport] = (),
        pipeline: Sequence[Pass] = (),
        forward: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__()
        self.program = program
        self.reports = tuple(reports)
        self.pipeline = tuple(pipeline)
        self._call = program.module(check_guards=False)
        self._signature = inspect.signature(forward) if forward is not None else None
        self._structure = result_structure(program)
        self._in_spec = program.call_spec.in_spec
        self._expected = _expected_inputs(program)
        self.training = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
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

    def _bound(self, args: Any, kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
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
        extra = [n for n in given if n not in (*order, *named) and given[n] is not None]
        if missing or extra:
            raise InputError(
                "the model was captured for other arguments",
                op=f"forward{self._signature}",
                expected=", ".join([*order, *named]),
                found=f"missing {missing or 'none'}, not captured {extra or 'none'}",
                hint="call optimize_for_ane again with example inputs for these arguments",
            )
        return tuple(given[n] for n in order), {n: given[n] for n in named}

    def _check(self, args: Any, kwargs: Any) -> None:
        leaves = [x for x in pytree.tree_leaves((args, kwargs)) if x is not None]
        tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
        for tensor, (name, shape, dtype) in zip(tensors, self._expected, strict=False):
            fits = len(shape) == tensor.dim() and all(
                want is None or want == have for want, have in zip(shape, tensor.shape, strict=True)
            )
            if not fits or tensor.dtype is not dtype:
                spelled = ["any" if n is None else n for n in shape]
                raise InputError(
                    f"input {name} does not fit the captured model",
                    expected=f"{dtype} {spelled}",
                    found=f"{tensor.dtype} {list(tensor.shape)}",
                    hint="pad or cast the input, or capture with dynamic_shapes",
                )


def _captured_call(spec: pytree.TreeSpec) -> tuple[int, tuple[str, ...]]:
    """How many positional arguments, and which keywords, the program was captured with."""
    args, kwargs = spec.child(0), spec.child(1)
    return args.num_children, tuple(kwargs.context or ())


def _expected_inputs(
    program: ExportedProgram,
) -> list[tuple[str, tuple[int | None, ...], torch.dtype]]:
    wanted = set(program.graph_signature.user_inputs)
    found = []
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and node.name in wanted and isinstance(value, torch.Tensor):
            shape = tuple(n if isinstance(n, int) else None for n in value.shape)
            found.append((node.name, shape, value.dtype))
    return found
