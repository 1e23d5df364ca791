"""Every rule that preflight can report: its cause, an example, what we do and what you can do."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lowering.checking.number_rules import NUMBER_RULES
from lowering.checking.rule import Rule, Severity

__all__ = ["RULES", "Rule", "Severity"]

_FATAL, _WRONG, _OFF, _SLOW, _NOTE = (
    Severity.FATAL,
    Severity.WRONG,
    Severity.OFF_ANE,
    Severity.SLOW,
    Severity.NOTE,
)

_RULES = (
    # --- capture ------------------------------------------------------------------------------
    Rule(
        "does-not-run",
        _FATAL,
        "The model raises on its own example inputs, before anything of ours looks at it.",
        "model(torch.randn(2, 3))  # the model wants (2, 4)",
        remedy="Make model(*example_inputs, **kwargs) run in plain torch first.",
    ),
    Rule(
        "capture-failed",
        _FATAL,
        "torch.export cannot follow the model's Python code.",
        "x.data_ptr()",
        remedy="Rewrite the line that is named with tensor operations, or export the part that "
        "matters.",
    ),
    Rule(
        "value-in-python",
        _FATAL,
        "Python takes a number out of a tensor that depends on the inputs. A package is a fixed "
        "program: the number is not there when it is made.",
        "for _ in range(int(lengths.max())): ...",
        "Numbers that depend on weights and constants alone are computed while capturing.",
        "Keep it a tensor (masks, torch.where, gather), or compute it outside and pass it in.",
    ),
    Rule(
        "branch-on-data",
        _NOTE,
        "A Python if or while asks for the truth value of a tensor that depends on the inputs.",
        "if x.sum() > 0: x = x * 2",
        "Both sides are computed and torch.where selects; it costs both sides' time.",
        "Move the decision outside the model where one side is expensive.",
    ),
    Rule(
        "branch-not-merged",
        _FATAL,
        "A branch or loop on tensor values has sides that cannot become one program: other "
        "shapes, other structures, no bound, or too many paths.",
        "while error.max() > 1e-3: x = step(x)",
        "Branches whose sides return the same shapes are merged with torch.where.",
        "Make both sides return tensors of one shape, and give loops a fixed number of steps.",
    ),
    Rule(
        "path-assumed-away",
        _NOTE,
        "One side of a branch on tensor values raises an error. A package cannot raise.",
        "if ids.max() >= vocabulary: raise ValueError",
        "The path is left out: the package computes as if the error never happened.",
        "Check the inputs before the package is called.",
    ),
    Rule(
        "dynamic-shapes-structure",
        _FATAL,
        "dynamic_shapes is not nested like the call's arguments.",
        'dynamic_shapes={"x": {0: Dim("batch")}}  # the argument is called input',
        remedy="Give one entry for each argument, by its name or in order; None for fixed ones.",
    ),
    Rule(
        "size-fixed-by-model",
        _FATAL,
        "A size that was to be dynamic cannot vary: the model's code or another input fixes it.",
        'x.reshape(4, 8, 16)  # with Dim("batch") on axis 0',
        remedy="Write the size with x.shape[0], bound the Dim as the message says, or fix it.",
    ),
    Rule(
        "unbounded-size",
        _FATAL,
        "A dynamic size has no upper bound, and Core ML needs one.",
        'dynamic_shapes={"x": {1: Dim("tokens")}}',
        remedy='Give a bound, Dim("tokens", max=512), or list the sizes: sizes={"tokens": [64]}.',
    ),
    # --- operators ----------------------------------------------------------------------------
    Rule(
        "unsupported-op",
        _FATAL,
        "No lowering to MIL exists for the operator.",
        "torch.linalg.qr(x)",
        remedy="Write it with other operators, or bind one of your own with @composite.",
    ),
    Rule(
        "custom-op",
        _FATAL,
        "A torch.library operator has no lowering.",
        "torch.ops.mylib.scan(x)",
        "It stays whole through all passes.",
        "Say what it is in MIL with @composite and pass composites=(...,).",
    ),
    Rule(
        "complex-numbers",
        _FATAL,
        "Core ML has real numbers only.",
        "return torch.fft.fft(x)",
        "Complex values inside the model become pairs of real ones, transforms matrix products.",
        "Carry real and imaginary parts as two real tensors; rotary tables as cos and sin.",
    ),
    Rule(
        "control-flow-op",
        _FATAL,
        "The program holds a sub-graph (torch.cond, while_loop, map) that has no lowering.",
        "torch.while_loop(cond, body, (x,))",
        "torch.cond becomes torch.where when the model is captured by us.",
        "Unroll the loop, or run it outside the model.",
    ),
    Rule(
        "lowering-failed",
        _FATAL,
        "The operator has a lowering, but not for these shapes, dtypes or arguments.",
        'torch.nn.functional.grid_sample(x, grid, mode="bicubic")',
        remedy="Use other arguments, or bind a lowering of your own with @composite.",
    ),
    Rule(
        "data-dependent-shape",
        _OFF,
        "The size of a result depends on values, not on shapes.",
        "x[mask]   # or nonzero, unique, masked_select, repeat_interleave(x, counts)",
        "MIL sizes such results when the program runs; what follows leaves the ANE (predicted).",
        "Keep the full size and blend with a mask: torch.where(mask, x, 0).",
    ),
    Rule(
        "rank-above-5",
        _FATAL,
        "A tensor has more than five axes, and Core ML takes five at most.",
        "x.view(2, 2, 2, 2, 2, 2).logcumsumexp(3)",
        "Moves, elementwise operators, reductions and products run with axes merged (LimitRank).",
        "Merge axes that stay together before the permutation, or do it in two steps.",
    ),
    Rule(
        "random-op",
        _WRONG,
        "The model draws random numbers. The package draws its own, never torch's.",
        "x + torch.randn_like(x)",
        "Dropout is removed, since it draws in training only.",
        "Pass the random numbers as an input: results repeat, and the ANE keeps the rest.",
    ),
    # --- inputs, outputs, state ---------------------------------------------------------------
    Rule(
        "number-input",
        _FATAL,
        "An argument is a Python number that the program reads; packages take tensors only.",
        "model(x, 0.5)",
        "Numbers that torch.export makes part of the program are fixed at their example value.",
        "Pass it as a tensor of one element.",
    ),
    Rule(
        "value-baked-in",
        _NOTE,
        "An argument that is no tensor became part of the program.",
        'model(x, mode="mean")',
        "The package always computes with the example's value; it is no input of the package.",
        "Make a package for each value, or pass a tensor.",
    ),
    Rule(
        "result-left-out",
        _NOTE,
        "The result holds an object that no package can return.",
        "return logits, DynamicCache()",
        "The tensors around it are returned, the object is left out.",
        "Return its tensors.",
    ),
    Rule(
        "decoder-without-cache",
        _NOTE,
        "A decoder keeps keys and values of the tokens so far in a cache, which is no tensor: the "
        "package would compute every token anew with each one that comes.",
        "return CausalLMOutput(logits=logits, past_key_values=cache)",
        "",
        "Export it with lowering.generation.export_decoder, or `ane-passes export-llm`, which keep "
        "the cache in states.",
    ),
    Rule(
        "input-written",
        _WRONG,
        "The model writes to one of its inputs. A package cannot change what the caller holds.",
        "def forward(self, x): x.add_(1); return x",
        "The new value is used inside the package.",
        "Return the new value, or work on a copy.",
    ),
    Rule(
        "state-needs-ios18",
        _FATAL,
        "The model writes to a buffer, which Core ML keeps as a state from iOS18 on.",
        "self.cache[:, :, position] = key",
        "With minimum_deployment_target iOS18 the buffer becomes a state.",
        "Raise the target, or pass the buffer in and return the new one.",
    ),
    Rule(
        "integer-state",
        _NOTE,
        "A buffer that the model writes holds integers or booleans, and states are float16.",
        "self.position += 1",
        "Booleans and integers of 8 bits are kept as numbers, wider ones as digits of 11 bits "
        "along a first axis: all exact.",
        "Nothing, or pass the value in as an input to save the conversions.",
    ),
    Rule(
        "state-start",
        _NOTE,
        "A buffer that the model writes does not start at zero, and states do.",
        'self.register_buffer("peak", torch.full((8,), -torch.inf))',
        "A further state says whether there was a call before; until then the buffer's start is "
        "read, exactly.",
        "Nothing, or keep the difference to the start in the buffer.",
    ),
    *NUMBER_RULES,
    Rule(
        "training-mode",
        _NOTE,
        "The model is in training mode, with dropout or batch statistics that would act.",
        "model.train()",
        "It is captured as in eval mode: no dropout, stored statistics. The model stays as it is.",
        "Call model.eval() first when you compare results.",
    ),
    Rule(
        "pass-failed",
        _FATAL,
        "A pass broke an invariant of the program, and the check after it noticed.",
        automatic="Nothing is converted from a program that failed a check.",
        remedy="Leave the pass that is named out of the pipeline, and report the model.",
    ),
    # --- placement ----------------------------------------------------------------------------
    Rule(
        "padding",
        _SLOW,
        "The ANE stores the last axis in whole steps of 64 bytes, and most of this tensor is what "
        "fills them up.",
        "x.view(-1, 1)",
        "Passes bring tensors into (batch, channels, 1, tokens) where they can.",
        "Put a long axis last.",
        "documented: Apple's guide to transformers on the ANE; not measured here",
    ),
    Rule(
        "form-declined",
        _SLOW,
        "A pass that brings operators into the form the ANE prefers left this one as it was.",
        "",
        "The program stays correct; it keeps a form that the ANE likes less (assumed).",
        "Each finding gives the pass and its reason.",
    ),
    Rule(
        "rewrite-declined",
        _NOTE,
        "A pass that tidies the program up looked at the place and left it as it was.",
        "",
        "The program stays correct.",
    ),
)

RULES: Mapping[str, Rule] = MappingProxyType({rule.id: rule for rule in _RULES})
