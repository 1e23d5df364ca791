"""One step of a decoder as a module: tokens and a position in, logits out, the cache explicit."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from frontend.decoder.embedding import ROWS, Embedding, given_rows
from frontend.decoder.hf_cache import carried_by, encoded_as, step_cache
from frontend.decoder.hidden_rows import HiddenRows
from frontend.decoder.moving_ranges import moving_ranges
from frontend.decoder.packing import CacheSlot, Extent, Packing, aligned, joined, pack
from frontend.decoder.part import HIDDEN, DecoderPart, running
from frontend.decoder.probing import Decoder, left_in, logits_of
from frontend.decoder.source import LENGTH
from frontend.decoder.store import PackedStore, Places, Write
from frontend.ops import slice_update

CacheForm = Literal["state", "state-blend", "io"]
"""``state``: buffers, which become Core ML states, written at the position. ``state-blend``: the
same, written with a mask. ``io``: inputs and outputs of the program, written at the position."""

NEW = "_new"
"""Ending of the output that takes the place of an ``io`` input at the next step."""

_STATE_NAMES = {"conv_states": "conv_state", "recurrent_states": "recurrent_state"}
Key = tuple[int, str, int]  # layer, kind, index of a recurrent state


@dataclass(frozen=True)
class CallForm:
    """What a model is given beside ids and cache: models of one signature differ in what helps.

    Attributes:
        position_ids: the positions of the tokens.
        mask: a mask that lets every place of the cache through; the causal one comes on top.
        looks_full: keys and values in the order of the tokens, the newest at the end, and a mask
            that hides what was not written yet; for models that tell the place of a query by the
            number of keys.
        hides_rows: rows of the cache behind a token are hidden from attention itself; for models
            that make no mask for a single token.
    """

    position_ids: bool
    mask: bool
    looks_full: bool = False
    hides_rows: bool = False


@dataclass(frozen=True)
class Rooms:
    """Where everything lies that a decoder keeps.

    Attributes:
        context: tokens that fit.
        lengths: tokens that each attention layer has room for.
        rings: those lengths in which tokens go round.
        keys, values: the packed tensors; ``None`` without attention.
        carried: name of a packed state to the recurrent states in its rows.
        shapes: shape of every packed tensor, by name.
        crossed: how many slots of keys and values, behind the ``own``, are for what an encoder
            said. Further ones of the keys are for what layers choose tokens by.
        held: the layers that the tensors have room for, ``None`` for all.
        own: how many slots of keys and values are the layers' own.
    """

    context: int
    lengths: tuple[int, ...]
    rings: frozenset[int]
    keys: Packing | None
    values: Packing | None
    carried: Mapping[str, tuple[Key, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    crossed: int = 0
    held: range | None = None
    own: int = 0

    def moving(self, packing: Packing) -> tuple[CacheSlot, ...]:
        """The slots to which steps add tokens."""
        own = self.own
        return (*packing.slots[:own], *packing.slots[own + self.crossed :])

    def limited(self, context: int) -> Rooms:
        """The same tensors for steps that see ``context`` tokens: the rows behind are left out."""
        seen = aligned(context)

        def cut(packing: Packing | None) -> Packing | None:
            if packing is None:
                return None
            moving = self.moving(packing)
            slots = tuple(
                replace(slot, extent=replace(slot.extent, length=min(slot.extent.length, seen)))
                if slot in moving
                else slot
                for slot in packing.slots
            )
            return replace(packing, slots=slots)

        return replace(
            self,
            context=context,
            lengths=tuple(min(length, seen) for length in self.lengths),
            rings=frozenset(ring for ring in self.rings if ring <= seen),
            keys=cut(self.keys),
            values=cut(self.values),
        )


def rooms(
    decoder: Decoder,
    context: int,
    most_tokens: int,
    *,
    ring: bool = True,
    held: range | None = None,
) -> Rooms:
    """Room for ``context`` tokens.

    Layers with a window get a ring of the window and one step's tokens, where that is less.

    Args:
        decoder: what the model keeps.
        context: tokens that fit.
        most_tokens: of any step that uses the cache.
        ring: without, windows get the whole context too.
        held: the layers that get room, all by default.
    """
    whole = aligned(context)
    lengths, key_extents, value_extents = [], [], []
    rings = set()
    for index, layer in enumerate(decoder.layers):
        if (attention := layer.attention) is None:
            continue
        length = whole
        if ring and attention.window is not None:
            # Rows of padding behind a short prompt must not reach what a later query can see.
            length = min(whole, aligned(attention.window + most_tokens - 1))
        if length < whole:
            rings.add(length)
        lengths.append(length)
        if held is not None and index not in held:
            continue
        key_extents.append(Extent(attention.heads, length, attention.key_width))
        value_extents.append(Extent(attention.heads, length, attention.value_width))
    own = len(key_extents)
    crosses = [layer.cross for layer in decoder.layers if layer.cross is not None]
    if decoder.source is not None:
        for cross in crosses:
            key_extents.append(Extent(cross.heads, decoder.source.length, cross.key_width))
            value_extents.append(Extent(cross.heads, decoder.source.length, cross.value_width))
    for layer in decoder.layers if held is None else decoder.layers[held.start : held.stop]:
        if layer.attention is not None and layer.attention.index_width is not None:
            key_extents.append(Extent(1, whole, layer.attention.index_width))
    keys = pack(key_extents) if key_extents else None
    values = pack(value_extents) if value_extents else None
    shapes: dict[str, tuple[int, ...]] = {}
    if keys is not None and values is not None:
        shapes = {"key_cache": keys.shape, "value_cache": values.shape}
    carried = _carried(decoder, shapes, held)
    return Rooms(
        context=context,
        lengths=tuple(lengths),
        rings=frozenset(rings),
        keys=keys,
        values=values,
        carried=carried,
        shapes=shapes,
        crossed=len(crosses),
        held=held,
        own=own,
    )


def _carried(
    decoder: Decoder, shapes: dict[str, tuple[int, ...]], held: range | None
) -> dict[str, tuple[Key, ...]]:
    """Recurrent states of one kind and shape, packed by row; adds to ``shapes``."""
    groups: dict[tuple[str, tuple[int, ...]], list[Key]] = {}
    for index, layer in enumerate(decoder.layers):
        if held is not None and index not in held:
            continue
        for (kind, at), shape in layer.carried.items():
            groups.setdefault((kind, shape), []).append((index, kind, at))
    found: dict[str, tuple[Key, ...]] = {}
    for (kind, shape), keys in groups.items():
        base = _STATE_NAMES.get(kind, kind)
        name, count = base, 1
        while name in shapes:
            name, count = f"{base}_{count}", count + 1
        shapes[name] = (len(keys) * shape[0], *shape[1:])
        found[name] = tuple(keys)
    return found


class DecoderStep(nn.Module):
    """``model`` for a fixed number of tokens, its cache in packed tensors.

    ``forward(input_ids, position[, last])``: ``input_ids`` (1, T) int, ``position`` (1,) int, the
    number of tokens in the cache, and ``last`` (1,) int, the place among the T whose logits are
    wanted; without it the logits of all T are returned, (1, T, vocabulary). In the form ``io``
    the packed tensors follow as keywords, and come back named with ``NEW``. With ``embedding``,
    ``inputs_embeds`` (1, T, width) stands in the place of ``input_ids``.

    Args:
        model: shared, not copied.
        decoder: what ``probe`` found.
        rooms: where the cache lies.
        tokens: T.
        form: where the cache is.
        call: what the model is given beside.
        best: how many of the likeliest tokens to return as ``tokens`` (1, T, best) int, with their
            logits where there are several, in the place of all logits.
        embedding: the module whose rows come in from outside; ``None`` where the ids do.
        part: the layers that run, see ``DecoderPart``; all by default. One behind the first takes
            ``hidden`` (1, T, width) in the place of ids, and one without the head returns
            ``hidden_new`` in the place of logits.
    """

    def __init__(
        self,
        model: nn.Module,
        decoder: Decoder,
        rooms: Rooms,
        tokens: int,
        form: CacheForm,
        call: CallForm,
        best: int | None = None,
        embedding: Embedding | None = None,
        part: DecoderPart | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._decoder, self._rooms, self._call = decoder, rooms, call
        self._embedding, self._part = embedding, part
        self._tokens, self._form, self._best = tokens, form, best
        if form != "io":
            for name, shape in rooms.shapes.items():
                self.register_buffer(name, torch.zeros(shape))

    def example_inputs(self, last: bool) -> dict[str, Tensor]:
        """Keyword inputs to capture with."""
        ids = torch.arange(self._tokens).remainder(self._decoder.vocabulary).unsqueeze(0)
        inputs = {"input_ids": ids.to(torch.int32), "position": torch.tensor([0]).int()}
        if self._part is not None and not self._part.is_first:
            hidden = torch.zeros(1, self._tokens, self._part.layers.width)
            inputs = {HIDDEN: hidden, "position": inputs["position"]}
        elif self._embedding is not None:
            inputs = {ROWS: self._embedding.rows(ids), "position": inputs["position"]}
        if last:
            inputs["last"] = torch.tensor([self._tokens - 1]).int()
        source = self._decoder.source
        if source is not None and source.is_text:
            inputs[LENGTH] = torch.tensor([source.length]).int()
        if self._form == "io":
            inputs |= {name: torch.zeros(shape) for name, shape in self._rooms.shapes.items()}
        return inputs

    def forward(
        self,
        input_ids: Tensor | None = None,
        position: Tensor | None = None,
        last: Tensor | None = None,
        source_length: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        hidden: Tensor | None = None,
        **states: Tensor,
    ) -> dict[str, Tensor]:
        """See the class."""
        assert position is not None
        if self._form != "io":
            states = {name: getattr(self, name) for name in self._rooms.shapes}
        rooms = self._rooms
        full = max(rooms.lengths, default=rooms.context)
        write = self._write()
        written: list[CacheSlot] = []
        for packing in (rooms.keys, rooms.values):
            if packing is not None:
                slots = [s for s in rooms.moving(packing) if s.extent.length != self._tokens]
                written += joined(slots) if write == "last" else slots
        looks_full = full if self._call.looks_full else None
        places = Places(position, self._tokens, rooms.rings, written, looks_full)
        keys = values = None
        if rooms.keys is not None and rooms.values is not None:
            keys = PackedStore(states["key_cache"], rooms.keys, places, write)
            values = PackedStore(states["value_cache"], rooms.values, places, write)
        crossed = []
        if keys is not None and values is not None:
            encoded = range(rooms.own, rooms.own + rooms.crossed)
            crossed = [(keys.read(slot), values.read(slot)) for slot in encoded]
        cache = step_cache(
            self._decoder.layers,
            keys,
            values,
            places,
            rooms.lengths,
            self._rows(states),
            crossed,
            rooms.held,
            self._decoder.kind,
        )
        taken: list[Tensor] = []
        with moving_ranges(self._tokens), ExitStack() as given:
            if self._call.hides_rows:
                plain = {*rooms.lengths} - rooms.rings
                given.enter_context(HiddenRows(position, self._tokens, plain))
            if self._part is not None:
                taken = given.enter_context(running(self.model, self._part, hidden))
            if hidden is not None and self._embedding is not None:
                inputs_embeds = torch.zeros(1, self._tokens, self._embedding.width)
            if inputs_embeds is not None and self._embedding is not None:
                given.enter_context(given_rows(self.model, self._embedding.name, inputs_embeds))
                # Read by nothing but the embedding, or the logits would not be the model's.
                input_ids = torch.zeros(1, self._tokens, dtype=torch.int32)
            result = self.model(
                use_cache=True,
                **{self._decoder.named("input_ids"): input_ids, self._decoder.cache_name: cache},
                **self._extras(places),
                **self._encoded(source_length),
            )
        said = {HIDDEN + NEW: taken[-1]} if taken else {}
        if self._part is None or self._part.has_head:
            said = self._said(logits_of(result), last)
        new: dict[str, Tensor] = {}
        if keys is not None and values is not None:
            new = {"key_cache": keys.written(), "value_cache": values.written()}
        carried = carried_by(left_in(result, cache))
        for name, rows in rooms.carried.items():
            # Row by row into the old one: a function that reads no state must keep it all the same.
            new[name] = states[name]
            for row, key in enumerate(rows):
                new[name] = _put(new[name], carried[key], row)
        if self._form == "io":
            return {**said, **{name + NEW: value for name, value in new.items()}}
        for name, value in new.items():
            getattr(self, name).copy_(value)
        return said

    def _write(self) -> Write:
        """One token is cheap to blend into what layers see; more are read back where they lie."""
        if self._form == "state-blend":
            return "blend"
        return "last" if self._tokens == 1 else "position"

    def _said(self, logits: Tensor, last: Tensor | None) -> dict[str, Tensor]:
        """What is returned of (1, T, vocabulary) logits."""
        if last is not None:
            logits = torch.index_select(logits, 1, last)
        if self._best is None:
            return {"logits": logits}
        if self._best == 1:
            return {"tokens": torch.argmax(logits, -1, keepdim=True).int()}
        found, tokens = torch.topk(logits, self._best, -1)
        return {"logits": found, "tokens": tokens.int()}

    def _rows(self, states: Mapping[str, Tensor]) -> dict[Key, Tensor]:
        found: dict[Key, Tensor] = {}
        for name, keys in self._rooms.carried.items():
            size = self._rooms.shapes[name][0] // len(keys)
            for row, key in enumerate(keys):
                found[key] = states[name].narrow(0, row * size, size)
        return found

    def _extras(self, places: Places) -> dict[str, Any]:
        extras: dict[str, Any] = {}
        rows = places.position + torch.arange(self._tokens)
        if self._call.position_ids:
            extras[self._decoder.named("position_ids")] = rows.unsqueeze(0)
        if "cache_position" in self._decoder.takes:
            extras["cache_position"] = rows
        written = places.written()
        if written is not None:
            extras[self._decoder.named("attention_mask")] = written.long().unsqueeze(0)
        elif self._call.mask:
            length = max(self._rooms.lengths, default=self._rooms.context)
            mask = torch.ones(1, length, dtype=torch.long)
            extras[self._decoder.named("attention_mask")] = mask
        return extras

    def _encoded(self, length: Tensor | None) -> dict[str, Any]:
        """What stands for the encoder, whose keys and values are in the cache."""
        source = self._decoder.source
        if source is None:
            return {}
        # Its numbers are used by nothing; models ask for its shape.
        nothing = torch.zeros(1, source.length, source.width)
        given: dict[str, Any] = {"encoder_outputs": encoded_as(nothing)}
        if length is not None:
            given["attention_mask"] = source.mask(length)
        return given


def _put(packed: Tensor, state: Tensor, row: int) -> Tensor:
    """``packed`` with ``state`` in the place of its ``row``."""
    begin = torch.tensor([row * state.shape[0], *[0] * (state.dim() - 1)])
    return slice_update(packed, state, begin, begin + torch.tensor(state.shape))
