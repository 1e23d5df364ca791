"""Runs ``.aimodel`` assets in Apple's own runtime, in a child process."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from frontend.errors import InputError
from lowering.core_ai.asset import CoreAIModel, Port, read_interface
from lowering.errors import CoreAIError

Arrays = dict[str, np.ndarray]
_CHILD = "lowering.core_ai.runtime_child"
# Apple's runtime takes float16 products one by one: some thousand times an ordinary time
# (*measured*, 8.4 s for two small layers). Beyond this it is taken to hang.
TIMEOUT_SECONDS = 600.0
# On a busy machine the runtime ends now and then with these words, and not when the same asset is
# run again (*measured*, coreai-core 1.0.0b3); one that ends so each time is refused.
_PASSING = "C++ exception handling detected"
_ATTEMPTS = 3


@dataclass(frozen=True)
class Ran:
    """What some calls one after the other gave.

    Attributes:
        outputs: of each call, by name, in order.
        states: after the last call, by name.
    """

    outputs: tuple[Arrays, ...]
    states: Arrays


def run_calls(
    model: CoreAIModel | Path,
    calls: Sequence[Mapping[str, object]],
    states: Mapping[str, np.ndarray] | None = None,
    *,
    timeout: float = TIMEOUT_SECONDS,
) -> Ran:
    """Call ``model`` once for each of ``calls``, each going on from the states before.

    Args:
        model: the path of an asset, or what ``convert(..., format="aimodel")`` gave.
        calls: inputs by name: arrays, tensors or numbers; brought to the declared dtype.
        states: to start with; zeros by default.
        timeout: seconds after which the runtime is taken to hang.

    Raises:
        InputError: inputs do not fit.
        PackageError: the file is no asset of ours.
        CoreAIError: Core AI is not installed, or the runtime ended without a result.
    """
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="ane-passes-")))
        if isinstance(model, CoreAIModel):
            asset, interface = model.save(folder / "model.aimodel"), model.interface
        else:
            asset, interface = model, read_interface(model)[0]
        given: Arrays = {}
        for number, call in enumerate(calls):
            for name, value in feed(interface.inputs, call).items():
                given[f"{number}:{name}"] = value
        for port in interface.states:
            given[f"state:{port.name}"] = (states or {}).get(port.name, _zeros(port))
        found = _in_child(asset, given, folder, timeout)
    outputs = tuple(
        {port.name: found[f"{number}:{port.name}"] for port in interface.outputs}
        for number in range(len(calls))
    )
    return Ran(outputs, {port.name: found[f"state:{port.name}"] for port in interface.states})


def run_asset(
    path: Path,
    inputs: Mapping[str, np.ndarray],
    states: Mapping[str, np.ndarray] | None = None,
    *,
    keep_states: bool = False,
    timeout: float = TIMEOUT_SECONDS,
) -> Arrays:
    """Call any asset once, whoever made it, for its outputs.

    Args:
        path: of the asset.
        inputs: by name, exactly as the asset declares them.
        states: likewise, what they start from.
        keep_states: return the states after the call too, as ``state:NAME``.
        timeout: seconds after which the runtime is taken to hang.

    Raises:
        CoreAIError: Core AI is not installed, or the runtime ended without a result.
    """
    with tempfile.TemporaryDirectory(prefix="ane-passes-") as folder:
        given = {f"0:{name}": value for name, value in inputs.items()}
        given |= {f"state:{name}": value for name, value in (states or {}).items()}
        found = _in_child(path, given, Path(folder), timeout)
    outputs = {key.split(":", 1)[1]: v for key, v in found.items() if key.startswith("0:")}
    after = {key: value for key, value in found.items() if key.startswith("state:")}
    return outputs | after if keep_states else outputs


def feed(ports: Sequence[Port], given: Mapping[str, object]) -> Arrays:
    """``given`` as arrays of the declared shapes and dtypes, which the runtime does not check.

    Raises:
        InputError: a name is unknown or missing, a shape or an integer does not fit.
    """
    names = [port.name for port in ports]
    wrong = sorted(set(given) ^ set(names))
    if wrong:
        raise InputError(
            "these are not the inputs of the asset",
            expected=", ".join(names),
            found=", ".join(given) or "none",
        )
    arrays = {}
    for port in ports:
        value = given[port.name]
        if isinstance(value, torch.Tensor):
            value = value.detach().to(
                torch.float32 if value.dtype == torch.bfloat16 else value.dtype
            )
            value = value.numpy()
        array = np.asarray(value)
        fits = array.ndim == len(port.shape) and all(
            wanted in (-1, size) for wanted, size in zip(port.shape, array.shape, strict=True)
        )
        if not fits:
            raise InputError(
                f"input {port.name} has another shape",
                expected=str(list(port.shape)),
                found=str(list(array.shape)),
            )
        narrowed = array.astype(port.dtype)
        if array.dtype.kind in "iu" and not np.array_equal(narrowed, array):
            raise InputError(
                f"input {port.name} has numbers beyond {port.dtype}",
                expected=f"integers that {port.dtype} holds",
                found=f"{array.min()} to {array.max()}",
            )
        # ``ascontiguousarray`` gives a scalar an axis, on which the runtime ends.
        arrays[port.name] = np.ascontiguousarray(narrowed).reshape(narrowed.shape)
    return arrays


def not_installed(found: str) -> CoreAIError:
    """The error to raise where Python does not find Core AI; ``found``: Python's own words."""
    return CoreAIError(
        "Core AI is not installed", found=found, hint='pip install "ane-passes[coreai]"'
    )


def starts(asset: Path) -> Arrays:
    """The states of ``asset`` before the first call, by name."""
    return {port.name: _zeros(port) for port in read_interface(asset)[0].states}


def _zeros(port: Port) -> np.ndarray:
    return np.zeros(port.shape, port.dtype)


def _in_child(asset: Path, given: Arrays, folder: Path, timeout: float) -> Arrays:
    before, after = folder / "in.npz", folder / "out.npz"
    np.savez(before, **given)  # type: ignore[arg-type]
    command = [sys.executable, "-m", _CHILD, str(asset), str(before), str(after)]
    for _ in range(_ATTEMPTS):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise CoreAIError(
                "Apple's runtime gave no result in time", found=f"{timeout:g} s for {asset.name}"
            ) from error
        if _PASSING not in done.stderr:
            break
    if done.returncode == 0 and after.is_file():
        with np.load(after) as arrays:
            return {name: arrays[name] for name in arrays.files}
    last = done.stderr.strip().splitlines()
    if "No module named 'coreai" in done.stderr:
        raise not_installed(last[-1])
    if done.returncode < 0:
        how = f"ended by {signal.Signals(-done.returncode).name}"
    else:
        how = f"exit code {done.returncode}"
    raise CoreAIError(
        "Apple's runtime ended without a result",
        found=f"{how}: {last[-1] if last else 'no message'}",
        hint="the .mlpackage of the same program runs in this package's own interpreter",
    )
