"""What one package is, where it is predicted to run and how far it is from its original.

``collect`` gathers a :class:`Report`; ``page``, ``text`` and ``model_explorer`` write it.
"""

from lowering.report.collect import collect
from lowering.report.result import Report, ReportError

__all__ = ["Report", "ReportError", "collect"]
