"""A Swift file that drives an exported package; written from its contract, compiled by nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from frontend.decoder.embedding import ROWS
from frontend.decoder.part import HIDDEN
from lowering.generation.contract import NEW, Contract, StepContract, TableContract

_HEAD = """\
// Drives {package} with Core ML (iOS 18, macOS 15): MLState and the functions of {of}.
// Written by ane-passes from the package's contract. Nothing has compiled or run this file.
import CoreML

final class Decoder {{
    private struct Part {{
        var functions: [String: MLModel] = [:]
        var state: MLState?
    }}

    private var parts: [Part] = []
    private(set) var position = 0
    let context = {context}
{table_field}
    /// `urls` are those of {files}, compiled, in this order.
    init(compiledModels urls: [URL]{table_argument}) throws {{
        let functions: [[String]] = [{functions}]
        for (url, names) in zip(urls, functions) {{
            var part = Part()
            for name in names {{
                let configuration = MLModelConfiguration()
                configuration.computeUnits = .cpuAndNeuralEngine
                configuration.functionName = name
                part.functions[name] = try MLModel(
                    contentsOf: url, configuration: configuration)
            }}
            parts.append(part)
        }}
{table_init}        reset()
    }}

    /// Forgets all tokens.
    func reset() {{
        let hasState = [{states}]
        for index in parts.indices where hasState[index] {{
            parts[index].state = parts[index].functions["{decode}"]?.makeState()
        }}
        position = 0
    }}

    /// Logits of the last of `tokens`, which are put behind those so far.
    func feed(_ tokens: [Int32]) throws -> MLMultiArray? {{
        precondition(position + tokens.count <= context, "the context is full")
        var rest = tokens[...]
        var logits: MLMultiArray?
        while !rest.isEmpty {{
"""
_PREFILL = """\
            if {condition} {{
                logits = try run("{name}", rest.prefix({tokens}), length: {tokens}, last: true)
                rest = rest.dropFirst({tokens})
                continue
            }}
"""
_TAIL = """\
            logits = try run("{decode}", rest.prefix(1), length: 1, last: false)
            rest = rest.dropFirst(1)
        }}
        return logits
    }}

    private func run(
        _ name: String, _ tokens: ArraySlice<Int32>, length: Int, last: Bool
    ) throws -> MLMultiArray? {{
        // Behind the tokens comes anything: later steps write over it.
        let padded = Array(tokens) + Array(repeating: 0, count: length - tokens.count)
{inputs}        inputs["position"] = try integers([Int32(position)], shape: [1])
        if last {{ inputs["last"] = try integers([Int32(tokens.count - 1)], shape: [1]) }}
        var logits: MLMultiArray?
        for part in parts {{
            guard let model = part.functions[name] else {{ continue }}
            let known = model.modelDescription.inputDescriptionsByName
            let features = try MLDictionaryFeatureProvider(
                dictionary: inputs.filter {{ known[$0.key] != nil }})
            let result: MLFeatureProvider
            if let state = part.state {{
                result = try model.prediction(from: features, using: state)
            }} else {{
                result = try model.prediction(from: features)
            }}
            inputs["{hidden}"] = result.featureValue(for: "{hidden_new}")?.multiArrayValue
            logits = result.featureValue(for: "logits")?.multiArrayValue
        }}
        position += tokens.count
        return logits
    }}

    private func integers(_ values: [Int32], shape: [Int]) throws -> MLMultiArray {{
        let array = try MLMultiArray(shape: shape.map {{ NSNumber(value: $0) }}, dataType: .int32)
        for (index, value) in values.enumerated() {{ array[index] = NSNumber(value: value) }}
        return array
    }}
{rows}}}
"""
_IDS = """\
        var inputs: [String: Any] = ["input_ids": try integers(padded, shape: [1, length])]
"""
_ROWS_INPUT = """\
        var inputs: [String: Any] = ["{rows}": try rows(of: padded)]
"""
# The last part has the table, for its head; the first takes the rows.
_EMBEDDED = """\
        guard let embed = parts.last?.functions["{embedder}_\\(length)"] else {{ return nil }}
        let ids = try MLDictionaryFeatureProvider(
            dictionary: ["input_ids": try integers(padded, shape: [1, length])])
        var inputs: [String: Any] = [:]
        inputs["{rows}"] = try embed.prediction(from: ids).featureValue(for: "{rows}")?
            .multiArrayValue
