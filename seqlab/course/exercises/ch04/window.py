r"""Project: a window made of decays

*Add decaying heads so that together they remember evenly, then forget. · 30 minutes · ●●● · 3 points*

One decay forgets slowly from the first token on: it cannot remember everything for 64 tokens and have nothing left after
240. Several heads together can do better. Let them read the same q, k and v, head h with its own $\gamma_h$, and add
their outputs with fixed factors $a_h$. A pair stored n tokens ago then has the weight

$$w(n) = \sum_h a_h\,\gamma_h^{\,n} ,$$

and the a_h may be negative. Write `window(keep, gone)`, which chooses the heads for a window of `keep` tokens. It returns
`(gamma, mix)`, two float32 tensors of one length H, such that

- there are **at most 8 heads**, each with $0 < \gamma_h < 1$;
- the window is **even**: $0.85 \le w(n) \le 1.15$ for n = 0, …, keep;
- what is old is **forgotten**: $|w(n)| \le 0.05$ for every n from `gone` on;
- the factors stay small, $\sum_h |a_h| \le 500$: the states are rounded, and the factors magnify that.

`gone` is always 4 times `keep` or a little less (64 and 240, say). The check asks for several windows, and runs the heads over random
tokens to see that the recurrence gives the weights that the formula promises.
"""

import math

import torch

import seqlab.core.recurrence as core
from seqlab.course.exercise import Case, Requirement

FAR = 4096


def window(keep, gone):
    """Decays and factors of at most 8 heads, w(n) = Σ_h mix_h gamma_hⁿ: near 1 up to `keep`, near 0 from `gone` on.

    keep, gone: whole numbers of tokens. Returns gamma (H,) and mix (H,).
    """
    ### BEGIN SOLUTION
    m = 8
    slowest = 0.25 ** (1 / keep)
    h = torch.arange(1, m + 1)
    gamma = slowest ** h.float()
    mix = torch.tensor(
        [float((-1) ** (i + 1) * math.comb(m, i)) for i in range(1, m + 1)]
    )
    return gamma, mix
    ### END SOLUTION


WHY = r"""
**Solution.** Take one decay, $u = \gamma^n$, which falls from 1 to 0. The function $1 - (1-u)^m$ is flat near $u = 1$ and
near 0 for small u: it turns the slow fall into a step. Multiply it out,

$$1 - (1-u)^m = \sum_{h=1}^{m} (-1)^{h+1} \binom{m}{h}\, u^h ,$$

and $u^h = (\gamma^h)^n$: a sum of m decays, head h with $\gamma^h$ and the factor $(-1)^{h+1}\binom mh$. With m = 8 and u = 1/4
at n = keep the weight is still 0.90 there, and at 3.75 keep it is down to 0.04. The factors add up to 255.

*Another way:* fix eight decays and fit the factors by least squares, with a small ridge to hold them down. Without it the
columns $\gamma_h^n$ are so alike that the factors reach thousands, and float32 states lose their digits in the sum.
"""

HINTS = (
    "With u = γⁿ, which polynomial of u is flat near u = 1 and small near u = 0? Its powers of u are heads.",
    "1 - (1 - u)^m = Σ_h (-1)^(h+1) · binomial(m, h) · u^h, and u^h is the decay γ^h.",
    "m = 8; γ = 0.25 ** (1 / keep); gamma = γ ** h for h = 1 … 8; mix = (-1) ** (h + 1) * math.comb(8, h).",
)


def cases(rng):
    return [
        Case(f"keep {keep}, gone {gone}", {"keep": keep, "gone": gone})
        for keep, gone in ((64, 240), (16, 60), (200, 800))
    ]


def weights(gamma, mix, steps):
    n = torch.arange(steps, dtype=torch.float64)
    return gamma.double() ** n[:, None] @ mix.double()


def eight_heads(inputs, values):
    n = max(gamma.numel() for gamma, _ in values)
    return n <= 8 and all(
        g.shape == a.shape == (g.numel(),) for g, a in values
    ), f"{n} heads"


def between_0_and_1(inputs, values):
    low = min(gamma.min().item() for gamma, _ in values)
    high = max(gamma.max().item() for gamma, _ in values)
    return low > 0 and high < 1, f"from {low:.3g} to {high:.5g}"


