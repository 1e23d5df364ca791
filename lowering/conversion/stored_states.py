"""How written buffers are kept in states, which are float16 and start at zero.

Core ML knows no other states (*documented*: coremltools guide, stateful models), so that

* a buffer that starts at other values is read through a state of its own that says whether there
  was a call before: the start until then, exactly, infinities and NaN included;
* a boolean, and an integer of 8 bits, is kept as a float16 number, which is exact;
* a wider integer is kept as digits of 11 bits along a first axis, which are exact as well;
* a buffer without axes is kept with one.

The name of a state is that of its buffer, with underscores in the place of dots.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.fx.node import Argument

from frontend import fp16
from frontend.fake_calls import fake_call
from frontend.program import Draft
from lowering.conversion.distinct_outputs import package_name
from lowering.errors import LoweringError

aten = torch.ops.aten
# float16 counts to 2^11 without a gap.
BASE = 2**11
# Digits, with the sign in the last, by integer type; those left out are numbers of 8 bits.
_DIGITS = {torch.int16: 2, torch.int32: 3, torch.int64: 3}
_FLAG = "called_before"
_INT32 = torch.iinfo(torch.int32)


class StateStartWarning(UserWarning):
    """A written buffer does not start at zero, as the states of Core ML do."""


@dataclass(frozen=True)
class StoredState:
    """One state of a package.

    Attributes:
        name: of the state.
        buffer: qualified name of the buffer that it keeps.
        digits: how many digits of 11 bits it has along its first axis, 0 where it has the value.
        flag: name of the state that is zero until the first call has ended, where the buffer
            starts at other values than zero, else ``""``.
    """

    name: str
    buffer: str
    digits: int = 0
    flag: str = ""

    def value(self, states: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """The buffer's value after a call that left ``states``, in the form of ``like``."""
        stored = states[self.name].to(torch.float64)
        parts = stored.chunk(max(self.digits, 1)) if stored.ndim else (stored,)
        value = torch.zeros_like(parts[0])
        for part in reversed(parts):
            value = value * BASE + part
        return value.reshape(like.shape).to(like.dtype)


def stored_states(
    program: ExportedProgram, as_given: Collection[str] = ()
) -> tuple[ExportedProgram, tuple[StoredState, ...]]:
    """``program`` with its written buffers as states can keep them, and how each is kept.

    Args:
        program: stays as it is.
        as_given: buffers that the caller has given a state type; integers among them are kept as
            float16 numbers.

    Raises:
        LoweringError: a buffer starts at a value that its state does not have.
    """
    draft = Draft(program)
    written = draft.written()
    if not written:
        return program, ()
    buffers = {draft.constant_name(node): tensor for node, tensor in draft.lifted()}
    signature = program.graph_signature
    taken = {*signature.user_inputs, *signature.user_outputs, *(buffers.keys() - written.keys())}
    names = {name: _free(package_name(name), taken) for name in written}
    started = {name for name in written if bool((buffers[name] != 0).any())}
    head = _Emitter(draft, next(n for n in draft.graph.nodes if n.op != "placeholder"))
    tail = _Emitter(draft, draft.output_node())
    flag = _Flag(head, _free(_FLAG, taken)) if started else None
    states = []
    for name, (placeholder, value) in written.items():
        form = _Form(buffers[name], 0 if name in as_given else None)
        form.check(name)
        own_flag = flag if name in started else None
        states.append(
            StoredState(names[name], name, form.digits, own_flag.name if own_flag else "")
        )
        if form.is_plain and own_flag is None and name == names[name]:
            continue
        own_name, users = placeholder.name, list(placeholder.users)
        placeholder.meta["val"] = draft.fake(form.zeros())
        read = form.read(head, placeholder)
        if own_flag is not None:
            start = draft.add_constant(_free(f"{names[name]}_start", taken), form.short_start())
            read = head(aten.where.self, own_flag.is_set, read, start)
        if not buffers[name].ndim:
            read = head(aten.view.default, read, [])
        for user in users:
            user.replace_input_with(placeholder, read)
        new = form.written(tail, read if value is placeholder else value)
        draft.write(placeholder, names[name], form.zeros(), new)
        if read is not placeholder:
            read.name = own_name
    if flag is not None:
        flag.keep(tail)
    return draft.close(), tuple(states)


