"""Generates with an exported package in the reference interpreter, on any OS."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frontend.decoder.source import LENGTH
from lowering.generation.contract import NEW, Contract, StepContract
from lowering.generation.errors import ContextError, GenerationError
from lowering.generation.sampling import Sampler, Sampling
from lowering.package.open import open_package
from lowering.reference import LoadedModel, Precision, State, load


class Generator:
    """Drives a package that ``export_decoder`` wrote.

    Successive calls of ``generate`` are turns of one conversation; ``reset`` starts another.

    Args:
        package: path of the package.
        precision: of the interpreter, see ``lowering.load``.

    Attributes:
        contract: what the package says about itself.
        logits: (vocabulary,) of the newest token fed, ``None`` before the first.
        calls: function name to how often it ran, since the last ``reset``.

    Raises:
        GenerationError: the package was not made by ``export_decoder``.
        PackageError: there is no package.
    """

    def __init__(
        self, package: str | os.PathLike[str], *, precision: str | Precision = "fp16"
    ) -> None:
        self._path = os.fspath(package)
        opened = open_package(self._path)
        self.contract = Contract.from_metadata(opened.metadata, opened.label)
        self._precision = precision
        self._loaded: dict[str, LoadedModel] = {}
        self.reset()

    def reset(self) -> None:
        """Forgets all tokens."""
        self.logits: NDArray[np.float32] | None = None
        self.calls: dict[str, int] = {}
        self._position = 0
        self._unfed: list[int] = []
        self._state: State | None = None
        self._source_length: int | None = None
        self._arrays = {
            name: np.zeros(shape, np.float32) for name, shape in self.contract.states.items()
        }

    def encode(self, source: Sequence[int] | NDArray[Any]) -> None:
        """Forgets all tokens and reads ``source``: what the answer is about.

        Args:
            source: token ids, or an array of the shape in the contract.

        Raises:
            GenerationError: the package has no encoder, or the source does not fit it.
        """
        expected = self.contract.source
        if expected is None:
            raise GenerationError(
                "the package has no encoder that could read a source",
                hint="give the tokens to generate",
            )
        self.reset()
        room = expected.shape[1]
        inputs: dict[str, NDArray[Any]] = {}
        if expected.is_text:
            ids = [int(token) for token in source]
            self._check_ids(ids)
            if not 1 <= len(ids) <= room:
                raise GenerationError(
                    "the source does not fit the encoder",
                    expected=f"1 to {room} tokens",
                    found=f"{len(ids)}",
                    hint="shorten it, or export with a larger source",
                )
            inputs["source"] = np.array([[*ids, *[0] * (room - len(ids))]], np.int32)
            inputs[LENGTH] = np.array([len(ids)], np.int32)
        else:
            values = np.asarray(source, np.float32)
            if values.shape != expected.shape:
                raise GenerationError(
                    "the source does not fit the encoder",
                    expected=f"shape {expected.shape}",
                    found=f"{values.shape}",
                )
            inputs["source"] = values
            ids = []
        self._call(expected.function, inputs)
        self._source_length = len(ids)

    @property
    def position(self) -> int:
        """How many tokens are in the cache."""
        return self._position

    def generate(
        self,
        ids: Sequence[int],
        max_new_tokens: int = 64,
        *,
        sampling: Sampling | None = None,
        stop: Collection[int] = (),
        on_token: Callable[[int], None] | None = None,
    ) -> list[int]:
        """Continues the conversation by ``ids`` and returns what comes after, at most so much.

        Args:
            ids: the prompt, or the next turn; may be empty after the first.
            max_new_tokens: at most so many are returned.
            sampling: greedy by default.
            stop: tokens that end the answer; the one that did is its last.
            on_token: called with each new token.

        Raises:
            GenerationError: an id outside the vocabulary, or no token to start from.
            ContextError: the prompt does not fit, or the context is full before the end; its
                ``tokens`` are those generated so far.
        """
        sampler = Sampler(sampling or Sampling())
        self.feed(ids)
        new: list[int] = []
        while len(new) < max_new_tokens:
            if self._unfed:
                self._take_unfed(new)
            if self.logits is None:
                raise GenerationError(
                    "there is no token to start from", expected="at least one id", found="none"
                )
            token = sampler(self.logits)
            new.append(token)
            self._unfed = [token]
            if on_token is not None:
                on_token(token)
            if token in stop:
                break
        return new

    def feed(self, ids: Sequence[int]) -> None:
        """Puts ``ids`` behind the tokens so far, without generating.

        Raises:
            GenerationError: an id outside the vocabulary.
            ContextError: they do not fit.
        """
        pending = [*self._unfed, *(int(token) for token in ids)]
        self._check_ids(pending)
        if self.contract.source is not None and self._source_length is None:
            raise GenerationError(
                "the package's encoder has read nothing yet",
                hint="call encode(source) first (--source)",
            )
        if self._position + len(pending) > self.contract.context:
            raise ContextError(
                "the prompt is longer than the room that is left in the context",
                expected=f"at most {self.contract.context - self._position} tokens",
                found=f"{len(pending)} tokens, with {self._position} of {self.contract.context} "
                "taken",
                hint="shorten the prompt, call reset(), or export with a larger context",
            )
        self._unfed = []
        while pending:
            name, count = self._next_step(len(pending))
            self._run(name, pending[:count])
            pending = pending[count:]

    def _check_ids(self, ids: Sequence[int]) -> None:
        wrong = [token for token in ids if not 0 <= token < self.contract.vocabulary]
        if wrong:
            raise GenerationError(
                "a token id lies outside the vocabulary",
                expected=f"0 to {self.contract.vocabulary - 1}",
                found=", ".join(str(token) for token in wrong[:4]),
                hint="use the tokenizer that belongs to the model",
            )

    def _take_unfed(self, new: Sequence[int]) -> None:
        try:
            self.feed(())
        except ContextError as error:
            full = ContextError(
                "the context is full in the middle of the answer",
                expected=f"{self.contract.context} tokens in all",
                found=f"{self._position} in the cache, {len(new)} of them new, and more wanted",
                hint="ask for fewer tokens, call reset(), or export with a larger context",
            )
            full.tokens = tuple(new)
            raise full from error

    def _next_step(self, pending: int) -> tuple[str, int]:
        """The function that takes most of ``pending`` tokens, the cheapest of these."""
        fitting = {
            name: min(step.tokens, pending)
            for name, step in self.contract.steps.items()
            if self._fits(step, pending)
        }
        if not fitting:
            raise GenerationError(
                "no function of the package can take the next token",
                found=f"position {self._position}, {pending} tokens to come",
                hint="export with decode=1 among the functions",
            )
        steps = self.contract.steps

        def cost(name: str) -> tuple[int, int, int]:
            return -fitting[name], steps[name].tokens, steps[name].context

        name = min(fitting, key=cost)
        return name, fitting[name]

    def _fits(self, step: StepContract, pending: int) -> bool:
        end = self._position + step.tokens
        crosses = any(self._position % ring + step.tokens > ring for ring in self.contract.rings)
        return (
            end <= step.context
            and (step.tokens <= pending or step.padded)
            and not (step.from_start and self._position)
            and not (crosses and self.contract.form != "state-blend")
        )

    def _run(self, name: str, ids: Sequence[int]) -> None:
        step = self.contract.steps[name]
        padded = [*ids, *[ids[-1]] * (step.tokens - len(ids))]
        inputs: dict[str, NDArray[Any]] = {
            "input_ids": np.array([padded], np.int32),
            "position": np.array([self._position], np.int32),
        }
        if step.last:
            inputs["last"] = np.array([len(ids) - 1], np.int32)
        if self.contract.source is not None and self.contract.source.is_text:
            inputs[LENGTH] = np.array([self._source_length], np.int32)
        outputs = self._call(name, inputs)
        at = 0 if step.last else len(ids) - 1
        self.logits = outputs["logits"][0, at].astype(np.float32)
        self._position += len(ids)

    def _call(self, name: str, inputs: dict[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Runs one function on the cache."""
        io = self.contract.form == "io"
        function = self._function(name)
        if self._state is None:
            self._state = function.make_state()
        outputs = function({**inputs, **(self._arrays if io else {})}, self._state)
        if io:
            self._arrays = {state: outputs[state + NEW] for state in self._arrays}
        self.calls[name] = self.calls.get(name, 0) + 1
        return outputs

    def _function(self, name: str) -> LoadedModel:
        if name not in self._loaded:
            self._loaded[name] = load(self._path, function=name, precision=self._precision)
        return self._loaded[name]
