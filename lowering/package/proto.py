"""Core ML's message types as coremltools ships them, without the rest of coremltools.

``import coremltools`` takes seconds and brings torch, transformers and scikit-learn with it where
they are installed; reading a package needs none of it. The generated modules are loaded from
coremltools' folder under this module's name. Protobuf keeps one class for each message of a file,
whoever loads it: a message of ours is a message of coremltools', both ways.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

_found = find_spec("coremltools")  # looks for the folder, and imports nothing
if _found is None or _found.origin is None:
    raise ModuleNotFoundError("coremltools is not installed", name="coremltools")
__path__ = [str(Path(_found.origin).parent / "proto")]

if TYPE_CHECKING:
    from coremltools.proto import FeatureTypes_pb2, MIL_pb2, Model_pb2, NonMaximumSuppression_pb2
else:
    from lowering.package.proto import (
        FeatureTypes_pb2,
        MIL_pb2,
        Model_pb2,
        NonMaximumSuppression_pb2,
    )

__all__ = ["FeatureTypes_pb2", "MIL_pb2", "Model_pb2", "NonMaximumSuppression_pb2"]
