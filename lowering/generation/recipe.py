"""How every package of an export is made: passes, precision, compression."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import coremltools as ct

from frontend.decoder.step import CacheForm
from lowering.compression.compressing import compress
from lowering.compression.rungs import Rung
from lowering.generation.contract import StepContract
from lowering.generation.overflows import Overflow
from lowering.generation.settings import WantedFunction
from lowering.generation.stepping import Call, Stepper
from lowering.multifunction import merge
from lowering.package.folder import SUFFIX
from lowering.package.saving import save
from lowering.precision.safe import SAFE, convert_in
from lowering.verification.original import Original
from passes.base import Pass
from passes.optimized_model import OptimizedModel

# What the precisions of an export are called by a conversion.
_PRECISIONS: Mapping[str, str] = {"fp16": "float16", "fp32": "float32", SAFE: SAFE}


@dataclass(frozen=True)
class Recipe:
    """How packages are made.

    Attributes:
        cache: where the cache is.
        passes: for every function.
        precision: of weights and arithmetic.
        rung: how weights are stored, ``None`` as they are.
        progress: called with a sentence for each function made.
    """

    cache: CacheForm
    passes: Sequence[Pass]
    precision: Literal["fp16", "fp32", "safe"]
    rung: Rung | None = None
    progress: Callable[[str], None] | None = None

    @property
    def dtype(self) -> str:
        """Of the numbers in a table beside the package."""
        return "float16" if self.precision == "fp16" else "float32"

    def functions(
        self, stepper: Stepper, wanted: Sequence[WantedFunction], folder: Path
    ) -> tuple[dict[str, Path], dict[str, StepContract], list[Overflow]]:
        """Packages of one function each, in ``folder``, how they are used, and what float16 has no
        room for."""
        made: dict[str, Path] = {}
        steps: dict[str, StepContract] = {}
        overflows: list[Overflow] = []
        for function in wanted:
            path = folder / function.name
            made[function.name], steps[function.name], found = self._step(stepper, function, path)
            overflows += found
            gc.collect()  # a program's constants are held in cycles, and the next one is as large
        return made, steps, overflows

    def _step(
        self, stepper: Stepper, function: WantedFunction, path: Path
    ) -> tuple[Path, StepContract, Sequence[Overflow]]:
        """One function; nothing of its program is left in memory."""
        program = stepper.program(function)
        step = StepContract(
            function.tokens,
            function.context,
            function.last,
            program.padded,
            program.from_start,
            function.best,
        )
        made = self.function(program.model, path, program.calls)
        if self.progress is not None:
            self.progress(f"{function.name}: {len(program.model.reports)} passes, converted")
        return made, step, program.overflows

    def function(
        self,
        model: OptimizedModel,
        path: Path,
        calls: Sequence[Call] = (),
    ) -> Path:
        """A package of one function at ``path``; ``calls`` show what ``safe`` must hold for."""
        original = Original.of(model)
        judged = [replace(original.with_inputs(given), buffers=states) for given, states in calls]
        converted = convert_in(
            model,
            precision=_PRECISIONS[self.precision],
            calibration=judged if self.precision == SAFE else (),
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
        )
        return save(converted, path)

    def package(self, made: Mapping[str, Path], target: Path, metadata: Mapping[str, str]) -> None:
        """The package of these functions, its weights as ``rung`` says."""
        if self.rung is None:
            merge(made, target, metadata=metadata)
            return
        whole = next(iter(made.values())).with_name(f"whole{SUFFIX}")
        compress(merge(made, whole, metadata=metadata), self.rung, target)
