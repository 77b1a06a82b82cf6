"""harness: a benchmark of multi-task SFT strategies at equal compute."""

__version__ = "0.1.0"
RULES_VERSION = 1
REFERENCE = "proportional"  # the strategy that differences are to (rules.md 8)
