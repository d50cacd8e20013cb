r"""Mean and variance so far

*Write Megalodon's norm over time so that it streams, and survives a large mean. · 15 minutes · ●●● · 3 points*

One group of G channels is normalised over time. Token t is shifted and scaled by the mean and the variance (divided by the count, not by the count minus 1) of **all numbers of the group up to and including token t**:

$$y_t = \frac{x_t - μ_t}{\sqrt{σ_t^2 + \mathrm{eps}}}$$

The text comes in chunks. `count`, `mean` and `var` describe the numbers read before this chunk (count is 0 at the start, and mean and var are then 0 too). Return y and the three numbers after the chunk. A loop over time is fine.

The chapter's code subtracts two large sums. Yours must also be right in float32 for numbers near 300 with a standard deviation of 1.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch12.shared import randn


def norm_on(x, count, mean, var, eps):
    """x (T, G), the rest (). Returns y (T, G), count (), mean (), var ()."""
    ### BEGIN SOLUTION
    G, ys = x.shape[1], []
    for u in x:
        total = count + G
        gap = u.mean() - mean
        inside = count * var + (u - u.mean()).square().sum()
        var = (inside + gap**2 * count * G / total) / total
        mean = mean + gap * G / total
        count = total
        ys.append((u - mean) / torch.sqrt(var + eps))
    return torch.stack(ys), count, mean, var
    ### END SOLUTION


WHY = r"""
**Solution.** Two sets of numbers are merged: those before, and the G new ones. The new mean lies between the two, by their counts. The squares around the new mean are the squares around each set's own mean, plus what the gap between the means adds: $\mathrm{gap}^2\, \frac{n\, G}{n + G}$. (Check with one number on each side.) Nothing here is larger than the spread of the numbers, so nothing is lost.

$\overline{x^2} - \bar x^2$ gives the same in exact arithmetic. At a mean of 300 both terms are 90,000, and float32 keeps seven digits of each: the variance of 1 is left with two or three.

The state is three numbers for a group, as `TimestepNorm` in the authors' code has it. (There the count may begin above 0, with a learned mean and variance, so that the first token is not divided by its own spread alone.)

*Common mistakes:* the mean from before the token; the gap's term is left out; count in tokens instead of numbers.
"""

HINTS = (
    "Merge two sets: the numbers so far, with a known count, mean and variance, and the G numbers of this token.",
    "With gap = mean of the new - mean before: the new mean is mean + gap G / (count + G), and the squares add up to count var + Σ(u - its mean)² + gap² count G / (count + G).",
    "total = count + G; var = (count * var + (u - u.mean()).square().sum() + gap**2 * count * G / total) / total; mean = mean + gap * G / total; count = total; then y.",
)


def reference(x, count, mean, var, eps):
    """All numbers up to each token at once, in float64; the past as two numbers with its moments."""
    x64, n, m, v = x.double(), count.double(), mean.double(), var.double()
    ys, now = [], (n, m, v)
    for t in range(len(x)):
        new = x64[: t + 1].flatten()
        total = n + len(new)
        center = (n * m + new.sum()) / total
        spread = (n * (v + (m - center) ** 2) + (new - center).square().sum()) / total
        ys.append((x64[t] - center) / torch.sqrt(spread + eps))
        now = (total, center, spread)
    return torch.stack(ys).to(x), *(u.to(x) for u in now)


def cases(rng):
    def case(name, T, G, count=0.0, mean=0.0, var=0.0, around=0.0, scale=1.0):
        inputs = {"x": (around + scale * randn(rng, T, G)).requires_grad_()}
        known = {"count": count, "mean": mean, "var": var}
        return Case(
            name,
            inputs | {n: torch.tensor(u) for n, u in known.items()} | {"eps": 1e-3},
        )

    return [
        case("T = 1, a first token", 1, 4),
        case("odd T", 7, 3),
        case("a second chunk", 5, 2, 24.0, 0.7, 2.5),
        case("one channel", 6, 1, 3.0, -1.0, 0.5),
        case(
            "numbers near 300, where a difference of two sums loses its digits",
            9,
            4,
            around=300.0,
        ),
        case("small numbers", 4, 3, scale=0.01),
    ]


OUTPUTS = ("y", "count", "mean", "var")

TIME_AXIS = {"y": 0, "count": None, "mean": None, "var": None}

TOLERANCE = 3e-4


def _around_the_first(x, count, mean, var, eps):
    """By sums, but of what is left when the first number is taken away."""
    first = x[0, 0].detach()
    u, G = x - first, x.shape[1]
    n = count + G * torch.arange(1, len(x) + 1)
    m = (count * (mean - first) + u.sum(1).cumsum(0)) / n
    past = count * (var + (mean - first) ** 2)
    v = (past + u.square().sum(1).cumsum(0)) / n - m**2
    return (u - m[:, None]) / (v + eps)[:, None].sqrt(), n[-1], m[-1] + first, v[-1]


ALTERNATIVES = (_around_the_first,)

MISTAKES = """
ys.append((u - mean) / torch.sqrt(var + eps)) → ys.append((u - u.mean()) / torch.sqrt(u.var(correction=0) + eps))
    Each token is normalised by itself, like a layer norm: the mean and the variance are those of all numbers so far.
