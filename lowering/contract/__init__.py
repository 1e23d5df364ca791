"""A model with what it takes and returns in words: one folder that every verb reads."""
