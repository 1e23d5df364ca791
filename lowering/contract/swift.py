"""A Swift file that loads a package and calls it, from its contract; nothing has compiled it."""

from __future__ import annotations

import re

from lowering.contract.contract import InputSpec, ModelContract, OutputSpec
from lowering.contract.tasks.classify import LABEL, Classify

_CROPS = {"none": ".scaleFill", "center": ".centerCrop", "pad": ".scaleFit"}


def swift_text(contract: ModelContract) -> str:
    """The file for a contract: a class with one method, its arguments the model's inputs.

    Pictures are scaled by Core ML as the contract says they are cut; its filter is Core ML's own
    and not the one that the contract names.
    """
    name = _class_name(contract.name)
    taken = ", ".join(f"{_word(entry.name)}: {_type(entry)}" for entry in contract.inputs)
    features = "\n".join(_feature(entry) for entry in contract.inputs)
    labels = getattr(contract.task, "labels", ())
    listed = ", ".join(f'"{_quoted(label)}"' for label in labels)
    results = "\n".join(_result(entry) for entry in _outputs(contract))
    system = contract.target.replace("iOS", "iOS ")
    return f"""\
// Loads {contract.name} ({system}) and calls it. Pictures are scaled to numbers in the package.
// Written by ane-passes from the contract. Nothing has compiled or run this file.
import CoreML
import CoreGraphics
import Vision

final class {name} {{
    private let model: MLModel
    static let labels: [String] = [{listed}]

    init(compiledModel url: URL) throws {{
        let configuration = MLModelConfiguration()
        configuration.computeUnits = .cpuAndNeuralEngine
        model = try MLModel(contentsOf: url, configuration: configuration)
    }}

    func predict({taken}) throws -> MLFeatureProvider {{
{features}
        let inputs = try MLDictionaryFeatureProvider(dictionary: [
{_pairs(contract)}
        ])
        let result = try model.prediction(from: inputs)
{results}
        return result
    }}
}}
"""


def _outputs(contract: ModelContract) -> list[OutputSpec]:
    """As the package has them: a classifier returns a label in the place of probabilities."""
    task = contract.task
    if isinstance(task, Classify) and task.classifier() is not None:
        label = OutputSpec(LABEL, (1,), "text", "the likeliest label")
        return [label, *contract.outputs[1:]]
    return list(contract.outputs)


def _result(entry: OutputSpec) -> str:
    shape = "x".join(map(str, entry.shape))
    meaning = f", {entry.meaning}" if entry.meaning else ""
    if entry.dtype == "text":
        return f'        // result.featureValue(for: "{entry.name}")!.stringValue: {entry.meaning}'
    return f'        // result.featureValue(for: "{entry.name}")!.multiArrayValue: {shape}{meaning}'


def _type(entry: InputSpec) -> str:
    return "MLMultiArray" if entry.image is None else "CGImage"


def _feature(entry: InputSpec) -> str:
    word = _word(entry.name)
    if entry.image is None:
        return f"        let {word}Value = MLFeatureValue(multiArray: {word})"
    return f"""\
        let {word}Constraint = model.modelDescription
            .inputDescriptionsByName["{entry.name}"]!.imageConstraint!
        let {word}Options: [MLFeatureValue.ImageOption: Any] = [
            .cropAndScale: VNImageCropAndScaleOption{_CROPS[entry.image.crop]}.rawValue
        ]
        let {word}Value = try MLFeatureValue(
            cgImage: {word}, constraint: {word}Constraint, options: {word}Options
        )"""


def _pairs(contract: ModelContract) -> str:
    return "\n".join(f'            "{e.name}": {_word(e.name)}Value,' for e in contract.inputs)


def _class_name(name: str) -> str:
    parts = re.findall(r"[A-Za-z0-9]+", name)
    word = "".join(part[0].upper() + part[1:] for part in parts)
    return word if word[:1].isalpha() else f"Model{word}"


def _word(name: str) -> str:
    head, *rest = re.findall(r"[A-Za-z0-9]+", name) or ["input"]
    return head + "".join(part[0].upper() + part[1:] for part in rest)


def _quoted(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"')
