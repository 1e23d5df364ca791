"""What is said in a sound: letters for each moment, or a vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lowering.contract.tasks.base import (
    Named,
    OutputTask,
    Wanted,
    as_labels,
    chosen_output,
    label_problems,
    shapes_of,
    shown,
)
from lowering.verification.looks import Look, LookLine, of_numbers
from lowering.verification.metrics import Metric
from lowering.verification.original import Judge
from lowering.verification.words import agreement

# Moments, and what is said of each.
_AXES = 3
# What sentence pieces begin words with.
_PIECE = "\u2581"


@dataclass(frozen=True)
class Speech(OutputTask):
    """Speech in text, or in vectors for a decoder.

    With ``layout="ctc"`` the package returns ``tokens`` (1, frames), the best label of each moment,
    ``starts`` (1, frames), 1 where a label begins that is not the blank, and ``confidence``
    (1, frames), its probability: the text is the labels where ``starts`` is 1, read in order. With
    ``scores`` it returns ``log_probs`` (1, frames, labels) too, for a search of one's own. With
    ``layout="encoder"`` it returns ``features`` (1, frames, width).

    Attributes:
        labels: a text for each score, letters or pieces of words.
        layout: ``ctc``, or ``encoder`` for a model whose output another reads.
        blank: the number of the label that stands for nothing.
        space: the label that stands between words.
        scores: return the logarithms of all probabilities beside.
        output: the model's output (1, frames, labels) or (1, frames, width); the only one that fits
            by default.
    """

    kind: ClassVar[str] = "speech"

    labels: tuple[str, ...] = ()
    layout: Literal["ctc", "encoder"] = "ctc"
    blank: int = 0
    space: str = "|"
    scores: bool = False
    output: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", as_labels(self.labels))

    def problems(self, model: Wanted) -> Sequence[str]:
        """What keeps the task from fitting ``model``."""
        if self.layout not in ("ctc", "encoder"):
            return [f"layout is {self.layout!r}, not ctc or encoder"]
        found: list[str] = []
        if not isinstance(self.scores, bool):
            found.append(f"scores is {self.scores!r}, not true or false")
        if self.layout == "encoder":
            if self.labels:
                found.append("labels are of layout 'ctc', and layout is 'encoder'")
            if self._name(model.outputs) is None:
                found.append(f"no single output is (1, frames, width): {shown(model.outputs)}")
            return found
        found += label_problems(self.labels)
        count = len(self.labels) if isinstance(self.labels, tuple) else 0
        whole = isinstance(self.blank, int) and not isinstance(self.blank, bool)
        if not whole or not 0 <= self.blank < max(count, 1):
            found.append(f"blank is {self.blank!r}, not a label's number, 0 to {count - 1}")
        if not isinstance(self.space, str):
            found.append(f"space is {self.space!r}, not a text")
        if self._name(model.outputs) is None:
            found.append(f"no single output is [1, frames, {count}]: {shown(model.outputs)}")
        return found

    def __call__(self, outputs: Named, inputs: Named) -> dict[str, Tensor]:
        """Labels, or vectors."""
        name = self._name(shapes_of(outputs))
        assert name is not None
        value = outputs[name]
        if self.layout == "encoder":
            return {"features": value}
        tokens = value.argmax(-1)
        # The first moment has none before it, which is as if that had been the blank.
        before = F.pad(tokens[:, :-1], (1, 0), value=self.blank)
        starts = (tokens != self.blank) & (tokens != before)
        found = {
            "tokens": tokens.int(),
            "starts": starts.int(),
            "confidence": torch.softmax(value, -1).amax(-1),
        }
        return found | ({"log_probs": torch.log_softmax(value, -1)} if self.scores else {})

    def meanings(self) -> dict[str, str]:
        """What each output of the package is."""
        if self.layout == "encoder":
            return {"features": "a vector for each moment, for a decoder to read"}
        found = {
            "tokens": "number of the best label of each moment, from 0, in the order of the labels",
            "starts": "1 where a label begins that is not the blank; these, in order, are the text",
            "confidence": "probability of the best label of each moment",
        }
        return found | ({"log_probs": "of every label at each moment"} if self.scores else {})

    def judges(self) -> dict[str, Judge]:
        """Labels by the share of moments that agree: equally good ones may change places."""
        if self.layout == "encoder":
            return {}
        return {"tokens": _agreeing("tokens"), "starts": _agreeing("starts")}

    def metrics(self) -> dict[str, Metric]:
        """``wer``: one less the share of words that are not what torch says."""

        def wer(found: Named, expected: Named) -> float:
            return agreement(self.text(found), self.text(expected))

        return {} if self.layout == "encoder" else {"wer": wer}

    def text(self, outputs: Named) -> str:
        """What the package's outputs say."""
        kept = outputs["tokens"].reshape(-1)[outputs["starts"].reshape(-1).bool()].tolist()
        pieces = [self.labels[n] if 0 <= n < len(self.labels) else "\ufffd" for n in kept]
        joined = "".join(" " if piece == self.space else piece for piece in pieces)
        return " ".join(joined.replace(_PIECE, " ").split())

    def looks(self, found: Named, expected: Named) -> tuple[Look, Look]:
        """Both texts."""
        if self.layout == "encoder":
            return of_numbers(found, expected)
        ours, theirs = self.text(found), self.text(expected)
        torch_says, package_says = (
            Look((LookLine(text or "(nothing)", None, ours != theirs),)) for text in (theirs, ours)
        )
        return torch_says, package_says

    def _name(self, outputs: Mapping[str, tuple[int, ...]]) -> str | None:
        fitting = {
            name: shape
            for name, shape in outputs.items()
            if len(shape) == _AXES
            and shape[0] == 1
            and (self.layout == "encoder" or shape[2] == len(self.labels))
        }
        return chosen_output(fitting, self.output, (_AXES,))


def _agreeing(name: str) -> Judge:
    def judge(found: Named, expected: Named) -> tuple[Tensor, Tensor]:
        same = found[name].reshape(expected[name].shape) == expected[name]
        return same.double().mean().reshape(1), torch.ones(1, dtype=torch.float64)

    return judge
