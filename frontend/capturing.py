"""Captures a model as one checked, named, functional ATen program."""

from __future__ import annotations

import copy
import functools
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.export import ExportedProgram
from torch.export._remove_effect_tokens_pass import _remove_effect_tokens
from torch.fx.experimental.symbolic_shapes import ConstraintViolationError
from torch.utils import _pytree as pytree

from frontend import ops as _ops  # noqa: F401  # defines the ane:: operators
from frontend.branches import run_all_paths
from frontend.branches.state import ValueInPythonError
from frontend.canonical import make_canonical
from frontend.compressed import settle_weights, with_encodings
from frontend.constant_buffers import numbers_as_constants
from frontend.dynamic_shapes import Call, normalise_call, remember_symbols, signature_of
from frontend.encoding import Encoding, EncodingError, Place
from frontend.errors import AnePassesError, CaptureError
from frontend.example_inputs import infer_inputs
from frontend.export_errors import decomposed, explain_export_error
from frontend.given_guards import check_given_guards
from frontend.heap import frozen_heap
from frontend.held_tensors import HeldTensors, adopt, written_constants
from frontend.keras_models import for_inference
from frontend.late_code import late_code
from frontend.legalize import to_cpu_float32
from frontend.preserve import decomposition_table
from frontend.program import Draft
from frontend.quantized_modules import with_dense_weights
from frontend.quantized_operators import settle_quantized
from frontend.releases import warn_of_untried
from frontend.signature_tables import composites_listed_once, quick_signatures
from frontend.size_guards import check_guards, deferring, warn_of_narrowed
from frontend.spelling import is_free_in_code, with_spellable_names
from frontend.structure import Flat, Structure, flatten
from frontend.surroundings import plain_torch, undisturbed, without_inference
from frontend.tensor_kinds import check_inputs, check_program, check_weights

# Key in ``program.graph_module.meta`` for the Structure that rebuilds the model's own result.
RESULT_STRUCTURE = "ane_result_structure"
# Key for the places, (module path, source line) each, where branches on tensors were merged.
BRANCHES = "ane_branches"


class LeftOutWarning(UserWarning):
    """A part of the model's result is no tensor and no plain value; the program has it not."""


class RenamedWarning(UserWarning):
    """Names that the model gives, or that Core ML reserves, are others in the package."""


@frozen_heap()
@late_code()
@quick_signatures()
def capture(
    model: nn.Module | ExportedProgram,
    example_inputs: object = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: object = None,
) -> ExportedProgram:
    """Captures ``model`` as an ATen program with composites kept whole.

    The model is captured for inference (``eval``), whatever its mode, and is left exactly as it
    was. Weights are shared, not copied, unless they are not float32 on the CPU. Results of any
    nesting become flat outputs with readable names; ``None`` and numbers among them are kept in
    the program's result structure.

    Args:
        model: a module in any mode, on any device, in float32, float16 or bfloat16, or a
            program from ``torch.export`` (any dialect).
        example_inputs: positional arguments, a tuple, or one tensor; may be left out where the
            model offers its own (see ``infer_inputs``).
        kwargs: keyword arguments.
        dynamic_shapes: as for ``torch.export.export``.

    Returns:
        The program: inputs named after the arguments of ``forward``, outputs after the fields
        of its result, in the order of the flattened call and result.

    Raises:
        CaptureError: inputs are missing or do not fit, or the model cannot be captured; the
            message names the user's source line and the next step.
        SizeError: a given program refuses sizes that its own ranges include.
    """
    warn_of_untried()
    if isinstance(model, ExportedProgram):
        check_given_guards(model)
        return _normalise(model, None)
    if not isinstance(model, nn.Module):
        raise CaptureError(
            "only modules and exported programs can be captured",
            expected="torch.nn.Module or torch.export.ExportedProgram",
            found=type(model).__name__,
            hint="wrap a function in a module, and call torch.export on a scripted one's source",
        )
    model = _original(model)
    args, keywords = call_arguments(model, example_inputs, kwargs)
    check_weights(model)
    check_inputs(model.forward, args, keywords)
    args, keywords = pytree.tree_map_only(Tensor, without_inference, (args, keywords))
    call = normalise_call(model.forward, args, keywords, dynamic_shapes)
    with undisturbed(model):
        encodings = with_dense_weights(model)
        try:
            program, result = _exported(model, call)
        except ValueInPythonError as error:
            # Only then: a buffer keeps its name in the program where it can.
            try:
                with numbers_as_constants(model):
                    program, result = _exported(model, call)
                    program = decomposed(program, {})
            except (AnePassesError, RuntimeError):  # torch refuses constants that are written
                raise error from None
    if result.dropped:
        warnings.warn(
            "parts of the result are left out, since they are no tensors: "
            + "; ".join(result.dropped)
            + ". Return tensors to keep them.",
            LeftOutWarning,
            stacklevel=2,
        )
    return _normalise(program, result, encodings)


