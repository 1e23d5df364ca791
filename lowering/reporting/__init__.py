"""What one package is, where it is predicted to run and how far it is from its original.

``collect`` gathers a :class:`Report`; ``page``, ``text`` and ``model_explorer`` write it.
"""

from lowering.reporting.collect import collect
from lowering.reporting.result import Report, ReportError

__all__ = ["Report", "ReportError", "collect"]
