"""A contract's model with what belongs to it: the numbers of pictures before, the task behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.utils import _pytree as pytree

from lowering.contract.contract import ModelContract
from lowering.contract.image import Image
from lowering.contract.log_mel import LogMel
from lowering.contract.pictures import normalised
from lowering.contract.sounds import features, telling_sound
from lowering.contract.tasks.base import OutputTask
from lowering.verification import fx_values


def input_names(program: ExportedProgram) -> list[str]:
    """Names of the tensors that a program takes, in order."""
    return [name for name, value in _inputs(program) if value is None]


def output_names(program: ExportedProgram) -> list[str]:
    """Names of the tensors that a program returns, in order."""
    return [node.name for node in fx_values.returned(program)[1]]


class Composed(nn.Module):
    """What is made a package: called with the inputs by name, it returns the outputs by name.

    An input that is a picture is taken as Core ML's image inputs hand it on, see ``Image.split``.
    """

    def __init__(self, program: ExportedProgram, contract: ModelContract) -> None:
        super().__init__()
        self.model = program.module(check_guards=False)
        self._inputs = _inputs(program)
        self._outputs = output_names(program)
        self._task: OutputTask | None = contract.task
        self._last = {entry.name for entry in contract.inputs if entry.channels_last}
        for name, image in contract.images.items():
            self.register_buffer(_factor(name), _factors(image), persistent=False)
        self._waves = contract.waveforms
        for name, entry in self._waves.items():
            self.add_module(_front(name), LogMel(entry.form))
        self.eval()

    def eval(self) -> Composed:
        """As it is: a program has one mode, and says no to this call."""
        self.training = False
        return self

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The package's outputs."""
        values: list[object] = []
        for name, constant in self._inputs:
            if constant is not None:
                values.append(constant.value)
                continue
            value, factors = inputs[name], getattr(self, _factor(name), None)
            value = value if factors is None else value * factors
            if name in self._waves:
                value = self._waves[name].arranged(self.get_submodule(_front(name))(value))
            values.append(value.permute(0, 2, 3, 1) if name in self._last else value)
        # Run node by node, each new node keeps the user's line and module.
        with fx.traceback.preserve_node_meta():
            results = fx.Interpreter(self.model).run(*values, enable_io_processing=False)
        tensors = [value for value in results if isinstance(value, Tensor)]
        outputs = dict(zip(self._outputs, tensors, strict=True))
        return outputs if self._task is None else self._task(outputs, inputs)


class PlainTruth(nn.Module):
    """What a package is held against: the same in torch, by the formulas as people write them.

    It takes what :class:`Composed` takes, and gets the pixels back from that.
    """

    _precision: Tensor

    def __init__(self, program: ExportedProgram, contract: ModelContract) -> None:
        super().__init__()
        self._held = [program]  # in a list, so that copies of this module share it
        self._inputs = _inputs(program)
        self._outputs = output_names(program)
        self._images = contract.images
        self._waves = contract.waveforms
        self._last = {entry.name for entry in contract.inputs if entry.channels_last}
        self._task: OutputTask | None = contract.task
        # Its type says in which precision this copy runs.
        self.register_buffer("_precision", torch.zeros(()))
        self.eval()

    def __deepcopy__(self, memo: dict[int, object]) -> PlainTruth:
        copied = PlainTruth.__new__(PlainTruth)
        nn.Module.__init__(copied)
        for name in (
            "_held",
            "_inputs",
            "_outputs",
            "_images",
            "_waves",
            "_last",
            "_task",
            "training",
        ):
            object.__setattr__(copied, name, getattr(self, name))
        copied.register_buffer("_precision", self._precision.clone())
        return copied

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The package's outputs."""
        kind = self._precision.dtype
        leaves: list[object] = []
        for name, constant in self._inputs:
            if constant is not None:
                leaves.append(constant.value)
                continue
            value = inputs[name]
            if name in self._images:
                value = normalised(self._images[name], pixels_in(self._images[name], value))
                value = value.permute(0, 2, 3, 1) if name in self._last else value
            elif name in self._waves:
                value = self._waves[name].arranged(features(self._waves[name].form, value))
            leaves.append(value.to(kind) if value.is_floating_point() else value)
        (program,) = self._held
        results = fx_values.run(program, leaves, weights=_in(kind))
        tensors = [value for value in results if isinstance(value, Tensor)]
        outputs = dict(zip(self._outputs, tensors[-len(self._outputs) :], strict=True))
        return outputs if self._task is None else self._task(outputs, inputs)


def as_image_input(image: Image, values: Tensor) -> Tensor:
    """Pixel values as an image input of Core ML hands them to the program."""
    scale, biases, _ = image.split()
    return values.float() * scale + torch.tensor(biases).reshape(1, -1, 1, 1)


def pixels_in(image: Image, values: Tensor) -> Tensor:
    """The pixel values behind what :func:`as_image_input` gave."""
    scale, biases, _ = image.split()
    return ((values.float() - torch.tensor(biases).reshape(1, -1, 1, 1)) / scale).round()


def example_of(program: ExportedProgram, contract: ModelContract) -> dict[str, Tensor]:
    """Example inputs for :class:`Composed`, by name: the program's own, and gray pictures."""
    leaves = pytree.tree_leaves(program.example_inputs)
    found = {}
    for (name, constant), leaf in zip(_inputs(program), leaves, strict=True):
        if constant is None:
            image, wave = contract.images.get(name), contract.waveforms.get(name)
            if wave is not None:
                found[name] = telling_sound(wave.form.samples, wave.form.rate)[None].clone()
                continue
            gray = 128.0  # any pixel will do: shapes alone are taken from it
            found[name] = (
                leaf.detach()
                if image is None
                else as_image_input(image, torch.full(image.shape, gray))
            )
    return found


def _inputs(program: ExportedProgram) -> Sequence[tuple[str, ConstantArgument | None]]:
    """Each user input with its value where that is part of the program."""
    specs = [s for s in program.graph_signature.input_specs if s.kind is InputKind.USER_INPUT]
    return [
        (spec.arg.name, spec.arg if isinstance(spec.arg, ConstantArgument) else None)
        for spec in specs
    ]


def _factor(name: str) -> str:
    return f"_factors_of_{name}"


def _front(name: str) -> str:
    return f"_front_of_{name}"


def _factors(image: Image) -> Tensor | None:
    _, _, factors = image.split()
    if all(factor == 1.0 for factor in factors):
        return None
    return torch.tensor(factors).reshape(1, -1, 1, 1)


def _in(kind: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor.to(kind) if tensor.is_floating_point() else tensor
