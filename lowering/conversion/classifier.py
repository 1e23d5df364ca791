"""What a classifier's labels are for, settled before coremltools is asked."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import coremltools as ct
import torch
from torch import fx
from torch.fx.node import Argument

from lowering.conversion.distinct_outputs import package_name
from lowering.conversion.prepare import Prepared
from lowering.errors import LoweringError
from passes.patterns.nodes import Target

aten = torch.ops.aten
# What leaves probabilities as they are: other shapes, copies, other precisions.
_MOVES = frozenset(
    {
        aten.alias.default,
        aten.clone.default,
        aten.flatten.using_ints,
        aten.permute.default,
        aten.reshape.default,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.transpose.int,
        aten.unsqueeze.default,
        aten.view.default,
        aten._to_copy.default,
        aten._unsafe_view.default,
    }
)
_SOFTMAXES = frozenset({aten.softmax.int, aten._softmax.default})
_LOG_SOFTMAXES = frozenset({aten.log_softmax.int, aten._log_softmax.default})
_DEFAULT_LABEL = "classLabel"


class LogitsWarning(UserWarning):
    """The scores of a classifier are not made by a softmax or a sigmoid."""


def completed_classifier(
    config: ct.ClassifierConfig | None,
    prepared: Prepared,
    outputs: Sequence[ct.TensorType | ct.ImageType],
) -> ct.ClassifierConfig | None:
    """A copy of the user's configuration with the output named that the labels are for.

    Without a name it is the only output with as many elements as there are labels.

    Args:
        config: the user's.
        prepared: the program.
        outputs: the types of its outputs, in result order.

    Raises:
        LoweringError: no output fits, or several do, or the labels cannot be read.
    """
    if config is None:
        return None
    labels = _labels(config.class_labels)
    nodes = {node.name: node for node in prepared.program.graph.nodes}
    by_name = {
        package_name(kind.name): nodes[name]
        for kind, name in zip(outputs, prepared.output_nodes, strict=True)
    }
    name = config.predicted_probabilities_output or _only_fitting(len(labels), by_name)
    name = package_name(name)
    if name not in by_name:
        raise LoweringError(
            f"the classifier's probabilities {name!r} are no output of the model",
            expected=", ".join(by_name),
            found=name,
            hint="name one in ct.ClassifierConfig(..., predicted_probabilities_output=...)",
        )
    size = _elements(by_name[name])
    if size != len(labels):
        raise LoweringError(
            f"there are {len(labels)} labels for the {_count(size)} scores of output {name!r}",
            expected=f"{_count(size)} labels",
            found=f"{len(labels)} labels, scores of shape {_shape(by_name[name])}",
            hint="give one label for each score of one example",
        )
    label = config.predicted_feature_name or _DEFAULT_LABEL
    taken = {*prepared.inputs, *by_name} - {name}
    if {label, f"{label}_probs"} & taken:
        raise LoweringError(
            f"the label {label!r} of the classifier has the name of an input or output",
            expected="another name",
            hint="name it in ct.ClassifierConfig(..., predicted_feature_name=...)",
        )
    if not _makes_probabilities(by_name[name]):
        warnings.warn(
            f"output {name!r} is not made by a softmax or a sigmoid: the dictionary of the "
            "classifier will hold these scores, not probabilities. Add torch.softmax to the model",
            LogitsWarning,
            stacklevel=4,
        )
    completed = copy.copy(config)
    completed.class_labels = labels
    completed.predicted_probabilities_output = name
    return completed


def _labels(given: str | Path | Sequence[object]) -> list[object]:
    if isinstance(given, str | Path):
        try:
            return [*Path(given).read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise LoweringError(
                "the classifier's labels cannot be read", found=f"{given}: {error}"
            ) from error
    labels = list(given)
    kinds = {type(label) for label in labels}
    if not labels or kinds not in ({int}, {str}) or len(set(labels)) != len(labels):
        raise LoweringError(
            "the classifier's labels must be texts or whole numbers, all different",
            found=", ".join(map(repr, labels[:8])) or "none",
        )
    return labels


def _only_fitting(count: int, outputs: dict[str, fx.Node]) -> str:
    fitting = [name for name, node in outputs.items() if _elements(node) == count]
    if len(outputs) == 1 or len(fitting) == 1:
        return fitting[0] if fitting else next(iter(outputs))
    sizes = ", ".join(f"{name} with {_count(_elements(node))}" for name, node in outputs.items())
    raise LoweringError(
        f"it cannot be told which output the {count} labels are for",
        expected=f"one output with {count} scores",
        found=sizes,
        hint="name it in ct.ClassifierConfig(..., predicted_probabilities_output=...)",
    )


def _elements(node: fx.Node) -> int | None:
    """How many there are, ``None`` where that depends on the input."""
    shape = node.meta["val"].shape
    return math.prod(shape) if all(isinstance(size, int) for size in shape) else None


def _count(size: int | None) -> str:
    return "a varying number of" if size is None else str(size)


def _shape(node: fx.Node) -> str:
    return str(tuple(node.meta["val"].shape))


def _makes_probabilities(node: Argument) -> bool:
    """Whether ``node`` is a softmax, a sigmoid or a share of a sum, moved or not."""
    while isinstance(node, fx.Node) and node.target in _MOVES:
        node = node.args[0]
    if not isinstance(node, fx.Node):
        return False
    if node.target in _SOFTMAXES or node.target is aten.sigmoid.default:
        return True
    if node.target is aten.exp.default:
        return isinstance(node.args[0], fx.Node) and _source(node.args[0]) in _LOG_SOFTMAXES
    if node.target is aten.div.Tensor:
        return _source(node.args[1]) in (aten.sum.dim_IntList, aten.sum.default)
    return False


def _source(node: Argument) -> Target | None:
    while isinstance(node, fx.Node) and node.target in _MOVES:
        node = node.args[0]
    return node.target if isinstance(node, fx.Node) else None
