"""From a rewritten program to an ML Program of coremltools."""