"""
_TABLE_FIELD = """\
    private let table: Data
    private let firstRow: Int
"""
# Version 1 of the format has the length of its header in bytes 8 and 9, the low one first.
_TABLE_INIT = """\
        table = try Data(contentsOf: embeddings, options: .alwaysMapped)
        firstRow = 10 + Int(table[8]) + 256 * Int(table[9])
"""
_ROWS = """\

    /// Rows of {file}: {width} numbers of {dtype} for each token.
    private func rows(of tokens: [Int32]) throws -> MLMultiArray {{
        let size = {width} * {bytes}
        let array = try MLMultiArray(
            shape: [1, NSNumber(value: tokens.count), {width}], dataType: .{dtype})
        array.withUnsafeMutableBytes {{ bytes, strides in
            for (index, token) in tokens.enumerated() {{
                let start = firstRow + Int(token) * size
                let row = UnsafeMutableRawBufferPointer(
                    rebasing: bytes[(index * strides[1] * {bytes})...])
                table.copyBytes(to: row, from: start..<(start + size))
            }}
        }}
        return array
    }}
"""


def write_swift(package: Path, contract: Contract) -> Path | None:
    """Writes the file beside ``package``; ``None`` for a cache of inputs and outputs, for models
    with an encoder, and for functions that return other logits than those that are needed."""
    others = [s for s in contract.steps.values() if s.best or (s.padded and not s.last)]
    if contract.form == "io" or contract.source or others:
        return None
    path = package.with_suffix(".swift")
    path.write_text(swift_source(package.name, contract), encoding="utf-8")
    return path


def swift_source(package: str, contract: Contract) -> str:
    """The file's text: the function for one token, and the longest for the prompt if any."""
    decode = next(n for n, s in contract.steps.items() if s.tokens == 1 and not s.last)
    prefills = {n: s for n, s in contract.steps.items() if s.last and s.context == contract.context}
    prefill = max(prefills, key=lambda name: prefills[name].tokens, default=None)
    used = {name: contract.steps[name] for name in (decode, prefill) if name is not None}
    parts, table = contract.parts, contract.table
    functions = [list(used) for _ in parts or (None,)]
    inputs = _IDS
    if table is not None:
        inputs = _ROWS_INPUT.format(rows=ROWS)
    elif (embedder := contract.embedder) is not None:
        functions[-1] += [f"{embedder}_{step.tokens}" for step in used.values()]
        inputs = _EMBEDDED.format(rows=ROWS, embedder=embedder)
    states = [bool(part.states) for part in parts] or [bool(contract.states)]
    head = _HEAD.format(
        package=package,
        of="its packages" if parts else "one package",
        files=", ".join(part.file for part in parts) or package,
        context=contract.context,
        decode=decode,
        functions=", ".join(_listed(f'"{name}"' for name in names) for names in functions),
        states=", ".join("true" if has else "false" for has in states),
        table_field="" if table is None else _TABLE_FIELD,
        table_argument="" if table is None else ", embeddings: URL",
        table_init="" if table is None else _TABLE_INIT,
    )
    prompt = "" if prefill is None else _prompt(prefill, used[prefill], contract)
    tail = _TAIL.format(
        decode=decode,
        inputs=inputs,
        hidden=HIDDEN,
        hidden_new=HIDDEN + NEW,
        rows="" if table is None else _rows(table),
    )
    return head + prompt + tail


def _listed(names: Iterable[str]) -> str:
    return f"[{', '.join(names)}]"


def _prompt(name: str, step: StepContract, contract: Contract) -> str:
    """The steps of several tokens."""
    conditions = [f"position + {step.tokens} <= context"]
    if not step.padded:
        conditions.append(f"rest.count >= {step.tokens}")
    if step.from_start:
        conditions.append("position == 0")
    conditions += [f"position % {ring} + {step.tokens} <= {ring}" for ring in contract.rings]
    return _PREFILL.format(condition=", ".join(conditions), name=name, tokens=step.tokens)


def _rows(table: TableContract) -> str:
    size = {"float16": 2, "float32": 4}[table.dtype]
    return _ROWS.format(file=table.file, width=table.width, dtype=table.dtype, bytes=size)
