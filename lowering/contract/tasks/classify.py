"""Scores of classes: probabilities with labels, and the best few."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from lowering.contract.tasks.base import (
    Named,
    OutputTask,
    Wanted,
    as_labels,
    label_problems,
    shapes_of,
    shown,
)
from lowering.verification.looks import Look, LookLine
from lowering.verification.original import Judge

if TYPE_CHECKING:
    import coremltools as ct

LABEL = "label"
_SCORES = "probabilities"
# So many classes are shown where no number is asked for; probabilities further apart are marked.
_SHOWN, _APART = 5, 0.01


@dataclass(frozen=True)
class Classify(OutputTask):
    """One label for each picture, text or sound, and the probability of all.

    The package returns ``label``, the text of the likeliest class, ``label_probs``, a dictionary
    of all, and with ``top_k`` the best classes: ``top_scores`` and ``top_indices``, both (1, k).
    With ``sigmoid`` several classes may hold, and the package returns ``probabilities`` (1,
    classes) in the place of the label and the dictionary.

    Attributes:
        labels: a text for each class, in the order of the model's scores.
        top_k: how many of the best are returned beside.
        activation: what makes probabilities of the model's scores; ``none`` where they are so.
        output: the model's output with the scores; by default the one with as many as labels.
    """

    kind: ClassVar[str] = "classify"

    labels: tuple[str, ...]
    top_k: int | None = None
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    output: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", as_labels(self.labels))

    def problems(self, model: Wanted) -> Sequence[str]:
        """What keeps the task from fitting ``model``."""
        found = label_problems(self.labels)
        if self.activation not in ("softmax", "sigmoid", "none"):
            found.append(f"activation is {self.activation!r}, not softmax, sigmoid or none")
        count = len(self.labels)
        if self.top_k is not None and not (
            isinstance(self.top_k, int) and 1 <= self.top_k <= count
        ):
            found.append(f"top_k is {self.top_k!r}, not a number from 1 to {count}")
        if self.output is not None and self.output not in model.outputs:
            found.append(f"output {self.output!r} is none of the model's: {shown(model.outputs)}")
        elif self._chosen(model.outputs) is None:
            found.append(
                f"there are {count} labels, and no single output with as many scores of one "
                f"example: {shown(model.outputs)}"
            )
        return found

    def __call__(self, outputs: Named, inputs: Named) -> dict[str, Tensor]:
        """Probabilities, and the best few."""
        name = self._chosen(shapes_of(outputs))
        assert name is not None
        scores = outputs[name].reshape(1, len(self.labels))
        if self.activation == "softmax":
            scores = torch.softmax(scores, dim=-1)
        elif self.activation == "sigmoid":
            scores = torch.sigmoid(scores)
        found = {_SCORES: scores}
        if self.top_k is not None:
            best, indices = torch.topk(scores, self.top_k, dim=-1)
            found |= {"top_scores": best, "top_indices": indices}
        return found

    def meanings(self) -> dict[str, str]:
        """What each output of the package is."""
        found = {_SCORES: "probability of each class, in the order of the labels"}
        if self.top_k is not None:
            found["top_scores"] = f"probabilities of the {self.top_k} likeliest classes"
            found["top_indices"] = "their numbers, from 0, in the order of the labels"
        return found

    def classifier(self) -> ct.ClassifierConfig | None:
        """The labels for Core ML; none where several may hold."""
        import coremltools as ct

        if self.activation == "sigmoid":
            return None
        return ct.ClassifierConfig(
            list(self.labels),
            predicted_feature_name=LABEL,
            predicted_probabilities_output=_SCORES,
        )

    def judges(self) -> dict[str, Judge]:
        """The best by each side's own probabilities, which are compared as a whole.

        A few numbers of many are off by chance, and equal ones may change places.
        """
        if self.top_k is None:
            return {}
        return {"top_scores": _best_scores, "top_indices": _scores_of_best}

    def looks(self, found: Named, expected: Named) -> tuple[Look, Look]:
        """The likeliest classes of both sides.

        A class is marked whose probability differs, and the first where the other's is another.
        """
        sides = [side[_SCORES].float().reshape(-1) for side in (expected, found)]
        count = min(self.top_k or _SHOWN, len(self.labels))
        apart = ~((sides[0] - sides[1]).abs() <= _APART)
        best = [torch.topk(side, count).indices.tolist() for side in sides]

        def look(side: Tensor, chosen: list[int]) -> Look:
            return Look(
                tuple(
                    LookLine(
                        self.labels[number],
                        float(side[number]),
                        bool(apart[number]) or (place == 0 and best[0][0] != best[1][0]),
                    )
                    for place, number in enumerate(chosen)
                )
            )

        return look(sides[0], best[0]), look(sides[1], best[1])

    def _chosen(self, outputs: Mapping[str, tuple[int, ...]]) -> str | None:
        fitting = [name for name, shape in outputs.items() if math.prod(shape) == len(self.labels)]
        if self.output is not None:
            return self.output if self.output in fitting else None
        return fitting[0] if len(fitting) == 1 else None


def _best_scores(found: Named, expected: Named) -> tuple[Tensor, Tensor]:
    """The scores of the best, and the highest probabilities there are."""
    best = found["top_scores"].float()
    return best, torch.topk(found[_SCORES].float(), best.shape[-1], dim=-1).values


def _scores_of_best(found: Named, expected: Named) -> tuple[Tensor, Tensor]:
    """The probabilities of the classes that are said to be the best, and the highest there are."""
    chosen, scores = found["top_indices"].long(), found[_SCORES].float()
    highest = torch.topk(scores, chosen.shape[-1], dim=-1).values
    inside = ((chosen >= 0) & (chosen < scores.shape[-1])).all()
    if not inside or any(len(set(row)) != len(row) for row in chosen.tolist()):
        return torch.full_like(highest, -1.0), highest  # no classes, or one of them twice
    return scores.gather(-1, chosen), highest
