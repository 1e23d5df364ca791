"""What the outputs of a model are for; small modules behind any model."""

from lowering.contract.tasks.base import OutputTask
from lowering.contract.tasks.classify import Classify

# By the kind under which they stand in a contract.
TASKS: dict[str, type[OutputTask]] = {task.kind: task for task in (Classify,)}
