"""Prints the operators of an asset: ``python -m lowering.core_ai.contents_child ASSET``.

Places in the program and names, constants and the return left out, as a JSON list of pairs. A
process of its own: coreai's objects end the process when they are used in a wrong order.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from coreai.authoring import AIModelAsset

from lowering.core_ai.probe_child import CONSTANT, OUTPUT, operators


def main() -> None:
    """See the module."""
    # Operators are freed with their program: it is kept until the end.
    program = AIModelAsset.load(Path(sys.argv[1])).program
    names = [(place, op.name) for place, op in enumerate(operators(program))]
    print(json.dumps([pair for pair in names if pair[1] not in (CONSTANT, OUTPUT)]))


if __name__ == "__main__":
    main()
