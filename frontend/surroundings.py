"""What a capture shuts out: modes of the model and of its caller that would change the record."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from frontend.branches.ask import calling_line, replaced
from frontend.errors import CaptureError
from frontend.object_tree import restored
from frontend.recurrent import recurrent_layers_whole

# torch's warning about attributes set during an export, where it names no others.
_OWN_WEIGHTS = (
    r"The tensor attributes? (self\.[\w.]*_flat_weights\[\d+\](, )?)+ (was|were) assigned"
)
# Stack frames that an export puts on top of each other for one level of modules (measured with
# torch 2.13: 12), and as many again for the model's own frames between them.
_FRAMES_PER_LEVEL = 24


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Inside, ``model`` is recorded as it would run on its own, for inference and in eager mode.

    Shut out are training, gradients, autocast and inference mode of the caller, compiled
    functions, and torch's warnings about itself. Afterwards the model is as it was, objects that
    it holds included.
    """
    with ExitStack() as stack:
        stack.enter_context(restored(model))
        stack.enter_context(inference_mode(model))
        stack.enter_context(plain_torch())
        stack.enter_context(replaced(torch.autograd, "_engine_run_backward", _refuse_gradients))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(deep_enough(model))
        stack.enter_context(recordable_weights(model))
        stack.enter_context(recurrent_layers_whole())
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        # Lists that torch's recurrent layers keep of their own weights; nothing in them changes.
        warnings.filterwarnings("ignore", _OWN_WEIGHTS, UserWarning)
        yield


@contextmanager
def plain_torch() -> Iterator[None]:
    """Inside, torch computes without gradients, inference mode and autocast of the caller.

    Precision is chosen at conversion, and a rewrite under autocast would change dtypes.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for device in ("cpu", "cuda", "mps"):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def inference_mode(model: nn.Module) -> Iterator[None]:
    """Puts every module into evaluation mode, and back as it was."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            # Not module.eval(): models override it and `train` with effects of their own.
            module.__dict__["training"] = False
        yield
    finally:
        for module, mode in modes:
            module.__dict__["training"] = mode


@contextmanager
def deep_enough(model: nn.Module) -> Iterator[None]:
    """Inside, Python's limit of recursion leaves room for an export of modules this deep."""
    depth = max(name.count(".") + 1 for name, _ in model.named_modules())
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + _FRAMES_PER_LEVEL * depth)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


@contextmanager
def recordable_weights(model: nn.Module) -> Iterator[None]:
    """Inside, weights made in inference mode are plain tensors on the same memory."""
    tables = [
        table for module in model.modules() for table in (module._parameters, module._buffers)
    ]
    made: dict[int, Tensor] = {}
    swapped = []
    for table in tables:
        for name, tensor in table.items():
            if tensor is not None and tensor.is_inference():
                # Tied weights stay one tensor.
                plain = made.setdefault(id(tensor), _kept_kind(tensor, without_inference(tensor)))
                swapped.append((table, name, tensor, plain))
    try:
        for table, name, _, plain in swapped:
            table[name] = plain  # type: ignore[assignment]
        yield
    finally:
        for table, name, tensor, plain in swapped:
            if table.get(name) is plain:
                table[name] = tensor  # type: ignore[assignment]


def _refuse_gradients(*args: object, **kwargs: object) -> NoReturn:
    raise CaptureError(
        "the model computes gradients in forward, which an exporter cannot record",
        source=calling_line() or None,
        expected="operators alone: no torch.autograd.grad and no backward",
        hint="write the derivative out, or capture the module whose gradient is taken",
    )


def without_inference(tensor: Tensor) -> Tensor:
    """``tensor`` outside of inference mode, on the same memory."""
    if not tensor.is_inference() or tensor.layout is not torch.strided:
        return tensor
    with _disable_current_modes(), torch.inference_mode(False):
        plain = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        return plain.set_(
            tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride()
        )


def _kept_kind(tensor: Tensor, plain: Tensor) -> Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(plain, requires_grad=False)
    return plain
