r"""RWKV-6: how long does a token make the table remember?

*Compute half-lives that the token chooses, through a thin matrix. · 8 minutes · ●○○ · 1 point*

A layer of RWKV-6 computes $d_t = d + B \tanh(A\, x^d_t)$ with $x^d_t = x_t + μ \odot (x_{t-1} - x_t)$ and $a_t = e^{-e^{d_t}}$. (Here μ is the share of the token *before*; the thin matrices are used from the right.) Return the **half-life** in tokens of
each channel at each token: after how many tokens with this very decay would one half be left? Before the first token there are zeros. d may be 5 or -20: do not go through $a_t$, which rounds to 0 or to 1.
"""

import math

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch09.shared import rand, randn


def half_lives(x, mu, d, A, B):
    """x (T, D), mu and d (D,), A (D, r), B (r, D): half-lives (T, D)."""
    ### BEGIN SOLUTION
    before = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
    mixed = x + mu * (before - x)
    d_t = d + torch.tanh(mixed @ A) @ B
    return math.log(2) * torch.exp(-d_t)
    ### END SOLUTION


WHY = r"""
**Solution.** $a^n = ½$ where $n\, e^{d_t} = \ln 2$, so the half-life is $\ln 2 \cdot e^{-d_t}$. Going through $a_t$ would be $\ln ½ / \ln a_t$, and for $d = -20$ float32 rounds $a_t$ to 1, whose logarithm is 0.

With rank r the token's part costs $2 D r$ weights in place of $D^2$.

*Common mistakes:* μ as the share of the new token, as in RWKV-4 and -5; the tanh behind the second matrix; the half-life of the table's average.
"""

HINTS = (
    "Write a_t^n = 1/2 with a_t = exp(-exp(d_t)), and solve for n.",
    "n = ln 2 / exp(d_t): a_t itself is not needed.",
    "before = cat([zeros, x[:-1]]); d_t = d + tanh((x + mu * (before - x)) @ A) @ B; log(2) * exp(-d_t).",
)


def reference(x, mu, d, A, B):
    """In float64, token by token and number by number where it matters."""
    x, mu, d, A, B = (u.double() for u in (x, mu, d, A, B))
    rows, before = [], torch.zeros_like(x[0])
    for x_t in x:
        mixed = (1 - mu) * x_t + mu * before
        rows.append(torch.pow(2.0, -d / math.log(2)) * math.log(2))
        rows[-1] = rows[-1] / (B.T @ (A.T @ mixed).tanh()).exp()
        before = x_t
    return torch.stack(rows).float()


def cases(rng):
    def case(name, T, D, r, size=1.0, center=-2.0):
        inputs = {"x": randn(rng, T, D), "mu": rand(rng, D), "d": center + rand(rng, D)}
        inputs |= {"A": size * randn(rng, D, r), "B": 0.5 * randn(rng, r, D)}
        return Case(name, {name: u.requires_grad_() for name, u in inputs.items()})

    return [
        case("T = 1", 1, 3, 2),
        case("rank 1", 5, 4, 1),
        case("odd T", 7, 4, 3),
        case("A is 0: the start", 4, 3, 2, size=0.0),
        case("forgets at once", 5, 3, 2, center=5.0),
        case("remembers for ages", 5, 3, 2, center=-20.0),
    ]


OUTPUTS = ("half_lives",)

TIME_AXIS = 0

TOLERANCE = 1e-4


def _in_one(x, mu, d, A, B):
    before = x.roll(1, 0) * (torch.arange(len(x)) > 0)[:, None]
    low = torch.lerp(x, before, mu) @ A
    return torch.exp(math.log(math.log(2)) - d - low.tanh() @ B)


def _by_rate(x, mu, d, A, B):
    before = torch.nn.functional.pad(x, (0, 0, 1, 0))[:-1]
    rate = (d + ((1 - mu) * x + mu * before).matmul(A).tanh().matmul(B)).exp()
    return torch.log(torch.tensor(2.0)) / rate


ALTERNATIVES = (_in_one, _by_rate)

MISTAKES = """
x + mu * (before - x) → before + mu * (x - before)
    The shares have changed places: here mu is the share of the token before.
x + mu * (before - x) → x
    There is no token shift: x is to be mixed with the token before.
torch.tanh(mixed @ A) @ B → torch.tanh(mixed @ A @ B)
    tanh comes after the second matrix: it belongs between the two.
torch.tanh(mixed @ A) @ B → mixed @ A @ B
    tanh is missing between the two matrices.
d + torch.tanh(mixed @ A) @ B → d
    The token's part of d is missing: these half-lives are those of RWKV-5.
math.log(2) * torch.exp(-d_t) → math.log(2) * torch.exp(d_t)
    This is ln 2 times the rate: a large rate means a short half-life, so divide by it.
math.log(2) * torch.exp(-d_t) → torch.exp(-d_t)
    After so many tokens 1/e is left: for one half there is a factor ln 2.
math.log(2) * torch.exp(-d_t) → torch.exp(-torch.exp(d_t))
    This is the decay a_t itself: the number of tokens until one half is left is asked for.
math.log(2) * torch.exp(-d_t) → -torch.exp(d_t)
    This is log a_t: the number of tokens until one half is left is asked for.
"""
