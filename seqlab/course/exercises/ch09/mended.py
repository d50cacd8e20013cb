r"""Bug hunt: mend a published loop

*Find what is wrong in code that runs, from how its answers differ. · 15 minutes · ●●● · 3 points*

A loop of RWKV-4 for decoding, rewritten from public code: it takes a text and the state that another call left, and returns the reads and the new state. Its unit falls with the decay, as it should. A short text from an empty state with gentle keys and
no bonus gives nearly the right numbers. It has **two bugs**, others than those of the chapter's section 1. Run the cell below: it shows two symptoms. Then write the right version into `mended`. You may copy the code and change a few lines.

The state is (p, q, m), with p and q divided by $e^m$; None is an empty one.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch09.shared import rand, randn


def mended(w, u, k, v, state):
    """RWKV-4's reads. w < 0 and u (D,), k and v (T, D), state (p, q, m), each (D,), or None. Returns y (T, D), p, q and m."""
    ### BEGIN SOLUTION
    zeros = torch.zeros_like(k[0])
    p, q, m = (zeros, zeros, zeros - torch.inf) if state is None else state
    ys = []
    for k_t, v_t in zip(k, v, strict=True):
        top = torch.maximum(m, u + k_t)
        old, new = torch.exp(m - top), torch.exp(u + k_t - top)
        ys.append((old * p + new * v_t) / (old * q + new))
        top = torch.maximum(m + w, k_t)
        old, new = torch.exp(m + w - top), torch.exp(k_t - top)
        p = old * p + new * v_t
        q = old * q + new
        m = top
    return torch.stack(ys), p, q, m
    ### END SOLUTION


WHY = r"""
**The first bug**: an empty state had m = 0. Nothing has been written, so no exponent is in play, and m has to be $-∞$ (the authors use $-10^{38}$). With m = 0 a quiet text (keys of -110) is written as $e^{-110}$, which float32 rounds to 0, and the
read is 0/0.

**The second bug**: the read faded the past once too often, with `m + w` where `m` belongs. The token before the newest one has weight $e^{k}$ without a decay. With a slow decay that hardly shows. Reading a text in one call and in two does not show it either: both are wrong alike.

**How to find such bugs.** Compare with the formula, weight by weight, on a text of two tokens. And shift all keys by the same number: y must not change.

*Common mistakes:* a very negative number for m that w then moves to $-∞$ and back to NaN; an epsilon in the denominator, which hides 0/0 and gives 0.
"""

HINTS = (
    "Shift all keys by -110. Which line makes the answers change? And what does y of the second token have to be?",
    "What is the largest exponent in play where nothing has been written? How many times has the first token faded when the second reads?",
    "zeros - torch.inf for the empty m, and top = maximum(m, u + k_t), old = exp(m - top) in the read.",
)


def reference(w, u, k, v, state):
    """Each weight on its own, in float64."""
    w, u, k, v = (x.double() for x in (w, u, k, v))
    T = len(k)
    t = torch.arange(T)[:, None]
    ages = (t - 1 - t.T)[..., None]
    logits = (ages * w + k).masked_fill(ages < 0, -torch.inf)
    logits = torch.where(ages == -1, u + k, logits)
    values = v.expand(T, T, -1)
    if state is not None:
        p, q, m = (x.double() for x in state)
        start = t * w + m + q.log()
        logits = torch.cat([start[:, None], logits], 1)
        values = torch.cat([(p / q).expand(T, 1, -1), values], 1)
    y = (logits.softmax(1) * values).sum(1)
    left = (T - 1 - torch.arange(T))[:, None] * w + k
    top = left.amax(0) if state is None else torch.maximum(left.amax(0), T * w + m)
    weights = (left - top).exp()
    p_T, q_T = (weights * v).sum(0), weights.sum(0)
    if state is not None:
        p_T, q_T = p_T + (T * w + m - top).exp() * p, q_T + (T * w + m - top).exp() * q
    return y.float(), p_T.float(), q_T.float(), top.float()


