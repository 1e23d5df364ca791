"""Decoders of ``transformers``, unmodified, as programs of one step with an explicit cache."""
