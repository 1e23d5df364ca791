"""transformers' ``Cache`` protocol over the packed stores of one step."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from frontend.decoder.probing import Layer, lists_of
from frontend.decoder.store import PackedStore, Places


def step_cache(
    layers: Sequence[Layer],
    keys: PackedStore | None,
    values: PackedStore | None,
    places: Places,
    lengths: Sequence[int],
    carried: Mapping[tuple[int, str, int], Tensor],
    crossed: Sequence[tuple[Tensor, Tensor]] = (),
    held: range | None = None,
    kind: type | None = None,
) -> object:
    """A ``transformers.Cache`` for one step, or a plain list of what is carried.

    Args:
        layers: what each layer keeps.
        keys, values: the stores of all attention layers, in order.
        places: where the step's tokens go.
        lengths: tokens that each attention layer has room for, in order.
        carried: (layer, kind, index) to the state that a recurrent layer continues from.
        crossed: keys and values of what an encoder said, for each layer.
        held: the layers that run, all by default. Of the others the model may ask how long they
            are; the stores have no slot for them.
        kind: class of the model's own cache, which may take no other.
    """
    if kind is list:
        return [state.clone() for state in carried.values()]  # models write to it in place
    known = _classes()
    attention = slots = 0
    own = sum(layer.attention is not None for layer in _held(layers, held))
    index_at = own + len(crossed)
    made = []
    listed: dict[str, list[object]] = {}
    for index, layer in enumerate(layers):
        slot = window = None
        is_held = held is None or index in held
        if layer.attention is not None:
            stores = (keys, values) if is_held else (None, None)
            slot = _LayerSlot(*stores, places, slots, lengths[attention], index_at)
            index_at += is_held and layer.attention.index_width is not None
            window = layer.attention.window
            attention += 1
            slots += is_held
        states = {key[1:]: state for key, state in carried.items() if key[0] == index}
        if not is_held:
            states = {key: torch.zeros(shape) for key, shape in layer.carried.items()}
        for name in layer.listed or {}:
            listed.setdefault(name, [[] for _ in layers])[index] = states.pop((name, 0))
        made.append(known.make(slot, window, states))
    cache = known.Cache(made) if kind is None else known.of_kind(kind, made, listed)
    return known.with_encoded(cache, crossed) if crossed else cache


def _held(layers: Sequence[Layer], held: range | None) -> Sequence[Layer]:
    return layers if held is None else layers[held.start : held.stop]


def cache_to_encode() -> Any:
    """A cache that keeps what a model's encoder says; see ``crossed_in``."""
    known = _classes()
    return known.EncoderDecoder(known.Dynamic(), known.Dynamic())


def crossed_in(cache: Any) -> list[tuple[Tensor, Tensor]]:
    """Keys and values for the cross-attention of each layer."""
    return [(layer.keys, layer.values) for layer in cache.cross_attention_cache.layers]


def encoded_as(hidden: Tensor) -> object:
    """What an encoder returns: models read it as a tuple, or by names, most of them optional."""
    return _classes().Encoded(last_hidden_state=hidden)


def carried_by(cache: Any) -> dict[tuple[int, str, int], Tensor]:
    """What the recurrent layers of a ``step_cache`` carry on after the step."""
    if isinstance(cache, list | tuple):
        return {(0, "recurrent_states", at): state for at, state in enumerate(cache)}
    found = {}
    own = getattr(cache, "self_attention_cache", cache)
    for index, layer in enumerate(own.layers):
        for kind in ("conv_states", "recurrent_states"):
            for at, state in (getattr(layer, kind, None) or {}).items():
                if state is not None:
                    found[index, kind, at] = state
    for name, entries in lists_of(own).items():
        tensors = {at: one for at, one in enumerate(entries) if isinstance(one, Tensor)}
        found |= {(index, name, 0): state for index, state in tensors.items()}
    return found


class _LayerSlot:
    """One attention layer's place in the stores."""

    def __init__(
        self,
        keys: PackedStore | None,
        values: PackedStore | None,
        places: Places,
        at: int,
        length: int,
        index_at: int,
    ) -> None:
        self.keys, self.values, self.places = keys, values, places
        self.at, self.length, self.index_at = at, length, index_at

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None, "a layer that does not run"
        return self.keys.write(self.at, keys), self.values.write(self.at, values)

    def update_index(self, rows: Tensor) -> Tensor:
        assert self.keys is not None, "a layer that does not run"
        return self.keys.write(self.index_at, rows.unsqueeze(1)).squeeze(1)


