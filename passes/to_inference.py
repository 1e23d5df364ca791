"""Training-time randomness and statistics give way to what inference computes."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from frontend.random_calls import may_draw
from frontend.schema import arguments, replaced
from passes.base import Pass
from passes.dropout_mask import Mask, find_masks, masked_factor
from passes.patterns.nodes import argument, aten, is_call, is_tensor, only_user
from passes.patterns.operands import add_sides, times_scalar
from passes.rewriter import Rewriter

_ATTENTION = (aten.scaled_dot_product_attention.default,)
_RECURRENT = (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)
_BATCH_NORM = aten._native_batch_norm_legit_functional.default
_BATCH_NORM_WITHOUT_STATISTICS = aten._native_batch_norm_legit.no_stats
_RANDOM_RELU = aten.rrelu_with_noise_functional.default

# Where alpha dropout sends a dropped value (Klambauer et al., "Self-Normalizing Neural Networks").
_ALPHA = 1.7580993408473766
_RELATIVE = 1e-5


@dataclass(frozen=True)
class ToInference(Pass):
    """Drops dropout, and lets batch norms use their running statistics.

    ``capture`` evaluates modules, so this is for what it cannot switch off: functional dropout
    with ``training=True``, hand-written masks such as stochastic depth, and programs that the
    user exported in training mode. Before: ``x * (bernoulli(0.9) / 0.9)``; after: ``x``. Also
    the dropout inside attention and recurrent layers, random leaky ReLU, alpha dropout, and
    batch norm (the buffers that it updated are constant afterwards). A note tells the user of
    each kind that was active. Other random numbers are left alone and declined.

    Bound: equal to the model in evaluation mode, float32 within rtol 1e-5 / atol 1e-6.
    """

    name: ClassVar[str] = "to_inference"
    by_site: ClassVar[bool] = True

    def apply(self, rw: Rewriter) -> None:
        """Operators with dropout inside, then masks, then batch norms; then what stays random."""
        for node in rw.find(aten.native_dropout.default):
            _native(rw, node)
        for node in rw.find(*_ATTENTION):
            _switch_off(rw, node, {"dropout_p": 0.0})
        for node in rw.find(*_RECURRENT):
            _switch_off(rw, node, {"dropout": 0.0, "train": False})
        for node in rw.find(_RANDOM_RELU):
            _random_relu(rw, node)
        for mask in find_masks(rw):
            _masked(rw, mask)
        for node in rw.find(_BATCH_NORM):
            _batch_norm(rw, node)
        for node in rw.find(_BATCH_NORM_WITHOUT_STATISTICS):
            rw.decline(node, "it has no running statistics, so it uses those of its batch")
        for node in rw.nodes():
            if may_draw(node.target) and node.users and not is_call(node, *_ATTENTION, *_RECURRENT):
                rw.decline(node, "it draws random numbers, and not for a dropout known here")


def _native(rw: Rewriter, node: fx.Node) -> None:
    x, probability, train = arguments(node).values()
    parts = {user.args[1]: user for user in node.users}
    if 1 in parts and parts[1].users:
        rw.decline(node, "its mask is used as well")
        return
    if 0 in parts:
        rw.replace(parts[0], x)
    _erase_dead(rw, *parts.values(), node)
    if train is not False and probability:
        _was_active(rw, "dropout")


def _switch_off(rw: Rewriter, node: fx.Node, off: Mapping[str, float]) -> None:
    """Gives options, of which the probability comes first, the value that switches dropout off."""
    given = {name: argument(node, name) for name in off}
    if not given[next(iter(off))]:
        return
    is_on = all(given[name] != value for name, value in off.items())
    args, kwargs = replaced(node, off)
    with rw.at(node):
        new = rw.emit(node.target, *args, **kwargs)
    if is_tensor(node):
        rw.replace(node, new)
    else:
        for part in list(node.users):
            with rw.at(part):
                rw.replace(part, rw.emit(operator.getitem, new, part.args[1]))
    _erase_dead(rw, *list(node.users), node)
    if is_on:
        _was_active(rw, "dropout")


def _random_relu(rw: Rewriter, node: fx.Node) -> None:
    x: Any = node.args[0]
    lower, upper = argument(node, "lower"), argument(node, "upper")
    parts = {user.args[1]: user for user in node.users}
    if 1 in parts and parts[1].users:
        rw.decline(node, "its slopes are used as well")
        return
    if 0 in parts:
        with rw.at(parts[0]):
            rw.replace(parts[0], rw.emit(aten.leaky_relu.default, x, (lower + upper) / 2))
    _erase_dead(rw, *parts.values(), node)
    if argument(node, "training"):
        _was_active(rw, "a random leaky ReLU")


def _masked(rw: Rewriter, mask: Mask) -> None:
    """``x * f(mask)``, scaled by ``1 / keep`` before, inside, after or not at all."""
    for user in mask.products():
        if not user.users:
            continue
        x, scale = masked_factor(rw, user, mask)
        if not is_tensor(x):
            continue
        alpha = _alpha_dropout(rw, user, mask, scale)
        if alpha is not None:
            end = alpha
        elif _undoes(scale, mask.keep):
            end = user
        elif math.isclose(scale, 1.0, rel_tol=_RELATIVE):
            end, x = _scaled_outside(rw, user, x, mask.keep)
        else:
            continue
        rw.replace(end, x)
        _erase_dead(rw, end, user)
        _was_active(rw, "dropout")


def _scaled_outside(
    rw: Rewriter, product: fx.Node, x: fx.Node, keep: float
) -> tuple[fx.Node, fx.Node]:
    """The end and the data of a dropout that is rescaled behind, before or nowhere."""
    after = only_user(product)
    rescaled = times_scalar(rw, after)
    if after is not None and rescaled is not None and _undoes(rescaled[1], keep):
        return after, x
    before = times_scalar(rw, x)
    return product, before[0] if before is not None and _undoes(before[1], keep) else x


def _undoes(scale: float, keep: float) -> bool:
    return math.isclose(scale * keep, 1.0, rel_tol=_RELATIVE)


def _alpha_dropout(rw: Rewriter, product: fx.Node, mask: Mask, scale: float) -> fx.Node | None:
    """The sum that ends an alpha dropout whose data is scaled by ``product``."""
    expected = 1 / math.sqrt(mask.keep * (1 + (1 - mask.keep) * _ALPHA**2))
    end = only_user(product)
    if end is None or not math.isclose(scale, expected, rel_tol=_RELATIVE):
        return None
    shifts = (other for one, other in add_sides(end) if one is product)
    return end if any(mask.affine(rw, shift) is not None for shift in shifts) else None


def _batch_norm(rw: Rewriter, node: fx.Node) -> None:
    x, weight, bias, mean, variance, training, momentum, eps = arguments(node).values()
    parts = {user.args[1]: user for user in node.users}
    if any(place in parts and parts[place].users for place in (1, 2)):
        rw.decline(node, "the mean or deviation of its batch is used as well")
        return
    with rw.at(node):
        inference = aten._native_batch_norm_legit_no_training.default
        new = rw.emit(inference, x, weight, bias, mean, variance, momentum, eps)
        result = rw.emit(operator.getitem, new, 0)
    if 0 in parts:
        rw.replace(parts[0], result)
    for place, buffer in ((3, mean), (4, variance)):
        if place in parts and parts[place].users:
            rw.replace(parts[place], buffer, counted=False)
            rw.keep_buffer(buffer)
    if mean.op == "placeholder" and mean not in rw.user_inputs():
        _stop_counting(rw, rw.constant_name(mean).rpartition(".")[0])
    if training:
        rw.note(
            "a batch norm was in training mode; it uses its running statistics now, as the "
            "model does in evaluation mode"
        )
    _erase_dead(rw, *parts.values(), node)


def _stop_counting(rw: Rewriter, module: str) -> None:
    """Keeps the counter of batches that a batch norm in training mode increments."""
    counter = f"{module}.num_batches_tracked".lstrip(".")
    node = rw.stored(counter)
    if node is not None:
        rw.keep_buffer(node)


def _was_active(rw: Rewriter, what: str) -> None:
    rw.note(f"{what} was active, as in training; it is removed, as in evaluation mode")


def _erase_dead(rw: Rewriter, *nodes: fx.Node) -> None:
    """Removes unused nodes and what only they used: fx keeps random operators alive."""
    pending, erased = list(nodes), set[fx.Node]()
    while pending:
        node = pending.pop(0)
        if node.users or node.op != "call_function" or node in erased:
            continue
        sources = node.all_input_nodes
        rw.erase(node)
        erased.add(node)
        pending.extend(sources)
