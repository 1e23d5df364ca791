"""Apple's Core AI as a second back end: the same optimised program as an ``.aimodel``.

Needs the extra ``ane-passes[coreai]``. Core AI runs on systems of 2026 and later (*documented*:
Apple, OS 27); its runtime for Linux computes on the CPU and says nothing of a device.
"""
