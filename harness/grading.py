"""Grading one text as the final scoring would: lm-eval's own filters and exact match, item by item."""

from __future__ import annotations

from functools import cache
from typing import Any

from harness import stock
from harness.errors import HarnessError
from harness.suite import Suite

OWN: dict[str, Any] = {
    "filter_list": [{"name": "exact", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}],
    "metric_list": [{"metric": "exact_match"}],
}
NO_FILTER: list[dict[str, Any]] = [{"name": "none", "filter": [{"function": "take_first"}]}]


class Grader:
    """Filters and metric of a suite's tasks. Raises HarnessError for a task whose metric is not exact match."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self._rules = cache(self._rule)

    def _rule(self, task: str) -> tuple[Any, dict[str, Any]]:
        """(filter, arguments of the metric)."""
        from lm_eval.filters import build_filter_ensemble

        config = self._config(task)
        metric = config["metric_list"][0]
        if metric["metric"] != "exact_match":
            raise HarnessError(f"grade: task {task!r} is scored by {metric['metric']}, which judges no single text")
        chosen = self.suite.scoring.filter
        steps: dict[str, Any] | None = next(
            (f for f in config.get("filter_list") or NO_FILTER if f["name"] == chosen), None
        )
        if steps is None:
            raise HarnessError(f"grade: task {task!r} has no filter {chosen!r}")
        parts = [(s["function"], {k: v for k, v in s.items() if k != "function"} or None) for s in steps["filter"]]
        kept = {k: v for k, v in metric.items() if k not in ("metric", "aggregation", "higher_is_better")}
        return build_filter_ensemble(chosen, parts), kept

    def _config(self, task: str) -> dict[str, Any]:
        if self.suite.scoring.tasks:
            raise HarnessError(f"grade: suite {self.suite.name} scores other tasks than {task!r}")
        include = self.suite.scored[task].include
        found = stock.config(stock.path(self.suite.folder, include)) if include else OWN
        if "process_results" in found:
            raise HarnessError(f"grade: task {task!r} is scored by its own function, not by exact match of its text")
        return found

    def require(self, task: str) -> None:
        """Raise HarnessError if no text of this task can be graded by itself."""
        self._rules(task)

    def correct(self, task: str, source: str, target: str, text: str) -> bool:
        """Whether `text`, generated for the prompt of `source`, is scored as `target`."""
        from lm_eval.api.instance import Instance
        from lm_eval.api.metrics import exact_match_fn

        rule, arguments = self._rules(task)
        doc = {"input": source, "target": target}
        one = Instance(request_type="generate_until", doc=doc, arguments=("",), idx=0)
        one.resps = [text]
        rule.apply([one])
        found = exact_match_fn(predictions=[one.filtered_resps[rule.name]], references=[target], **arguments)
        return bool(found["exact_match"])
