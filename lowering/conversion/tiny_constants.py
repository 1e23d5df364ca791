"""Constants that keep something from zero, and that float16 has no number for."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import fx
from torch._ops import OpOverload

from frontend import fp16, ops
from frontend.schema import bound
from frontend.source import Source, source_of

_aten = torch.ops.aten
# Where a tiny constant keeps a divisor, a root's or a logarithm's argument away from zero.
_GUARDS = frozenset({_aten.add, _aten.clamp, _aten.clamp_min, _aten.maximum, _aten.sub})
# Of these the constant is added to what may be as small, and counts; a bound only has to be above
# zero, as what takes its place is.
_ADDED = frozenset({_aten.add, _aten.sub})
# A sum's constant becomes their own epsilon, float32 from iOS17 on, where it is above this.
_OWN_EPSILON: Mapping[object, float] = {
    _aten.log: 0.0,
    _aten.log2: 0.0,
    _aten.log10: 0.0,
    _aten.rsqrt: fp16.MAX**-2,
}
_EPS = "eps"
# Their lowerings hold whatever the eps is, or fold it into weights.
_HOLD = frozenset(
    {
        _aten.batch_norm, _aten._native_batch_norm_legit_no_training, _aten.rms_norm,
        ops.rms_norm.overloadpacket,
    }
)  # fmt: skip
# How many places a warning names.
_LISTED = 4


class TinyConstantWarning(UserWarning):
    """A constant becomes another one in float16, and small values are what it is for."""


def tiny_guard(target: object, args: Sequence[object], kwargs: Mapping[str, object]) -> str | None:
    """A sentence where a constant of ``target`` is to keep something from zero and is too small.

    Args:
        target: an operator overload.
        args: positional arguments of a call; only numbers among them are looked at.
        kwargs: keyword arguments.
    """
    value = _guard(target, args) or _eps(target, args, kwargs)
    if value is None:
        return None
    return f"the constant {value:g} is too small for float16"


def warn_of_tiny_constants(graph: fx.Graph) -> None:
    """Warns of what a float16 package adds in the place of constants below 6e-8."""
    found: dict[float, dict[Source, None]] = {}
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        added = getattr(node.target, "overloadpacket", None) in _ADDED
        guard = _guard(node.target, node.args) if added else None
        if guard is not None and _is_epsilon(node, guard):
            continue
        value = guard or _eps(node.target, node.args, node.kwargs)
        if value is not None:
            source = source_of(node)
            found.setdefault(value, {})[Source(source.module, source.line)] = None
    for value, places in found.items():
        named = "; ".join(str(place) for place in list(places)[:_LISTED])
        more = len(places) - _LISTED
        warnings.warn(
            f"the constant {value:g} becomes {fp16.SMALLEST:.1e} in float16, which changes results "
            f"where what it is added to is below {fp16.NORMAL:.0e}: {named}"
            f"{f' and {more} more places' if more > 0 else ''}. `ane-passes ranges` tells whether "
            "that happens, and precision='safe' keeps such operators in float32",
            TinyConstantWarning,
            stacklevel=4,
        )


def _is_epsilon(node: fx.Node, value: float) -> bool:
    """Whether all that read the sum ``node`` add its constant themselves."""
    readers = [
        _OWN_EPSILON.get(getattr(user.target, "overloadpacket", None)) for user in node.users
    ]
    return bool(readers) and all(least is not None and value > least for least in readers)


def _guard(target: object, args: Sequence[object]) -> float | None:
    if getattr(target, "overloadpacket", None) not in _GUARDS:
        return None
    return next((v for v in args[1:] if isinstance(v, float) and _is_tiny(v)), None)


def _eps(target: object, args: Sequence[object], kwargs: Mapping[str, object]) -> float | None:
    """The eps of a norm, where it is too small."""
    if not isinstance(target, OpOverload) or target.overloadpacket in _HOLD:
        return None
    value = bound(target, args, kwargs).get(_EPS)
    return value if isinstance(value, float) and _is_tiny(value) else None


def _is_tiny(value: float) -> bool:
    return 0 < abs(value) < fp16.SMALLEST
