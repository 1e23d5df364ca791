"""What every task is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from torch import Tensor

from lowering.verification.looks import Look, of_numbers
from lowering.verification.metrics import Metric
from lowering.verification.original import Judge

if TYPE_CHECKING:
    import coremltools as ct

# Names of outputs and their tensors, or what stands for tensors.
Named = Mapping[str, Tensor]


class Wanted(NamedTuple):
    """What a task needs of a model.

    Attributes:
        outputs: shape of each of the model's outputs, by name.
        inputs: shape of each of its inputs, by name.
    """

    outputs: Mapping[str, tuple[int, ...]]
    inputs: Mapping[str, tuple[int, ...]]

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """Height and width of the only picture that the model takes, if there is one alone."""
        sizes = [shape[2:] for shape in self.inputs.values() if len(shape) == 4]
        if len(sizes) != 1:
            return None
        height, width = sizes[0]
        return height, width


@dataclass(frozen=True)
class OutputTask(ABC):
    """What is done with the outputs of a model, inside its package.

    A task is a frozen dataclass of plain values, and stands in a contract under its ``kind``.
    """

    kind: ClassVar[str]

    @abstractmethod
    def problems(self, model: Wanted) -> Sequence[str]:
        """What keeps the task from fitting ``model``; empty where it fits."""

    @abstractmethod
    def __call__(self, outputs: Named, inputs: Named) -> dict[str, Tensor]:
        """The outputs of the package, from those of the model and what it was called with."""

    @abstractmethod
    def meanings(self) -> dict[str, str]:
        """What each output of the package is, by name."""

    def fitted(self, model: Wanted) -> OutputTask:
        """The task with what it takes from ``model``, such as the size of its pictures."""
        return self

    def classifier(self) -> ct.ClassifierConfig | None:
        """Labels for Core ML, where there is one for each score."""
        return None

    def exact(self) -> tuple[str, ...]:
        """Outputs that are float32 in every precision, such as coordinates."""
        return ()

    def judges(self) -> dict[str, Judge]:
        """How outputs are compared whose own numbers say little, by name."""
        return {}

    def metrics(self) -> dict[str, Metric]:
        """Measures of agreement that need what the task knows, by name."""
        return {}

    def looks(self, found: Named, expected: Named) -> tuple[Look, Look]:
        """What torch's and the package's outputs say, for people; what differs is marked."""
        return of_numbers(found, expected)

    def to_json(self) -> dict[str, object]:
        """As plain JSON values, with ``kind``."""
        return {"kind": self.kind, **asdict(self)}


def shown(outputs: Mapping[str, tuple[int, ...]]) -> str:
    """Outputs by name and shape, for messages."""
    return ", ".join(f"{name} {list(shape)}" for name, shape in outputs.items()) or "none"


def chosen_output(
    outputs: Mapping[str, tuple[int, ...]], wanted: str | None, ranks: Sequence[int]
) -> str | None:
    """The output that is ``wanted``, or the only one of one of these ranks."""
    fitting = [name for name, shape in outputs.items() if len(shape) in ranks]
    if wanted is not None:
        return wanted if wanted in fitting else None
    return fitting[0] if len(fitting) == 1 else None


def shapes_of(values: Named) -> dict[str, tuple[int, ...]]:
    """The shapes of tensors, by name."""
    return {name: tuple(value.shape) for name, value in values.items()}


def as_labels(given: object) -> object:
    """A list of labels as a tuple; a text alone stays one, and is refused later."""
    return tuple(given) if isinstance(given, list) else given


def label_problems(labels: object) -> list[str]:
    """What is wrong with the names of classes."""
    if not isinstance(labels, tuple | list) or not labels:
        return ["labels are missing: give one text for each class"]
    if not all(isinstance(label, str) and label for label in labels):
        return ["labels must be texts, none of them empty"]
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        return [f"labels stand there twice: {', '.join(twice[:5])}"]
    return []
