"""Generates with an exported package in the reference interpreter, on any OS."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
        self._arrays = {
            name: np.zeros(shape, np.float32) for name, shape in self.contract.states.items()
        }

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
        wrong = [token for token in pending if not 0 <= token < self.contract.vocabulary]
        if wrong:
            raise GenerationError(
                "a token id lies outside the vocabulary",
                expected=f"0 to {self.contract.vocabulary - 1}",
                found=", ".join(str(token) for token in wrong[:4]),
                hint="use the tokenizer that belongs to the model",
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
        if self.contract.form == "io":
            inputs.update(self._arrays)
        function = self._function(name)
        if self._state is None:
            self._state = function.make_state()
        outputs = function(inputs, self._state)
        if self.contract.form == "io":
            self._arrays = {state: outputs[state + NEW] for state in self._arrays}
        at = 0 if step.last else len(ids) - 1
        self.logits = outputs["logits"][0, at].astype(np.float32)
        self._position += len(ids)
        self.calls[name] = self.calls.get(name, 0) + 1

    def _function(self, name: str) -> LoadedModel:
        if name not in self._loaded:
            self._loaded[name] = load(self._path, function=name, precision=self._precision)
        return self._loaded[name]
