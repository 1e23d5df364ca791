"""A Swift file that drives an exported package; written from its contract, compiled by nothing."""

from __future__ import annotations

from pathlib import Path

from lowering.generation.contract import DECODE, PREFILL, Contract

_HEAD = """\
// Drives {package} with Core ML (iOS 18, macOS 15): MLState and functions of one package.
// Written by ane-passes from the package's contract. Nothing has compiled or run this file.
import CoreML

final class Decoder {{
    private let decode: MLModel
{prefill_field}    private var state: MLState
    private(set) var position = 0
    let context = {context}

    init(compiledModel url: URL) throws {{
        func load(_ function: String) throws -> MLModel {{
            let configuration = MLModelConfiguration()
            configuration.computeUnits = .cpuAndNeuralEngine
            configuration.functionName = function
            return try MLModel(contentsOf: url, configuration: configuration)
        }}
        decode = try load("{decode}")
{prefill_load}        state = decode.makeState()
    }}

    func reset() {{
        state = decode.makeState()
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
                logits = try run(prefill, rest.prefix({tokens}), length: {tokens}, last: true)
                rest = rest.dropFirst({tokens})
                continue
            }}
"""
_TAIL = """\
            logits = try run(decode, rest.prefix(1), length: 1, last: false)
            rest = rest.dropFirst(1)
        }}
        return logits
    }}

    private func run(
        _ model: MLModel, _ tokens: ArraySlice<Int32>, length: Int, last: Bool
    ) throws -> MLMultiArray? {{
        let ids = try MLMultiArray(shape: [1, NSNumber(value: length)], dataType: .int32)
        for index in 0..<length {{
            // Behind the tokens comes anything: later steps write over it.
            ids[index] = NSNumber(value: tokens.dropFirst(index).first ?? 0)
        }}
        func number(_ value: Int) throws -> MLMultiArray {{
            let array = try MLMultiArray(shape: [1], dataType: .int32)
            array[0] = NSNumber(value: value)
            return array
        }}
        var inputs: [String: Any] = ["input_ids": ids, "position": try number(position)]
        if last {{ inputs["last"] = try number(tokens.count - 1) }}
        let features = try MLDictionaryFeatureProvider(dictionary: inputs)
        let result = try model.prediction(from: features, using: state)
        position += tokens.count
        return result.featureValue(for: "logits")?.multiArrayValue
    }}
}}
"""


def write_swift(package: Path, contract: Contract) -> Path | None:
    """Writes the file beside ``package``; ``None`` for a cache of inputs and outputs, for models
    with an encoder, for embeddings apart, for parts, and for functions that return other logits
    than those that are needed."""
    others = [s for s in contract.steps.values() if s.best or (s.padded and not s.last)]
    has_more = contract.source or contract.table or contract.parts
    if contract.form == "io" or has_more or others:
        return None
    path = package.with_suffix(".swift")
    path.write_text(swift_source(package.name, contract), encoding="utf-8")
    return path


def swift_source(package: str, contract: Contract) -> str:
    """The file's text: the function for one token, and the longest for the prompt if any."""
    decode = next(n for n, s in contract.steps.items() if s.tokens == 1 and not s.last)
    prefills = {n: s for n, s in contract.steps.items() if s.last and s.context == contract.context}
    prefill = max(prefills, key=lambda name: prefills[name].tokens, default=None)
    head = _HEAD.format(
        package=package,
        context=contract.context,
        decode=decode,
        prefill_field="" if prefill is None else f"    private let {PREFILL}: MLModel\n",
        prefill_load="" if prefill is None else f'        {PREFILL} = try load("{prefill}")\n',
    )
    assert decode.startswith(DECODE)
    if prefill is None:
        return head + _TAIL.format()
    step = prefills[prefill]
    conditions = [f"position + {step.tokens} <= context"]
    if not step.padded:
        conditions.append(f"rest.count >= {step.tokens}")
    if step.from_start:
        conditions.append("position == 0")
    conditions += [f"position % {ring} + {step.tokens} <= {ring}" for ring in contract.rings]
    body = _PREFILL.format(condition=", ".join(conditions), tokens=step.tokens)
    return head + body + _TAIL.format()
