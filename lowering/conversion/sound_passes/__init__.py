"""coremltools' MIL passes, kept from rewriting what is not the same.

Many passes of coremltools 9.0 take an operator for one without effect, or several for one, on too
little: a constant within 0.001 of another, a shape that happens to agree, one of two operands. The
files here hold, by kind of pass, what each must still be true of before it may rewrite; ``guards``
puts that in front of the passes for the time of one conversion. What a pass may not rewrite stays
as it was.
"""

from lowering.conversion.sound_passes import elementwise, layout, linear
from lowering.conversion.sound_passes.guards import Guard, guarded

GUARDS: tuple[Guard, ...] = (*elementwise.TABLE, *layout.TABLE, *linear.TABLE)

__all__ = ["GUARDS", "Guard", "guarded"]