def cases(rng):
    def case(name, T, D, size=1.0, shift=0.0, bonus=1.0, decay=1.0, carried=False):
        inputs = {"w": -decay * (0.1 + rand(rng, D)), "u": bonus * randn(rng, D)}
        if bonus > 10:
            inputs["u"] = bonus * (1 + rand(rng, D))
        inputs |= {"k": shift + size * randn(rng, T, D), "v": randn(rng, T, D)}
        inputs = {name: x.requires_grad_() for name, x in inputs.items()}
        state = (randn(rng, D), 1 + rand(rng, D), shift + randn(rng, D))
        return Case(name, inputs | {"state": state if carried else None})

    return [
        case("T = 1, an empty state", 1, 2),
        case("T = 2, an empty state", 2, 3, decay=3.0),
        case("odd T, no bonus", 7, 3, bonus=0.0),
        case("a state from another call", 5, 3, carried=True),
        case("quiet tokens", 6, 2, shift=-110.0),
        case("quiet tokens and a state", 5, 2, shift=-110.0, carried=True),
        case("loud tokens", 6, 3, size=100.0),
        case("a large bonus", 5, 3, bonus=100.0),
    ]


OUTPUTS = ("y", "p", "q", "m")

TIME_AXIS = {"y": 0, "p": None, "q": None, "m": None}

TOLERANCE = 1e-4


def _as_the_chapter(w, u, k, v, state):
    p, q, m = state or (0 * k[0], 0 * k[0], torch.full_like(k[0], -torch.inf))
    ys = []
    for t in range(len(k)):
        both = torch.stack([m, u + k[t]])
        a, b = both.softmax(0) * torch.stack([q, torch.ones_like(q)])
        a, b = (both - both.amax(0)).exp()
        ys.append((a * p + b * v[t]) / (a * q + b))
        both = torch.stack([m + w, k[t]])
        m = both.amax(0)
        a, b = (both - m).exp()
        p, q = a * p + b * v[t], a * q + b
    return torch.stack(ys), p, q, m


def _all_at_once(w, u, k, v, state):
    from seqlab.course.exercises.ch09.peaks import peaks

    zero = torch.zeros_like(k[0])
    p, q, m = (zero, zero, zero - torch.inf) if state is None else state
    unit, keep, write = peaks(w, k, m)
    ps, qs = [p], [q]
    for a, b, v_t in zip(keep, write, v, strict=True):
        ps.append(a * ps[-1] + b * v_t)
        qs.append(a * qs[-1] + b)
    before = torch.cat([m[None], unit[:-1]])
    top = torch.maximum(before, u + k)
    old, new = (before - top).exp(), (u + k - top).exp()
    y = (old * torch.stack(ps[:-1]) + new * v) / (old * torch.stack(qs[:-1]) + new)
    return y, ps[-1], qs[-1], unit[-1]


ALTERNATIVES = (_as_the_chapter, _all_at_once)

MISTAKES = """
zeros - torch.inf → zeros ; top = torch.maximum(m, u + k_t) → top = torch.maximum(m + w, u + k_t) ; torch.exp(m - top) → torch.exp(m + w - top)
    Both bugs are still there: an empty state is given an exponent, and the read fades the past once too often.
top = torch.maximum(m, u + k_t) → top = torch.maximum(m + w, u + k_t) ; torch.exp(m - top) → torch.exp(m + w - top)
    The empty state is mended. The read still fades the past once too often: when a token reads, the sums have not faded yet.
zeros - torch.inf → zeros
    The read is mended. An empty state still has m = 0: where nothing has been written no exponent is in play.
old, new = torch.exp(m + w - top), torch.exp(k_t - top) → old, new = torch.exp(m - top), torch.exp(k_t - top)
    The sums do not fade: at the write their exponent is m + w.
top = torch.maximum(m + w, k_t) → top = torch.maximum(m + w, u + k_t) ; torch.exp(k_t - top) → torch.exp(u + k_t - top)
    The bonus got into the state: it counts only in the read of its own token.
q = old * q + new ⏎ → q = old * q + 1 ⏎
    q is not in the same unit as p: the new token adds exp(k - m) to it.
ys.append((old * p + new * v_t) / (old * q + new)) → ys.append((old * p + new * v_t) / (old * q + new + 1))
    The read is divided by too much: its weights add up to the denominator, and nothing else belongs there.
"""
