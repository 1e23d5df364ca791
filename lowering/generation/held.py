"""What a package of a decoder with compressed weights has to compute, by torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from frontend.decoder.embedding import ROWS, embedding_of
from frontend.decoder.part import HIDDEN, DecoderPart, layers_of
from frontend.decoder.probing import Decoder
from frontend.decoder.step import Rooms, rooms
from frontend.program import runnable
from lowering.generation.contract import ENCODE, NEW, Contract
from lowering.generation.settings import WantedFunction
from lowering.generation.stepping import Stepper
from lowering.package.open import Package, open_package
from lowering.verification.decoded import DecodedWeight, with_decoded
from lowering.verification.original import Original
from passes.base import Pass
from passes.optimized_model import OptimizedModel


def stepper_of(
    contract: Contract,
    model: nn.Module,
    decoder: Decoder,
    place: Rooms,
    passes: Sequence[Pass],
    part: DecoderPart | None = None,
) -> Stepper:
    """Makes the programs that a package, or one part of it, was made from."""
    is_given = contract.table is not None
    if part is not None:
        is_given |= contract.embedder is not None or not part.is_first
    return Stepper(
        model,
        decoder,
        rooms=place,
        form=contract.form,
        pipeline=passes,
        context=contract.context,
        longest=contract.longest,
        embedding=embedding_of(model, decoder) if is_given else None,
        part=part,
    )


@dataclass
class _Held:
    """The programs of one package, and its cache.

    Attributes:
        shapes: of the cache by name.
        modules: function name to its program and the names of its results.
        states: the cache.
    """

    shapes: Mapping[str, tuple[int, ...]]
    modules: dict[str, tuple[nn.Module, list[str]]] = field(default_factory=dict)
    states: dict[str, torch.Tensor] = field(default_factory=dict)

    def reset(self) -> None:
        self.states = {name: torch.zeros(shape) for name, shape in self.shapes.items()}

    def call(self, name: str, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Results by name, of those of ``inputs`` that the function takes."""
        module, outputs = self.modules[name]
        assert isinstance(module, torch.fx.GraphModule)
        taken = {str(node.target) for node in module.graph.nodes if node.op == "placeholder"}
        given = {key: value for key, value in {**inputs, **self.states}.items() if key in taken}
        buffers = dict(module.named_buffers())
        for state, value in self.states.items():
            if state in buffers:  # a function that starts a text anew may read no state
                buffers[state].copy_(value)
        with torch.no_grad():
            results = dict(zip(outputs, module(**given), strict=True))
        for state, value in self.states.items():
            left = results.get(state + NEW, buffers.get(state, value))
            self.states[state] = left.detach().clone()
        return results


class HeldDecoder:
    """The programs of a decoder with the weights that its packages decode, and their cache.

    Args:
        path: of the package, or of the folder of its parts.
        contract: of the package.
        model, decoder, place: the original, what it keeps, and where.
        passes: that the package was made with.
        names: the functions to hold.

    Attributes:
        weights: each compressed weight beside the model's own, by name in the package.
    """

    def __init__(
        self,
        path: Path,
        contract: Contract,
        model: nn.Module,
        decoder: Decoder,
        place: Rooms,
        passes: Sequence[Pass],
        names: Sequence[str],
    ) -> None:
        self._contract, self._names = contract, names
        self.weights: dict[str, DecodedWeight] = {}
        self._parts: list[_Held] = []
        if not contract.parts:
            stepper = stepper_of(contract, model, decoder, place, passes)
            package = open_package(path)
            self._hold_all(stepper, package, contract.states, has_head=True)
            if contract.source is not None:
                self._hold(ENCODE, stepper.encoder(), package, contract.source.function)
        for part in contract.parts:
            is_last = part is contract.parts[-1]
            cut = DecoderPart(layers_of(model, decoder), *part.layers, has_head=is_last)
            held = range(*part.layers)
            ring = bool(contract.rings)
            own = rooms(decoder, contract.context, contract.longest, ring=ring, held=held)
            stepper = stepper_of(contract, model, decoder, own, passes, cut)
            self._hold_all(stepper, open_package(path / part.file), part.states, is_last)
        self.start({})

    def _hold_all(
        self,
        stepper: Stepper,
        package: Package,
        states: Mapping[str, tuple[int, ...]],
        has_head: bool,
    ) -> None:
        self._parts.append(_Held(states))
        for name in self._names:
            step = self._contract.steps[name]
            # The best tokens are as good as their logits, so that all of these are wanted here.
            last = step.last and has_head
            wanted = WantedFunction(name, step.tokens, step.context, last, step.padded)
            self._hold(name, stepper.program(wanted).model, package)

    def _hold(
        self, name: str, model: OptimizedModel, package: Package, function: str | None = None
    ) -> None:
        original, weights = with_decoded(Original.of(model), package, function or name)
        if self._contract.parts:
            where = f"part {len(self._parts)}: "
            weights = tuple(replace(weight, name=where + weight.name) for weight in weights)
        self.weights |= {weight.name: weight for weight in weights}
        outputs = [str(output) for output in original.program.graph_signature.user_outputs]
        self._parts[-1].modules[name] = runnable(original.program), outputs

    def start(self, source: Mapping[str, np.ndarray]) -> None:
        """Empties the cache; an encoder reads ``source``, its inputs by name."""
        for part in self._parts:
            part.reset()
        if source:
            self._parts[0].call(ENCODE, _tensors(source))

    def logits(self, name: str, inputs: Mapping[str, np.ndarray]) -> torch.Tensor:
        """(tokens, vocabulary) of one call, whose cache is the one that the last call left."""
        given = _tensors(inputs)
        for part in self._parts:
            results = part.call(name, given)
            if HIDDEN + NEW in results:
                given = {**given, HIDDEN: results[HIDDEN + NEW]}
        return results["logits"][0]


def _tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    given = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in arrays.items()}
    if ROWS in given:  # of a table in float16
        given[ROWS] = given[ROWS].float()
    return given
