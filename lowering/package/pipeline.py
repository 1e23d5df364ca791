"""Pipelines as one program: each stage's operations after those of the stage before.

``coremltools.utils.make_pipeline`` writes such models, and exporters of detectors put Core ML's
suppression of overlapping boxes behind a program in this way. What runs, is planned and verified is
then one program like any other.
"""

from __future__ import annotations

from typing import TypeAlias

from lowering.errors import PackageError
from lowering.package import proto
from lowering.package.blocks import walk
from lowering.package.kinds import damaged, model_kind

Spec: TypeAlias = proto.Model_pb2.Model
Block: TypeAlias = proto.MIL_pb2.Block
ValueType: TypeAlias = proto.MIL_pb2.ValueType
Suppression: TypeAlias = proto.NonMaximumSuppression_pb2.NonMaximumSuppression

# The operation that stands for a stage of Core ML's own suppression of boxes.
SUPPRESSION = "pipeline_non_maximum_suppression"

_MIL = proto.MIL_pb2
_MAIN = "main"
_CASTS = {_MIL.FLOAT16: "fp16", _MIL.FLOAT32: "fp32", _MIL.INT32: "int32", _MIL.BOOL: "bool"}


def stages_of(spec: Spec) -> list[Spec] | None:
    """The models of a pipeline in order; ``None`` for other models."""
    kind = spec.WhichOneof("Type")
    if kind == "pipeline":
        return list(spec.pipeline.models)
    if kind in ("pipelineClassifier", "pipelineRegressor"):
        return list(getattr(spec, kind).pipeline.models)
    return None


def merged(spec: Spec, label: str) -> Spec:
    """A pipeline as a model with one ML Program; its description says what the pipeline takes.

    Raises:
        PackageError: a stage is of a kind that cannot be part of a program, or the stages do not
            fit together.
    """
    return _Merger(spec, label).merged()


