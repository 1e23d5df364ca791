"""What a decoder keeps between calls, found by calling it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from frontend.decoder.source import EncoderInput, source_of
from frontend.errors import CaptureError, kind_and_line
from frontend.surroundings import inference_mode

# Tokens of the probing call: more than one, so that what grows with them can be told.
_PROBED_TOKENS = 3
_CACHES = "transformers.cache_utils"
_STATES = "state"
"""The parameter, and result, of models that carry a plain list of tensors on, as RWKV does."""
_CACHE_NAMES = ("cache", "past_key_values", _STATES)
MODEL_ERRORS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError)
"""What models raise that are called in a way they do not know."""


@dataclass(frozen=True)
class Attention:
    """Keys and values of one layer.

    Attributes:
        heads: of keys and values.
        key_width, value_width: of one head.
        window: how many tokens a query can see, ``None`` for all.
        index_width: of what is kept of each token beside, to choose the tokens that are looked at;
            ``None`` where nothing is.
    """

    heads: int
    key_width: int
    value_width: int
    window: int | None
    index_width: int | None = None


@dataclass(frozen=True)
class Layer:
    """What one layer keeps.

    Attributes:
        attention: keys and values, ``None`` for a layer without.
        convolution, recurrence: by index, the shapes (batch first) of what a recurrent layer
            carries on.
        cross: keys and values of what the encoder said.
        listed: the shapes of what the cache itself lists for this layer, by the list's name;
            models with a class of cache of their own do.
    """

    attention: Attention | None = None
    convolution: Mapping[int, tuple[int, ...]] | None = None
    recurrence: Mapping[int, tuple[int, ...]] | None = None
    cross: Attention | None = None
    listed: Mapping[str, tuple[int, ...]] | None = None

    @property
    def carried(self) -> dict[tuple[str, int], tuple[int, ...]]:
        """Shapes of all but keys and values, by the attribute that holds them and index."""
        kinds = {"conv_states": self.convolution, "recurrent_states": self.recurrence}
        found = {
            (kind, at): shape
            for kind, states in kinds.items()
            for at, shape in (states or {}).items()
        }
        return {**found, **{(name, 0): shape for name, shape in (self.listed or {}).items()}}

    @property
    def is_recurrent(self) -> bool:
        """True if it carries on more than keys and values."""
        return bool(self.carried)


@dataclass(frozen=True)
class Decoder:
    """How a decoder is called and what it keeps.

    Attributes:
        cache_name: the keyword of its cache.
        takes: names of the parameters of ``forward``.
        vocabulary: how many token ids it knows.
        positions: how many positions it was made for, ``None`` where it does not say.
        layers: what each layer keeps.
        source: what its encoder reads, ``None`` for a decoder alone.
        kind: class of the cache that it makes itself, where that is none of transformers' own: it
            may refuse any other.
    """

    cache_name: str
    takes: frozenset[str]
    vocabulary: int
    positions: int | None
    layers: tuple[Layer, ...]
    source: EncoderInput | None = None
    kind: type | None = None

    def named(self, name: str) -> str:
        """How the model calls ``name`` of the decoder: those of an encoder stand beside it."""
        return name if self.source is None else f"decoder_{name}"

    @property
    def is_recurrent(self) -> bool:
        """True if a layer's state follows from all tokens fed so far, junk included."""
        return any(layer.is_recurrent for layer in self.layers)

    @property
    def windows(self) -> tuple[int, ...]:
        """The windows of all layers that have one, each once."""
        found = {layer.attention.window for layer in self.layers if layer.attention}
        return tuple(sorted(window for window in found if window is not None))


