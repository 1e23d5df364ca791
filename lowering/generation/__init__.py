"""Decoders for generation: one stateful package with several functions, and what drives it."""

from typing import TYPE_CHECKING

from frontend.lazy import lazily

if TYPE_CHECKING:
    from lowering.generation.errors import ContextError as ContextError
    from lowering.generation.errors import GenerationError as GenerationError
    from lowering.generation.export import export_decoder as export_decoder
    from lowering.generation.generator import Generator as Generator
    from lowering.generation.sampling import Sampling as Sampling

__all__, __getattr__, __dir__ = lazily(
    __name__,
    {
        "ContextError": "lowering.generation.errors",
        "GenerationError": "lowering.generation.errors",
        "Generator": "lowering.generation.generator",
        "Sampling": "lowering.generation.sampling",
        "export_decoder": "lowering.generation.export",
    },
)
