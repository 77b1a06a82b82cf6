"""Numerics that strategies share: functions of arrays, with no model and no lab behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from harness.api import Array, Distribution, Example, HarnessError, Lab, LearnedMixture, Mixture

# --- minibatch selection: N candidates, K_NN their gradients' inner products, s_N those with the mean anchor gradient


def held_out(lab: Lab, share: float) -> list[Example]:
    """Validation items to draw anchors from: of each task, `share` of its training size, but at least one."""
    numbers = {t: max(1, min(info.n_validation, round(share * info.n_train))) for t, info in lab.tasks.items()}
    return [e for task in sorted(numbers) for e in lab.sample(task, numbers[task], "validation")]


def anchors(held: Sequence[Example], pool: Any, n: int) -> list[Example]:
    """`n` of them for one selection, from the tasks that are being trained on."""
    known = [e for e in held if e.task in pool.quota]
    return [known[i] for i in sorted(pool.rng.choice(len(known), min(n, len(known)), replace=False))]


def split(gram: Array, n: int) -> tuple[Array, Array, float]:
    """Of n candidates and their anchors: K (n, n), s (n,) with the mean anchor gradient, and the square of that mean."""
    K, V = gram.astype(float), max(1, len(gram) - n)
    return K[:n, :n], K[:n, n:].sum(1) / V, float(K[n:, n:].sum()) / V**2


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


RIDGE = 1e-6  # of the largest squared length; inner products are float32, of equal rows too


def nonnegative(A: Array, b: Array, x: Array) -> Array:
    """argmax of <b, x> - <x, A x> / 2 over x >= 0, from the support of `x`: an active-set method (Lawson and Hanson).

    Each round adds the number that gains most, solves on the support, and drops what reaches 0 on the way there. A is
    raised by RIDGE of its largest diagonal, so that a sum that is unbounded, or of equal rows, has a solution.
    """
    A = A + max(RIDGE * float(A.diagonal().max(initial=0.0)), 1e-300) * np.eye(len(b))
    x, support, enters = np.array(x, dtype=float), x > 0, -1
    for _ in range(10 * len(b) + 10):
        while support.any():
            z = np.zeros(len(b))
            z[support] = np.linalg.solve(A[np.ix_(support, support)], b[support])
            falls = support & (z <= 0)
            if not falls.any():
                x = z
                break
            way = np.where(falls, x / np.where(falls, x - z, 1.0), np.inf)
            support &= way > way.min()
            x = np.where(support, x + way.min() * (z - x), 0.0)
        if enters >= 0 and not support[enters]:  # it cannot move: optimal as far as numbers go
            break
        gain = np.where(support, -np.inf, b - A @ x)
        enters = int(gain.argmax())
        if gain[enters] <= 1e-12 * float(np.abs(b).max()):
            break
        support[enters] = True
    return x


Refit = Callable[[Array, Array, list[int], Array], Array]  # A, b, S and the w (N,) of the round before: w of this one


def warm(A: Array, b: Array, S: list[int], w: Array) -> Array:
    """The refit on S, solved from the weights of the round before."""
    found: Array = np.zeros(len(b))
    found[S] = nonnegative(A[np.ix_(S, S)], b[S], w[S])
    return found


def restarted(A: Array, b: Array, S: list[int], w: Array, *, rng: np.random.Generator, iterations: int) -> Array:
    """The refit as released: accelerated projected gradient from random weights, with the step size of all of A."""
    inside = np.isin(np.arange(len(b)), S)
    step, t = 1.0 / (float(np.linalg.norm(A)) + 1e-8), 1.0
    w = rng.random(len(b)) * inside
    y = w
    for _ in range(iterations):
        new = np.maximum(y + step * (b - A @ y), 0.0) * inside
        t, before = (1 + (1 + 4 * t * t) ** 0.5) / 2, t
        y, w = new + (before - 1) / t * (new - w), new
    return w


def matroid_pursuit(
    A: Array, b: Array, dom_N: Array, kappa_C: Array, rng: np.random.Generator | None, refit: Refit = warm
) -> tuple[Array, Array]:
    """Maximise f(S) = max over w >= 0 on S of <w, b> - <w, A w> / 2, with at most kappa_c of each domain in S.

    In each round the basis is the best of what every domain may still take; `rng` picks one of it, None the best.
    Returns S in the order of its picks, and w (N,). Raises HarnessError for numbers that are not finite.
    """
    if not (np.isfinite(A).all() and np.isfinite(b).all()):
        raise HarnessError("selection: inner products of gradients that are not finite")
    left_C, w, picked = np.array(kappa_C), np.zeros(len(b)), list[int]()
    draws = None if rng is None else rng.random(int(left_C.sum()))  # all now: a refit may draw too
    n_C = np.bincount(dom_N, minlength=len(left_C))
    rank_N = np.arange(len(b)) - np.repeat(np.cumsum(n_C) - n_C, n_C)  # a place's rank within its domain
    for k in range(int(left_C.sum())):
        gain = b - A @ w
        gain[picked] = -np.inf
        order = np.lexsort((-gain, dom_N))
        basis = order[rank_N < left_C[dom_N[order]]]
        i = int(basis[gain[basis].argmax()] if draws is None else basis[int(draws[k] * len(basis))])
        picked.append(i)
        left_C[dom_N[i]] -= 1
        w = refit(A, b, picked, w)
    return np.array(picked, dtype=np.int64), w


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
        w = nonnegative(K[np.ix_(picked, picked)] + lam * np.eye(len(picked)), c_N[picked], np.append(w, 0.0))
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


def tally(pool: Any, tasks: Sequence[str], chosen: Array, K: Array | None = None, **values: float) -> None:
    """Keep running sums of a selection's figures; log their means and the task counts at each twentieth of progress.

    Of K, conflicting pairs among the chosen are counted, and what as many drawn at random would have on average. With
    very many tasks there are fewer lines. The sums are rolled back with the weights, progress is not: after a rollback
    some selections are summed once more.
    """
    if K is not None:
        k, n = len(chosen), max(2, len(K))
        drawn = conflicts(K) * k * (k - 1) / (n * (n - 1))
        values = {"conflicts": conflicts(K[np.ix_(chosen, chosen)]), "random_conflicts": drawn} | values
    now = np.array([1.0, *values.values()])
    counts = np.array([sum(pool.task[i] == t for i in chosen) for t in tasks])
    sums, seen = pool.state.get("selection.sums", 0 * now) + now, pool.state.get("selection.tasks", 0 * counts) + counts
    means = {name: round(float(m), 4) for name, m in zip(values, sums[1:] / sums[0], strict=True)}
    line = {"progress": round(pool.progress, 3), **means, "tasks": seen.tolist()}
    if pool.log("selection", line, points=max(1, min(20, 32_000 // (8 * len(tasks) + 200)))):
        sums, seen = 0 * sums, 0 * seen
    pool.state["selection.sums"], pool.state["selection.tasks"] = sums, seen


# --- mixtures: n tasks in order of names, p_n weights on the simplex, S_nn similarities


def rounds(lab: Lab, most: int) -> list[list[Example]]:
    """Validation items to look at: at most `most` of each task, the k-th round holds the k-th item of every task."""
    drawn = [lab.sample(t, min(most, info.n_validation), "validation") for t, info in sorted(lab.tasks.items())]
    return [[items[k] for items in drawn if k < len(items)] for k in range(max(map(len, drawn)))]


def looked(
    lab: Lab,
    mixture: Mixture,
    held: Sequence[Sequence[Example]],
    look: Callable[[Lab, Sequence[Example]], Sequence[Any]],
    share: float,
    looks: float,
    model: str | None = None,
) -> list[Sequence[Any]]:
    """Rounds of `held` seen through a proxy trained on `mixture`: as many as fit into `looks` of its share."""
    seen: list[Sequence[Any]] = []
    with lab.fork("proxy", model=model, budget=f"{share} budget") as child:
        child.train(mixture, f"{1 - looks} budget", keep="none")
        for examples in held:
            seen.append(look(child, examples))
    return seen


def common(held: Sequence[Sequence[Example]], seen: Sequence[Sequence[Any]]) -> tuple[list[Example], list[list[Any]]]:
    """The items that every proxy has seen, and what each saw of them. Raises HarnessError if there are none."""
    n = min(map(len, seen))
    if not n:
        raise HarnessError("a proxy's share did not pay for one look; raise `proxies` or `looks`, or take more budget")
    return [e for examples in held[:n] for e in examples], [[x for row in mine[:n] for x in row] for mine in seen]


def losses(lab: Lab, examples: Sequence[Example]) -> list[float]:
    """Mean token NLL of each example at these weights, billed."""
    return [-float(row.mean()) for row in lab.logprobs(examples)]


def task_means(items: Sequence[Example], values: Sequence[float]) -> Array:
    """(n,) means over each task's items, tasks in order of names."""
    dom_N = domains([e.task for e in items])
    means: Array = np.bincount(dom_N, np.asarray(values, dtype=float)) / np.bincount(dom_N)
    return means


