"""Tensors that are asked for their value while an export records: who asks, and the answer.

``bool(t)`` and what amounts to it (``t.item()`` of a bool, ``torch.equal``, ``x in t``) is a
decision the explorer can take both ways. ``t.item()`` of a number stays a tensor in disguise (see
``data_number``). A number that Python itself needs (``int(t)``, ``range(t)``) has too many values
to explore and is refused, unless it depends on constants alone.

The questions are caught on ``torch.Tensor`` itself: a ``TorchFunctionMode`` is off inside
``torch.nn.functional``, so that it would miss those that torch's own Python code asks.
"""

from __future__ import annotations

import dis
import functools
import linecache
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from frontend.branches.data_number import DataNumber, making_tensors
from frontend.branches.state import BranchError
from frontend.branches.trace import Trace
from frontend.source import spelled

_TORCH = str(Path(torch.__file__).parent) + os.sep
_OURS = str(Path(__file__).parents[1]) + os.sep
# These run the model; their callers do not count.
_OUTERMOST = (
    str(Path(__file__).parent / "explore.py"),
    str(Path(__file__).parents[1] / "eager.py"),
)
# torch's Python interface checks arguments as eager calls do. An error raised anywhere else in
# torch may be a limit of tracing, which says nothing about the path.
_TORCH_INTERFACE = (_TORCH + "__init__.py", _TORCH + "nn" + os.sep)


@dataclass(frozen=True)
class Site:
    """The user's line that asked.

    Attributes:
        frame: its activation; the same line in the same activation asks twice only in a loop.
        line: ``file.py:41 code``.
        module: path of the module whose method it is, ``""`` when there is none.
        stack: the same as torch writes it in a node's ``stack_trace``.
    """

    frame: FrameType
    number: int
    line: str
    module: str
    stack: str


def find_site(module: nn.Module) -> Site:
    """The innermost frame of the model outside torch, seen from the caller.

    Where torch's own modules ask and nobody else is involved, it is theirs.
    """
    theirs: FrameType | None = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _runs_the_model(frame):
        path = frame.f_code.co_filename
        if not _is_inside(path, _TORCH, _OURS):
            return _site(frame, module)
        if theirs is None and not _is_inside(path, _OURS):
            theirs = frame
        frame = frame.f_back
    assert theirs is not None, "asked from outside any model"
    return _site(theirs, module)


