"""What float16 does to the values of a model: found, and kept in float32 where it must be."""
