"""Smaller packages: weights stored in fewer bits, each proven against what it was.

Start with ``compressing.compress`` and the named ``rungs``.
"""
