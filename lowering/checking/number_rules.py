"""Rules about numbers: integers beyond int32, and floats that float16 harms."""

from __future__ import annotations

from lowering.checking.rule import Rule, Severity

_WRONG, _SLOW, _NOTE = Severity.WRONG, Severity.SLOW, Severity.NOTE

NUMBER_RULES = (
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
        "fp16-vanishes",
        _WRONG,
        "Run as float16, a value becomes zero or keeps few of its digits because it is too small: "
        "float16 ends at 6e-8 and keeps fewer digits from 6.1e-5 down. What divides by it, or "
        "takes its logarithm, becomes infinite.",
        "(1e-4 * x).var()",
        "RMS norms are rescaled, and constant factors below 6.1e-5 keep their operator in float32.",
        'Scale up before, or keep the operator in float32: convert(..., precision="safe").',
    ),
    Rule(
        "fp16-lost-digits",
        _WRONG,
        "Run as float16, the result of an operator is off by more than verify allows, and by far "
        "more than what it reads: float16 keeps 11 bits, and the operator needs more of its "
        "operands. Angles, coordinates, positions, times, running sums and differences of large "
        "numbers do.",
        "(positions.float() * frequencies).sin()  # 3,001 and 3,002 are one number in float16",
        "Inputs of whole numbers are tried at the ends of what they may be: of the tables that "
        "they are looked up in, or else up to 4,095.",
        'Each finding says what helps; convert(..., precision="safe") keeps the operator in '
        "float32. `ane-passes ranges` shows every value.",
    ),
    Rule(
        "fp16-subnormal",
        _NOTE,
        "No element of a value is above 6.1e-5, where float16 begins to lose digits. Hardware may "
        "take such numbers for 0, which the interpreter does not.",
        "1e-5 * torch.sigmoid(x)",
        remedy="Scale up before, and down where numbers are large again.",
        evidence="reported: john-rocky/CoreML-LLM, 2026-04-24, of the ANE of iOS",
    ),
    Rule(
        "fp16-accumulator",
        _NOTE,
        "A convolution or product gives sums beyond 32,768. The sums inside of the Neural Engines "
        "of M4 and M6 end there, which the interpreter does not know.",
        "(200 * x) @ (200 * y).T",
        remedy="Scale the weights down by a power of two, and the result up.",
        evidence="reported: 751K/Apple-Neural-Engine-Microarchitecture-Study-M6, measured on M4 "
        "and M6; M5 is said not to",
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
        "A constant that guards a division, root or logarithm, such as a norm's eps, is below "
        "6e-8, the smallest float16.",
        "x / (x.norm() + 1e-12)",
        "It becomes 6e-8. Whether the ANE computes with so small numbers or takes them for 0 is "
        "not known.",
        "Use 1e-6, or keep the operator in float32.",
    ),
)
