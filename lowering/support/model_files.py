"""Files that hold models and cannot be captured: what each is, and what to do with it."""

from __future__ import annotations

from pathlib import Path

from lowering.package.kinds import file_kind

_BUILT = "give a function that builds the model in PyTorch: file.py:function"
_HINTS = {
    ".py": "name the function in it: FILE.py:FUNCTION",
    ".mlpackage": "give the model that the package was made from",
    ".onnx": "ONNX has lost the model's source lines and composites, and is read here for "
    "comparison only; give a function that builds the model in PyTorch: file.py:function",
}
_SCRIPTED = (
    "TorchScript has lost the model's source; give a function that builds the model in PyTorch: "
    "file.py:function"
)
_CHECKPOINT = (
    "a checkpoint may hold weights alone; give a function that builds the model in PyTorch and "
    "loads them: file.py:function"
)


def described(path: Path) -> tuple[str, str]:
    """What the file or folder at ``path`` is, and the next step for who wants it converted."""
    what, _ = file_kind(path)
    if "TorchScript" in what:
        return what, _SCRIPTED
    if "torch.save" in what:
        return what, _CHECKPOINT
    return what, _HINTS.get(path.suffix, _BUILT)