class _Merger:
    """Puts stages together; ``_values`` has what later stages can read, by feature name."""

    def __init__(self, spec: Spec, label: str) -> None:
        self._spec = spec
        self._label = label
        self._function = _MIL.Function()
        self._block = _MIL.Block()
        self._values: dict[str, tuple[str, ValueType]] = {}
        self._taken: set[str] = set()
        self._result = proto.Model_pb2.Model(specificationVersion=spec.specificationVersion)
        self._result.description.CopyFrom(spec.description)

    def merged(self) -> Spec:
        stages = stages_of(self._spec) or []
        for index, stage in enumerate(stages):
            kind = stage.WhichOneof("Type")
            if kind == "mlProgram":
                self._program(stage, index)
            elif kind == "nonMaximumSuppression":
                self._suppression(stage.nonMaximumSuppression, index)
            else:
                raise PackageError(
                    f"stage {index + 1} of the pipeline is {model_kind(kind)}",
                    expected="stages that are ML Programs, and non-maximum suppression",
                    found=f"{self._label}: {kind or 'an empty stage'}",
                    hint="take the ML Program out of the pipeline and give it alone",
                )
        for feature in self._spec.description.output:
            name, _ = self._value(feature.name, len(stages))
            if any(name == item.name for item in self._function.inputs):
                self._copy(name, feature.name)
            else:
                _rename(self._block, {name: feature.name})
            self._block.outputs.append(feature.name)
        self._function.block_specializations[self._function.opset].CopyFrom(self._block)
        self._result.mlProgram.version = 1
        self._result.mlProgram.functions[_MAIN].CopyFrom(self._function)
        return self._result

    def _program(self, stage: Spec, index: int) -> None:
        functions = stage.mlProgram.functions
        name = stage.description.defaultFunctionName or _MAIN
        function = functions.get(name)
        if function is None or function.opset not in function.block_specializations:
            raise damaged(f"a function {name!r} with operations in stage {index + 1}", self._label)
        self._function.opset = max(self._function.opset, function.opset, key=_version)
        body = Block()
        body.CopyFrom(function.block_specializations[function.opset])
        names = self._fresh_names(body)
        for item in function.inputs:
            names[item.name] = self._input(item, stage, index)
        _rename(body, names)
        self._block.operations.extend(body.operations)
        types = {out.name: out.type for op in walk(body) for out in op.outputs}
        types |= {names[item.name]: item.type for item in function.inputs}
        for output in function.block_specializations[function.opset].outputs:
            self._values[output] = (names[output], types[names[output]])

    def _fresh_names(self, body: Block) -> dict[str, str]:
        """New names for the values of a stage where an earlier one has them."""
        found: dict[str, str] = {}
        for operation in walk(body):
            for block in operation.blocks:
                found |= {item.name: self._fresh(item.name) for item in block.inputs}
            found |= {item.name: self._fresh(item.name) for item in operation.outputs}
        return found

    def _fresh(self, name: str) -> str:
        candidate, count = name, 1
        # The pipeline's own inputs and outputs keep their names.
        while candidate in self._taken or candidate in self._reserved:
            candidate, count = f"{name}_{count}", count + 1
        self._taken.add(candidate)
        return candidate

    @property
    def _reserved(self) -> set[str]:
        description = self._spec.description
        return {item.name for item in (*description.input, *description.output)}

    def _input(self, item: proto.MIL_pb2.NamedValueType, stage: Spec, index: int) -> str:
        """The name of what a stage's input ``item`` is: an earlier value, an input or a state."""
        if item.type.WhichOneof("type") == "stateType":
            copy = self._function.inputs.add()
            copy.CopyFrom(item)
            copy.name = self._fresh(item.name)
            known = {state.name for state in self._result.description.state}
            for state in stage.description.state:
                if state.name == item.name and copy.name not in known:
                    added = self._result.description.state.add()
                    added.CopyFrom(state)
                    added.name = copy.name
            return copy.name
        if item.name not in self._values:
            if item.name not in {feature.name for feature in self._spec.description.input}:
                raise damaged(f"a value {item.name!r} for stage {index + 1}", self._label)
            self._function.inputs.add().CopyFrom(item)
            self._values[item.name] = (item.name, item.type)
        name, have = self._values[item.name]
        have_type, want = have.tensorType, item.type.tensorType
        if have_type.rank != want.rank:
            raise damaged(
                f"{item.name!r} of rank {want.rank} for stage {index + 1}",
                f"{self._label}: rank {have_type.rank}",
            )
        return name if have_type.dataType == want.dataType else self._cast(name, item)

    def _cast(self, name: str, item: proto.MIL_pb2.NamedValueType) -> str:
        cast = self._operation("cast", self._fresh(f"{item.name}_cast"), item.type)
        cast.inputs["x"].arguments.add().name = name
        dtype = cast.inputs["dtype"].arguments.add().value
        dtype.type.tensorType.dataType = _MIL.STRING
        kind = _CASTS.get(item.type.tensorType.dataType, "fp32")
        dtype.immediateValue.tensor.strings.values.append(kind)
        return str(cast.outputs[0].name)

    def _copy(self, name: str, wanted: str) -> None:
        copy = self._operation("identity", wanted, self._values[wanted][1])
        copy.inputs["x"].arguments.add().name = name

    def _value(self, feature: str, index: int) -> tuple[str, ValueType]:
        if feature not in self._values:
            raise damaged(f"a value {feature!r} by the end of stage {index}", self._label)
        return self._values[feature]

    def _operation(self, kind: str, output: str, of: ValueType) -> proto.MIL_pb2.Operation:
        operation = self._block.operations.add(type=kind)
        result = operation.outputs.add()
        result.name = output
        result.type.CopyFrom(of)
        return operation

    def _suppression(self, nms: Suppression, index: int) -> None:
        operation = self._block.operations.add(type=SUPPRESSION)
        for key in ("confidence", "coordinates"):
            feature = getattr(nms, f"{key}InputFeatureName") or key
            name, kind = self._value(feature, index)
            operation.inputs[key].arguments.add().name = name
            output = operation.outputs.add()
            output.type.CopyFrom(kind)
            # How many boxes stay is known when they are.
            dimensions = output.type.tensorType.dimensions
            last = dimensions[-1].constant.size if dimensions else 0
            del dimensions[:]
            dimensions.add().unknown.variadic = False
            dimensions.add().constant.size = last
            output.type.tensorType.rank = len(dimensions)
            feature = getattr(nms, f"{key}OutputFeatureName") or key
            output.name = self._fresh(f"{feature}_kept")
            self._values[feature] = (output.name, output.type)
        for key, default in (
            ("iouThreshold", nms.iouThreshold),
            ("confidenceThreshold", nms.confidenceThreshold),
        ):
            self._threshold(operation, key, getattr(nms, f"{key}InputFeatureName"), default)
        per_class = operation.inputs["per_class"].arguments.add().value
        per_class.type.tensorType.dataType = _MIL.BOOL
        per_class.immediateValue.tensor.bools.values.append(nms.pickTop.perClass)

    def _threshold(
        self, operation: proto.MIL_pb2.Operation, key: str, feature: str, default: float
    ) -> None:
        """A threshold: an input of the pipeline that may be left out, or a number."""
        binding = operation.inputs[key].arguments.add()
        described = [item for item in self._result.description.input if item.name == feature]
        if not described:
            binding.value.type.tensorType.dataType = _MIL.FLOAT32
            binding.value.immediateValue.tensor.floats.values.append(default)
            return
        (item,) = described
        item.type.isOptional = True
        item.type.multiArrayType.dataType = proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT32
        item.type.multiArrayType.shape[:] = [1]
        item.type.multiArrayType.floatDefaultValue = default
        if feature not in self._values:
            added = self._function.inputs.add()
            added.name = feature
            added.type.tensorType.dataType = _MIL.FLOAT32
            self._values[feature] = (feature, added.type)
        binding.name = feature


def _version(opset: str) -> int:
    digits = "".join(filter(str.isdigit, opset))
    return int(digits or 0)


def _rename(block: Block, names: dict[str, str]) -> None:
    """Give the values of ``block`` other names, wherever they are made and read."""
    for operation in walk(block):
        for argument in operation.inputs.values():
            for item in argument.arguments:
                if item.HasField("name"):
                    item.name = names.get(item.name, item.name)
        for output in operation.outputs:
            output.name = names.get(output.name, output.name)
        for inner in operation.blocks:
            for item in inner.inputs:
                item.name = names.get(item.name, item.name)
            inner.outputs[:] = [names.get(name, name) for name in inner.outputs]
    block.outputs[:] = [names.get(name, name) for name in block.outputs]
