"""Numerics that strategies share: functions of arrays, with no model and no lab behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.api import Array, Example, Lab

# --- minibatch selection: N candidates, K_NN their gradients' inner products, s_N those with the mean anchor gradient


def held_out(lab: Lab, share: float) -> list[Example]:
    """Validation items to draw anchors from: of each task, `share` of its training size, but at least one."""
    numbers = {t: max(1, min(info.n_validation, round(share * info.n_train))) for t, info in lab.tasks.items()}
    return [e for task in sorted(numbers) for e in lab.sample(task, numbers[task], "validation")]


def anchors(held: Sequence[Example], pool: Any, n: int) -> list[Example]:
    """`n` of them for one selection, from the tasks that are being trained on."""
    known = [e for e in held if e.task in pool.quota]
    return [known[i] for i in sorted(pool.rng.choice(len(known), min(n, len(known)), replace=False))]


def domains(tasks: Sequence[str]) -> Array:
    """(N,) of int: the candidates' tasks as numbers 0..C-1, in the order of names."""
    found: Array = np.unique(np.asarray(tasks), return_inverse=True)[1]
    return found


def budgets(n_C: Array, kappa: int) -> Array:
    """kappa_C: floor(kappa n_c / N), the rest one by one to domains with the smallest budget so far that have room."""
    n_C = np.asarray(n_C)
    kappa = min(kappa, int(n_C.sum()))
    kappa_C: Array = kappa * n_C // max(1, n_C.sum())
    order = np.lexsort((np.arange(len(n_C)), kappa_C))
    while (missing := kappa - int(kappa_C.sum())) > 0:
        room = [c for c in order if kappa_C[c] < n_C[c]]
        kappa_C[room[:missing]] += 1
    return kappa_C


def top(score_N: Array, k: int) -> Array:
    """(k,) indices of the largest scores, largest first; ties by index."""
    found: Array = np.argsort(-np.asarray(score_N), kind="stable")[:k]
    return found


def nonnegative(A: Array, b: Array, x: Array, iterations: int, tol: float = 1e-9) -> Array:
    """argmax of <b, x> - <x, A x> / 2 over x >= 0, from `x`: accelerated projected gradient with restarts."""
    step, y, t = 1.0 / max(float(np.linalg.norm(A)), 1e-300), x, 1.0
    for _ in range(iterations):
        new = np.maximum(y + step * (b - A @ y), 0.0)
        moved = new - x
        if (y - new) @ moved > 0:  # the momentum points uphill no more
            t = 1.0
        t, before = (1 + (1 + 4 * t * t) ** 0.5) / 2, t
        y, x = new + (before - 1) / t * moved, new
        if np.abs(moved).max(initial=0.0) <= tol * np.abs(x).max(initial=0.0):
            break
    return x


def matroid_pursuit(
    K: Array, b: Array, dom_N: Array, kappa_C: Array, rng: np.random.Generator | None, iterations: int
) -> tuple[Array, Array]:
    """Maximise f(S) = max over w >= 0 on S of <w, b> - <w, K w> / 2, with at most kappa_c of each domain in S.

    In each round the basis is the best of what every domain may still take; `rng` picks one of it, None the best.
    Returns S in the order of its picks, and w (N,).
    """
    left_C, taken, w = np.array(kappa_C), np.zeros(len(b), bool), np.zeros(len(b))
    picked: list[int] = []
    for _ in range(int(left_C.sum())):
        gain = np.where(taken, -np.inf, b - K @ w)
        basis = [i for c, left in enumerate(left_C) for i in top(np.where(dom_N == c, gain, -np.inf), left)]
        i = int(basis[int(rng.integers(len(basis)))] if rng else max(basis, key=lambda i: gain[i]))
        picked.append(i)
        taken[i] = True
        left_C[dom_N[i]] -= 1
        w[picked] = nonnegative(K[np.ix_(picked, picked)], b[picked], w[picked], iterations)
    return np.array(picked), w


def orthogonal_pursuit(K: Array, c_N: Array, norm: float, k: int, lam: float, tol: float) -> tuple[Array, Array]:
    """OMP for min over w >= 0 of |sum w_i g_i - g|^2 + lam |w|^2 with at most k terms; c_i = <g_i, g>, norm = |g|^2.

    Returns the terms, fewer than k if none correlates any more or the residual is below tol |g|^2, and their weights.
    """
    picked: list[int] = []
    w: Array = np.zeros(0)
    while len(picked) < k:
        residual = norm - 2 * w @ c_N[picked] + w @ K[np.ix_(picked, picked)] @ w
        gain = c_N - K[:, picked] @ w
        gain[picked] = -np.inf
        i = int(gain.argmax())
        if gain[i] <= 0 or residual <= tol * norm:
            break
        picked.append(i)
        A = K[np.ix_(picked, picked)] + lam * np.eye(len(picked))
        w = np.linalg.lstsq(A, c_N[picked], rcond=None)[0]
        if w.min() < 0:
            w = nonnegative(A, c_N[picked], np.maximum(w, 0.0), 10_000)
    return np.array(picked, dtype=np.int64), w


def facility_location(S: Array, k: int) -> Array:
    """Greedy maximiser (k,) of sum_i max_{j in chosen} S_ij for similarities S >= 0: at least 1 - 1/e of the best."""
    served: Array = np.zeros(len(S))
    chosen: list[int] = []
    for _ in range(min(k, S.shape[1])):
        gain = np.maximum(S - served[:, None], 0.0).sum(0)
        gain[chosen] = -np.inf
        chosen.append(int(gain.argmax()))
        served = np.maximum(served, S[:, chosen[-1]])
    return np.array(chosen, dtype=np.int64)


def greedy_interaction(s_N: Array, W: Array, k: int) -> Array:
    """k times: take the largest s, then lower every s by its interaction W with what was taken."""
    s: Array = np.array(s_N, dtype=float)
    chosen: list[int] = []
    for _ in range(k):
        chosen.append(int(s.argmax()))
        s -= W[chosen[-1]]
        s[chosen] = -np.inf
    return np.array(chosen, dtype=np.int64)


def conflicts(K: Array) -> int:
    """Pairs whose gradients point against each other."""
    return int((np.triu(K, 1) < 0).sum())


def tally(pool: Any, tasks: Sequence[str], chosen: Array, points: int = 20, **values: float) -> None:
    """Keep running sums of a selection's figures; log their means and the task counts at each 1/points of progress.

    The sums are rolled back with the weights, progress is not: a point can be logged once more after a rollback.
    """
    now = np.array([1.0, *values.values()])
    counts = np.array([sum(pool.task[i] == t for i in chosen) for t in tasks])
    sums, seen = pool.state.get("selection.sums", 0 * now), pool.state.get("selection.tasks", 0 * counts)
    sums, seen = sums + now, seen + counts
    point, last = int(pool.progress * points), int(pool.state.get("selection.point", -1))
    if point > last:
        means = {name: round(float(m), 4) for name, m in zip(values, sums[1:] / sums[0], strict=True)}
        pool.log("selection", {"progress": round(pool.progress, 3), **means, "tasks": seen.tolist()})
        sums, seen = 0 * sums, 0 * seen
    pool.state["selection.sums"], pool.state["selection.tasks"] = sums, seen
    pool.state["selection.point"] = max(point, last)
