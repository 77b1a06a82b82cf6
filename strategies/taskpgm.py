"""TaskPGM: task weights that minimise the energy of a Markov random field over single-task models (arXiv 2507.12612).

E(p) = -beta <p, S 1> + lambda <p, S p> / 2 on the simplex; only r = n beta / lambda matters. Deviations: the proxies are
the model itself, each on a share of the budget (released: GPT-2 with LoRA, 2 to 10 epochs), and look at a sample of
validation items. The minimum is exact, with S shifted a little beyond semidefinite in both terms. B is a share of the
pool and is trained on for the rest of the budget (paper: 25,000 examples of millions, once); counts are by largest
remainder, at most a task's size. The divergence's map to S is ours (not published): 1 - JSD / ln 2.
`faithful` takes the released path instead: likelihoods floored at 1e-12, no epsilon, the closed form projected onto
the simplex, beta / lambda = 10 / 20, a multinomial draw with replacement.
`utility` is ours: the energy knows no task's worth, so validation gains of the proxies can be added to the unary term.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from harness.api import Array, Distribution, Example, Lab, LearnedMixture
from strategies._numerics import (
    apportion,
    brief,
    common,
    definite,
    domains,
    greedy_support,
    known,
    learned,
    looked,
    losses,
    project,
    rounds,
    simplex_qp,
    stationary,
    task_means,
    truncated_jsd,
)


@dataclass(frozen=True)
class TaskPGM:
    affinity: Literal["pmi", "jsd"] = "pmi"  # from sequence log-likelihoods, or from next-token distributions
    r: float | None = None  # n beta / lambda; None: n / 2, which is beta / lambda = 10 / 20
    epsilon: float = 1e-3  # added to S, in units of its mean diagonal
    length_norm: bool = False  # log-likelihoods per token
    top_k: int = 64  # tokens of a distribution that are kept, for affinity = jsd
    m: int | None = None  # choose so many tasks greedily, then weigh those; None: all may have weight
    B: float = 0.5  # examples to train on, as a share of all
    proxies: float = 0.3  # of the budget, for all single-task models with their looks
    looks: float = 0.3  # of that, for the looks
    items: int = 32  # validation items of each task that a proxy looks at, at most
    proxy: str | None = None  # another model for the proxies, a name as --model takes it
    faithful: bool = False  # as released; see above
    utility: float = (
        0.0  # ours, not the paper's: so much weight the task of the largest gain gets over that of the least
    )
    mixture: LearnedMixture | None = None  # weights that another run has learned: no proxies

    def __post_init__(self) -> None:
        if self.utility and (self.affinity != "pmi" or self.proxy or self.faithful):
            raise ValueError("utility needs affinity=pmi, proxies of the same model, and faithful=false")
        if not (0 < self.proxies < 1 and 0 < self.looks < 1 and self.B > 0):
            raise ValueError("proxies and looks are shares above 0 and below 1, B is above 0")
        if (self.r is not None and self.r < 0) or (self.m is not None and self.m < 1):
            raise ValueError("r is at least 0, m at least 1")
        if self.faithful and self.r is not None:
            raise ValueError("r is not for faithful, which has the released r, n/2")

    def run(self, lab: Lab) -> None:
        tasks = sorted(lab.tasks)
        weights = known(lab, self.mixture) or self.learn(lab)
        p, sizes = np.array([weights[t] for t in tasks]), np.array([lab.tasks[t].n_train for t in tasks])
        total = max(1, round(self.B * sizes.sum()))
        numbers = lab.rng.multinomial(total, p / p.sum()) if self.faithful else apportion(p, total, sizes)
        counts = dict(zip(tasks, numbers.tolist(), strict=True))
        lab.log("counts", counts)
        lab.train(lab.counts(counts, replacement=self.faithful))

    def learn(self, lab: Lab) -> dict[str, float]:
        """The weights of least energy, from a model of each task."""
        tasks, held = sorted(lab.tasks), rounds(lab, self.items)
        share = self.proxies / len(tasks)
        seen = [looked(lab, lab.only(task), held, self.view, share, self.looks, self.proxy) for task in tasks]
        items, views = common(held, seen)
        S = self.pmi(items, views) if self.affinity == "pmi" else self.jsd(lab, items, views)
        lab.log("affinity", {"tasks": tasks, "items": len(items), "S": brief(S)})
        p, terms = self.weights(S, self.gains(lab, items, views) if self.utility else None)
        return learned(lab, p, **terms)

    def view(self, child: Lab, examples: Sequence[Example]) -> Sequence[Any]:
        """What a single-task model says of examples."""
        return child.logprobs(examples) if self.affinity == "pmi" else child.distributions(examples, top_k=self.top_k)

    def pmi(self, items: Sequence[Example], views: Sequence[Sequence[Array]]) -> Array:
        """S_ij: half of what tasks i and j lose, in nats an item, by each other's model instead of their own; <= 0."""
        tokens_N = np.array([len(logp) for logp in views[0]])
        starts_N = np.cumsum(tokens_N) - tokens_N
        l_nN = np.stack([np.add.reduceat(np.concatenate(mine).astype(float), starts_N) for mine in views])
        if self.length_norm:
            l_nN /= tokens_N
        if self.faithful:
            l_nN = np.maximum(l_nN, np.log(1e-12))
        L = np.stack([task_means(items, row) for row in l_nN])  # of model i on task j
        S: Array = (L - L.diagonal() + (L - L.diagonal()).T) / 2
        return S

    def jsd(self, lab: Lab, items: Sequence[Example], views: Sequence[Sequence[Distribution]]) -> Array:
        """S_ij = 1 - JSD / ln 2, the mean over the response tokens of both tasks' items; logs the truncation's bound."""
        dom_N, n = domains([e.task for e in items]), len(views)
        T, J = np.zeros(n), np.zeros((3, n, n))  # on the items of the second task, model by model
        for k, i in enumerate(dom_N):
            ids, logp, tail = (np.stack([getattr(mine[k], name) for mine in views]) for name in ("ids", "logp", "tail"))
            J[:, :, i] += np.stack(truncated_jsd(views[i][k], Distribution(ids, logp, tail))).sum(-1)
            T[i] += len(views[i][k].tail)
        J = (J + J.transpose(0, 2, 1)) / (T[:, None] + T)
        J[:, range(n), range(n)] = 0.0
        lab.log("truncation", {"jsd_above": J[1].max(), "jsd_below": J[2].max()})
        S: Array = 1 - J[0] / np.log(2)
        return S

    def gains(self, lab: Lab, items: Sequence[Example], views: Sequence[Sequence[Array]]) -> Array:
        """u (n,): how far each single-task model lowers the mean loss over tasks, from 0 for the least to 1 for the most."""
        before, after = losses(lab, items), [[-float(logp.mean()) for logp in mine] for mine in views]
        fall = np.array([(task_means(items, before) - task_means(items, mine)).mean() for mine in after])
        lab.log("gains", {"nats": fall.round(6)})
        u: Array = (fall - fall.min()) / max(float(np.ptp(fall)), 1e-12)
        return u

    def weights(self, S: Array, u: Array | None = None) -> tuple[Array, dict[str, Any]]:
        """p (n,), and the terms that it comes from in units of lambda. `u`: utilities, in units of S's mean diagonal."""
        n = len(S)
        S = definite(S, 0.0 if self.faithful else self.epsilon)
        r = n / 2 if self.r is None else self.r
        unary = r / n * S.sum(1) + (0.0 if u is None else self.utility * S.diagonal().mean() * u)
        A = np.arange(n) if self.m is None else np.sort(greedy_support(S, unary, self.m))
        solve = (lambda S, c: project(stationary(S, c))) if self.faithful else simplex_qp
        p = np.zeros(n)
        p[A] = solve(S[np.ix_(A, A)], unary[A])
        return p, {"r": r, "unary": unary.round(6), "pairwise": (S @ p).round(6), "support": int((p > 0).sum())}
