"""The encoder of an encoder-decoder model as a module that fills the decoder's cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from frontend.decoder.hf_cache import cache_to_encode, crossed_in
from frontend.decoder.probing import Decoder
from frontend.decoder.source import LENGTH
from frontend.decoder.step import NEW, CacheForm, Rooms
from frontend.decoder.store import PackedStore, Places


class EncodeStep(nn.Module):
    """The encoder of ``model``; its keys and values go to the cache, once for a source.

    ``forward(<source>[, source_length])``: the model's own main input, and for text how many of
    its tokens are no padding. Returns ``encoded`` (1, length, width); in the form ``io`` packed
    tensors go in and come out as in ``DecoderStep``.

    Args:
        model: shared, not copied.
        decoder: what ``probe`` found, with a source.
        rooms: where the cache lies.
        form: where the cache is.
    """

    def __init__(self, model: nn.Module, decoder: Decoder, rooms: Rooms, form: CacheForm) -> None:
        super().__init__()
        assert decoder.source is not None
        self.model = model
        self._decoder, self._source = decoder, decoder.source
        self._rooms, self._form = rooms, form
        if form != "io":
            for name, shape in rooms.shapes.items():
                self.register_buffer(name, torch.zeros(shape))

    def example_inputs(self) -> dict[str, Tensor]:
        """Keyword inputs to capture with: a source a little shorter than there is room for."""
        inputs = {"source": self._source.example()}
        if self._source.is_text:
            inputs[LENGTH] = self._source.example_length()
        if self._form == "io":
            inputs |= {name: torch.zeros(shape) for name, shape in self._rooms.shapes.items()}
        return inputs

    def forward(
        self, source: Tensor, source_length: Tensor | None = None, **states: Tensor
    ) -> dict[str, Tensor]:
        """See the class."""
        if self._form != "io":
            states = {name: getattr(self, name) for name in self._rooms.shapes}
        cache = cache_to_encode()
        given: dict[str, Any] = {self._source.name: source, self._decoder.cache_name: cache}
        if source_length is not None:
            given["attention_mask"] = self._source.mask(source_length)
        result = self.model(
            decoder_input_ids=torch.zeros(1, 1, dtype=torch.long), use_cache=True, **given
        )
        rooms = self._rooms
        assert rooms.keys is not None and rooms.values is not None
        places = Places(torch.zeros(1, dtype=torch.int32), 1, rooms.rings)
        keys = PackedStore(states["key_cache"], rooms.keys, places, "position")
        values = PackedStore(states["value_cache"], rooms.values, places, "position")
        for at, (key, value) in enumerate(crossed_in(cache), start=rooms.own):
            keys.put(at, key)
            values.put(at, value)
        new = {"key_cache": keys.written(), "value_cache": values.written()}
        encoded = {"encoded": result.encoder_last_hidden_state}
        if self._form == "io":
            return {**encoded, **{name + NEW: value for name, value in new.items()}}
        for name, value in new.items():
            getattr(self, name).copy_(value)
        return encoded
