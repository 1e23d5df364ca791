"""Chooses a layout for every tensor and leaves conversions only where one is forced.

Rewrites such as ``linear_to_conv1x1`` insert conversions naively: each is correct alone. Here
every value may lie plainly, as the program spells it, or in its image placement, (B, C, 1, S) for
tokens of (B, S, C). A minimum cut decides, a conversion costing the bytes that it moves.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

from torch import fx

from passes.base import Choice, Forms, Pass
from passes.errors import LayoutError
from passes.layout.costs import conversion_cost, image_cost, lengths, plain_cost
from passes.layout.min_cut import (
    FORBIDDEN,
    ContradictionError,
    CutValue,
    Pair,
    Same,
    Term,
    Use,
    solve,
)
from passes.layout.placement import Placement, convert
from passes.layout.plan import LayoutPlan, plain_placement, sizes
from passes.layout.rules import is_image_native, plan, pull
from passes.patterns.nodes import aten, is_call, is_tensor
from passes.patterns.operators import RESHAPES
from passes.rewriter import Rewriter

# A move that is joined with the one in front of it is charged this part.
_JOINED_MOVES = 2


@dataclass(frozen=True)
class AssignLayout(Pass):
    """(B, C, 1, S) wherever it pays, by one global choice.

    Before: ``conv -> squeeze -> permute -> gelu -> permute -> unsqueeze -> conv``;
    after: ``conv -> gelu -> conv``. Residuals, norms, softmax, reductions, concat, split,
    slice, heads and RoPE are carried through (``layout_rules``); embeddings, gathers and the
    program's own inputs and outputs stay plain, and a conversion remains at each such border.

    Exact: data is moved, not recomputed; reductions over a moved axis may round differently
    (float32 within rtol 1e-5 / atol 1e-6).

    Attributes:
        image_outputs: outputs that are images inside leave as images, (B, C, 1, S) for tokens of
            (B, S, C), for hosts that go on in that layout, as those of the hand-written ports
            do. Saves a transposition and changes the shape of the result.
    """

    name: ClassVar[str] = "assign_layout"
    runs_after: ClassVar[Mapping[str, str]] = {
        "split_attention": "the layout is chosen for the attention form that runs",
        "linear_to_conv1x1": "the conversions that it inserts are cancelled there",
        "conv1d_to_conv2d": "the conversions that it inserts are cancelled there",
        "fuse_layer_norm": "norms must be free to change their axis",
        "rms_norm_form": "norms must be free to change their axis",
    }
    forms: ClassVar[Forms] = Forms("layout", {"assigned": Choice({}), "as_written": Choice(None)})
    image_outputs: bool = False

    @property
    def changes_outputs(self) -> bool:
        """True if outputs may leave in another shape than they had."""
        return self.image_outputs

    def apply(self, rw: Rewriter) -> None:
        """Finds placements, solves the cut, and writes the image operators."""
        layout = _Layout(rw, self.image_outputs)
        if not layout.plans:
            rw.decline(rw.output, "no operator asks for the image layout")
            return
        image = layout.choose()
        layout.write(image)


class _Layout:
    """One run: image placements and plans of a graph, the choice, and the rewriting."""

    def __init__(self, rw: Rewriter, image_outputs: bool) -> None:
        self.rw = rw
        self.image_outputs = image_outputs
        self.placements: dict[fx.Node, Placement] = {}
        self.plans: dict[fx.Node, LayoutPlan] = {}
        self.physical: dict[tuple[fx.Node, Placement], fx.Node] = {}
        self.calls = [n for n in rw.nodes() if not rw.is_constant(n)]
        self._seed()
        # Products can come out either way: they wait for what their consumers ask.
        self._forward(products=False)
        self._backward()
        self._forward(products=True)
        self._refine()
        self._drop_plain_plans()

    def _refine(self) -> None:
        """Takes merged axes apart where they arise if a consumer needs them apart later.

        Else each consumer regroups on its own: ``abs(x)`` for one, ``x`` for another.
        """
        for node in reversed(self.calls):
            if node not in self.placements or not is_tensor(node):
                continue
            own, chosen = self.placements[node], self.plans.get(node)
            wanted = [p for p in self._wanted(node) if p.order == own.order]
            finest = max(wanted, key=lambda placement: placement.parts, default=own)
            if finest.parts <= own.parts:
                continue
            if chosen is not None and chosen.emit is None:
                moves = is_call(node, aten.permute.default)
                inputs = tuple(pull(node, finest)) if moves else chosen.inputs
                self.plans[node] = replace(chosen, inputs=inputs, output=finest)
            elif chosen is not None:
                again = plan(node, self.placements, finest)
                if again is None or again.output != finest:
                    continue
                self.plans[node] = again
            self.placements[node] = finest

    def _wanted(self, node: fx.Node) -> Iterator[Placement]:
        """The placements in which its users take ``node``."""
        for user in node.users:
            if is_image_native(user) and user.args[0] is node:
                yield plain_placement(node)
            elif user in self.plans:
                yield from (p for source, p in self.plans[user].inputs if source is node)

    def _drop_plain_plans(self) -> None:
        """Forgets plans whose tensors and work are the plain ones."""
        for node in self.calls:
            chosen = self.plans.get(node)
            if chosen is None:
                continue
            if is_call(node, operator.getitem):
                plain = node.args[0] not in self.plans  # a part lies as its list does
            else:
                plain = all(placement == plain_placement(x) for x, placement in chosen.inputs)
                plain = plain and (not is_tensor(node) or chosen.output == plain_placement(node))
            if plain:
                del self.plans[node]

    def _seed(self) -> None:
        for node in self.calls:
            if is_image_native(node):
                if is_tensor(node):
                    self.placements[node] = plain_placement(node)
                for user in node.users:
                    if is_call(user, operator.getitem) and user.args[1] == 0:
                        self.placements[user] = plain_placement(user)

    def _forward(self, *, products: bool) -> None:
        for node in self.calls:
            if not products and is_call(node, aten.matmul.default, aten.bmm.default):
                continue
            if node in self.plans or (is_tensor(node) and is_image_native(node)):
                continue
            found = plan(node, self.placements, self.placements.get(node))
            if found is None:
                continue
            asked = self.placements.get(node, found.output)
            # What differs by a reshape at most serves as well.
            if asked.order != found.output.order:
                continue
            self.plans[node] = found
            self.placements[node] = found.output

    def _backward(self) -> None:
        for node in reversed(self.calls):
            if is_image_native(node):
                native = cast(fx.Node, node.args[0])
                demands = [(native, plain_placement(native))]
            elif node in self.placements and node not in self.plans:
                demands = pull(node, self.placements[node])
            elif node in self.plans:
                demands = list(self.plans[node].inputs)
            else:
                continue
            for source, placement in demands:
                if isinstance(source, fx.Node) and not self.rw.is_constant(source):
                    self.placements.setdefault(source, placement)

    def choose(self) -> set[fx.Node]:
        """Nodes that run on image placements."""
        values: dict[Any, CutValue] = {}
        terms: list[Term] = []
        for node, chosen in self.plans.items():
            values[node] = CutValue(image_cost(node, chosen), plain_cost(node))
            if is_call(node, operator.getitem):
                terms.append(Same(cast(fx.Node, node.args[0]), node))
        for driver in [*self.rw.user_inputs(), *self.calls]:
            if driver not in self.placements or not is_tensor(driver):
                continue
            if driver not in values:
                values[driver] = CutValue(FORBIDDEN, 0)
            terms.extend(self._uses(driver, values))
        try:
            image, _ = solve(values, terms)
        except ContradictionError as error:
            one, other = error.args[0]
            raise LayoutError(
                "two layouts contradict each other", found=f"{one} and {other}"
            ) from error
        return {node for node in image if node in self.plans}

    def _uses(self, driver: fx.Node, values: dict[Any, CutValue]) -> list[Term]:
        own, spelled = self.placements[driver], plain_placement(driver)
        shared: list[Any] = []
        terms: list[Term] = []
        for user in driver.users:
            if user.op == "output" and self.image_outputs:
                continue
            chosen = self.plans.get(user)
            key: Any = user
            if chosen is None:
                key = ("plain", user)
                values[key] = CutValue(FORBIDDEN, 0)
                taken = own
            else:
                taken = next(placement for x, placement in chosen.inputs if x is driver)
            if taken == own:
                shared.append(key)
                continue
            terms.append(
                Pair(
                    driver,
                    key,
                    image_image=conversion_cost(driver, own, taken),
                    image_plain=conversion_cost(driver, own, spelled),
                    plain_image=conversion_cost(driver, spelled, taken),
                )
            )
        if shared:
            to_plain = conversion_cost(driver, own, spelled)
            to_image = conversion_cost(driver, spelled, own)
            if self._is_moved(driver):
                to_image //= _JOINED_MOVES
            terms.append(Use(driver, tuple(shared), to_plain, to_image))
        return terms

    def _is_moved(self, driver: fx.Node) -> bool:
        """True for a reshape that runs plainly on what lies as an image.

        Two moves around it are one in the end, as where windows become an image again: see
        ``simplify_views``.
        """
        if driver in self.plans or not is_call(driver, *RESHAPES):
            return False
        source = cast(fx.Node, driver.args[0])
        return source in self.plans and self.plans[source].output != plain_placement(source)

    def write(self, image: set[fx.Node]) -> None:
        """Emits the chosen operators; the plain ones take converted inputs."""
        for node in [*self.rw.nodes(), self.rw.output]:
            if node in image:
                chosen = self.plans[node]
                with self.rw.at(node):
                    taken = [self._take(x, placement, image) for x, placement in chosen.inputs]
                    result = self._emit(node, chosen, taken)
                self.physical[node, chosen.output] = result
                if chosen.emit is not None:
                    self.rw.rewritten(node)
                continue
            for source in node.all_input_nodes:
                if source in image and is_tensor(source):
                    placement = plain_placement(source)
                    if node.op == "output" and self.image_outputs:
                        placement = self.plans[source].output
                    with self.rw.at(node):
                        converted = self._take(source, placement, image)
                    self.rw.use_instead(node, source, converted)

    def _emit(self, node: fx.Node, chosen: LayoutPlan, taken: Sequence[fx.Node]) -> fx.Node:
        if chosen.emit is not None:
            return chosen.emit(self.rw, taken)
        return self._regroup(taken[0], lengths(chosen.output, node))

    def _take(self, source: fx.Node, placement: Placement, image: set[fx.Node]) -> fx.Node:
        """``source`` in ``placement``, converted at most once per placement."""
        if not is_tensor(source):
            return self.physical[source, placement]
        if placement == plain_placement(source) and source not in image:
            return source
        known = self.physical.get((source, placement))
        if known is None:
            if source in image:
                start = self.plans[source].output
                known = self._convert(source, self.physical[source, start], start, placement)
            else:
                known = self._convert(source, source, plain_placement(source), placement)
            self.physical[source, placement] = known
        return known

    def _convert(
        self, source: fx.Node, value: fx.Node, start: Placement, end: Placement
    ) -> fx.Node:
        steps = convert(start, end)
        if steps.split is not None:
            value = self._regroup(value, lengths(Placement(steps.split), source))
        if steps.permutation is not None:
            value = self.rw.emit(aten.permute.default, value, list(steps.permutation))
        return self._regroup(value, lengths(end, source))

    def _spelled(self, value: fx.Node, lengths: list[Any]) -> list[Any]:
        """Sizes to reshape ``value`` to: one symbolic size is left open, others are read off it."""
        have = list(sizes(value))
        symbols = [n for n in lengths if not isinstance(n, int)]
        left_open = next((n for n in symbols if n not in have), symbols[-1] if symbols else None)
        spelled: list[Any] = []
        for n in lengths:
            if isinstance(n, int):
                spelled.append(n)
            elif n == left_open and -1 not in spelled:
                spelled.append(-1)
            elif n in have:
                spelled.append(self.rw.emit(aten.sym_size.int, value, have.index(n)))
            else:
                raise LayoutError(
                    "a reshape of several merged dynamic sizes cannot be written",
                    found=f"{have} to {lengths}",
                    hint="make all but one of the sizes static",
                )
        return spelled

    def _regroup(self, value: fx.Node, lengths: list[Any]) -> fx.Node:
        """A reshape to ``lengths``, as squeeze and unsqueeze where those do."""
        have = list(sizes(value))
        if have == lengths:
            return value
        if [n for n in have if n != 1] != [n for n in lengths if n != 1]:
            return self.rw.emit(aten.reshape.default, value, self._spelled(value, lengths))
        drop, add = _ones(have, lengths)
        if drop:
            value = self.rw.emit(aten.squeeze.dims, value, drop)
        for place in add:
            value = self.rw.emit(aten.unsqueeze.default, value, place)
        return value


def _ones(have: list[Any], want: list[Any]) -> tuple[list[int], list[int]]:
    """Axes of size one to squeeze from ``have`` and then to unsqueeze to reach ``want``."""
    gaps_have, gaps_want = _gaps(have), _gaps(want)
    drop: list[int] = []
    add: list[int] = []
    place_have = place_want = 0
    for n_have, n_want in zip(gaps_have, gaps_want, strict=True):
        drop.extend(range(place_have + min(n_have, n_want), place_have + n_have))
        add.extend(range(place_want + min(n_have, n_want), place_want + n_want))
        place_have += n_have + 1
        place_want += n_want + 1
    return drop, add


def _gaps(lengths: list[Any]) -> list[int]:
    """How many ones stand before each other size, and at the end."""
    gaps = [0]
    for n in lengths:
        if n == 1:
            gaps[-1] += 1
        else:
            gaps.append(0)
    return gaps
