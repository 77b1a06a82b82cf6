"""Procedural families shared by the pocket suite's data and by its base model's pretraining text.

A family draws one instance from a `random.Random` and returns named parts; `make_data.py` renders them in the suite's
own surface forms, `pretrain.py` in many others. Nothing here reads a clock, a file or the network.
"""

from __future__ import annotations

from random import Random

COLOURS = ["red", "blue", "green", "pink", "gray", "brown", "black", "white", "gold", "silver", "orange", "purple"]
ANIMALS = [
    "cat",
    "dog",
    "fox",
    "owl",
    "hen",
    "cow",
    "pig",
    "bee",
    "ant",
    "bat",
    "rat",
    "elk",
    "ape",
    "bear",
    "wolf",
    "lion",
    "frog",
    "crab",
    "duck",
    "goat",
    "deer",
    "hawk",
    "moth",
    "seal",
    "swan",
    "toad",
    "mole",
    "crow",
    "lamb",
    "newt",
]
OBJECTS = [
    "cup",
    "pen",
    "key",
    "box",
    "hat",
    "map",
    "bag",
    "jar",
    "lamp",
    "book",
    "coin",
    "rope",
    "drum",
    "ring",
    "bell",
    "fork",
    "vase",
    "shoe",
    "kite",
    "boat",
    "door",
    "sock",
    "nail",
    "ball",
    "desk",
    "harp",
    "lock",
    "sail",
    "tent",
    "wheel",
]
ADJECTIVES = [
    "old",
    "new",
    "big",
    "shy",
    "odd",
    "sad",
    "wise",
    "calm",
    "bold",
    "tiny",
    "fast",
    "lazy",
    "loud",
    "kind",
    "wild",
    "soft",
    "cold",
    "warm",
    "dark",
    "pale",
]
WORDS = ANIMALS + OBJECTS
PLACES = ["Oslo", "Rome", "Lima", "Cairo", "Paris", "Delhi", "Quito", "Tunis", "Kyoto", "Perth", "Milan", "Basel"]


def addition(rng: Random, low: int = 0, high: int = 99) -> tuple[int, int]:
    """Two summands in [low, high]."""
    return rng.randint(low, high), rng.randint(low, high)


def distinct(rng: Random, low: int, high: int) -> tuple[int, int]:
    """Two different integers in [low, high]."""
    a = rng.randint(low, high)
    b = rng.randint(low, high - 1)
    return a, b + (b >= a)


def words(rng: Random, low: int, high: int) -> list[str]:
    """Between `low` and `high` different words."""
    return rng.sample(WORDS, rng.randint(low, high))


def digits(rng: Random, low: int, high: int) -> str:
    """A string of `low` to `high` digits, repeats allowed."""
    return "".join(str(rng.randint(0, 9)) for _ in range(rng.randint(low, high)))


def bag(rng: Random, low: int, high: int) -> tuple[str, list[str]]:
    """A word and a list in which it occurs one to five times among two other words."""
    target, *others = rng.sample(WORDS, 3)
    n = rng.randint(low, high)
    k = rng.randint(1, min(5, n - 1))
    items = [target] * k + [rng.choice(others) for _ in range(n - k)]
    rng.shuffle(items)
    return target, items


def table(rng: Random, low: int, high: int) -> tuple[list[tuple[str, int]], int]:
    """Key-value pairs with different keys, and the index of the pair asked for."""
    keys = words(rng, low, high)
    return [(k, rng.randint(0, 9)) for k in keys], rng.randrange(len(keys))


def slots(rng: Random, low: int, high: int) -> tuple[list[str], int]:
    """A list of different words and an index into it that has a successor."""
    items = words(rng, low, high)
    return items, rng.randrange(len(items) - 1)
