"""Numbers that float16 has no room for: operators that stay in float32, and their price."""
