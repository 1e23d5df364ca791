"""What the outputs of a model are for; small modules behind any model."""

from lowering.contract.tasks.base import OutputTask
from lowering.contract.tasks.classify import Classify
from lowering.contract.tasks.detect import Detect
from lowering.contract.tasks.embed import Embed
from lowering.contract.tasks.segment import Segment
from lowering.contract.tasks.speech import Speech

# By the kind under which they stand in a contract.
TASKS: dict[str, type[OutputTask]] = {
    task.kind: task for task in (Classify, Embed, Detect, Segment, Speech)
}
