"""In which order coremltools declares the parameters of each MIL operator.

    python -m benchmarks.parameter_order

Writes ``lowering/planner/data/parameter_order.json`` from the installed coremltools. The planner
reads the file, as importing coremltools takes longer than a plan; a test holds it to the release.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import click
import coremltools as ct
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

FILE = Path(str(resources.files("lowering.planner").joinpath("data", "parameter_order.json")))


def parameter_order() -> dict[str, list[str]]:
    """Names of each operator's parameters: the newest version's first, then what older ones had."""
    return {
        op: list(
            dict.fromkeys(
                name
                for version in sorted(versions, reverse=True)
                for name in versions[version].input_spec.input_types
            )
        )
        for op, versions in sorted(SSAOpRegistry.core_ops.items())
    }


@click.command(help=__doc__)
def main() -> None:
    """See the module."""
    about = "Parameters of each MIL operator in the order in which coremltools declares them."
    head = {"about": about, "evidence": f"coremltools {ct.__version__} operator definitions"}
    lines = ",\n".join(
        f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in parameter_order().items()
    )
    start = json.dumps(head, indent=2).removesuffix("\n}")
    FILE.write_text(f'{start},\n  "parameters": {{\n{lines}\n  }}\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
