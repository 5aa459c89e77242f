"""Taskgate's guard: a server that screens prompts and answers with task-aware classifiers. Imports neither torch nor `gate`."""

from importlib.metadata import version

__version__ = version("taskgate")