def _exported(
    model: nn.Module, call: Call, state: Mapping[str, Tensor] = MappingProxyType({})
) -> tuple[ExportedProgram, Flat]:
    """The program and its result; ``state`` has tensors that become buffers, with their names."""
    branches: list[tuple[str, str]] = []
    traced, results = _traceable(model, call.kwargs, branches, state)
    with deferring() as violations:
        try:
            program = torch.export.export(
                traced, call.args, call.kwargs, dynamic_shapes=call.dynamic_shapes, strict=False
            )
        except AnePassesError:
            raise
        except (Exception, SystemExit) as error:  # forward may call sys.exit
            line = violations.fixing_line()
            raise explain_export_error(error, model, call.args, call.kwargs, line) from error
    if not state and (written := written_constants(program, model)):
        return _exported(model, call, written)
    check_program(program)
    try:
        check_guards(program, model, call, violations.error)
    except (ConstraintViolationError, AssertionError) as error:
        raise explain_export_error(error, model, call.args, call.kwargs) from error
    warn_of_narrowed(program, call)
    remember_symbols(program, call.axes)
    program.graph_module.meta[BRANCHES] = tuple(dict.fromkeys(branches))
    return program, results[-1]


def result_structure(program: ExportedProgram) -> Structure | None:
    """How the outputs of a captured program make up the model's own result, where known."""
    return program.graph_module.meta.get(RESULT_STRUCTURE)


