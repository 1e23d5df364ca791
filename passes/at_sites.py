"""A pass at some modules only, so that sites of a model may take different forms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from passes.base import Pass
from passes.errors import PassError
from passes.rewriter import Rewriter

# Of ``forms`` there is none to choose any more.
_HANDED_ON = ("name", "chooses_form", "runs_after", "runs_before")


@dataclass(frozen=True)
class AtSites(Pass):
    """Runs ``step`` at the operators of the listed modules, or at all others.

    A pass with several forms stands in a pipeline once for each::

        AtSites(SplitAttention("batched"), ("encoder.0.attention",)),
        AtSites(SplitAttention("split"), ("encoder.0.attention",), elsewhere=True),

    What the other sites hold is not declined; it is not looked at.

    Attributes:
        step: a pass that works by site.
        modules: paths of the modules whose own operators are meant, not those of their children.
        elsewhere: everywhere but there.

    Bound: that of ``step``.

    Raises:
        PassError: ``step`` cannot work by site.
    """

    by_site: ClassVar[bool] = True
    step: Pass
    modules: tuple[str, ...]
    elsewhere: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.step, Pass):
            raise PassError(
                "AtSites runs a pass",
                expected="a pass value, such as LinearToConv1x1()",
                found=repr(self.step),
            )
        if not self.step.by_site:
            raise PassError(
                f"{self.step.name} cannot run at some modules only",
                expected="a pass that treats each of its places alone (by_site)",
                found=repr(self.step),
                hint="run it everywhere, or leave it out",
            )
        for declared in _HANDED_ON:
            object.__setattr__(self, declared, getattr(self.step, declared))

    @property
    def changes_outputs(self) -> bool:
        """As the pass that it runs."""
        return self.step.changes_outputs

    @property
    def advice(self) -> str:
        """As the pass that it runs."""
        return self.step.advice

    def for_target(self, target: str, system: str) -> Pass:
        """The pass that it runs, as that suits them."""
        return replace(self, step=self.step.for_target(target, system))

    def apply(self, rw: Rewriter) -> None:
        """Runs the pass where it is wanted."""
        with rw.limited_to(set(self.modules), inverted=self.elsewhere):
            self.step.apply(rw)
