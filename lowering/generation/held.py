"""What a package of a decoder with compressed weights has to compute, by torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from frontend.decoder.embedding import ROWS
from frontend.program import runnable
from lowering.generation.contract import ENCODE, NEW, Contract
from lowering.generation.settings import WantedFunction
from lowering.generation.stepping import Stepper
from lowering.package.open import Package
from lowering.verification.decoded import DecodedWeight, with_decoded
from lowering.verification.original import Original
from passes.optimized_model import OptimizedModel


class HeldDecoder:
    """The programs of a decoder with the weights that a package decodes, and their cache.

    Args:
        stepper: makes the programs of the model.
        contract: of the package.
        package: whose weights are decoded.
        names: the functions to hold.

    Attributes:
        weights: each compressed weight beside the model's own, by name in the package.
    """

    def __init__(
        self, stepper: Stepper, contract: Contract, package: Package, names: list[str]
    ) -> None:
        self._contract, self._package = contract, package
        self.weights: dict[str, DecodedWeight] = {}
        self._modules: dict[str, tuple[nn.Module, list[str]]] = {}
        for name in names:
            step = contract.steps[name]
            # The best tokens are as good as their logits, so that all of these are wanted here.
            wanted = WantedFunction(name, step.tokens, step.context, step.last, step.padded)
            self._hold(name, stepper.program(wanted).model)
        if contract.source is not None:
            self._hold(ENCODE, stepper.encoder(), contract.source.function)
        self.start({})

    def _hold(self, name: str, model: OptimizedModel, function: str | None = None) -> None:
        original, weights = with_decoded(Original.of(model), self._package, function or name)
        self.weights |= {weight.name: weight for weight in weights}
        outputs = [str(output) for output in original.program.graph_signature.user_outputs]
        self._modules[name] = runnable(original.program), outputs

    def start(self, source: Mapping[str, np.ndarray]) -> None:
        """Empties the cache; an encoder reads ``source``, its inputs by name."""
        self._states = {name: torch.zeros(shape) for name, shape in self._contract.states.items()}
        if source:
            self._call(ENCODE, source)

    def logits(self, name: str, inputs: Mapping[str, np.ndarray]) -> torch.Tensor:
        """(tokens, vocabulary) of one call, whose cache is the one that the last call left."""
        return self._call(name, inputs)["logits"][0]

    def _call(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        module, outputs = self._modules[name]
        given = {
            key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in inputs.items()
        }
        if ROWS in given:  # of a table in float16
            given[ROWS] = given[ROWS].float()
        buffers = dict(module.named_buffers())
        for state, value in self._states.items():
            if state in given:
                given[state] = value
            elif state in buffers:  # a function that starts a text anew may read no state
                buffers[state].copy_(value)
        with torch.no_grad():
            results = dict(zip(outputs, module(**given), strict=True))
        for state, value in self._states.items():
            left = results.get(state + NEW, buffers.get(state, value))
            self._states[state] = left.detach().clone()
        return results
