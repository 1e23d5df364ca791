from lowering.reference.binding import Semantics

STRICT_SEMANTICS: dict[str, Semantics] = {}