def learned(lab: Lab, p_n: Array, rounds: int = 1, **more: Any) -> dict[str, float]:
    """Weights by task, written into the record with their L1 distance to uniform.

    They are what the record says, so that a run which takes them over trains on the same numbers. Where many tasks are
    weighed anew in several `rounds`, only distances fit; the weights are in the record's list of mixtures.
    """
    weights = {task: round(float(x), 9) for task, x in zip(sorted(lab.tasks), p_n, strict=True)}
    distance = float(np.abs(p_n - 1 / len(p_n)).sum())
    shown = {"weights": weights} if rounds == 1 or len(weights) * rounds <= 500 else {}
    lab.log("weights", shown | {"l1": round(distance, 6)} | more)
    return weights


def known(lab: Lab, mixture: LearnedMixture | None = None) -> dict[str, float] | None:
    """Weights that need no learning, written into the record: another run's, or those of the only task; else None."""
    if mixture is not None:
        return learned(lab, np.array([mixture.weights[task] for task in sorted(lab.tasks)]), run=mixture.run)
    if len(lab.tasks) == 1:
        return learned(lab, np.ones(1), note="one task: there is nothing to learn")
    return None


def brief(M: Array, most: int = 4000) -> Array:
    """A matrix as the record can hold it: all of it, or the means of its rows where it has too many numbers."""
    shown: Array = np.round(M if M.size <= most else M.mean(1), 6)
    return shown


