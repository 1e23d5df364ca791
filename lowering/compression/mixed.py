"""``mixed``: each weight in as many bits as it needs, under a budget of bytes or of error.

What is chosen by the predictions of ``weight_bits`` is run as a whole, and chosen again with more
care where they were too hopeful.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from frontend.errors import InputError, about
from lowering.compression.budget import Budget, budget_of
from lowering.compression.compressing import check_compressible, compress_with
from lowering.compression.result import Compression
from lowering.compression.rungs import MIXED, Rung
from lowering.compression.sites import WeightSite
from lowering.compression.weight_bits import WeightBits
from lowering.package.folder import SUFFIX, stored_bytes
from lowering.package.open import open_package, read_specification
from lowering.package.saving import copy_package, package_path
from lowering.verification.metrics import Metric, metric_of

# How often a choice is made again where the whole was not within the budget.
_TRIES = 5
# How many choices are judged by a metric: the error between the fewest and the most bits, which is
# a factor of a hundred about, is found to a tenth or two.
_METRIC_TRIES = 6


def compress_mixed(
    package: str | os.PathLike[str],
    budget: str | int | Budget | None,
    out: str | os.PathLike[str] | None = None,
    *,
    inputs: Sequence[Mapping[str, object]] = (),
    metric: str | Metric | None = None,
    seed: int = 0,
) -> Compression:
    """Write a package whose weights have the bits that a budget leaves them.

    Args:
        package: path of a ``.mlpackage`` of one function, whose weights are fp16 or fp32.
        budget: ``"12MB"`` or a number of bytes; ``"error=0.05"``: relative L2, at most, of the
            outputs against those of ``package``; or ``"metric=0.99"``, at least.
        out: where the package goes; beside the original by default, as ``NAME-mixed.mlpackage``.
        inputs: calls by name that the weights are judged on; random numbers where there are none,
            which say less.
        metric: of a budget of the metric: how far outputs agree with those of ``package`` as the
            task sees it, a name as for ``verify`` or a function.
        seed: of these.

    Raises:
        InputError: the budget cannot be reached; the message has what can be. Else as for
            ``compress``.
    """
    source = Path(package).expanduser()
    target = package_path(out or source.with_name(f"{source.stem}-{MIXED}{SUFFIX}"))
    if budget is None:
        raise InputError(
            "mixed bits need a budget",
            expected="a size such as 12MB, or error=0.05",
            hint="give one with --budget, or take one rung for all weights, such as pal6",
        )
    allowed = budget_of(budget)
    if (allowed.measure == "metric") != (metric is not None):
        raise InputError(
            "a metric of the task and a budget of it belong together",
            expected="budget metric=0.99 beside metric cosine, for example",
            found=f"budget {allowed}, metric {metric or 'none'}",
            hint="give both, or a budget of bytes or error alone",
        )
    specification, _ = read_specification(source)
    with about(str(source)):
        check_compressible(specification, Rung(MIXED, "palette", 8), str(source))
        opened = open_package(source)
        if len(opened.program.functions) > 1:
            raise InputError(
                "mixed bits are chosen for packages of one function",
                found=", ".join(sorted(opened.program.functions)),
                hint="take one rung for all weights, such as pal6",
            )
        bits = WeightBits(opened, source, inputs, seed)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".ane-passes-") as scratch:
        trial = Path(scratch) / f"{MIXED}{SUFFIX}"

        def make(measure: Budget, limit: float) -> Compression:
            chosen = bits.within(measure, limit)
            return compress_with(source, partial(_rung, chosen), _named(chosen), trial)

        if metric is not None:
            found = _within_metric(bits, allowed, metric_of(metric), make)
        else:
            found = _within(bits, allowed, make)
        copy_package(trial, target)
    return Compression(target, MIXED, found.bytes_before, stored_bytes(target), found.weights)


def _within(
    bits: WeightBits, allowed: Budget, make: Callable[[Budget, float], Compression]
) -> Compression:
    """The package within a budget of bytes or error; what is made last is it."""
    limit = allowed.limit
    for _ in range(_TRIES):
        found = make(allowed, limit)
        reached = bits.reached(allowed, found.package)
        if reached <= allowed.limit:
            return found
        limit = (
            limit - (reached - limit)
            if allowed.measure == "bytes"
            else (limit * 0.9 * allowed.limit / reached)
        )
    raise InputError(
        "no mixture of bits is within the budget",
        expected=f"at most {allowed}",
        found=f"the last of {_TRIES} tries reached {Budget(allowed.measure, reached)}",
        hint="allow more",
    )


def _within_metric(
    bits: WeightBits, allowed: Budget, metric: Metric, make: Callable[[Budget, float], Compression]
) -> Compression:
    """The smallest package found that agrees so well; what is made last is it.

    Agreement falls with the error, so the error that is allowed is halved in its logarithm: first
    the fewest bits of all are tried, then what lies between them and the most.
    """
    low, high = bits.errors()
    best: tuple[float, float] | None = None  # the error that was allowed, and the agreement
    closest, limit = 0.0, high
    for _ in range(_METRIC_TRIES):
        agreed = bits.agreement(metric, make(Budget("error", limit), limit).package)
        closest = max(closest, agreed)
        if agreed >= allowed.limit:
            best, low = (limit, agreed), limit
            if limit == high:
                break
        else:
            high = limit
        limit = math.sqrt(low * high)
    if best is None:
        agreed = bits.agreement(metric, make(Budget("error", low), low).package)
        closest = max(closest, agreed)
        if agreed < allowed.limit:
            raise InputError(
                "no mixture of bits is within the budget",
                expected=f"at least {allowed}",
                found=f"the largest that can be reached is {Budget('metric', closest)}",
                hint="allow less, or take the package as it is",
            )
        best = (low, agreed)
    return make(Budget("error", best[0]), best[0])


def _rung(chosen: Mapping[str, Rung | None], site: WeightSite) -> Rung | None:
    return chosen[site.name]


def _named(chosen: Mapping[str, Rung | None]) -> Rung:
    return Rung(MIXED, "palette", min((r.bits for r in chosen.values() if r), default=8))
