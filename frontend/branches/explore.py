"""Python branches on tensor values become ``torch.where``, by exploring both sides.

While ``torch.export`` records, ``forward`` runs once for every path through its branches; each
time a tensor that depends on data is asked for its truth value, one run answers True and another
False. The results of the two are merged leaf by leaf::

    if x.sum() > 0:      run 1: y1 = x * 2        y = where(x.sum() > 0, y1, y2)
        y = x * 2        run 2: y2 = x - 1
    else:
        y = x - 1

``torch.where`` selects and computes nothing, so NaN or Inf of the side not taken cannot leak.
Every run starts from the same state, and what the paths leave in buffers, in inputs written in
place and in attributes is merged like a result. What the runs compute alike is recorded several
times; common-subexpression elimination removes it. A model that asks nothing runs once, and
nothing is added to its graph.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from frontend.branches.ask import Site, answering, is_deliberate, raising_line
from frontend.branches.data_index import gathering
from frontend.branches.known_sizes import knowing_sizes
from frontend.branches.merge import Decision, Outcome, merge
from frontend.branches.path import Path
from frontend.branches.state import BranchError, BranchState
from frontend.branches.trace import Trace
from frontend.errors import kind_and_line
from frontend.source import source_line

Forward = Callable[[], tuple[list[Any], Hashable]]


class UncheckedPathWarning(UserWarning):
    """A path that raises was left out: the package does not check for it."""


def run_all_paths(
    forward: Forward,
    module: nn.Module,
    *,
    inputs: Iterable[Any] = (),
    max_paths: int = 32,
    decided: Callable[[Site], None] = lambda site: None,
) -> tuple[list[Any], Hashable]:
    """Runs ``forward`` on every path through its branches on tensor values and merges them.

    To be called while a non-strict export records; elsewhere it is a plain call.

    Args:
        forward: runs the model once and returns its flat results and a key that is equal for
            results of the same structure.
        module: the model; its state is undone between runs and merged at the end.
        inputs: what ``forward`` is called with, flat, in case a branch writes it in place.
        max_paths: bound on the paths explored, those that raise not counted.
        decided: told each line that asked, once.

    Returns:
        As ``forward``, merged over all paths.

    Raises:
        BranchError: the branches cannot be merged, or are too many; names the source line.
    """
    explorer = _Explorer(forward, module, inputs, max_paths)
    result = explorer.explore()
    for site in explorer.sites.values():
        decided(site)
    return result


class _Explorer:
    def __init__(
        self, forward: Forward, module: nn.Module, inputs: Iterable[Any], max_paths: int
    ) -> None:
        self._forward = forward
        self._module = module
        self._max_paths = max_paths
        self._trace = Trace()
        self._state = BranchState(module, inputs, self._trace)
        self._paths = 0
        self.sites: dict[str, Site] = {}  # by line
        self._dropped: dict[str, str] = {}  # line that raises -> what, and the line that led there

    def explore(self) -> tuple[list[Any], Hashable]:
        run = Path([], self._module, self._trace)
        first = self._run(run)
        if not run.decisions:
            assert first is not None, "without a decision nothing is dropped"
            # The exporter loses buffers that a submodule binds anew: write them in place.
            self._state.apply(first.effects)
            return first.leaves, first.structure
        merged = self._merge_alternatives(run, first, known=0)
        if merged is None:
            raise BranchError(
                "every path through the model's branches raises",
                source=run.decisions[-1].site.line,
                found="; ".join(f"{line} ({what})" for line, what in self._dropped.items()),
                hint="at least one side of each branch on a tensor has to return",
            )
        self._check_repeatable()
        self._state.apply(merged.effects)
        for line, what in self._dropped.items():
            warnings.warn(
                f"the path that ends at {line} ({what}) is assumed never to be taken: "
                "the package does not check it",
                UncheckedPathWarning,
                stacklevel=3,
            )
        return merged.leaves, merged.structure

    def _explore(self, plan: list[Decision]) -> Outcome | None:
        """The merged outcome of all paths that begin with ``plan``; None if all of them raise."""
        run = Path(plan, self._module, self._trace)
        return self._merge_alternatives(run, self._run(run), known=len(plan))

    def _merge_alternatives(self, run: Path, outcome: Outcome | None, known: int) -> Outcome | None:
        """Merges ``outcome`` with that of every other answer after the first ``known`` ones."""
        for index in reversed(range(known, len(run.decisions))):
            decision = run.decisions[index]
            other = Decision(decision.condition, not decision.answer, decision.site)
            alternative = self._explore([*run.decisions[:index], other])
            if outcome is None:
                outcome = alternative
            elif alternative is not None:
                outcome = merge(decision, outcome, alternative, self._state)
        return outcome

    def _run(self, run: Path) -> Outcome | None:
        """One path; None if it ends in an exception of the user's own."""
        start = self._trace.position()
        try:
            with answering(run, self._trace), knowing_sizes(self._trace), gathering(self._trace):
                leaves, structure = self._forward()
            self.sites |= {decision.site.line: decision.site for decision in run.decisions}
        except Exception as error:  # whatever the user's code raises, told apart below
            if run.refusal is not None:
                raise run.refusal from error
            if not run.decisions or isinstance(error, GuardOnDataDependentSymNode):
                raise
            last = run.decisions[-1].site
            what = kind_and_line(error)
            if error.__traceback__ is None or not is_deliberate(error.__traceback__):
                raise BranchError(
                    f"one side of a branch cannot be run ({what})",
                    module=last.module or None,
                    source=raising_line(error.__traceback__) or last.line,
                    found=f"after the decision at {last.line}",
                    hint="both sides must run for every input, since the package computes both",
                ) from error
            raised = raising_line(error.__traceback__)
            self._dropped[raised] = f"{what}, decided at {last.line}"
            self._state.restore()
            self._trace.discard(start, keep=[decision.condition for decision in run.decisions])
            return None
        if run.refusal is not None:  # swallowed by an except clause of the user's
            raise run.refusal
        if not run.decisions and not self._state.rebinds_buffers():
            return Outcome(leaves, structure, {})
        run.check_complete()
        self._count_path(run)
        effects = self._state.effects()
        leaves = [self._state.current(x) if isinstance(x, Tensor) else x for x in leaves]
        self._state.restore()
        return Outcome(leaves, structure, effects)

    def _count_path(self, run: Path) -> None:
        self._paths += 1
        if self._paths <= self._max_paths:
            return
        lines = Counter(decision.site.line for decision in run.decisions)
        raise BranchError(
            f"more than {self._max_paths} paths through branches on tensor values",
            module=run.decisions[-1].site.module or None,
            source=run.decisions[-1].site.line,
            expected=f"at most {self._max_paths} paths: n branches in a row make up to 2^n",
            found="on one path: " + ", ".join(f"{line} ({n}×)" for line, n in lines.items()),
            hint="write some of them with torch.where, or give a loop a fixed number of steps",
        )

    def _check_repeatable(self) -> None:
        """Refuses what differs when a path runs again, or cannot be undone."""
        if (node := self._trace.random_node()) is not None:
            raise BranchError(
                "random numbers are drawn in a model with branches on tensor values",
                op=str(node.target),
                source=source_line(node) or None,
                found="each path would draw its own",
                hint="pass the random numbers as an input",
            )
        if (node := self._trace.statistics_node()) is not None:
            raise BranchError(
                "running statistics are updated in a model with branches on tensor values",
                op=str(node.target),
                source=source_line(node) or None,
                expected="normalisation with stored statistics",
                hint="call model.eval() first",
            )
        self._state.check_watched()