class _Known:
    """Classes made on transformers' own, which is imported where a decoder is exported only."""

    def __init__(self) -> None:
        from transformers import cache_utils, modeling_outputs

        class Attending(cache_utils.CacheLayerMixin):
            """Keys and values that lie in a slot."""

            is_compileable = True
            is_sliding = False

            def attend(self, slot: _LayerSlot, window: int | None) -> None:
                self.slot = slot
                self.is_initialized = True
                self.is_sliding = window is not None
                self.max_cache_len = slot.length
                if window is not None:
                    self.sliding_window = window

            def lazy_initialization(self, *args: object, **kwargs: object) -> None:
                """Nothing to do: the stores are there from the start."""

            def update(
                self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
            ) -> tuple[Tensor, Tensor]:
                self.keys, self.values = self.slot.update(key_states, value_states)
                return self.keys, self.values

            def update_indexer(self, rows: Tensor) -> Tensor:
                """(1, new tokens, width) to those of all tokens."""
                return self.slot.update_index(rows)

            def get_mask_sizes(self, query_length: int) -> tuple[int, Tensor | int]:
                return self.slot.length, self.slot.places.turned(self.slot.length)

            def get_seq_length(self) -> Tensor | int:
                return self.slot.places.seen

            def get_max_length(self) -> int:
                return self.slot.length

        class Carrying(cache_utils.LinearAttentionLayer):
            """States of convolutions and recurrences."""

            def carry(self, states: Mapping[tuple[str, int], Tensor]) -> None:
                for (kind, at), state in states.items():
                    # The layer writes in place, and the step's inputs stay as they are.
                    getattr(self, kind)[at] = state.clone()
                    if kind == "conv_states":
                        self.is_conv_states_initialized[at] = True
                        self.conv_kernel_size[at] = state.shape[-1]
                    else:
                        self.is_recurrent_states_initialized[at] = True
                    self.has_previous_state[at] = True
                    self.device, self.dtype = state.device, state.dtype

        class Both(Carrying, Attending):
            """A layer with both."""

            def __init__(self, number_of_states: int) -> None:
                cache_utils.CacheLayerMixin.__init__(self)
                cache_utils.LinearAttentionLayer.__init__(self, number_of_states)

        class Crossing(cache_utils.CacheLayerMixin):
            """Keys and values of what the encoder said; nothing is added to them."""

            is_compileable = True
            is_sliding = False

            def hold(self, keys: Tensor, values: Tensor) -> None:
                self.keys, self.values = keys, values
                self.is_initialized = True

            def lazy_initialization(self, *args: object, **kwargs: object) -> None:
                """Nothing to do: they are there from the start."""

            def update(self, key_states: Tensor, value_states: Tensor, *_: object) -> Any:
                raise RuntimeError("the model computes keys of the source again")

            def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
                return self.get_seq_length(), 0

            def get_seq_length(self) -> int:
                length: int = self.keys.shape[2]
                return length

            def get_max_length(self) -> int:
                return self.get_seq_length()

        class StepCache(cache_utils.Cache):
            """The cache of one step."""

            def __init__(self, layers: list[Any]) -> None:
                super().__init__(layers=layers)

        class Encoded(modeling_outputs.BaseModelOutput):
            """Of an encoder, all but its hidden states left out."""

            def __getattr__(self, name: str) -> None:
                if name.startswith("_"):
                    raise AttributeError(name)

        self.Cache, self.Encoded = StepCache, Encoded
        self.EncoderDecoder, self.Dynamic = (
            cache_utils.EncoderDecoderCache,
            cache_utils.DynamicCache,
        )
        self._Crossing, self._Base = Crossing, cache_utils.Cache
        self._kinds = (Attending, Carrying, Both, cache_utils.DummyLayer)

    def make(
        self, slot: _LayerSlot | None, window: int | None, states: Mapping[tuple[str, int], Tensor]
    ) -> object:
        """One layer of the cache."""
        attending, carrying, both, dummy = self._kinds
        count = 1 + max((at for _, at in states), default=-1)
        if slot is None:
            layer = carrying(number_of_states=count) if states else dummy()
        else:
            layer = both(count) if states else attending()
            layer.attend(slot, window)
        if states:
            layer.carry(states)
        if getattr(layer, "keys", layer) is None:
            # As a layer before its first tokens: some models ask whether there are any.
            layer.keys = layer.values = torch.empty(0)
        return layer

    def of_kind(self, kind: type, layers: list[Any], listed: Mapping[str, list[object]]) -> object:
        """A cache of a model's own class, without what that does when it is made."""
        cache: object = object.__new__(kind)
        self._Base.__init__(cache, layers=layers)
        vars(cache).update(listed)
        return cache

    def with_encoded(self, cache: Any, crossed: Sequence[tuple[Tensor, Tensor]]) -> object:
        """``cache`` for self-attention beside what the encoder said."""
        layers = []
        for keys, values in crossed:
            layer = self._Crossing()
            layer.hold(keys, values)
            layers.append(layer)
        return self.EncoderDecoder(cache, self.Cache(layers))


@functools.cache
def _classes() -> _Known:
    return _Known()


def is_available() -> bool:
    """Whether transformers is installed."""
    from importlib.util import find_spec

    return find_spec("transformers") is not None
