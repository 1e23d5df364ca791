"""A pass at some modules only, so that sites of a model may take different forms."""

from __future__ import annotations

from dataclasses import dataclass

from passes.pipeline import Pass
from passes.rewriter import Rewriter


@dataclass(frozen=True)
class AtSites:
    """Runs ``step`` at the operators of the listed modules, or at all others.

    A pass with several forms stands in a pipeline once for each::

        AtSites(SplitAttention("batched"), ("encoder.0.attention",)),
        AtSites(SplitAttention("split"), ("encoder.0.attention",), elsewhere=True),

    What the other sites hold is not declined; it is not looked at.

    Attributes:
        step: a pass that finds its places with ``Rewriter.find``.
        modules: paths of the modules whose own operators are meant, not those of their children.
        elsewhere: everywhere but there.

    Bound: that of ``step``.
    """

    step: Pass
    modules: tuple[str, ...]
    elsewhere: bool = False

    @property
    def name(self) -> str:
        """The name of the pass that it runs."""
        return self.step.name

    def apply(self, rw: Rewriter) -> None:
        """Runs the pass where it is wanted."""
        with rw.limited_to(set(self.modules), inverted=self.elsewhere):
            self.step.apply(rw)