def probe(model: nn.Module, source: int | torch.Tensor | None = None) -> Decoder:
    """Calls ``model`` on a few tokens and looks at the cache that it returns.

    Args:
        model: a causal decoder, or an encoder and a decoder.
        source: of an encoder, how many tokens it reads, or an example of its input.

    Raises:
        CaptureError: the model is no decoder with a cache, or keeps something that is not known.
    """
    takes = frozenset(inspect.signature(model.forward).parameters)
    name = next((n for n in _CACHE_NAMES if n in takes), None)
    encodes = "decoder_input_ids" in takes
    if name is None or not takes_cache(model):
        raise CaptureError(
            "the model is no decoder that can be exported for generation",
            expected="forward(input_ids, cache or past_key_values, ...), as in transformers' "
            "models for causal language modelling",
            found=f"{type(model).__name__}.forward({', '.join(sorted(takes))})",
            hint="export it as it is with optimize_for_ane and convert",
        )
    vocabulary = _vocabulary(model)
    ids = torch.arange(_PROBED_TOKENS).remainder(vocabulary).unsqueeze(0)
    read = source_of(model, source) if encodes else None
    inputs = {"input_ids": ids} if read is None else {**read.inputs(), "decoder_input_ids": ids}
    with inference_mode(model), torch.no_grad():
        try:
            result = model(**inputs, use_cache=True)
        except MODEL_ERRORS as error:
            raise CaptureError(
                f"the model cannot be called on {' and '.join(inputs)} alone",
                op=type(model).__name__,
                found=kind_and_line(error),
                hint=f"check that model({', '.join(inputs)}, use_cache=True) runs",
            ) from error
    if logits_in(result) is None:
        raise CaptureError(
            f"{type(model).__name__} returns no logits, so no token can be chosen",
            expected="a model with a head, such as transformers' ...ForCausalLM",
            found=", ".join(result) if isinstance(result, Mapping) else type(result).__name__,
            hint="pass the whole model",
        )
    if name == _STATES:
        return Decoder(
            name, takes, vocabulary, _positions(model), _stated(model, result), kind=list
        )
    cache = _cache_in(result)
    if cache is None:
        raise CaptureError(
            f"{type(model).__name__} returns no cache of keys and values, so it cannot continue "
            "where it stopped",
            expected="a causal decoder: model(input_ids, use_cache=True) returns a cache",
            found="an encoder, or a decoder whose config says is_decoder=False",
            hint="export it as it is with optimize_for_ane and convert",
        )
    own = getattr(cache, "self_attention_cache", cache)
    layers = tuple(
        replace(_layer(index, layer), listed=_listed(own, index))
        for index, layer in enumerate(_padded(own.layers, lists_of(own)))
    )
    if read is not None:
        crossed = [_layer(i, layer) for i, layer in enumerate(cache.cross_attention_cache.layers)]
        layers = tuple(
            replace(layer, cross=other.attention)
            for layer, other in zip(layers, crossed, strict=True)
        )
        keys = cache.cross_attention_cache.layers[0].keys.shape[2]
        read = _as_read(model, read, result, keys)
    kind = None if type(own).__module__ == _CACHES else type(own)
    return Decoder(name, takes, vocabulary, _positions(model), layers, read, kind)


def _stated(model: nn.Module, result: object) -> tuple[Layer, ...]:
    """What a model carries on in a plain list, as if all of it were one layer's."""
    states = left_in(result, None)
    if not isinstance(states, list | tuple) or not all(isinstance(s, torch.Tensor) for s in states):
        raise CaptureError(
            f"{type(model).__name__} takes a state that is no list of tensors",
            expected="a list of tensors as state, and in the result of use_cache=True",
            found=type(states).__name__,
            hint="export it as it is with optimize_for_ane and convert",
        )
    return (Layer(recurrence={at: tuple(state.shape) for at, state in enumerate(states)}),)


def left_in(result: object, cache: object) -> object:
    """What goes into the next step: a list that the model returns, or ``cache``, written to."""
    return getattr(result, _STATES, cache)


def lists_of(cache: object) -> dict[str, list[object]]:
    """What a cache lists beside its layers, tensors among it, by name."""
    return {
        name: value
        for name, value in vars(cache).items()
        if isinstance(value, list) and any(isinstance(one, torch.Tensor) for one in value)
    }


