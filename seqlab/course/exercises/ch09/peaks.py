r"""All units at once

*Compute the running maximum that falls, without a loop over tokens. · 12 minutes · ●●○ · 2 points*

The unit of the stable loop is $m_t = \max(m_{t-1} + w,\; k_t)$. In this form each $m$ waits for the one before it. Compute all of them at once, from the start value `m0` (which may be $-∞$). Then return the two factors of the loop as well:
`keep` $= e^{m_{t-1} + w - m_t}$ and `write` $= e^{k_t - m_t}$. With them the sums are a scan (chapter 06).

Use no loop over tokens: the check counts operations.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch09.shared import rand, randn


def peaks(w, k, m0):
    """w < 0 (D,), k (T, D), m0 (D,). Returns m, keep and write, each (T, D)."""
    ### BEGIN SOLUTION
    fall = torch.arange(1, len(k) + 1)[:, None] * w
    m = fall + torch.maximum(m0, (k - fall).cummax(0).values)
    before = torch.cat([m0[None], m[:-1]])
    return m, (before + w - m).exp(), (k - m).exp()
    ### END SOLUTION


WHY = r"""
**Solution.** Look from a frame that falls by $|w|$ a token, $\tilde m_t = m_t - t w$. There nothing falls any more: $\tilde m_t = \max(\tilde m_{t-1},\; k_t - t w)$ is an ordinary running maximum, `cummax`. In the end go back to the old frame.

At least one of the two factors is 1 at every token, and neither is larger.

*Common mistakes:* counting tokens from 0 with $m_0$ before them; forgetting to go back; clamping in place of the maximum with m0.
"""

HINTS = (
    "Subtract from k what a unit would have fallen by then. What is left of the recurrence?",
    "In that frame it is a running maximum: torch.cummax, and m0 joins it.",
    "fall = torch.arange(1, T + 1)[:, None] * w; m = fall + torch.maximum(m0, (k - fall).cummax(0).values).",
)


def reference(w, k, m0):
    """Token by token, in Python's floats."""
    import math

    T, D = k.shape
    m, keep, write = (torch.zeros(T, D) for _ in range(3))
    for d in range(D):
        old = float(m0[d])
        for t in range(T):
            faded, key = old + float(w[d]), float(k[t, d])
            old = max(faded, key)
            m[t, d], keep[t, d] = old, math.exp(faded - old)
            write[t, d] = math.exp(key - old)
    return m, keep, write


def cases(rng):
    def case(name, T, D, size=2.0, start=0.0, decay=1.0):
        w, k = -decay * (0.05 + rand(rng, D)), size * randn(rng, T, D)
        return Case(name, {"w": w, "k": k, "m0": start + randn(rng, D)})

    return [
        case("T = 1", 1, 2),
        case("from nothing", 7, 3, start=-torch.inf),
        case("odd T", 9, 3),
        case("one loud past", 20, 2, start=9.0),
        case("loud tokens", 8, 4, size=60.0, start=-torch.inf),
        case("slow decays", 12, 3, decay=0.01),
        case("long", 100, 2, start=-torch.inf),
    ]


def effort(inputs, cost):
    T = len(inputs["k"])
    if T >= 64 and cost.calls >= T:
        return f"The values are right, but this walks over tokens: {cost.calls} torch operations for {T}. Find a frame in which nothing falls."
    return None


OUTPUTS = ("m", "keep", "write")

TIME_AXIS = {"m": 0, "keep": 0, "write": 0}

TOLERANCE = 1e-4


def _all_pairs(w, k, m0):
    T = len(k)
    age = torch.arange(T)[:, None] - torch.arange(T)
    table = (age[..., None] * w + k).masked_fill(age[..., None] < 0, -torch.inf)
    start = torch.arange(1, T + 1)[:, None] * w + m0
    m = torch.maximum(table.amax(1), start)
    before = torch.cat([m0[None], m[:-1]])
    return m, torch.exp(before + w - m), torch.exp(k - m)


def _joined(w, k, m0):
    ages = torch.arange(len(k) + 1)[:, None] * w
    m = (torch.cat([m0[None], k]) - ages).cummax(0).values + ages
    return m[1:], (m[:-1] + w - m[1:]).exp(), (k - m[1:]).exp()


ALTERNATIVES = (_all_pairs, _joined)

MISTAKES = """
torch.arange(1, len(k) + 1) → torch.arange(len(k))
    m0 falls one time too few: by the first token it has fallen once already.
m = fall + torch.maximum(m0, (k - fall).cummax(0).values) → m = torch.maximum(m0, (k - fall).cummax(0).values)
    m is still in the falling frame: add back what was subtracted.
torch.maximum(m0, (k - fall).cummax(0).values) → (k - fall).cummax(0).values
    The start value m0 is left out: it is one of the exponents in play.
fall + torch.maximum(m0, (k - fall).cummax(0).values) → torch.maximum(m0, k.cummax(0).values)
    The maximum does not move with the decay: this is the fault of the copied loop.
(before + w - m).exp() → (before - m).exp()
    The decay is missing from keep: the old sums have fallen by w when they are brought to the new unit.
before = torch.cat([m0[None], m[:-1]]) → before = m
    keep compares m with itself: it needs the unit of the token before.
(k - m).exp() → k.exp()
    write is not divided by e^m.
(k - fall) → (k + fall)
    The frame moves the wrong way: a later key has to be raised by what an older one has lost.
"""