inside + gap**2 * count * G / total → inside
    The gap between the old mean and the new one is missing from the variance: merged sets spread more than each alone.
total = count + G → total = count + 1 ; (u - u.mean()).square().sum() → (u - u.mean()).square().mean() ; gap**2 * count * G / total → gap**2 * count / total ; mean = mean + gap * G / total → mean = mean + gap / total
    The count is in tokens: each token adds G numbers.
mean = mean + gap * G / total → mean = mean + gap / 2
    The new mean is half way between the two: each counts by how many numbers it stands for.
inside = count * var + → inside = var +
    The variance so far is added once: it stands for `count` numbers.
torch.sqrt(var + eps) → (torch.sqrt(var) + eps)
    eps is added to the standard deviation: it belongs to the variance, under the root.
torch.sqrt(var + eps) → torch.sqrt(var * total / (total - 1) + eps)
    This divides by the count minus 1: divide by the count.
ys.append((u - mean) → ys.append((u - mean + gap * G / total)
    y is shifted by the mean from before the token: its own numbers belong to the mean, too.
torch.sqrt(var + eps) → (var + eps)
    The square root is missing.
total = count + G → ys.append((u - mean) / torch.sqrt(var + eps)) ⏎ total = count + G ; count = total ⏎ ys.append((u - mean) / torch.sqrt(var + eps)) → count = total
    y is computed before the token is counted: its own numbers belong to the mean and the variance.
torch.sqrt(var + eps) → torch.sqrt(var * total / (total - 1) + eps) ; return torch.stack(ys), count, mean, var → return torch.stack(ys), count, mean, var * count / (count - 1)
    The variances, y's and the one returned, divide by the count minus 1: divide by the count.
(u - u.mean()).square().sum() → (u - mean - gap * G / total).square().sum() ; inside + gap**2 * count * G / total → inside
    The new squares are around the new mean, but the old ones are still around the old mean: they have to move as well.
G, ys = x.shape[1], [] → G, ys = x.shape[1], [] ⏎ count = mean = var = torch.zeros(())
    The numbers before this chunk are ignored: count, mean and var carry on.
return torch.stack(ys), count, mean, var → return torch.stack(ys), count, mean, var + eps
    eps is part of the variance that is returned: it is added under the root alone.
return torch.stack(ys), count, mean, var → return (x - mean) / torch.sqrt(var + eps), count, mean, var
    Every token is normalised by the whole chunk, the later tokens too: each sees the numbers up to its own.
"""
