"""The ``.mlpackage`` on disk: read, written, its weights, types and table of sources."""
