"""``compress``: a package with its weights in fewer bits, each proven against what it was."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import coremltools as ct
import numpy as np

from frontend.errors import InputError, about
from lowering.compression.decode import prove
from lowering.compression.encoding import encode, slices_along
from lowering.compression.operations import is_ios18, operations
from lowering.compression.result import Compression, Weight
from lowering.compression.rungs import MIXED, W8A8, Rung, rung_of
from lowering.compression.sites import WeightSite, sites
from lowering.errors import CompressionError, RungTargetError
from lowering.package.blobs import BlobWriter, move_blobs
from lowering.package.folder import SUFFIX, stored_bytes
from lowering.package.kinds import not_a_program
from lowering.package.metadata_entry import of_function
from lowering.package.open import open_package, read_specification
from lowering.package.proto import MIL_pb2, Model_pb2
from lowering.package.saving import package_path, write_package
from lowering.package.source_table import SourceTable
from lowering.package.weights import Weights
from lowering.reference.stored_weights import is_compressed, stored_weights

if TYPE_CHECKING:
    from lowering.compression.budget import Budget
    from lowering.verification.metrics import Metric

# What coremltools calls the weights file.
_WEIGHTS_FILE = "weight.bin"
# Where a package says how it was compressed.
COMPRESSION_KEY = "com.ane-passes.compression"

# The rung of a weight; ``None`` leaves it as it is.
Choose = Callable[[WeightSite], Rung | None]


def compress(
    package: str | os.PathLike[str],
    rung: str | Rung,
    out: str | os.PathLike[str] | None = None,
    *,
    budget: str | int | Budget | None = None,
    inputs: Sequence[Mapping[str, object]] = (),
    metric: str | Metric | None = None,
) -> Compression:
    """Write a package whose large weights are stored as ``rung`` says.

    Only constants change: every other operation, the metadata and the small weights are those of
    ``package``. Weights that the rung cannot store are left bit for bit, with a reason. The file is
    decoded before it is moved into place, and each weight compared with its source: see
    ``lowering.compression.decode`` for the bounds. All functions of a package are compressed; what
    they share stays shared.

    Args:
        package: path of a ``.mlpackage`` whose weights are fp16 or fp32.
        rung: its name, see ``lowering.compression.rungs``; ``mixed`` for as many bits as each
            weight needs under ``budget``; ``w8a8`` for activations of eight bits as well.
        out: where the package goes; beside the original by default, as ``NAME-RUNG.mlpackage``.
        budget: of ``mixed``, see ``compress_mixed``.
        inputs: of ``mixed`` and ``w8a8``: calls by name that they are judged on, or calibrated.
        metric: of ``mixed`` under a budget of the metric.

    Returns:
        Sizes, and the error of each weight. It may be given where its package's path may.

    Raises:
        InputError: there is no such rung, the package is for a version without it, is compressed
            already, has weights that are not finite, or none that can be compressed.
        PackageError: there is no ML Program at the path.
        SaveError: it cannot be written.
        CompressionError: a weight does not decode to what it was.
    """
    if (budget is not None or metric is not None) and rung != MIXED:
        raise InputError(
            f"a budget is of the rung {MIXED}",
            found=f"rung {rung if isinstance(rung, str) else rung.name}, budget {budget or metric}",
            hint=f"take {MIXED}, or let `ladder` choose among rungs",
        )
    if rung == MIXED:
        from lowering.compression.mixed import compress_mixed

        return compress_mixed(package, budget, out, inputs=inputs, metric=metric)
    if rung == W8A8:
        from lowering.compression.activations import compress_activations

        return compress_activations(package, out, inputs=inputs)
    chosen = rung_of(rung)
    return compress_with(package, lambda site: chosen, chosen, out)


def compress_with(
    package: str | os.PathLike[str],
    choose: Choose,
    name: Rung,
    out: str | os.PathLike[str] | None = None,
) -> Compression:
    """As :func:`compress`, with a rung for each weight; ``name`` stands for them all."""
    source = Path(package).expanduser()
    target = package_path(out or source.with_name(f"{source.stem}-{name.name}{SUFFIX}"))
    specification, folder = read_specification(source)
    with about(str(source)):
        check_compressible(specification, name, str(source))
        work = _Work(specification, folder, source, choose, name)

        def write(fresh: Path) -> Model_pb2.Model:
            found = work.write(fresh)
            work.prove(fresh)
            return found

        write_package(write, target)
    return Compression(
        target,
        name.name,
        stored_bytes(source),
        stored_bytes(target),
        tuple(work.weights),
        (name.warning,) if name.warning else (),
    )


def check_compressible(specification: Model_pb2.Model, rung: Rung, label: str) -> None:
    """That a package can be stored as ``rung``, as far as its program shows.

    Raises:
        InputError: it is compressed already, or for a version without the rung.
        PackageError: it is no ML Program.
    """
    kind = specification.WhichOneof("Type")
    if kind != "mlProgram":
        raise not_a_program(kind, label)
    for name, function in specification.mlProgram.functions.items():
        block = function.block_specializations[function.opset]
        if is_compressed(block):
            raise InputError(
                "the package is compressed already",
                found=f"function {name!r} decodes weights when it is loaded",
                hint="compress the package that it was made from",
            )
        if rung.needs_ios18 and not is_ios18(function.opset):
            raise RungTargetError(
                f"the rung {rung.name} needs a package for iOS 18",
                expected="a function of CoreML8 or later",
                found=f"function {name!r} of {function.opset}",
                hint="convert with --deployment-target iOS18, or take int8, pal6, pal4 or sparse",
            )


@dataclass
class _Work:
    """One package on its way to another."""

    specification: Model_pb2.Model
    folder: Path
    source: Path
    choose: Choose
    name: Rung
    weights: list[Weight] = field(default_factory=list)

    def write(self, fresh: Path) -> Model_pb2.Model:
        """The package at ``fresh``, and its message."""
        written = Model_pb2.Model()
        written.CopyFrom(self.specification)
        self._stored = Weights(self.folder, self.source)
        self._rungs: dict[tuple[str, str], Rung] = {}
        with tempfile.TemporaryDirectory(dir=fresh.parent) as folder:
            with BlobWriter(Path(folder) / _WEIGHTS_FILE) as writer:
                for name, function in written.mlProgram.functions.items():
                    self._function(name, function, writer)
            if not self._rungs:
                raise InputError(
                    "no weight of the package can be compressed",
                    expected="one of more than 2048 numbers, that a convolution or product reads",
                    found="; ".join(f"{one.name}: {one.why_left}" for one in self.weights[:3])
                    or "small constants alone",
                )
            written.description.metadata.userDefined[COMPRESSION_KEY] = self.name.name
            ct.models.utils.save_spec(written, str(fresh), weights_dir=folder)
        return written

    def _function(self, name: str, function: MIL_pb2.Function, writer: BlobWriter) -> None:
        block = function.block_specializations[function.opset]
        metadata = dict(self.specification.description.metadata.userDefined)
        table = SourceTable.from_metadata(of_function(metadata, name))
        made: dict[str, list[MIL_pb2.Operation]] = {}
        for site in list(sites(block)):
            made |= self._site(name, site, function.opset, writer, table)
        _replace(block, made)
        inner = {output.name for ops in made.values() for op in ops for output in op.outputs}
        move_blobs(function, self.folder, writer, but=inner)

    def _site(
        self,
        function: str,
        site: WeightSite,
        opset: str,
        writer: BlobWriter,
        table: SourceTable,
    ) -> dict[str, list[MIL_pb2.Operation]]:
        rung = None if site.refusal else self.choose(site)
        why = site.refusal or ("" if rung else "it was chosen to stay")
        before = site.count * site.dtype.bits
        made: dict[str, list[MIL_pb2.Operation]] = {}
        after = before
        if rung is not None:
            weight = self._stored.stored(site.value)
            _check_finite(site, weight, table)
            encoded = encode(site, weight, rung)
            if isinstance(encoded, str):
                why, rung = encoded, None
            else:
                after = sum(decoder.bits for decoder in encoded)
                made[site.name] = operations(site, encoded, writer.put, opset)
                self._rungs[function, site.name] = rung
            self._stored.release(site.value)
        self.weights.append(
            Weight(
                name=site.name,
                shape=site.shape,
                readers=site.readers,
                function=function,
                rung=rung.name if rung else "",
                before=before,
                after=after,
                why_left=why,
            )
        )
        return made

    def prove(self, fresh: Path) -> None:
        """That every weight of the package at ``fresh`` is what it is to be."""
        written = open_package(fresh)
        for name, function in self.specification.mlProgram.functions.items():
            own = {
                site.name: site for site in sites(function.block_specializations[function.opset])
            }
            left = dict.fromkeys(own)
            for stored in stored_weights(written, name):
                site = own[stored.name]
                proof = prove(
                    self._stored.stored(site.value), stored, self._rungs[name, stored.name]
                )
                self._stored.release(site.value)
                left.pop(stored.name)
                place = self._place(name, stored.name)
                self.weights[place] = replace(
                    self.weights[place], error=proof.error, of_bound=proof.of_bound
                )
            block = written.function(name)[1]
            now = {site.name: site for site in sites(block)}
            for weight in left:
                if not np.array_equal(
                    self._stored.stored(own[weight].value).view(np.uint8),
                    written.weights.stored(now[weight].value).view(np.uint8),
                ):
                    raise CompressionError(
                        "a weight that was to stay as it is has changed", op=f"const {weight}"
                    )

    def _place(self, function: str, name: str) -> int:
        return next(
            place
            for place, weight in enumerate(self.weights)
            if (weight.function, weight.name) == (function, name)
        )


def _replace(block: MIL_pb2.Block, made: dict[str, list[MIL_pb2.Operation]]) -> None:
    """Let ``made`` stand in the places of the operations that it is keyed by, at any depth."""
    operations = []
    for operation in block.operations:
        for inner in operation.blocks:
            _replace(inner, made)
        own = made.get(operation.outputs[0].name) if operation.outputs else None
        operations += [operation] if own is None else own
    if len(operations) != len(block.operations) or any(
        new is not old for new, old in zip(operations, block.operations, strict=True)
    ):
        copied = MIL_pb2.Block()
        copied.operations.extend(operations)
        del block.operations[:]
        block.operations.extend(copied.operations)


def _check_finite(site: WeightSite, weight: np.ndarray, table: SourceTable) -> None:
    for part in slices_along(weight, 0):
        wrong = ~np.isfinite(weight[part])
        if wrong.any():
            source = next((str(table.lookup(one.split()[-1])) for one in site.readers), "")
            raise InputError(
                "a weight has numbers that are not finite, which no rung can store",
                op=f"const {site.name}, read by {', '.join(site.readers)}",
                source=source or None,
                found=f"{int(wrong.sum())} of NaN or infinity",
                hint="mend the model's weights and convert it again",
            )