def even(inputs, values):
    w = torch.cat(
        [weights(*v, i["keep"] + 1) for i, v in zip(inputs, values, strict=True)]
    )
    low, high = w.min().item(), w.max().item()
    return low >= 0.85 and high <= 1.15, f"w from {low:.3g} to {high:.3g}"


def forgotten(inputs, values):
    pairs = zip(inputs, values, strict=True)
    w = max(weights(*v, FAR)[i["gone"] :].abs().max().item() for i, v in pairs)
    return w <= 0.05, f"up to {w:.3g}"


def small(inputs, values):
    total = max(mix.abs().sum().item() for _, mix in values)
    return total <= 500, f"they add up to {total:.4g}"


def as_promised(inputs, values):
    """The recurrence over one-hot values, in float32: y_t is then the row of weights."""
    T, gap = 128, 0.0
    ones, eye = torch.ones(1, T, 1, 1), torch.eye(T).view(1, T, 1, T)
    for gamma, mix in values:
        H = gamma.numel()
        q, v = ones.expand(1, T, H, 1), eye.expand(1, T, H, T)
        y, _ = core.recurrent(q, q, v, log_a=gamma.log().view(H, 1).expand(1, T, H, 1))
        w = torch.einsum("thv,h->tv", y[0], mix)[-1].flip(0)
        gap = max(gap, (w - weights(gamma, mix, T)).abs().max().item())
    return gap <= 1e-2, f"the recurrence differs by up to {gap:.1g}"


REQUIREMENTS = (
    Requirement(
        "at most 8 heads, a factor for each",
        eight_heads,
        "gamma and mix must be two vectors of one length, of at most 8.",
    ),
    Requirement(
        "every decay between 0 and 1",
        between_0_and_1,
        "A decay of 1 or more never forgets, and one of 0 or less is none: each must lie between.",
    ),
    Requirement(
        "even up to keep",
        even,
        "The window is not even: some pair within `keep` has a weight below 0.85 or above 1.15. A single decay starts "
        "to fall at once; add heads whose fall is made up for by others.",
    ),
    Requirement(
        "forgotten from gone on",
        forgotten,
        "Something older than `gone` is still there with a weight above 0.05. Let the slowest head decay faster, as long "
        "as the window stays even.",
    ),
    Requirement(
        "factors of at most 500 together",
        small,
        "The factors are so large that the window is a small difference of large numbers: rounding in the states, "
        "magnified by them, would be seen. Hold them down when you fit them (a ridge), or choose decays that differ more.",
    ),
    Requirement(
        "the recurrence agrees",
        as_promised,
        "The recurrence with these heads does not give the weights of the formula: is gamma in float32?",
    ),
)


def fitted(keep, gone, ridge=1e-6):
    """Least squares over eight decays, even ones and then none, with a ridge."""
    gamma = 0.25 ** (torch.arange(1, 9).double() / keep)
    n = torch.cat([torch.arange(keep + 1), torch.arange(gone, 8 * gone, 4)]).double()
    A, b = gamma ** n[:, None], (n <= keep).double()
    mix = torch.linalg.solve(A.T @ A + ridge * len(n) * torch.eye(8).double(), A.T @ b)
    return gamma.float(), mix.float()


OUTPUTS = ("gamma", "mix")

ALTERNATIVES = (fitted,)

MISTAKES = """
m = 8 → m = 12
    gamma and mix must be two vectors of one length, of at most 8.
0.25 ** (1 / keep) → 0.25 ** (-1 / keep)
    A decay of 1 or more never forgets, and one of 0 or less is none: each must lie between.
m = 8 → m = 1
    The window is not even: some pair within `keep` has a weight below 0.85 or above 1.15. A single decay starts
    to fall at once; add heads whose fall is made up for by others.
0.25 ** (1 / keep) → 0.5 ** (1 / keep)
    Something older than `gone` is still there with a weight above 0.05. Let the slowest head decay faster, as long
    as the window stays even.
* → return fitted(keep, gone, ridge=1e-13)
    The factors are so large that the window is a small difference of large numbers: rounding in the states,
    magnified by them, would be seen. Hold them down when you fit them (a ridge), or choose decays that differ more.
"""