@dataclass(frozen=True)
class _Emitter:
    """Writes operators on a draft before one of its nodes."""

    draft: Draft
    before: fx.Node

    def __call__(
        self, target: torch._ops.OpOverload, *args: Argument, **kwargs: Argument
    ) -> fx.Node:
        with self.draft.graph.inserting_before(self.before):
            node = self.draft.graph.call_function(target, args, kwargs)
        node.meta["val"] = fake_call(target, args, kwargs, self.draft.fake_mode)
        return node


class _Flag:
    """The state that says whether there was a call before."""

    def __init__(self, head: _Emitter, name: str) -> None:
        self._placeholder = head.draft.add_constant(name, torch.zeros(1))
        self.name = head.draft.constant_name(self._placeholder)
        self.is_set = head(aten.ne.Scalar, self._placeholder, 0)

    def keep(self, tail: _Emitter) -> None:
        """Set it at the end of every call."""
        one = tail.draft.add_constant(f"{self.name}_set", torch.ones(1))
        value = tail(aten.clone.default, one)
        tail.draft.write(self._placeholder, self.name, torch.zeros(1), value)


class _Form:
    """How one buffer becomes a state, and a state the buffer's value."""

    def __init__(self, start: Tensor, digits: int | None) -> None:
        self._start, self._dtype = start.detach(), start.dtype
        self._shape = list(start.shape) or [1]
        self.digits = _DIGITS.get(start.dtype, 0) if digits is None else digits

    @property
    def is_plain(self) -> bool:
        """Whether the state is the buffer."""
        return self._dtype.is_floating_point and self._start.ndim > 0

    def zeros(self) -> Tensor:
        """What the state starts with."""
        return torch.zeros(max(self.digits, 1) * self._shape[0], *self._shape[1:])

    def check(self, name: str) -> None:
        """Refuse a start that the state does not have."""
        start = self._start
        if start.is_floating_point():
            lost = start.isfinite() & (start.abs() > fp16.MAX)
            limits = f"finite values within {fp16.MAX:g}, or infinities"
        elif self.digits:
            lost = (start < _INT32.min) | (start > _INT32.max)
            limits = "integers of 32 bits"
        else:
            lost = start.half().double() != start.double()
            limits = "integers that float16 has, such as those up to 2,048"
        if bool(lost.any()):
            raise LoweringError(
                f"the buffer {name!r} is written and starts at a value that its state cannot keep",
                expected=limits,
                found=f"{start[lost].flatten()[0].item():g}",
                hint="start it at a value within these limits",
            )

    def short_start(self) -> Tensor:
        """The start, with one element where all are equal."""
        start = self._start.reshape(self._shape)
        first = start.flatten()[:1].reshape([1] * start.ndim)
        return first.clone() if bool((start == first).all()) else start.clone()

    def read(self, head: _Emitter, stored: fx.Node) -> fx.Node:
        """The buffer's value, with one axis at least, from what the state holds."""
        if self._dtype.is_floating_point:
            return stored
        if self._dtype is torch.bool:
            return head(aten.ne.Scalar, stored, 0)
        if not self.digits:
            return head(aten._to_copy.default, stored, dtype=self._dtype)
        size = self._shape[0]
        digits = [
            head(
                aten._to_copy.default,
                head(aten.slice.Tensor, stored, 0, place * size, (place + 1) * size),
                dtype=torch.int32,
            )
            for place in range(self.digits)
        ]
        value = digits.pop()
        while digits:
            value = head(aten.add.Tensor, head(aten.mul.Tensor, value, BASE), digits.pop())
        return head(aten._to_copy.default, value, dtype=self._dtype)

    def written(self, tail: _Emitter, value: fx.Node) -> fx.Node:
        """What the state holds from then on, for a new ``value`` of the buffer."""
        if not self._start.ndim:
            value = tail(aten.view.default, value, self._shape)
        if self._dtype.is_floating_point:
            return value
        digits = []
        if self.digits:
            value = tail(aten._to_copy.default, value, dtype=torch.int32)
        for _ in range(self.digits - 1):
            digits.append(tail(aten.remainder.Scalar, value, BASE))
            value = tail(aten.floor_divide.default, value, BASE)
        floats = [
            tail(aten._to_copy.default, digit, dtype=torch.float32) for digit in (*digits, value)
        ]
        return tail(aten.cat.default, floats) if self.digits else floats[0]


def _free(name: str, taken: set[str]) -> str:
    """``name``, or one made of it that is not ``taken`` yet; it is afterwards."""
    free, count = name, 1
    while free in taken:
        free = f"{name}_state" if count == 1 else f"{name}_state_{count}"
        count += 1
    taken.add(free)
    return free