def calling_line() -> str:
    """``file.py:41 code`` of the innermost frame outside torch and this package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_inside(frame.f_code.co_filename, _TORCH, _OURS):
        frame = frame.f_back
    return _line(frame, frame.f_lineno) if frame is not None else ""


def _runs_the_model(frame: FrameType) -> bool:
    return frame.f_code.co_filename in _OUTERMOST and frame.f_code.co_name != "__torch_dispatch__"


def _site(frame: FrameType, module: nn.Module) -> Site:
    path, number = frame.f_code.co_filename, frame.f_lineno
    code = linecache.getline(path, number, frame.f_globals).strip()
    stack = f'File "{path}", line {number}, in {frame.f_code.co_name}\n    {code}'
    return Site(frame, number, _line(frame, number), _module_path(frame, module), stack)


def is_deliberate(trace: TracebackType) -> bool:
    """Whether a ``raise`` or ``assert`` that eager mode would reach too raised what was traced."""
    step: TracebackType | None = trace
    while step is not None:
        code, last = step.tb_frame.f_code, step.tb_lasti
        if code.co_name == "__torch_dispatch__":
            return False  # an operator refused its arguments, which may be a limit of tracing
        step = step.tb_next
    if code.co_code[last] != dis.opmap["RAISE_VARARGS"]:
        return False
    path = code.co_filename
    return not _is_inside(path, _TORCH) or _is_inside(path, *_TORCH_INTERFACE)


def raising_line(trace: TracebackType | None) -> str:
    """``file.py:41 code`` of the innermost traced-back frame outside torch and this package."""
    frames = [
        (frame, number)
        for frame, number in traceback.walk_tb(trace)
        if not _is_inside(frame.f_code.co_filename, _OURS)
    ]
    outside = [f for f in frames if not _is_inside(f[0].f_code.co_filename, _TORCH)]
    return _line(*(outside or frames)[-1]) if frames else ""


class Answers(Protocol):
    """Who answers the questions."""

    def decide(self, tensor: Tensor) -> bool:
        """The truth value of a tensor of one element that depends on data."""

    def refuse(self, reason: str) -> BranchError:
        """Records and returns the error for a question that has no answer."""

    def select(
        self,
        condition: Tensor,
        true_fn: Callable[..., Any],
        false_fn: Callable[..., Any],
        operands: Sequence[Any],
    ) -> object:
        """The result of a ``torch.cond`` on a condition that depends on data."""


@contextmanager
def answering(answers: Answers, trace: Trace) -> Iterator[None]:
    """Lets ``answers`` answer every question about a tensor's value that is asked inside.

    Questions whose tensors depend on constants alone are answered with their values.
    """
    with ExitStack() as stack:
        for owner, names in _questions(answers):
            for name, answer in names.items():
                new = _if_unknown(getattr(owner, name), answer, trace)
                stack.enter_context(replaced(owner, name, new))
        for name in ("tensor", "as_tensor"):
            stack.enter_context(replaced(torch, name, making_tensors(getattr(torch, name))))
        stack.enter_context(replaced(torch, "cond", _cond(torch.cond, answers, trace)))
        yield


_Names = dict[str, Callable[..., Any]]


def _questions(answers: Answers) -> list[tuple[Any, _Names]]:
    """Who is asked, and each question's name and answer."""

    def truth(tensor: Tensor) -> bool:
        if tensor.numel() != 1:
            count = "no values" if tensor.numel() == 0 else "more than one value"
            raise RuntimeError(f"Boolean value of Tensor with {count} is ambiguous")
        return answers.decide(tensor)

    def number(name: str, convert: Callable[[bool], Any]) -> Callable[[Tensor], Any]:
        def answer(tensor: Tensor) -> object:
            if tensor.dtype is torch.bool and tensor.numel() == 1:
                return convert(answers.decide(tensor))
            raise taken(name)

        return answer

    def taken(name: str) -> BranchError:
        return answers.refuse(f"{name} takes a number out of a tensor that depends on data")

    def item(tensor: Tensor) -> Any:
        if tensor.dtype is torch.bool:
            return truth(tensor)
        if tensor.numel() != 1 or tensor.is_complex():
            raise taken("item()")
        # A copy, for the tensor may be written later.
        return DataNumber(tensor.reshape(()).clone(), taken)

    def refused(name: str) -> Callable[..., Any]:
        def answer(tensor: Tensor, *args: object, **kwargs: object) -> object:
            raise answers.refuse(f"{name} takes the values out of a tensor that depends on data")

        return answer

    def equal(a: Tensor, b: Tensor) -> bool:
        return a.shape == b.shape and answers.decide((a == b).all())

    def allclose(a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> bool:
        return answers.decide(torch.isclose(a, b, *args, **kwargs).all())

    def asserted(tensor: Tensor, message: object = "") -> None:
        if not truth(tensor):
            raise AssertionError(message)

    methods: _Names = {
        "__bool__": truth,
        "is_nonzero": truth,
        "item": item,
        "__int__": number("int()", int),
        "__float__": number("float()", float),
        "__index__": number("using it as an index or a range()", int),
        "__complex__": number("complex()", complex),
        "numpy": refused("numpy()"),
        "__array__": refused("numpy"),
        "equal": equal,
        "allclose": allclose,
    }
    functions: _Names = {
        "is_nonzero": truth,
        "equal": equal,
        "allclose": allclose,
        # What the exporter of torch 2.15 makes of ``torch._assert``.
        "_assert_async": asserted,
    }
    tolist: _Names = {"tolist": refused("tolist()")}
    # FakeTensor has a tolist of its own.
    return [(Tensor, methods | tolist), (FakeTensor, tolist), (torch, functions)]


def _cond(original: Callable[..., Any], answers: Answers, trace: Trace) -> Callable[..., Any]:
    """``torch.cond``, with both of its functions run here and now."""

    @functools.wraps(original)
    def cond(
        pred: object,
        true_fn: Callable[..., Any],
        false_fn: Callable[..., Any],
        operands: Sequence[Any] = (),
    ) -> object:
        if not trace.is_recording() or not isinstance(pred, Tensor | bool):
            return original(pred, true_fn, false_fn, operands)
        if isinstance(pred, Tensor):
            known = trace.known_value(pred)
            if known is None:
                return answers.select(pred, true_fn, false_fn, operands)
            pred = bool(known)
        return (true_fn if pred else false_fn)(*operands)

    return cond


def _if_unknown(
    original: Callable[..., Any], answer: Callable[..., Any], trace: Trace
) -> Callable[..., Any]:
    """``original`` wherever the tensors' values are there or nothing is recorded."""

    @functools.wraps(original)
    def ask(*args: object, **kwargs: object) -> object:
        # torch's own machinery asks too, with recording off or into a graph of its own.
        if not trace.is_recording():
            return original(*args, **kwargs)
        known = [trace.known_value(arg) if isinstance(arg, Tensor) else arg for arg in args]
        if any(isinstance(arg, Tensor) and k is None for arg, k in zip(args, known, strict=True)):
            return answer(*args, **kwargs)
        with _disable_current_modes():
            return original(*known, **kwargs)

    return ask


@contextmanager
def replaced(owner: object, name: str, new: object) -> Iterator[None]:
    """Inside, ``owner`` has ``new`` under ``name``."""
    own = vars(owner).get(name)
    setattr(owner, name, new)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


@contextmanager
def wrapped(
    functions: Iterable[tuple[Any, str, Callable[..., Any]]], *arguments: object
) -> Iterator[None]:
    """Inside, each ``owner.name`` is what ``wrap(owner.name, *arguments)`` makes of it.

    Args:
        functions: ``(owner, name, wrap)`` each.
        arguments: given to every ``wrap``.
    """
    with ExitStack() as stack:
        for owner, name, wrap in functions:
            original = getattr(owner, name)
            new = functools.wraps(original)(wrap(original, *arguments))
            stack.enter_context(replaced(owner, name, new))
        yield


def _line(frame: FrameType, number: int) -> str:
    path = frame.f_code.co_filename
    return spelled(path, number, linecache.getline(path, number, frame.f_globals))


def _is_inside(path: str, *prefixes: str) -> bool:
    return path.startswith(prefixes)


def _module_path(frame: FrameType, module: nn.Module) -> str:
    names = {id(child): name for name, child in module.named_modules()}
    outer: FrameType | None = frame
    while outer is not None:
        owner = outer.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in names:
            return names[id(owner)]
        outer = outer.f_back
    return ""