def _listed(cache: object, index: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that a cache lists for one layer."""
    entries = {name: found[index] for name, found in lists_of(cache).items() if index < len(found)}
    return {
        name: tuple(one.shape) for name, one in entries.items() if isinstance(one, torch.Tensor)
    }


def _padded(layers: Sequence[object], listed: Mapping[str, Sequence[object]]) -> list[object]:
    """A cache's layers, and ``None`` for those behind that it lists something for alone."""
    count = max([len(layers), *map(len, listed.values())])
    return [*layers, *[None] * (count - len(layers))]


def _as_read(model: nn.Module, read: EncoderInput, result: object, keys: int) -> EncoderInput:
    """``read`` with the sizes of what the encoder said, of which the cache has so many ``keys``."""
    said = getattr(result, "encoder_last_hidden_state", None)
    if not isinstance(said, torch.Tensor):
        raise CaptureError(
            f"{type(model).__name__} does not return what its encoder said",
            expected="encoder_last_hidden_state in its result",
            found=type(result).__name__,
        )
    return replace(read, length=keys, width=said.shape[-1])


def takes_cache(model: nn.Module) -> bool:
    """Whether ``forward`` takes token ids and a cache, as decoders of transformers do."""
    takes = inspect.signature(model.forward).parameters
    is_decoder = any(name in takes for name in ("input_ids", "decoder_input_ids"))
    return is_decoder and any(name in takes for name in _CACHE_NAMES)


def logits_of(result: Any) -> torch.Tensor:
    """The logits in the result of a model that ``probe`` took."""
    logits = logits_in(result)
    assert logits is not None
    return logits


def logits_in(result: object) -> torch.Tensor | None:
    """The logits in a model's result, if there are any."""
    logits = getattr(result, "logits", None)
    return logits if isinstance(logits, torch.Tensor) else None


def _cache_in(result: object) -> Any:
    for name in _CACHE_NAMES:
        found = getattr(result, name, None)
        layers = getattr(getattr(found, "self_attention_cache", found), "layers", ())
        if len(layers):
            return found
    return None


def _vocabulary(model: nn.Module) -> int:
    get_embeddings = getattr(model, "get_input_embeddings", None)
    try:
        embeddings = get_embeddings() if callable(get_embeddings) else None
    except NotImplementedError:  # transformers' own answer for models of several inputs
        embeddings = None
    weight = getattr(embeddings, "weight", None)
    if not isinstance(weight, torch.Tensor):
        raise CaptureError(
            "the model has no table of token embeddings",
            expected="get_input_embeddings() with a weight",
            found=type(embeddings).__name__,
        )
    return weight.shape[0]


def _positions(model: nn.Module) -> int | None:
    config = getattr(model, "config", None)
    for name in ("max_target_positions", "max_position_embeddings"):
        found = getattr(config, name, None)
        if isinstance(found, int) and found > 0:
            return found
    return None


def _layer(index: int, layer: object) -> Layer:
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    attention = None
    if isinstance(keys, torch.Tensor) and isinstance(values, torch.Tensor) and keys.numel():
        if keys.dim() != 4 or values.shape[:3] != keys.shape[:3]:
            raise _unknown(index, layer, f"keys {tuple(keys.shape)}, values {tuple(values.shape)}")
        window = getattr(layer, "sliding_window", None)
        chooser = getattr(layer, "indexer_keys", None)  # (1, tokens, width)
        is_index = isinstance(chooser, torch.Tensor) and chooser.dim() == 3
        index_width = int(chooser.shape[2]) if chooser is not None and is_index else None
        attention = Attention(keys.shape[1], keys.shape[3], values.shape[3], window, index_width)
    recurrent = {}
    for kind in ("conv_states", "recurrent_states"):
        states = getattr(layer, kind, None) or {}
        recurrent[kind] = {
            at: tuple(state.shape) for at, state in states.items() if state is not None
        }
    others = [
        name
        for name, value in ({} if layer is None else vars(layer)).items()
        if isinstance(value, torch.Tensor)
        and value.dim()
        and name not in ("keys", "values", "indexer_keys")
        and value.numel()
    ]
    if others:
        raise _unknown(index, layer, ", ".join(others))
    return Layer(attention, recurrent["conv_states"], recurrent["recurrent_states"])


def _unknown(index: int, layer: object, found: str) -> CaptureError:
    return CaptureError(
        "a layer keeps something that the cache for packages does not know",
        module=f"layer {index}",
        expected="keys and values (1, heads, tokens, width), convolution and recurrent states",
        found=f"{type(layer).__name__} with {found}",
        hint="report this model; every layer kind of transformers' Cache protocol is meant to work",
    )
