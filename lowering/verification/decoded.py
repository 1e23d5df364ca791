"""The original of a compressed package, holding the values that the package decodes.

Held against the model itself, a package of four bits differs by what it left out, a hundred times
more than what fp16 rounds; whether it is also wrong could not be seen. So each compressed weight is
looked up in the torch program, by its values, and must be that weight within the bound of its form.
Then the program with the decoded weights says what the package has to compute.

A weight may stand in the package multiplied by what follows its convolution, a batch norm or a
scale, which coremltools folds into it; and a matrix may stand transposed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, fx

from frontend.program import Draft
from frontend.schema import arguments
from frontend.source import Source, source_of
from lowering.compression.decode import Proof, measured
from lowering.compression.rungs import Rung
from lowering.package.open import Package
from lowering.reference.stored_weights import StoredWeight, stored_weights
from lowering.support.finite import finite
from lowering.verification.original import Original
from lowering.verification.parity import rel_l2
from lowering.verification.yardstick import LISTED
from passes.patterns.nodes import aten, is_call

# Elements of a weight that are compared when candidates are looked for.
_SAMPLE = 4096
# Weights that have nothing to do with each other are 1.4 apart (*measured*), and a sparse weight
# that has lost nine tenths of its numbers is 0.9 from itself.
_FAR = 0.95
# coremltools 9.0 computes places and integers in fp16, where those of eight bits are off by a
# quarter, and puts a weight to the entry that is nearest before entries are rounded (*seen*).
_OF_STEP = 0.5
# What is multiplied into a weight before it is rounded to fp16 may round otherwise here: two
# spacings of its numbers, relative to them.
_ROUNDINGS = 2.0**-9
# The form that a bound is known for, by the operators that decode it. What was pruned in training
# is not what is smallest, so that any share may be zero.
_RUNGS = {
    ("constexpr_blockwise_shift_scale",): Rung("", "linear", 8),
    ("constexpr_affine_dequantize",): Rung("", "linear", 8),
    ("constexpr_lut_to_dense",): Rung("", "palette", 8),
    ("constexpr_sparse_to_dense",): Rung("", "sparse", 16, sparsity=1.0),
    ("constexpr_lut_to_sparse", "constexpr_sparse_to_dense"): Rung("", "joint", 8, sparsity=1.0),
}
_SCALES = {aten.mul.Tensor, aten.div.Tensor}
_PRODUCTS = {aten.convolution.default, aten.linear.default}


@dataclass(frozen=True)
class DecodedWeight:
    """A compressed weight beside the model's own.

    Attributes:
        name: in the package.
        form: types of the operators that decode it.
        node: the FX placeholder of the weight, ``""`` where none is like it.
        source: of the operator that reads it.
        error: relative L2 distance of both.
        fault: why it cannot be that weight in this form, ``""`` where it can.
    """

    name: str
    form: str
    node: str
    source: Source
    error: float
    fault: str = ""


@dataclass(frozen=True)
class Sources:
    """The outputs of one step by name, from the package to the model.

    Attributes:
        package: as it is.
        floats: of the package without the integers that its activations become.
        held: of the model with the weights that the package decodes.
        model: as it is.
    """

    package: Mapping[str, Tensor]
    floats: Mapping[str, Tensor]
    held: Mapping[str, Tensor]
    model: Mapping[str, Tensor]


@dataclass(frozen=True)
class Lost:
    """What compression costs, and what rounding does, of one output of the first step.

    Attributes:
        name: of the output.
        total: relative L2 error of the package against the model as it is.
        weights: of the model with the decoded weights against the model as it is, in float32.
        activations: of the package against the package without integer activations.
        rounding: of the latter against the model with the decoded weights.
    """

    name: str
    total: float
    weights: float
    activations: float
    rounding: float


@dataclass(frozen=True)
class Compressed:
    """What verification found of a package's compressed weights.

    Attributes:
        weights: each one beside the model's own.
        lost: the errors of each output.
    """

    weights: tuple[DecodedWeight, ...]
    lost: tuple[Lost, ...]

    @property
    def passed(self) -> bool:
        """Whether every weight can be that of the model in its form."""
        return not any(weight.fault for weight in self.weights)

    def to_json(self) -> dict[str, object]:
        """As a dictionary of plain values."""
        return {
            "passed": self.passed,
            "outputs": [{key: finite(v) for key, v in asdict(one).items()} for one in self.lost],
            "weights": [
                {**asdict(one), "source": str(one.source), "error": finite(one.error)}
                for one in self.weights
            ],
        }

    def sentences(self) -> list[str]:
        """For the terminal."""
        lines = [
            f"{len(self.weights)} weights are decoded; the outputs are compared with those of the "
            "model that holds their values"
        ]
        if any(one.activations for one in self.lost):
            lines.append("they are those of floats in the place of integer activations")
        lines += [
            f"{one.name}: off by {one.total:.1e} from the model itself, of which compressed "
            f"weights make {one.weights:.1e}, "
            + (f"integer activations {one.activations:.1e} " if one.activations else "")
            + f"and rounding {one.rounding:.1e}"
            for one in self.lost
        ]
        faults = [one for one in self.weights if one.fault]
        for one in faults[:LISTED]:
            at = f" ({one.source})" if one.source != Source() else ""
            lines.append(f"weight {one.name} ({one.form}): {one.fault}{at}")
        if len(faults) > LISTED:
            lines.append(f"and {len(faults) - LISTED} more weights")
        return lines


@dataclass(frozen=True)
class _Candidate:
    """A tensor of the program as it may stand in a package."""

    node: fx.Node
    tensor: Tensor
    scale: Tensor | None = None  # of all, or of each output channel, on axis 0
    turned: bool = False

    def value(self) -> Tensor:
        """What the package holds before compression."""
        value = self.tensor.float()
        if self.scale is not None:
            value = value * self.scale.reshape(-1, *[1] * (value.ndim - 1))
        return _transposed(value) if self.turned else value

    def tensor_of(self, decoded: Tensor) -> Tensor:
        """The tensor that makes ``decoded`` of itself."""
        shape = self.tensor.shape
        if self.turned:
            decoded = _transposed(decoded.reshape(_transposed(self.tensor).shape))
        decoded = decoded.reshape(shape)
        if self.scale is not None:
            scale = self.scale.reshape(-1, *[1] * (decoded.ndim - 1))
            decoded = torch.where(scale != 0, decoded / scale, self.tensor.float())
        return decoded.to(self.tensor.dtype)


def with_decoded(
    original: Original, package: Package, function: str
) -> tuple[Original, tuple[DecodedWeight, ...]]:
    """The original with what ``package`` decodes in the place of its weights, and these.

    Its module is left out: only its program can hold other weights.
    """
    draft = Draft(original.program)
    candidates = list(_candidates(draft))
    found: list[DecodedWeight] = []
    taken: set[fx.Node] = set()
    for stored in stored_weights(package, function):
        weight, match = _looked_up(stored, candidates)
        if match is not None and match.node not in taken:
            taken.add(match.node)
            draft.set_constant(match.node, match.tensor_of(stored.value))
        found.append(weight)
    program = draft.close()
    return replace(original, program=program, captured=None, module=None, pipeline=()), tuple(found)


def lost(weights: tuple[DecodedWeight, ...], sources: Sources) -> Compressed:
    """The errors by their causes."""

    def apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor], name: str) -> float:
        return rel_l2(one[name], other[name]) if name in one else math.inf

    outputs = tuple(
        Lost(
            name,
            apart(sources.package, sources.model, name),
            apart(sources.held, sources.model, name),
            apart(sources.package, sources.floats, name) if name in sources.floats else math.inf,
            apart(sources.floats, sources.held, name),
        )
        for name in sources.model
    )
    return Compressed(weights, outputs)


def _candidates(draft: Draft) -> Iterator[_Candidate]:
    """Every tensor of the program in each of the forms that it may have in a package."""
    for node, tensor in draft.lifted():
        if not tensor.is_floating_point() or draft.constant(node) is None:
            continue
        tensor = tensor.detach()
        yield _Candidate(node, tensor)
        if sum(size > 1 for size in tensor.shape) == 2:
            yield _Candidate(node, tensor, turned=True)
        for user in node.users:
            scale = _following_scale(draft, user) if user.target in _PRODUCTS else None
            if scale is not None and scale.numel() in (1, tensor.shape[0]):
                yield _Candidate(node, tensor, scale)


def _following_scale(draft: Draft, node: fx.Node) -> Tensor | None:
    """What the channels of a product are multiplied by, by all that follows it directly."""
    scale: Tensor | None = None
    while len(node.users) == 1:
        (user,) = node.users
        factor = _factor(draft, node, user)
        if factor is None:
            break
        scale = factor if scale is None else scale * factor
        node = user
    return scale


def _factor(draft: Draft, node: fx.Node, user: fx.Node) -> Tensor | None:
    if user.target is aten._native_batch_norm_legit_no_training.default:
        given = arguments(user)
        values = [
            draft.constant(item) if isinstance(item, fx.Node) else None
            for item in (given["weight"], given["running_var"])
        ]
        if values[1] is None:
            return None
        root = torch.rsqrt(values[1].double() + float(given["eps"]))
        return (root if values[0] is None else root * values[0].double()).float().detach()
    if is_call(user) and getattr(user.target, "__name__", "") == "getitem":
        return torch.ones(1)
    if user.target in _SCALES and user.args[0] is node:
        other = user.args[1]
        constant = draft.constant(other) if isinstance(other, fx.Node) else None
        if isinstance(other, int | float):
            constant = torch.tensor([float(other)])
        if constant is None or sum(size > 1 for size in constant.shape) > 1:
            return None
        factor = constant.detach().reshape(-1).float()
        return factor if user.target is aten.mul.Tensor else 1 / factor
    return None


def _looked_up(
    stored: StoredWeight, candidates: Sequence[_Candidate]
) -> tuple[DecodedWeight, _Candidate | None]:
    """The candidate that is nearest, and how the weight compares with it."""
    form = " → ".join(kind.removeprefix("constexpr_") for kind in stored.kinds)
    same = [item for item in candidates if item.tensor.numel() == stored.value.numel()]
    place = slice(None, None, max(1, stored.value.numel() // _SAMPLE))
    sample = stored.value.reshape(-1)[place]
    distances = [_distance(sample, item.value().reshape(-1)[place]) for item in same]
    best = min(distances, default=math.inf)
    if best > _FAR:
        fault = "no weight of the model is like it"
        return DecodedWeight(stored.name, form, "", Source(), best, fault), None
    match = same[distances.index(best)]
    reader = next(iter(match.node.users), match.node)
    proof = _proof(stored, match.value().reshape(stored.value.shape))
    fault = "" if proof.of_bound <= 1 else f"an element is {proof.of_bound:.3g} times too far off"
    weight = DecodedWeight(
        stored.name, form, match.node.name, source_of(reader), proof.error, fault
    )
    return weight, match


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / (other.norm() or 1.0))


def _proof(stored: StoredWeight, source: Tensor) -> Proof:
    rung = _RUNGS.get(stored.kinds)
    lut = stored.operands.get("lut")
    if rung is None or (lut is not None and lut.ndim > 1 and lut.shape[-1] > 1):  # of vectors
        return Proof(_distance(stored.value, source), 0.0)
    # The package was made from weights in its own type.
    array = source.numpy().astype(stored.dtype.storage)
    return measured(array, stored, rung, of_step=_OF_STEP, slack=_ROUNDINGS)


def _transposed(value: Tensor) -> Tensor:
    """The matrix of the two axes that have sizes, turned."""
    rows = [size for size in value.shape if size > 1]
    return value.reshape(rows).t()