def tilted(p_n: Array, score_n: Array) -> Array:
    """p exp(score), normalised; scores of any size."""
    with np.errstate(divide="ignore"):
        z = np.log(p_n) + score_n
    e: Array = np.exp(z - z.max())
    e /= e.sum()
    return e


def group_weights(alpha_n: Array, dom_N: Array, tokens_N: Array) -> Array:
    """(N,) example weights under which task c's mean token loss counts as alpha_c, of the tasks in this batch."""
    share_N = alpha_n[dom_N] / np.bincount(dom_N, tokens_N)[dom_N]
    weights: Array = share_N * tokens_N.sum() / max(float(share_N @ tokens_N), 1e-300)
    return weights


def project(v: Array) -> Array:
    """The point of the simplex that is nearest to v, by sorting."""
    u = np.sort(v)[::-1]
    excess = (np.cumsum(u) - 1) / np.arange(1, len(v) + 1)
    p: Array = np.maximum(v - excess[np.flatnonzero(u > excess)[-1]], 0.0)
    return p


def stationary(S: Array, c: Array) -> Array:
    """Where <p, S p> / 2 - <c, p> is stationary on sum p = 1, p of any sign; by pseudo-inverse where S is singular.

    Uniform where S says nothing of the sum.
    """
    x, y = np.linalg.lstsq(S, np.stack([c, np.ones(len(c))], 1), rcond=1e-12)[0].T
    told = y.sum() * np.abs(S).sum(1).max() > 1e-9 * len(c)  # 1 / eigenvalue, or rounding where 1 is a null vector
    p: Array = x - (x.sum() - 1) / y.sum() * y if told else np.full(len(c), 1 / len(c))
    return p


