"""A program converted to Core AI, and its file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lowering.errors import PackageError
from lowering.support.destination import Destination

if TYPE_CHECKING:
    from coreai.authoring import AIProgram

SUFFIX = ".aimodel"
PREFIX = "com.ane-passes."
INTERFACE_KEY = PREFIX + "interface"
# The files that every asset has (*measured*, coreai-core 1.0.0b3).
_METADATA, _PROGRAM = "metadata.json", "main.mlirb"
_ASSET = Destination(
    SUFFIX,
    "an asset",
    "a Core AI program",
    lambda folder: (folder / _METADATA).is_file() and (folder / _PROGRAM).is_file(),
)


@dataclass(frozen=True)
class Port:
    """An input, an output or a state.

    Attributes:
        name: public name.
        shape: sizes; -1 where it is open.
        dtype: numpy's name, such as ``float32``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Interface:
    """What an ``.aimodel`` takes, returns and keeps, in order.

    Core AI's own description has names and no order (*measured*).

    Attributes:
        inputs: in call order.
        outputs: in result order.
        states: written by each call, all zero before the first.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    states: tuple[Port, ...]

    def to_text(self) -> str:
        """As JSON, for the metadata of an asset."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Interface:
        """From :meth:`to_text`."""
        raw = json.loads(text)
        ports = {
            key: tuple(Port(p["name"], tuple(p["shape"]), p["dtype"]) for p in raw[key])
            for key in ("inputs", "outputs", "states")
        }
        return cls(**ports)


@dataclass(frozen=True)
class CoreAIModel:
    """A program as coreai-torch made it.

    Attributes:
        program: coreai's own object.
        interface: what it takes, returns and keeps.
        metadata: how it was made.
    """

    program: AIProgram
    interface: Interface
    metadata: Mapping[str, str]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write an ``.aimodel``, whole or not at all; see :func:`save_aimodel`."""
        return save_aimodel(self, path)


def is_aimodel(path: object) -> bool:
    """Whether ``path`` names an ``.aimodel``, there or not."""
    return isinstance(path, str | os.PathLike) and Path(path).suffix == SUFFIX


def save_aimodel(model: CoreAIModel, path: str | os.PathLike[str]) -> Path:
    """Write ``model`` as an asset at ``path``, replacing an asset that is there.

    Args:
        model: from ``convert(..., format="aimodel")``.
        path: ends with ``.aimodel``, which is added where there is no suffix.

    Returns:
        The absolute path.

    Raises:
        SaveError: the folder is missing or cannot be written, or something that is no asset
            stands at ``path``; coreai itself empties any folder that it is given (*measured*).
    """
    target = _ASSET.target(path)
    from coreai.runtime import AIModelAssetMetadata

    metadata = AIModelAssetMetadata()
    for key, value in {**model.metadata, INTERFACE_KEY: model.interface.to_text()}.items():
        metadata.set_custom(key, value)
    _ASSET.write(target, lambda fresh: model.program.save_asset(fresh, metadata))
    return target


def read_interface(path: Path) -> tuple[Interface, dict[str, str]]:
    """Interface and metadata of an asset, without Core AI.

    Raises:
        PackageError: it is no asset, or none that this package made.
    """
    file = path / _METADATA
    try:
        raw = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise PackageError(
            "this is no Core AI asset, or its metadata cannot be read",
            expected=f"a folder with {_METADATA} and {_PROGRAM}",
            found=f"{path}: {error}",
        ) from error
    custom = raw.get("creatorDefinedMetadata", {}) if isinstance(raw, dict) else {}
    try:
        return Interface.from_text(custom[INTERFACE_KEY]), custom
    except (KeyError, TypeError, ValueError) as error:
        raise PackageError(
            "this asset does not say what it takes and returns",
            expected=f"an asset that `ane-passes convert -o model{SUFFIX}` wrote",
            found=f"{file} without a readable {INTERFACE_KEY}",
        ) from error
