"""The functions of an exported package, and the cache that they hand to one another."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frontend.decoder.embedding import ROWS
from frontend.decoder.part import HIDDEN
from frontend.decoder.source import LENGTH
from lowering.generation.contract import NEW, PartContract, contract_of
from lowering.generation.errors import GenerationError
from lowering.generation.table import open_table
from lowering.reference import LoadedModel, Precision, State, load


class Functions:
    """Calls the functions of a package one after the other, each on what the others left.

    Args:
        package: path of the package, or of the folder of its parts.
        precision: of the interpreter, see ``lowering.load``.

    Attributes:
        contract: what the package says about itself.
        calls: function name to how often it ran, since the last ``reset``.

    Raises:
        GenerationError: the package was not made by ``export_decoder``, or its table of embeddings
            does not lie beside it.
        PackageError: there is no package.
    """

    def __init__(
        self, package: str | os.PathLike[str], precision: str | Precision = "fp16"
    ) -> None:
        self.contract = contract = contract_of(package)
        self._precision = precision
        own = Path(os.fspath(package)).expanduser()
        wholes = contract.parts or (PartContract("", contract.states, (0, 0)),)
        self._parts = [
            _Part(own / part.file, part.states, contract.form == "io", precision) for part in wholes
        ]
        self._table = None
        if contract.table is not None:
            self._table = open_table(self._parts[0].path, contract)
        self.reset()

    def reset(self) -> None:
        """Empties the cache."""
        self.calls: dict[str, int] = {}
        self._source_length: int | None = None
        for part in self._parts:
            part.reset()

    def fits(self, name: str, position: int, pending: int) -> bool:
        """Whether a function can be called with ``position`` tokens in the cache.

        Args:
            name: of the function.
            position: how many tokens are in the cache.
            pending: how many are to come.
        """
        # A blend finds the row of each token by a mask, on both sides of a ring's end.
        rings = () if self.contract.form == "state-blend" else self.contract.rings
        return self.contract.steps[name].fits(position, pending, rings)

    def check_ready(self) -> None:
        """Raises ``GenerationError`` while an encoder has read nothing."""
        if self.contract.source is not None and self._source_length is None:
            raise GenerationError(
                "the package's encoder has read nothing yet",
                hint="call encode(source) first (--source)",
            )

    def check_ids(self, ids: Sequence[int]) -> None:
        """Raises ``GenerationError`` for ids outside the vocabulary."""
        wrong = [token for token in ids if not 0 <= token < self.contract.vocabulary]
        if wrong:
            raise GenerationError(
                "a token id lies outside the vocabulary",
                expected=f"0 to {self.contract.vocabulary - 1}",
                found=", ".join(str(token) for token in wrong[:4]),
                hint="use the tokenizer that belongs to the model",
            )

    def encode(self, source: Sequence[int] | np.ndarray) -> None:
        """Empties the cache and lets the encoder read ``source``.

        Args:
            source: token ids, or an array of the shape in the contract.

        Raises:
            GenerationError: the package has no encoder, or the source does not fit it.
        """
        inputs = self.source_inputs(source)
        self.reset()
        assert self.contract.source is not None
        self.call(self.contract.source.function, self._with_cache(inputs))
        self._source_length = int(inputs[LENGTH][0]) if LENGTH in inputs else 0

    def source_inputs(self, source: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """What the encoder is called with to read ``source``.

        Raises:
            GenerationError: the package has no encoder, or the source does not fit it.
        """
        expected = self.contract.source
        if expected is None:
            raise GenerationError(
                "the package has no encoder that could read a source",
                hint="give the tokens to generate",
            )
        if expected.is_text:
            ids = [int(token) for token in source]
            count, room = len(ids), expected.shape[1]
            self.check_ids(ids)
            if not 1 <= count <= room:
                raise GenerationError(
                    "the source does not fit the encoder",
                    expected=f"1 to {room} tokens",
                    found=f"{count}",
                    hint="shorten it, or export with a larger source",
                )
            padded = np.array([[*ids, *[0] * (room - count)]], np.int32)
            return {"source": padded, LENGTH: np.array([count], np.int32)}
        values = np.asarray(source, np.float32)
        if values.shape != expected.shape:
            raise GenerationError(
                "the source does not fit the encoder",
                expected=f"shape {expected.shape}",
                found=f"{values.shape}",
            )
        return {"source": values}

    def inputs(self, name: str, ids: Sequence[int], position: int) -> dict[str, np.ndarray]:
        """What a function is called with for ``ids`` behind ``position`` tokens."""
        step = self.contract.steps[name]
        padded = [*ids, *[ids[-1]] * (step.tokens - len(ids))]
        inputs = {"input_ids": np.array([padded], np.int32)}
        if self._table is not None:
            inputs = {ROWS: np.asarray(self._table[padded])[np.newaxis]}
        elif (embedder := self.contract.embedder) is not None:
            rows = self._parts[-1].loaded(f"{embedder}_{step.tokens}")
            inputs = dict(rows(inputs))
        inputs["position"] = np.array([position], np.int32)
        if step.last:
            inputs["last"] = np.array([len(ids) - 1], np.int32)
        if self.contract.source is not None and self.contract.source.is_text:
            inputs[LENGTH] = np.array([self._source_length], np.int32)
        return self._with_cache(inputs)

    def step(self, name: str, ids: Sequence[int], position: int) -> NDArray[np.float32]:
        """Logits of ``ids``, (tokens, vocabulary), or (1, vocabulary) of the last alone.

        Where the package returns the best tokens, others are minus infinity; one alone is zero.
        """
        step = self.contract.steps[name]
        outputs = self.call(name, self.inputs(name, ids, position))
        logits: NDArray[np.float32]
        if step.best is None:
            logits = outputs["logits"][0].astype(np.float32)
        else:
            tokens = outputs["tokens"][0]
            known = outputs["logits"][0] if "logits" in outputs else np.zeros(tokens.shape)
            logits = np.full((len(tokens), self.contract.vocabulary), -np.inf, np.float32)
            np.put_along_axis(logits, tokens, known.astype(np.float32), 1)
        return logits if step.last else logits[: len(ids)]

    def call(self, name: str, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Runs one function on the cache, in all parts one after the other."""
        outputs: Mapping[str, np.ndarray] = {}
        for part in self._parts:
            if HIDDEN + NEW in outputs:
                inputs = {**inputs, HIDDEN: outputs[HIDDEN + NEW]}
            outputs = part.run(name, inputs)
        self.calls[name] = self.calls.get(name, 0) + 1
        return outputs

    def states(self) -> dict[str, np.ndarray]:
        """Copies of the Core ML states of the first package; empty where the cache goes in and
        out."""
        state = self._parts[0].state
        return {} if state is None else {name: state[name].copy() for name in state}

    def loaded(self, name: str) -> LoadedModel:
        """One function of the first package in the interpreter."""
        return self._parts[0].loaded(name)

    def _with_cache(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {**inputs, **self._parts[0].arrays}


class _Part:
    """One package with its cache.

    Attributes:
        path: of the package.
        state: its Core ML states, ``None`` before the first call.
        arrays: its cache where that goes in and out.
    """

    def __init__(
        self,
        path: Path,
        shapes: Mapping[str, tuple[int, ...]],
        io: bool,
        precision: str | Precision,
    ) -> None:
        self.path = path
        self._shapes = shapes if io else {}
        self._precision = precision
        self._loaded: dict[str, LoadedModel] = {}
        self.reset()

    def reset(self) -> None:
        """Empties the cache."""
        self.state: State | None = None
        self.arrays = {name: np.zeros(shape, np.float32) for name, shape in self._shapes.items()}

    def run(self, name: str, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """What a function says of those of ``inputs`` that it takes, on the cache."""
        function = self.loaded(name)
        if self.state is None:
            self.state = function.make_state()
        given = {**inputs, **self.arrays}
        taken = {key: given[key] for key in function.inputs if key in given}
        outputs = function(taken, self.state)
        self.arrays = {key: outputs.get(key + NEW, old) for key, old in self.arrays.items()}
        return outputs

    def loaded(self, name: str) -> LoadedModel:
        """One function in the interpreter."""
        if name not in self._loaded:
            self._loaded[name] = load(self.path, function=name, precision=self._precision)
        return self._loaded[name]
