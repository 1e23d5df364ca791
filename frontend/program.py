"""Editing an ExportedProgram: the only file that touches graph signatures and state."""

from __future__ import annotations

import builtins
import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)

from frontend.encoding import Encoding, owner
from frontend.fake_calls import fake_constant
from frontend.ops import PLAIN

_LIFTED = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


class Draft:
    """A private, editable copy of a program; ``close`` makes a verified program of it.

    Tensors are shared with the original, never copied; the original's graph, signature and
    dictionaries stay as they are.

    Attributes:
        graph: the graph to edit.
        fake_mode: the mode of the stored fake values, ``None`` for a program without tensors.
    """

    def __init__(self, program: ExportedProgram) -> None:
        self._program = program
        self.graph = _copy_graph(program.graph)
        self._inputs = list(program.graph_signature.input_specs)
        self._outputs = list(program.graph_signature.output_specs)
        self._output_names = [_name(spec) for spec in self._outputs]
        self._state = dict(program.state_dict)
        self._constants = dict(program.constants)
        self.fake_mode = _fake_mode(self.graph)
        self._specs = {_name(spec): spec for spec in self._inputs}
        self._frozen = set(program.graph_signature.buffers_to_mutate.values())

    @property
    def root(self) -> fx.GraphModule:
        """The module that holds the subgraphs of higher-order operators."""
        return self._program.graph_module

    def constant(self, node: fx.Node) -> torch.Tensor | None:
        """The tensor behind a placeholder that never changes, ``None`` for any other node."""
        spec = self._specs.get(node.name) if node.op == "placeholder" else None
        if spec is None or spec.kind not in _LIFTED or spec.target in self._frozen:
            return None
        found = self._state.get(cast(str, spec.target))
        return found if found is not None else self._constants.get(cast(str, spec.target))

    def constant_name(self, node: fx.Node) -> str:
        """Qualified name of the parameter, buffer or constant behind a placeholder."""
        return cast(str, self._specs[node.name].target)

    def encoding(self, node: fx.Node) -> Encoding | None:
        """How the weight behind a placeholder was compressed, ``None`` where it was not."""
        spec = self._specs.get(node.name)
        return None if spec is None else Encoding.of(self._state, cast(str, spec.target))

    def add_constant(
        self, name: str, tensor: torch.Tensor, encoding: Encoding | None = None
    ) -> fx.Node:
        """A placeholder for a new constant tensor; ``name`` is made unique if it is taken."""
        # "." would nest it in the module tree, below what may be another tensor's name.
        target, count = name, 1
        while target in self._state or target in self._constants:
            target, count = f"{name}_{count}", count + 1
        first_input = next(
            (n for n in self.graph.nodes if n.op != "placeholder" or not self._lifted(n)), None
        )
        with self.graph.inserting_before(first_input):
            node = self.graph.placeholder(self._free_name("c_" + target.replace(".", "_")))
        node.target = node.name
        if self.fake_mode is None:
            self.fake_mode = FakeTensorMode()
        node.meta["val"] = fake_constant(tensor, self.fake_mode)
        spec = InputSpec(InputKind.BUFFER, TensorArgument(name=node.name), target, True)
        position = sum(1 for s in self._inputs if s.kind is not InputKind.USER_INPUT)
        self._inputs.insert(position, spec)
        self._specs[node.name] = spec
        self._state[target] = tensor.detach()
        if encoding is not None:
            self._state |= encoding.entries(target)
        return node

    def set_constant(self, node: fx.Node, tensor: torch.Tensor) -> None:
        """Replaces the tensor behind a placeholder, for a change of dtype or device."""
        target = self.constant_name(node)
        home = self._state if target in self._state else self._constants
        if isinstance(home[target], torch.nn.Parameter):
            tensor = torch.nn.Parameter(tensor, requires_grad=False)
        home[target] = tensor
        node.meta["val"] = self.fake(tensor)

    def keep_buffer(self, node: fx.Node) -> None:
        """Lets the program write to the buffer behind ``node`` no more."""
        target = self.constant_name(node)
        self._frozen.discard(target)
        output = self.output_node()
        results = list(cast(Sequence[Any], output.args[0]))
        for position, spec in reversed(list(enumerate(self._outputs))):
            if spec.kind is OutputKind.BUFFER_MUTATION and spec.target == target:
                del self._outputs[position], self._output_names[position], results[position]
        output.args = (tuple(results),)

    def written(self) -> dict[str, tuple[fx.Node, fx.Node]]:
        """Buffers that the program writes: placeholder and new value, by qualified name."""
        results = cast(Sequence[fx.Node], self.output_node().args[0])
        new = {
            spec.target: result
            for spec, result in zip(self._outputs, results, strict=True)
            if spec.kind is OutputKind.BUFFER_MUTATION
        }
        old = {self.constant_name(node): node for node, _ in self.lifted()}
        return {name: (old[name], new[name]) for name in old if name in new}

    def fake(self, tensor: torch.Tensor) -> torch.Tensor:
        """The fake value that stands for ``tensor`` in this program."""
        assert self.fake_mode is not None
        return fake_constant(tensor, self.fake_mode)

    def write(self, node: fx.Node, name: str, start: torch.Tensor, value: fx.Node) -> None:
        """Let the buffer behind ``node`` be ``name``, start at ``start`` and become ``value``.

        The node's own name is free afterwards.
        """
        old, spec = self.constant_name(node), self._specs[node.name]
        home = self._state if old in self._state else self._constants
        del home[old]
        home[name] = start
        del self._specs[node.name]
        node.name = node.target = self._free_name(f"{node.name}_stored")
        renamed = dataclasses.replace(spec, target=name, arg=TensorArgument(name=node.name))
        self._inputs[self._inputs.index(spec)] = self._specs[node.name] = renamed
        self._frozen = (self._frozen - {old}) | {name}
        node.meta["val"] = self.fake(start)
        output = self.output_node()
        results = list(cast(Sequence[Any], output.args[0]))
        written = [i for i, s in enumerate(self._outputs) if s.target == old]
        if not written:  # a buffer that is not written yet; those that are come first
            written = [0]
            results.insert(0, value)
            argument = TensorArgument(name=value.name)
            self._outputs.insert(0, OutputSpec(OutputKind.BUFFER_MUTATION, argument, name))
            self._output_names.insert(0, value.name)
        for position in written:
            results[position] = value
            self._outputs[position] = dataclasses.replace(self._outputs[position], target=name)
            self._output_names[position] = value.name
        output.args = (tuple(results),)

    def lifted(self) -> list[tuple[fx.Node, torch.Tensor]]:
        """Every placeholder of a parameter, buffer or constant, with its tensor."""
        found = []
        for node in self.graph.nodes:
            if node.op == "placeholder" and self._lifted(node):
                target = cast(str, self._specs[node.name].target)
                tensor = self._state.get(target)
                found.append((node, tensor if tensor is not None else self._constants[target]))
        return found

    def user_inputs(self) -> list[fx.Node]:
        """Placeholders of the call's arguments, in order."""
        return [
            node
            for node in self.graph.nodes
            if node.op == "placeholder"
            and (spec := self._specs.get(node.name)) is not None
            and spec.kind is InputKind.USER_INPUT
        ]

    def rename_written_inputs(self) -> None:
        """Gives inputs that the program writes other names, where a copy of the graph would.

        ``fx`` has no node named like a builtin (``input``, of ``nn.Sequential``), and
        ``ExportedProgram.module`` looks for written inputs by name in such a copy.
        """
        written = {s.target for s in self._outputs if s.kind is OutputKind.USER_INPUT_MUTATION}
        for node in self.user_inputs():
            if node.name not in written or not hasattr(builtins, node.name):
                continue
            old, spec = node.name, self._specs.pop(node.name)
            node.name = node.target = self._free_name(f"written_{old}")
            renamed = dataclasses.replace(spec, arg=TensorArgument(name=node.name))
            self._inputs[self._inputs.index(spec)] = self._specs[node.name] = renamed
            self._outputs = [
                dataclasses.replace(s, target=node.name)
                if s.kind is OutputKind.USER_INPUT_MUTATION and s.target == old
                else s
                for s in self._outputs
            ]

    def output_node(self) -> fx.Node:
        """The graph's output node."""
        return self.graph.output_node()

    def rename_outputs(self, names: Sequence[str]) -> None:
        """Gives the user outputs, in order, the public ``names``."""
        positions = [i for i, s in enumerate(self._outputs) if s.kind is OutputKind.USER_OUTPUT]
        for position, name in zip(positions, names, strict=True):
            self._output_names[position] = name

    def drop_dead_code(self) -> None:
        """Erases what nobody reads, random operators included: the program is functional."""
        self.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))

    def tidy(self) -> None:
        """Drops dead code and unused constants, names the outputs, checks the graph.

        Raises:
            RuntimeError: a value is used before it is defined, or is no part of the graph.
        """
        self.drop_dead_code()
        self._drop_unused()
        self._name_outputs()
        self.graph.lint()

    @property
    def signature(self) -> ExportGraphSignature:
        """The signature of the program that ``close`` would make now, after ``tidy``."""
        return ExportGraphSignature(input_specs=self._inputs, output_specs=self._outputs)

    def kept(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """State and constants that the program still refers to."""
        names = {s.target for s in self._inputs} | {s.target for s in self._outputs}
        state, constants = (
            {name: value for name, value in home.items() if owner(name) in names}
            for home in (self._state, self._constants)
        )
        return state, constants

    def close(self) -> ExportedProgram:
        """The edited program, tidied and verified; the draft is not to be used any more."""
        self.tidy()
        old, (state, constants) = self._program, self.kept()
        closed = ExportedProgram(
            root=old.graph_module,
            graph=self.graph,
            graph_signature=self.signature,
            state_dict=state,
            range_constraints=old.range_constraints,
            module_call_graph=self._call_graph(),
            example_inputs=old.example_inputs,
            constants=constants,
            verifiers=old.verifiers,
        )
        closed._guards_code = []  # ``capture`` has decided them, at every size of the ranges
        return closed

    def _lifted(self, node: fx.Node) -> bool:
        spec = self._specs.get(node.name)
        return spec is not None and spec.kind in _LIFTED

    def _free_name(self, name: str) -> str:
        taken = {node.name for node in self.graph.nodes}
        candidate, count = name, 1
        while candidate in taken:
            candidate, count = f"{name}_{count}", count + 1
        return candidate

    def _name(self, node: fx.Node, name: str) -> None:
        """Give ``node`` exactly this free name, and no later node of the graph."""
        self.graph._graph_namespace.create_name(name, None)
        node.name = name

    def _drop_unused(self) -> None:
        for node in list(self.graph.find_nodes(op="placeholder")):
            if node.users or not self._lifted(node):
                continue
            if self._specs[node.name].target in self._frozen:
                continue
            spec = self._specs.pop(node.name)
            self._inputs.remove(spec)
            self.graph.erase_node(node)
            if all(other.target != spec.target for other in self._inputs):
                # A tensor that a rewrite made and another one replaced is not held on to.
                for home in (self._state, self._constants):
                    for name in [name for name in home if owner(name) == spec.target]:
                        del home[name]

    def _name_outputs(self) -> None:
        """Each output gets a node of its own with its public name."""
        output = self.output_node()
        results = list(cast(Sequence[Any], output.args[0]))
        seen: set[fx.Node] = set()
        for position, result in enumerate(results):
            if not isinstance(result, fx.Node) or "val" not in result.meta:
                continue
            is_tensor = isinstance(result.meta["val"], torch.Tensor)
            if is_tensor and (result in seen or result.op == "placeholder"):
                with self.graph.inserting_before(output):
                    clone = self.graph.call_function(torch.ops.aten.clone.default, (result,))
                clone.meta = dict(result.meta)
                results[position] = result = clone
            seen.add(result)
        output.args = (tuple(results),)
        # All positions are settled before any is named: two outputs may swap names.
        wanted: dict[fx.Node, str] = {}
        given = {node.name for node in self.graph.nodes if node.op == "placeholder"}
        for result, name in zip(results, self._output_names, strict=True):
            # A copy of an input or of another output cannot have the name of its source.
            if isinstance(result, fx.Node) and result.op != "placeholder" and name not in given:
                wanted[result] = name
                given.add(name)
        holders = {node.name: node for node in self.graph.nodes}
        for name in wanted.values():
            holder = holders.get(name)
            if holder is not None and holder not in wanted and holder.op != "placeholder":
                self._name(holder, self._free_name(f"{name}_inner"))
        for node, name in wanted.items():
            if node.name != name:
                self._name(node, name)
        self._outputs = [
            _renamed(spec, result) for spec, result in zip(self._outputs, results, strict=True)
        ]
        self._output_names = [_name(spec) for spec in self._outputs]

    def _call_graph(self) -> list[Any]:
        entries = copy.copy(self._program.module_call_graph)
        top = copy.copy(entries[0])
        if top.signature is not None:
            top.signature = copy.copy(top.signature)
            # Torch itself leaves the names out, and loses those of a tuple's elements later on.
            top.signature.outputs = []
        # Entries of submodules name nodes that a rewrite may have removed.
        return [top]


def runnable(program: ExportedProgram) -> torch.nn.Module:
    """``program`` as a module of ATen operators alone, whose state is its own.

    The ``ane::`` operators are spelled out, so that a trace or an export of the module holds
    nothing that stock coremltools does not know.

    Buffers that the program writes to are copied: a run changes neither the program's initial
    state nor the model that shares its tensors. Everything else is shared.
    """
    written = program.graph_signature.user_inputs_to_mutate.values()
    named = program
    if any(hasattr(builtins, name) for name in written):
        draft = Draft(program)
        draft.rename_written_inputs()
        named = draft.close()
    module = named.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    for node in module.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            node.target = PLAIN.get(node.target, node.target)
    module.recompile()
    for name in program.graph_signature.buffers_to_mutate.values():
        owner, _, own_name = name.rpartition(".")
        buffers = module.get_submodule(owner)._buffers
        buffers[own_name] = cast(torch.Tensor, buffers[own_name]).clone()
    return module


def _copy_graph(old: fx.Graph) -> fx.Graph:
    new = fx.Graph()
    mapping: dict[fx.Node, fx.Node] = {}
    for node in old.nodes:
        copied = new.node_copy(node, lambda n: mapping[n])
        copied.meta = dict(node.meta)
        # fx renames what looks like a builtin (`input`); the signature goes by the old name.
        copied.name = node.name
        mapping[node] = copied
    return new


def _fake_mode(graph: fx.Graph) -> FakeTensorMode | None:
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch._subclasses.FakeTensor):
            return value.fake_mode
    return None


def _name(spec: InputSpec | OutputSpec) -> str:
    return getattr(spec.arg, "name", "")


def _renamed(spec: OutputSpec, result: object) -> OutputSpec:
    if not isinstance(result, fx.Node):
        return spec
    return dataclasses.replace(spec, arg=dataclasses.replace(spec.arg, name=result.name))
