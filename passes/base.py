"""What a pass is, and what it tells about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import fx
from torch._ops import OpOverload

from passes.patterns.nodes import shape

if TYPE_CHECKING:
    from passes.rewriter import Rewriter

OURS = "report this model; leave the pass out of the pipeline meanwhile"
THEIRS = "mend the pass, or leave it out of the pipeline"


def result_size(node: fx.Node) -> str:
    """The shape of what a node yields, such as ``1 x 64 x 8``."""
    return " x ".join(str(size) for size in shape(node))


@dataclass(frozen=True)
class Choice:
    """One form that a pass can give its places.

    Attributes:
        options: fields of the pass that ask for it; ``None`` leaves the pass out.
        since: the first iOS that can run it.
    """

    options: Mapping[str, Any] | None
    since: int = 0


@dataclass(frozen=True)
class Forms:
    """The forms of a pass: ``ablate`` compares them and ``tune`` chooses among them.

    Attributes:
        option: what is chosen, in a word that no other pass uses, such as ``attention``.
        choices: the forms by name.
        sites: operators whose calls may take different forms; none where all take the same.
        size: of a site, in words; sites of one size cost the same and are decided together.
    """

    option: str
    choices: Mapping[str, Choice]
    sites: tuple[OpOverload, ...] = ()
    size: Callable[[fx.Node], str] = field(default=result_size)


class Pass(ABC):
    """A rewrite of programs: a class derived from this one, best a frozen dataclass.

    A subclass sets ``name``, writes ``apply``, and declares as class attributes whatever else
    differs from the defaults here. Its dataclass fields are its options::

        @dataclass(frozen=True)
        class NoRelu6(Pass):
            name: ClassVar[str] = "no_relu6"
            by_site: ClassVar[bool] = True

            def apply(self, rw: Rewriter) -> None:
                for node in rw.find(torch.ops.aten.relu6.default):
                    with rw.at(node):
                        rw.replace(node, rw.emit(torch.ops.aten.clamp.default, node.args[0], 0, 6))

    Attributes:
        name: what reports, other passes and the command line call it.
        by_site: it asks ``rw.find`` or ``rw.nodes`` for its places and treats each alone, so that
            it can run at some modules only, see ``AtSites``.
        chooses_form: places that it declines stay in a form that the ANE likes less.
        runs_after: names of passes that stand before it wherever both are run, and why.
        runs_before: names of passes that stand behind it wherever both are run, and why.
        forms: those that it can give its places, where it has several.
    """

    name: ClassVar[str]
    by_site: ClassVar[bool] = False
    chooses_form: ClassVar[bool] = False
    runs_after: ClassVar[Mapping[str, str]] = {}
    runs_before: ClassVar[Mapping[str, str]] = {}
    forms: ClassVar[Forms | None] = None

    @abstractmethod
    def apply(self, rw: Rewriter) -> None:
        """Rewrites what it can and declines the rest with a reason."""

    @property
    def changes_outputs(self) -> bool:
        """True if outputs may leave in another shape than they had."""
        return False

    @property
    def advice(self) -> str:
        """The next step for whoever meets a fault of this pass."""
        return OURS if type(self).__module__.partition(".")[0] == __package__ else THEIRS

    def for_target(self, target: str, system: str) -> Pass:
        """The pass as it suits a chip and the oldest system that will run the package.

        Args:
            target: chip, such as ``"M4"``.
            system: such as ``"iOS18"``.
        """
        return self

    def options(self) -> dict[str, Any]:
        """Its fields by name."""
        if not is_dataclass(self):
            return {}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init}