def call_arguments(
    model: nn.Module, example_inputs: object, kwargs: Mapping[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What ``model`` is called with for these example inputs, inferred where there are none.

    Raises:
        CaptureError: none are given, and the model offers none.
    """
    if example_inputs is None and not kwargs:
        return infer_inputs(model)
    if example_inputs is None:
        return (), dict(kwargs or {})
    if isinstance(example_inputs, Mapping) and not kwargs:
        # A tokenizer's output: one call with keywords is what its users write.
        return (), dict(example_inputs)
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs), dict(kwargs or {})
    return (example_inputs,), dict(kwargs or {})


def _original(model: nn.Module) -> nn.Module:
    """The module behind ``torch.compile``, which takes its time for every shape, for inference."""
    while isinstance(model, OptimizedModule):
        model = model._orig_mod
    return for_inference(model)


def _traceable(
    model: nn.Module,
    kwargs: Mapping[str, Any],
    branches: list[tuple[str, str]],
    state: Mapping[str, Tensor],
) -> tuple[nn.Module, list[Flat]]:
    """A shallow copy of ``model`` whose forward returns flat leaves; its last run's Flat."""
    results: list[Flat] = []
    traced = _shallow(model)
    # Only the top level is copied: state set on it during the trace stays off the user's module.
    for table in ("_parameters", "_buffers", "_modules"):
        traced.__dict__[table] = copy.copy(traced.__dict__[table])
    traced.__dict__["_compiled_call_impl"] = None
    adopt(traced, state)
    original = _with_hooks(traced)
    if isinstance(traced, fx.GraphModule):
        traced = _as_module(traced)  # the exporter would interpret its graph and not call it
    held = HeldTensors(traced)

    @functools.wraps(model.forward)
    def forward(*args: object, **kwargs: object) -> tuple[Any, ...]:
        flats: list[Flat] = []

        def run() -> tuple[list[Any], Structure]:
            with held:
                flat = flatten(original(*args, **kwargs))
            flats.append(flat)
            leaves = [held.stand_in(x) if isinstance(x, Tensor) else x for x in flat.leaves]
            return leaves, flat.structure

        given = pytree.tree_leaves((args, kwargs))
        leaves, structure = run_all_paths(
            run,
            traced,
            inputs=given,
            decided=lambda site: branches.append((site.module, site.line)),
        )
        chosen = next(flat for flat in flats if flat.structure == structure)
        results.append(chosen)
        return tuple(leaves)

    forward.__signature__ = signature_of(model.forward, kwargs)  # type: ignore[attr-defined]
    traced.__dict__["forward"] = forward
    return traced, results


def _shallow(module: nn.Module) -> nn.Module:
    """A second module on the same contents; copy.copy is refused by parametrized modules."""
    twin = object.__new__(module.__class__)  # a GraphModule makes a new class of its own
    twin.__dict__.update(module.__dict__)
    return twin


def _as_module(module: nn.Module) -> nn.Module:
    """A plain module with the tables of ``module``."""
    plain = nn.Module()
    for table in ("_parameters", "_buffers", "_modules"):
        plain.__dict__[table] = module.__dict__[table]
    plain.__dict__["training"] = False
    return plain


def _with_hooks(traced: nn.Module) -> Callable[..., Any]:
    """The call of ``traced``; the hooks move into it, since they see the model's own result."""
    if not traced._forward_hooks and not traced._forward_pre_hooks:
        return traced.forward
    hooked = _shallow(traced)
    traced._forward_hooks, traced._forward_pre_hooks = OrderedDict(), OrderedDict()
    return functools.partial(nn.Module._call_impl, hooked)


def _normalise(
    program: ExportedProgram,
    result: Flat | None,
    encodings: Mapping[Place, Encoding | EncodingError] = MappingProxyType({}),
) -> ExportedProgram:
    """Decomposes, legalises and names.

    Args:
        program: as it was exported.
        result: gives the names of the outputs.
        encodings: of weights that were objects of a quantisation library.
    """
    structure = result.structure if result is not None else result_structure(program)
    check_program(program)
    program = with_encodings(with_spellable_names(program), encodings)
    with plain_torch(), warnings.catch_warnings():
        # torch's own pytree code warns of itself.
        warnings.filterwarnings("ignore", category=FutureWarning)
        with composites_listed_once():
            program = decomposed(program, decomposition_table())
        if program.graph_signature.input_tokens:
            # They keep run-time checks in order, and a package checks nothing.
            program = _remove_effect_tokens(program)
        program = to_cpu_float32(program)
    draft = Draft(program)
    settle_weights(draft)
    settle_quantized(draft)
    make_canonical(draft)
    draft.tidy()
    taken = [node.name for node in draft.user_inputs()]
    draft.rename_outputs(_output_names(program, result, taken))
    program = draft.close()
    if structure is not None:
        program.graph_module.meta[RESULT_STRUCTURE] = structure
    return program


def _output_names(program: ExportedProgram, result: Flat | None, taken: Sequence[str]) -> list[str]:
    if result is not None:
        names = result.names
    else:
        spec = program.call_spec.out_spec
        whole = pytree.tree_unflatten([torch.empty(0)] * spec.num_leaves, spec)
        names = flatten(whole).names
        kept = program.graph_signature.user_outputs
        if len(names) != len(kept):
            names = [f"output_{i}" for i in range(len(kept))]
    free = []
    for name in names:
        candidate = name
        while candidate in taken or candidate in free or not is_free_in_code(candidate):
            candidate += "_out"
        free.append(candidate)
    if result is not None:
        _warn_of_renamed(result.paths, free)
    return free


def _warn_of_renamed(keys: Sequence[str], names: Sequence[str]) -> None:
    """Says which outputs are not called what the model calls them; positions have no name."""
    pairs = [
        f"{key!r} is {name!r}"
        for key, name in zip(keys, names, strict=True)
        if key != name and key.strip("_0123456789")
    ]
    if pairs:
        warnings.warn(
            "outputs cannot have all names that the model gives them, since a name is an "
            f"identifier, no word of Python and no input's: {', '.join(pairs)}",
            RenamedWarning,
            stacklevel=5,
        )
