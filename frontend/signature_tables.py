"""Tables of torch's export, made once for a program and not once for each weight or library."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from torch import fx
from torch._export import utils
from torch.export import _trace, exported_program
from torch.export.graph_signature import ExportGraphSignature

from frontend.branches.ask import replaced

# What torch calls when it has traced a program anew, under this name in both modules.
_NAME = "_populate_param_buffer_metadata_to_new_gm"


@dataclass(frozen=True)
class _Tables:
    """What torch reads of a signature, which makes both tables anew whenever it is read."""

    inputs_to_parameters: Mapping[str, str]
    inputs_to_buffers: Mapping[str, str]


@contextmanager
def quick_signatures() -> Iterator[None]:
    """Inside, torch's copying of the weights' metadata takes time in proportion to the weights.

    Of a model with 400 weights it was a twentieth of the capture (*measured*, torch 2.13).
    """
    with ExitStack() as stack:
        for module in (_trace, exported_program):
            populate = getattr(module, _NAME)

            def populate_by_tables(
                metadata: dict[str, object],
                made: fx.GraphModule,
                signature: ExportGraphSignature,
                populate: Callable[..., None] = populate,
            ) -> None:
                parameters = dict(signature.inputs_to_parameters)
                populate(metadata, made, _Tables(parameters, dict(signature.inputs_to_buffers)))

            stack.enter_context(replaced(module, _NAME, populate_by_tables))
        yield


@contextmanager
def composites_listed_once() -> Iterator[None]:
    """Inside, which registers no operators, torch looks all composites up once.

    It does so twice for each library of operators, of which there are 29: 5 % of what a ViT took
    from module to package (*measured*, torch 2.13).
    """
    look_up = utils._materialize_cpp_cia_ops
    is_done: list[bool] = []

    def once() -> None:
        if not is_done:
            look_up()
            is_done.append(True)

    with replaced(utils, "_materialize_cpp_cia_ops", once):
        yield
