"""Hostile and unlucky files, models and calls, each through the command line: see ``__main__``."""
