"""One path through a model: the answers that one run of it is given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from frontend.branches.ask import Site, find_site
from frontend.branches.merge import Decision, Merger
from frontend.branches.state import BranchError, ValueInPythonError
from frontend.branches.trace import Trace

# One line asked more often than this in one activation is a loop on data, not a branch: nobody
# writes so many, and every turn doubles the paths. Assertions in loops over layers stay below.
LONGEST_LOOP = 64


@dataclass
class Path:
    """One run of forward: the first answers follow ``plan``, all others are True."""

    plan: list[Decision]
    module: nn.Module
    trace: Trace
    decisions: list[Decision] = field(default_factory=list)
    refusal: BranchError | None = None
    _answers: dict[Hashable, bool] = field(default_factory=dict)
    _asked: list[Tensor] = field(default_factory=list)  # alive, so that no id is used twice
    _turns: Counter[tuple[int, int]] = field(default_factory=Counter)

    def decide(self, tensor: Tensor) -> bool:
        """The answer on this path to the truth value of ``tensor``, of one element."""
        for key in (expression := self.trace.expression(tensor), same := _identity(tensor)):
            if key is not None and key in self._answers:
                return self._answers[key]
        decision = self._next(tensor)
        self.decisions.append(decision)
        self._asked.append(tensor)
        for key in (expression, same):
            if key is not None:
                self._answers[key] = decision.answer
        return decision.answer

    def refuse(self, reason: str) -> BranchError:
        """The error for a question without an answer; raised even if the user's code catches it."""
        site = find_site(self.module)
        self.refusal = self.refusal or ValueInPythonError(
            reason,
            module=site.module or None,
            source=site.line,
            expected="Python numbers that follow from shapes or constants alone",
            hint="keep it a tensor, or compute it outside the model and pass it as an argument",
        )
        return self.refusal

    def select(
        self,
        condition: Tensor,
        true_fn: Callable[..., Any],
        false_fn: Callable[..., Any],
        operands: Sequence[Any],
    ) -> object:
        """Both results of a ``torch.cond`` merged; its functions have no effects to undo."""
        site = find_site(self.module)
        decision = Decision(self._copy(condition, site), True, site)
        results = true_fn(*operands), false_fn(*operands)
        try:
            return Merger(decision, self.trace).value("the result of torch.cond", *results)
        except BranchError as error:
            self.refusal = self.refusal or error
            raise

    def check_complete(self) -> None:
        """Refuses a run that did not come to all the decisions of its plan."""
        if len(self.decisions) < len(self.plan):
            raise _unsteady(self.plan[len(self.decisions)].site)

    def _next(self, tensor: Tensor) -> Decision:
        site = find_site(self.module)
        self._check_loop(site)
        index = len(self.decisions)
        if index < len(self.plan):
            if self.plan[index].site.line != site.line:
                self.refusal = _unsteady(site)
                raise self.refusal
            return self.plan[index]
        return Decision(self._copy(tensor, site), True, site)

    def _copy(self, tensor: Tensor, site: Site) -> Tensor:
        """The truth of ``tensor``, bool of shape (): a copy, for it may be written later."""
        scalar = tensor.reshape(()) if tensor.ndim else tensor
        condition = scalar.clone() if scalar.dtype is torch.bool else scalar.ne(0)
        self.trace.mark_source(condition, site.stack)
        return condition

    def _check_loop(self, site: Site) -> None:
        key = id(site.frame), site.number
        self._turns[key] += 1
        if self._turns[key] > LONGEST_LOOP:
            self.refusal = BranchError(
                "a loop depends on tensor values and has no bound that can be seen",
                module=site.module or None,
                source=site.line,
                expected=f"at most {LONGEST_LOOP} decisions of one line on one path",
                found="one more, with the loop still going",
                hint="give the loop a fixed number of steps, or run it outside the model",
            )
            raise self.refusal


def _identity(tensor: Tensor) -> Hashable | None:
    return None if tensor.is_inference() else ("tensor", id(tensor), tensor._version)


def _unsteady(site: Site) -> BranchError:
    return BranchError(
        "the model takes another way when it runs again with the same answers",
        module=site.module or None,
        source=site.line,
        hint="look for state outside the module's attributes, or for Python's random numbers",
    )
