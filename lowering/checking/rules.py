"""Every rule that preflight can report: its cause, an example, what we do and what you can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import IntEnum
from types import MappingProxyType


class Severity(IntEnum):
    """How much a finding matters; larger is worse, and gates compare."""

    NOTE = 0
    SLOW = 1
    OFF_ANE = 2
    WRONG = 3
    FATAL = 4

    @property
    def label(self) -> str:
        """As tables, JSON and ``--fail-on`` spell it."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True)
class Rule:
    """One kind of obstacle.

    Attributes:
        id: stable name, for ``ane-passes explain`` and for scripts.
        severity: of a finding, where the finding does not say otherwise.
        cause: what is the matter, in sentences.
        example: a line of a model that shows it, ``""`` where no line does.
        automatic: what is done about it without asking, ``""`` for nothing.
        remedy: what the user can do, ``""`` for nothing.
        evidence: what the rule rests on, where it is a prediction.
    """

    id: str
    severity: Severity
    cause: str
    example: str = ""
    automatic: str = ""
    remedy: str = ""
    evidence: str = ""

    def to_json(self) -> dict[str, str]:
        """The fields, the severity by its label."""
        return {**asdict(self), "severity": self.severity.label}


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
    # --- numbers ------------------------------------------------------------------------------
    Rule(
        "int64-range",
        _WRONG,
        "An int64 value lies outside of int32, the widest integer of MIL.",
        "(ids * 2654435761) % buckets",
        "Constants beyond the range are held at its ends, which keeps comparisons and sentinels "
        "right; arithmetic with them is not, and convert refuses it.",
        "Keep integers below 2**31, or compute the hash outside the model.",
    ),
    Rule(
        "float64-narrowed",
        _NOTE,
        "The model computes in float64.",
        "x.double()",
        "It is computed in float32, then in the package's precision.",
        "Hold the result against the original with `ane-passes verify`.",
    ),
    Rule(
        "bfloat16-narrowed",
        _NOTE,
        "Weights or operators are bfloat16, which Core ML lacks.",
        "model.to(torch.bfloat16)",
        "It is computed in float32, then in float16: more digits, but a range up to 65,504 only.",
        "Look for fp16-overflow findings, which bfloat16 would have hidden.",
    ),
    Rule(
        "fp16-overflow",
        _WRONG,
        "On the example inputs a value is larger than 65,504, the largest float16. In a float16 "
        "package it becomes infinite, and what follows NaN.",
        "(x * 300) ** 2",
        "RMS norms are rescaled, and attention masks saturate, so these are not reported.",
        "Rescale, clamp, or keep the operator in float32 with compute_precision=an op selector.",
    ),
    Rule(
        "fp16-large-constant",
        _NOTE,
        "A constant lies beyond the float16 range, such as a mask's -1e9 or finfo.min.",
        "scores.masked_fill(mask, -1e9)",
        "Where only a softmax reads it, it becomes the largest float16, and the softmax gives 0 "
        "as before; elsewhere its operator computes in float32, off the ANE.",
        "Use -1e4, which also leaves room for what is added to it.",
    ),
    Rule(
        "fp16-large-weight",
        _SLOW,
        "A weight lies beyond the float16 range.",
        "linear.weight.mul_(1e6)",
        "Its operator, and what reads the result up to a norm or the like, compute in float32, "
        "which the ANE does not; a result beyond the range still becomes infinite in an output.",
        "Move the scale to where values are small, or fold it into a norm.",
    ),
    Rule(
        "fp16-tiny-constant",
        _NOTE,
        "A constant that guards a division, root or logarithm is below 6e-8, the smallest float16.",
        "x / (x.norm() + 1e-12)",
        "It becomes 6e-8. Whether the ANE computes with so small numbers or takes them for 0 is "
        "not known.",
        "Use 1e-6, or keep the operator in float32.",
    ),
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
