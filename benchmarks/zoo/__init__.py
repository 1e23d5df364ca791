"""Many architectures through the whole tool, stock coremltools beside it.

``python -m benchmarks.zoo`` measures and prints; ``catalog.py`` lists the models.
"""
