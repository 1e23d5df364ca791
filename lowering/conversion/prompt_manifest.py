"""Packages whose manifest is there as soon as coremltools has written them.

The library below coremltools 9.0 writes a package's manifest when its object is destroyed
(*measured*), which is when the function that made the package returns, unless somebody holds that
function's frame: a sampling profiler does, such as the one in Dask's workers. The package is then
read without its manifest, and the conversion fails, once in some 40 times (*measured*).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from coremltools.libmodelpackage import ModelPackage
from coremltools.models import utils


class _Prompt:
    """A ``ModelPackage`` that is opened for each call and closed at its end."""

    isValid = staticmethod(ModelPackage.isValid)  # noqa: N815  # coremltools' name

    def __init__(self, path: str) -> None:
        self._path = path
        ModelPackage(path)

    def __getattr__(self, name: str) -> object:
        return getattr(ModelPackage(self._path), name)


@contextmanager
def prompt_manifest() -> Iterator[None]:
    """Write manifests at once; coremltools is put back on exit.

    The caller holds the conversion lock.
    """
    with mock.patch.object(utils, "_ModelPackage", _Prompt):
        yield