def at_rest(S: Array, c: Array) -> Array:
    """The same for semidefinite S and c in its range, exactly: by elimination, or from all conditions together."""
    scale, n = max(float(np.abs(S).max()), float(np.abs(c).max()), 1e-300), len(c)
    with np.errstate(all="ignore"), suppress(np.linalg.LinAlgError):
        x, y = np.linalg.solve(S, np.stack([c, np.ones(n)], 1)).T
        p: Array = x - (x.sum() - 1) / y.sum() * y
        if np.ptp(S @ p - c) <= 1e-11 * scale and abs(p.sum() - 1) <= 1e-11:
            return p
    K = np.block([[S / scale, np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    rest: Array = np.linalg.lstsq(K, np.append(c / scale, 1.0), rcond=1e-12)[0][:n]
    return rest


def simplex_qp(S: Array, c: Array, start: Array | None = None) -> Array:
    """The minimiser over the simplex of <p, S p> / 2 - <c, p> for positive definite S: a primal active-set method.

    It begins at the stationary point, projected, or at `start`, a point of the simplex. Each round solves on the support;
    it drops the task that is the first to reach 0 on the way there, or, once there, adds the one whose multiplier is
    most negative. The value falls in every round, so it ends after finitely many.
    """
    n, tol = len(c), 1e-10 * max(float(np.abs(S).max()), float(np.abs(c).max()))
    p: Array = project(at_rest(S, c)) if start is None else start
    support = p > 0
    while True:
        q = np.zeros(n)
        q[support] = at_rest(S[np.ix_(support, support)], c[support])
        if (falls := support & (q <= 0)).any():
            way = np.where(falls, p / np.where(falls, p - q, 1.0), np.inf)
            if way.min() <= 0.0:  # the newcomer cannot move: optimal as far as numbers go
                return project(p)
            support &= way > way.min()
            p = np.where(support, p + way.min() * (q - p), 0.0)
            continue
        p, gradient = q, S @ q - c
        mu = gradient - gradient[support].mean()
        enters = int(np.argmin(np.where(support, np.inf, mu)))
        if support.all() or mu[enters] >= -tol:
            return p
        support[enters] = True


def greedy_support(S: Array, c: Array, m: int) -> Array:
    """(m,) tasks, in the order of their picks, each the one that lowers the least energy on the chosen ones most."""
    chosen = [int(np.argmin(S.diagonal() / 2 - c))]
    best: Array = np.ones(1)
    while len(chosen) < min(m, len(c)):
        found: dict[int, tuple[float, Array]] = {}
        for i in set(range(len(c))) - set(chosen):
            at = [*chosen, i]
            within = S[np.ix_(at, at)]
            p = simplex_qp(within, c[at], np.append(best, 0.0))
            found[i] = float(p @ within @ p / 2 - c[at] @ p), p
        chosen.append(min(found, key=lambda i: (found[i][0], i)))
        best = found[chosen[-1]][1]
    return np.array(chosen)


def definite(S: Array, epsilon: float) -> Array:
    """Symmetric, shifted until no eigenvalue is negative, and then by `epsilon` times its mean diagonal."""
    S = (S + S.T) / 2
    S = S + max(0.0, -float(np.linalg.eigvalsh(S)[0])) * np.eye(len(S))
    return S + epsilon * (float(S.diagonal().mean()) or 1.0) * np.eye(len(S))


def apportion(p_n: Array, total: int, caps_n: Array) -> Array:
    """(n,) counts by largest remainder, at most caps; what overflows goes to the others by their weights.

    The counts sum to `total`, or to the caps of all tasks that have weight.
    """
    share: Array = np.where(p_n > 0, caps_n, 0).astype(float)
    if total < share.sum():
        full: Array = np.zeros(len(p_n), bool)
        while True:
            rest = np.where(full, 0.0, p_n)
            share = np.where(full, caps_n, (total - caps_n[full].sum()) * rest / rest.sum())
            if not (over := ~full & (share > caps_n)).any():
                break
            full |= over
    counts: Array = np.floor(share + 1e-9).astype(np.int64)
    order = np.lexsort((np.arange(len(p_n)), counts - share))
    counts[order[: min(total, round(share.sum())) - int(counts.sum())]] += 1
    return counts


def truncated_jsd(a: Distribution, b: Distribution) -> tuple[Array, Array, Array]:
    """Jensen-Shannon divergence (..., S) in nats of two top-k distributions, and how far it may lie above and below.

    `b` may hold many, (..., S, k). Tokens that only one of them lists count as 0 in the other; both tails are one more
    symbol. With the tails t_a, t_b and the smallest listed probability s, the true value is at most ln 2 (t_a + t_b) / 2
    larger, because what one token tells of its model is at most ln 2, and at most the sum of s (1 + ln(1 + p / s)) / 2
    over those tokens smaller.
    """
    p, q = (np.exp(d.logp.astype(float)) for d in (a, b))
    t_a, t_b = (np.clip(d.tail.astype(float), 0.0, 1.0) for d in (a, b))
    shift = (int(max(a.ids.max(), b.ids.max())) + 1) * np.arange(len(a.ids))[:, None]  # a token of one position
    keys, order = np.unique(a.ids + shift, return_index=True)
    at = np.minimum(np.searchsorted(keys, b.ids + shift), len(keys) - 1)
    both = keys[at] == b.ids + shift
    p_at_b = np.where(both, p.reshape(-1)[order][at], 0.0)
    p_alone = np.maximum(p.sum(-1) - p_at_b.sum(-1), 0.0)
    found = halves(p_at_b, q).sum(-1) + np.log(2) * p_alone / 2 + halves(t_a, t_b)
    above = np.log(2) * (t_a + t_b) / 2
    s_a, s_b = np.minimum(p.min(-1), t_a)[..., None], np.minimum(q.min(-1), t_b)[..., None]
    below = (unseen(p, s_b).sum(-1) - unseen(p_at_b, s_b).sum(-1) + unseen(np.where(both, 0.0, q), s_a).sum(-1)) / 2
    return found, above, np.maximum(below, 0.0)


def unseen(p: Array, s: Array) -> Array:
    """s (1 + ln(1 + p / s)) where p > 0: twice what a token of p here, of at most s there and not listed, can take away."""
    bound: Array = np.where(p > 0, s * (1 + np.log1p(p / np.maximum(s, 1e-300))), 0.0)
    return bound


def halves(p: Array, q: Array) -> Array:
    """p ln(p / m) / 2 + q ln(q / m) / 2 with m = (p + q) / 2, elementwise; 0 ln 0 = 0."""
    m = np.maximum((p + q) / 2, 1e-300)
    parts: Array = sum(np.where(x > 0, x * np.log(np.maximum(x, 1e-300) / m), 0.0) for x in (p, q)) / 2  # type: ignore[assignment]
    return parts
