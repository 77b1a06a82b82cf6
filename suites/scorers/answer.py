"""Exact match of the final answer of a text: mSFT's rule (arXiv 2603.21606) with MetaMath's marker beside it."""

import re

MARK = re.compile(r"####|[Tt]he answer is:?")
OPTION = re.compile(r"\(?([A-J])[).]?(?:\s.*)?")


def final(text: str) -> str:
    """What follows the first "####" or "The answer is", on its line; all of the text where there is neither."""
    found = MARK.search(text)
    line = next((x for x in (text[found.end() :] if found else text).splitlines() if x.strip()), "")
    return line.strip().removesuffix(".").strip().strip("$").replace(",", "").strip()


def equal(given: str, wanted: str) -> bool:
    """As numbers if both are, as option letters if an option is wanted, else as texts without regard to case."""
    try:
        return float(given) == float(wanted)
    except ValueError:
        pass
    if re.fullmatch(r"[A-J]", wanted) and (letter := OPTION.fullmatch(given)):
        return letter[1] == wanted
    return given.casefold() == wanted.casefold()


def process_results(doc: dict, results: list[str]) -> dict[str, int]:
    """lm-eval's hook: one item's score."""
    return {"exact_match": int(equal(final(results[0]), final(doc["target"])))}
