"""What a model of the zoo is: a line in one of the family files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowering.support.quiet import quiet_coremltools

Inputs = dict[str, Any]
Draw = Callable[[nn.Module], Inputs]

# Rows of an embedding: their number changes no operator, and 32 k rows of weights take time.
VOCABULARY = 4096
TOKENS = 128
# Capture sees other inputs than the comparison, so values baked into the program show.
WEIGHTS_SEED, CAPTURE_SEED, CHECK_SEED = 0, 1, 2


@dataclass(frozen=True)
class Entry:
    """A model with random weights and what it is called with.

    Attributes:
        name: unique; without spaces.
        build: makes the module; it is put into evaluation mode by the caller.
        draw: fresh random keyword arguments for the built module.
        needs: packages beyond torch that it is built with.
    """

    name: str
    build: Callable[[], nn.Module]
    draw: Draw
    needs: tuple[str, ...] = ()

    def made(self) -> tuple[nn.Module, Inputs, Inputs]:
        """The module, inputs to capture it with, and others to compare it with."""
        torch.manual_seed(WEIGHTS_SEED)
        with quiet_coremltools():
            module = self.build().eval()
        torch.manual_seed(CAPTURE_SEED)
        example = self.draw(module)
        calibrate_batch_norms(module, example)
        torch.manual_seed(CHECK_SEED)
        return module, example, self.draw(module)


def ids(tokens: int = TOKENS, vocabulary: int = VOCABULARY, name: str = "input_ids") -> Draw:
    """Token ids (1, S), none of them among the special first ten."""
    return lambda _: {name: torch.randint(10, vocabulary, (1, tokens))}


def masked_ids(tokens: int = TOKENS, vocabulary: int = VOCABULARY) -> Draw:
    """Token ids (1, S) and a mask (1, S) whose last quarter or less is padding."""

    def draw(_: nn.Module) -> Inputs:
        used = int(torch.randint(tokens * 3 // 4, tokens + 1, ()))
        mask = (torch.arange(tokens) < used).long()[None]
        return {"input_ids": torch.randint(10, vocabulary, (1, tokens)), "attention_mask": mask}

    return draw


def floats(**shapes: tuple[int, ...]) -> Draw:
    """Normal random numbers, one tensor for each name."""
    return lambda _: {name: torch.randn(shape) for name, shape in shapes.items()}


def image(size: int = 224, channels: int = 3, name: str = "pixel_values") -> Draw:
    """One image (1, C, H, W)."""
    return floats(**{name: (1, channels, size, size)})


def both(*draws: Draw) -> Draw:
    """The arguments of all ``draws`` together."""

    def draw(module: nn.Module) -> Inputs:
        return {name: value for each in draws for name, value in each(module).items()}

    return draw


def decoder_ids(tokens: int = TOKENS // 2, vocabulary: int = VOCABULARY) -> Draw:
    """Token ids (1, S) of a decoder."""
    return ids(tokens, vocabulary, "decoder_input_ids")


def hf(name: str, model: str, draw: Draw, *, part: str = "", **options: object) -> Entry:
    """A model class of transformers from its configuration; dictionaries make inner ones.

    Args:
        name: of the entry.
        model: class name in ``transformers``.
        draw: its inputs.
        part: path of the submodule that is taken, the whole model when empty.
        options: of the configuration.
    """

    def build() -> nn.Module:
        import transformers

        kind = getattr(transformers, model)
        module = kind._from_config(kind.config_class(**options))
        return module.get_submodule(part)

    return Entry(name, build, draw, ("transformers",))


def calibrate_batch_norms(module: nn.Module, arguments: Inputs) -> None:
    """Sets the statistics of batch norms to those of one call, as training would.

    With the mean 0 and variance 1 of a new layer, values of a deep random net shrink below what
    half precision can hold, and nothing can be said about its fp16 package.
    """

    def set_statistics(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        (x,) = given
        axes = [axis for axis in range(x.ndim) if axis != 1]
        if x.numel() > x.shape[1]:
            norm.running_mean = x.mean(axes)
            norm.running_var = x.var(axes)

    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    hooks = [
        norm.register_forward_pre_hook(set_statistics)
        for norm in norms
        if norm.running_mean is not None
    ]
    if hooks:
        with torch.no_grad():
            module(**arguments)
    for hook in hooks:
        hook.remove()
