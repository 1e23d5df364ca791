"""The folder of a contract: ``contract.json`` and the model's program."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.export import Dim, ExportedProgram

from frontend.program_file import load_program
from lowering.contract.composed import Composed, example_of, input_names, output_names
from lowering.contract.contract import InputSpec, ModelContract, OutputSpec, StateSpec
from lowering.contract.errors import ContractError
from lowering.contract.names import CONTRACT
from lowering.contract.reading import contract_of
from lowering.contract.size_spec import dims_of, dynamic_axes, example_shapes
from lowering.contract.tasks.base import Wanted
from lowering.support.model_files import described
from lowering.verification import fx_values


@dataclass(frozen=True)
class ModelFolder:
    """A contract and the program that it is for, which fit each other.

    Attributes:
        path: of the folder.
        contract: what stands in it.
        program: the model.
    """

    path: Path
    contract: ModelContract
    program: ExportedProgram

    def composed(self) -> Composed:
        """The model with the numbers of its pictures before and its task behind."""
        return Composed(self.program, self.contract)

    def dynamic_shapes(self) -> dict[str, dict[int, Dim]] | None:
        """Sizes of :meth:`composed` that vary, as ``torch.export`` takes them."""
        return dims_of(self.contract.sizes)

    def example(self) -> dict[str, Tensor]:
        """Example inputs of :meth:`composed`, by name."""
        return example_of(self.program, self.contract)


def is_model_folder(path: object) -> bool:
    """Whether ``path`` is a folder with a contract in it."""
    return isinstance(path, str | os.PathLike) and (Path(path) / CONTRACT).is_file()


def open_folder(path: str | os.PathLike[str], *, trust: bool = False) -> ModelFolder:
    """The contract and program in a folder that ``lowering.export`` wrote.

    Args:
        path: of the folder.
        trust: run the code that the program's file asks for, see ``load_program``.

    Raises:
        ContractError: there is no contract, it cannot be used, or it does not fit its program.
        ProgramFileError: the program cannot be loaded, or asks for code.
    """
    folder = Path(path).expanduser()
    file = folder / CONTRACT
    if folder.exists() and not file.is_file():
        what, hint = described(folder)
        raise ContractError(
            f"a model with a contract was expected, and this is {what}",
            found=str(folder),
            hint=hint if folder.is_file() else "write the folder with `ane-passes export`",
        )
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(
            f"there is no contract to read: {getattr(error, 'strerror', None) or error}",
            found=str(file),
            hint="write the folder with `ane-passes export`",
        ) from error
    contract = contract_of(text, str(file))
    program_file = folder / contract.program.file
    if not program_file.is_file():
        raise ContractError(
            "the contract's program is missing", found=str(program_file), hint="export it again"
        )
    if sha256_of(program_file) != contract.program.sha256:
        raise ContractError(
            "the program is not the one that the contract was written for",
            [f"program.sha256: is not that of {program_file.name}"],
            found=str(program_file),
            hint="export the model again",
        )
    program = load_program(program_file, trust=trust)
    problems = program_problems(contract, program)
    if problems:
        raise ContractError(
            "contract and program do not fit",
            problems,
            found=str(file),
            hint="export the model again, or mend the contract",
        )
    return ModelFolder(folder, contract, program)


def sha256_of(file: Path) -> str:
    """Of the bytes of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def program_problems(contract: ModelContract, program: ExportedProgram) -> list[str]:
    """What sets a contract apart from its program, each in a sentence."""
    inputs, outputs = signature_of_program(program)
    found = _differences("inputs", contract.inputs, inputs)
    said = {place for entry in contract.sizes for place in entry.places}
    for name, axis in sorted(said ^ dynamic_axes(program).keys()):
        how = "does not vary" if (name, axis) in said else "varies, and no size says how"
        found.append(f"sizes: axis {axis} of {name!r} {how} in the program")
    states = states_of(program)
    if set(contract.states) != set(states):
        found.append(
            f"states: are {[state.name for state in contract.states]}, "
            f"the program writes {[state.name for state in states]}"
        )
    if contract.task is None:
        return found + _differences("outputs", contract.outputs, outputs)
    shapes = {entry.name: entry.shape for entry in outputs}
    taken = {entry.name: entry.shape for entry in inputs}
    problems = [f"task: {p}" for p in contract.task.problems(Wanted(shapes, taken))]
    if not problems and not found:
        made = [entry.name for entry in contract.outputs]
        if made != list(contract.task.meanings()):
            problems.append(
                f"outputs: are {', '.join(made)}, the task makes "
                f"{', '.join(contract.task.meanings())}"
            )
    return found + problems


def signature_of_program(
    program: ExportedProgram,
) -> tuple[tuple[InputSpec, ...], tuple[OutputSpec, ...]]:
    """Inputs and outputs of a program, in the sizes of its example, without what only people know.

    Raises:
        ContractError: an output's size depends on what the inputs hold.
    """
    nodes = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
    taken, made = input_names(program), output_names(program)
    values = [nodes[name].meta["val"] for name in taken]
    values += [node.meta["val"] for node in fx_values.returned(program)[1]]
    try:
        shapes = example_shapes(program, values)
    except KeyError as error:
        raise ContractError(
            f"the size {error.args[0]} of an output depends on what the inputs hold",
            found=", ".join(str(tuple(value.shape)) for value in values[len(taken) :]),
            hint="return outputs of a fixed size, such as the best k",
        ) from error
    kinds = [(shape, _dtype(value)) for shape, value in zip(shapes, values, strict=True)]
    inputs = tuple(
        InputSpec(name, *kind) for name, kind in zip(taken, kinds[: len(taken)], strict=True)
    )
    outputs = tuple(
        OutputSpec(name, *kind) for name, kind in zip(made, kinds[len(taken) :], strict=True)
    )
    return inputs, outputs


def states_of(program: ExportedProgram) -> tuple[StateSpec, ...]:
    """The buffers that a program writes."""
    names = sorted(set(program.graph_signature.buffers_to_mutate.values()))
    buffers = dict(zip(program.graph_signature.buffers, program.buffers(), strict=True))
    return tuple(StateSpec(name, tuple(buffers[name].shape)) for name in names)


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _differences(
    what: str, said: Sequence[InputSpec | OutputSpec], found: Sequence[InputSpec | OutputSpec]
) -> list[str]:
    said_names, names = [e.name for e in said], [e.name for e in found]
    if said_names != names:
        return [f"{what}: are {', '.join(said_names)}, the program's are {', '.join(names)}"]
    problems = []
    for ours, theirs in zip(said, found, strict=True):
        for part in ("shape", "dtype"):
            said_part, found_part = getattr(ours, part), getattr(theirs, part)
            if said_part != found_part:
                problems.append(
                    f"{what}.{ours.name}.{part}: is {said_part}, the program's is {found_part}"
                )
    return problems
