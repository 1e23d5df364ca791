"""``python -m lowering.cli``."""

from lowering.cli import main

main(prog_name="ane-passes")
