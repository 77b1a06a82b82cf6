"""harness: a benchmark of multi-task SFT strategies at equal compute."""

__version__ = "0.1.0"
RULES_VERSION = 1
