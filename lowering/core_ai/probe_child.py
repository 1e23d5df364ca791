"""Lets an asset return what it computes: ``python -m lowering.core_ai.probe_child ASSET TWIN OUT``.

TWIN is an asset of the same program, whose operators name the nodes of the torch program that they
come from. Their operators are paired in order, constants aside, since equal ones are stored once;
where they are not the same, none is exposed. OUT becomes a copy of ASSET that returns the result of
every operator beside its outputs; with a position as a further argument, the results of the
operator there alone, and nothing behind it is computed. What it says of the
results is JSON.

A process of its own: coreai's objects end the process when they are used in a wrong order.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coreai._compiler import ir
from coreai.authoring import AIModelAsset, AIProgram

from lowering.core_ai.op_result import OpResult

CONSTANT, OUTPUT = "coreai.constant", "coreai.output"
# As an operator's place in a debugging program is printed (*measured*, coreai-core 1.0.0b3).
_IDENTIFIERS = re.compile(r"identifiers = \[([^\]]*)\]")
_NAME = re.compile(r'"([^"]+)"')


def probes_of(program: AIProgram, twin: AIProgram) -> list[OpResult]:
    """Every tensor that ``program`` computes, or none where ``twin`` has other operators."""
    ours = [(at, op) for at, op in enumerate(operators(program)) if op.name != CONSTANT]
    theirs = [op for op in operators(twin) if op.name != CONSTANT]
    if [_kind(op) for _, op in ours] != [_kind(op) for op in theirs]:
        return []
    graph = program._get_graph("main")
    assert graph is not None
    names = [ir.DictAttr(attributes)["coreai.name"].value for attributes in graph.res_attrs]
    returned = list(zip(ours[-1][1].operands, names, strict=True))
    found = []
    for (position, op), other in zip(ours[:-1], theirs, strict=False):
        nodes = tuple(
            name
            for listed in _IDENTIFIERS.findall(str(other.location))
            for name in _NAME.findall(listed)
        )
        for number, result in enumerate(op.results):
            if not str(result.type).startswith("tensor<"):
                continue
            shape = tuple(
                -1 if type_.is_dynamic_dim(axis) else type_.get_dim_size(axis)
                for type_ in (ir.RankedTensorType(result.type),)
                for axis in range(type_.rank)
            )
            output = next((name for value, name in returned if value == result), "")
            name = f"{op.name}_{position}_{number}"
            found.append(OpResult(name, op.name, position, number, shape, nodes, output))
    return found


def expose(program: AIProgram, probes: list[OpResult], until: int | None) -> None:
    """Makes ``program`` return ``probes``; all behind the operator at ``until`` is taken away."""
    graph = program._get_graph("main")
    assert graph is not None
    ops = operators(program)
    results = [ops[p.position].results[p.number] for p in probes]
    last, attributes = ops[-1], list(graph.res_attrs)
    values = [*last.operands, *results]
    if until is not None:
        values, attributes = results, []
    with program._module._mlir_module.context, last.location:
        kinds = ir.FunctionType.get(
            [argument.type for argument in graph.regions[0].blocks[0].arguments],
            [value.type for value in values],
        )
        ir.Operation.create(OUTPUT, operands=values, ip=ir.InsertionPoint(last))
        last.erase()
        if until is not None:
            for op in reversed(ops[until + 1 : -1]):
                op.erase()
        named = [ir.DictAttr.get({"coreai.name": ir.StringAttr.get(p.name)}) for p in probes]
        graph.operation.attributes["function_type"] = ir.TypeAttr.get(kinds)
        graph.operation.attributes["res_attrs"] = ir.ArrayAttr.get([*attributes, *named])


def operators(program: AIProgram) -> list[Any]:
    """All operators of ``program``, constants and the return among them."""
    graph = program._get_graph("main")
    assert graph is not None
    return [op.operation for op in graph.regions[0].blocks[0].operations]


def _kind(op: Any) -> tuple[str, ...]:
    return (op.name, *(str(result.type) for result in op.results))


def main() -> None:
    """See the module."""
    asset, twin, out = map(Path, sys.argv[1:4])
    until = int(sys.argv[4]) if len(sys.argv) > 4 else None
    # Operators are freed with their program: both are kept until the end.
    program, other = AIModelAsset.load(asset).program, AIModelAsset.load(twin).program
    found = probes_of(program, other)
    if until is not None:
        found = [probe for probe in found if probe.position == until]
    if found:
        expose(program, found, until)
        program.save_asset(out)
    print(json.dumps([asdict(probe) for probe in found]))


if __name__ == "__main__":
    main()
