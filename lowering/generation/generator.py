"""Generates with an exported package in the reference interpreter, on any OS."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowering.generation.contract import KEYS_AND_VALUES
from lowering.generation.errors import ContextError, GenerationError
from lowering.generation.functions import Functions
from lowering.generation.sampling import Sampler, Sampling
from lowering.reference import Precision


class Generator:
    """Drives a package that ``export_decoder`` wrote.

    Successive calls of ``generate`` are turns of one conversation; ``reset`` starts another.

    Args:
        package: path of the package.
        precision: of the interpreter, see ``lowering.load``.

    Attributes:
        contract: what the package says about itself.
        logits: (vocabulary,) of the newest token fed, ``None`` before the first; see
            ``Functions.step`` for packages that return the best alone.

    Raises:
        GenerationError: the package was not made by ``export_decoder``.
        PackageError: there is no package.
    """

    def __init__(
        self, package: str | os.PathLike[str], *, precision: str | Precision = "fp16"
    ) -> None:
        self._functions = Functions(package, precision)
        self.contract = self._functions.contract
        self.reset()

    def reset(self) -> None:
        """Forgets all tokens."""
        self._functions.reset()
        self._forget()

    def encode(self, source: Sequence[int] | NDArray[Any]) -> None:
        """Forgets all tokens and reads ``source``: what the answer is about.

        Args:
            source: token ids, or an array of the shape in the contract.

        Raises:
            GenerationError: the package has no encoder, or the source does not fit it.
        """
        self._functions.encode(source)
        self._forget()

    def _forget(self) -> None:
        self.logits: NDArray[np.float32] | None = None
        self._position = 0
        self._unfed: list[int] = []

    @property
    def calls(self) -> Mapping[str, int]:
        """Function name to how often it ran, since the last ``reset``."""
        return self._functions.calls

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
        best = min((step.best or 0 for step in self.contract.steps.values()), default=0)
        if best == 1 and sampling is not None and sampling.temperature:
            raise GenerationError(
                "the package returns the likeliest token alone, so none can be drawn",
                expected="temperature 0",
                found=str(sampling.temperature),
                hint="export with logits='topk:64', or 'needed'",
            )
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
        pending = self._pending(ids)
        while pending:
            name, count = self._next_step(len(pending))
            self._run(name, pending[:count])
            pending = pending[count:]

    def check(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Puts ``ids`` behind the tokens so far and returns what the model says after each.

        So a draft of several tokens is checked in few calls: the next token after ``ids[i]`` is
        that of row ``i``. Behind the first that the model would not have said, ``rewind``.

        Args:
            ids: of the draft; where the newest token of an answer was not fed yet, it comes first
                and has no row.

        Returns:
            (tokens, vocabulary), the logits after each of ``ids``.

        Raises:
            GenerationError: an id outside the vocabulary, or no function returns the logits of
                more than the last of its tokens.
            ContextError: they do not fit.
        """
        wanted = len(ids)
        pending = self._pending(ids)
        rows: list[NDArray[np.float32]] = []
        while pending:
            name, count = self._next_step(len(pending), every=True)
            rows.append(self._run(name, pending[:count]))
            pending = pending[count:]
        found = np.concatenate(rows) if rows else np.zeros((0, self.contract.vocabulary))
        return found[len(found) - wanted :].astype(np.float32, copy=False)

    def rewind(self, position: int) -> None:
        """Forgets the newest tokens, so that ``position`` of them are left.

        Args:
            position: how many tokens stay, at least one.

        Raises:
            GenerationError: there are not so many; or a layer carries on a state of all tokens
                fed, or keeps the newest in a ring that has no longer those before.
        """
        dropped = self._position - position
        spare = max(step.tokens for step in self.contract.steps.values()) - 1
        if not 1 <= position <= self._position:
            raise GenerationError(
                "there is no such place to go back to",
                expected=f"1 to {self._position}, the tokens in the cache",
                found=str(position),
            )
        carried = [name for name in self.contract.states if name not in KEYS_AND_VALUES]
        if dropped and carried:
            raise GenerationError(
                "a recurrent state cannot forget single tokens",
                found=", ".join(carried),
                hint="call reset() and feed the text again",
            )
        if dropped > spare and self.contract.rings:
            raise GenerationError(
                "a layer's ring no longer holds what would be its window there",
                expected=f"at most {spare} tokens back, the longest step but one",
                found=f"{dropped}",
                hint="export with window='full', or with a larger decode",
            )
        self._position = position
        self._unfed = []
        self.logits = None

    def _pending(self, ids: Sequence[int]) -> list[int]:
        """What is to be fed: what was not fed yet, then ``ids``; both fit."""
        pending = [*self._unfed, *(int(token) for token in ids)]
        self._functions.check_ids(pending)
        self._functions.check_ready()
        if self._position + len(pending) > self.contract.context:
            raise ContextError(
                "the prompt is longer than the room that is left in the context",
                expected=f"at most {self.contract.context - self._position} tokens",
                found=f"{len(pending)} tokens, with {self._position} of {self.contract.context} "
                "taken",
                hint="shorten the prompt, call reset(), or export with a larger context",
            )
        self._unfed = []
        return pending

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

    def _next_step(self, pending: int, *, every: bool = False) -> tuple[str, int]:
        """The function that takes most of ``pending`` tokens, the cheapest of these.

        ``every`` leaves those that return the logits of one of their tokens alone.
        """
        steps = self.contract.steps
        fitting = {
            name: min(step.tokens, pending)
            for name, step in steps.items()
            if self._functions.fits(name, self._position, pending)
            and not (every and step.last and step.tokens > 1)
        }
        if not fitting:
            raise GenerationError(
                "no function of the package can take the next token",
                found=f"position {self._position}, {pending} tokens to come",
                hint="export with decode=1 among the functions",
            )

        def cost(name: str) -> tuple[int, int, int]:
            return -fitting[name], steps[name].tokens, steps[name].context

        name = min(fitting, key=cost)
        return name, fitting[name]

    def _run(self, name: str, ids: Sequence[int]) -> NDArray[np.float32]:
        logits = self._functions.step(name, ids, self._position)
        self.logits = logits[-1]
        self._position += len(ids)
        return logits
