r"""The scan, from the end

*Write the backward of the recurrence by hand. · 12 minutes · ●●○ · 2 points*

Forward, $h_t = a_t h_{t-1} + b_t$ with a first state $h_0$. Somebody hands you all $h_t$, and `dh`, the derivative of the loss by each $h_t$ *as it is read at t* (not through later states). Return the derivatives of the loss
by a, by b and by $h_0$.

The chapter uses a scan for the forward pass. The backward is the same recurrence, run from the end. A loop over time is fine here. Autograd would give the same numbers; finding them by hand shows what training has to keep.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch11.shared import rand, randn


def back(a, h, h0, dh):
    """a, h, dh (B, T, D), h0 (B, D). Returns da (B, T, D), db (B, T, D), dh0 (B, D)."""
    ### BEGIN SOLUTION
    g, db = torch.zeros_like(h0), []
    for t in range(a.shape[1] - 1, -1, -1):
        g = dh[:, t] + g
        db.append(g)
        g = a[:, t] * g
    db = torch.stack(db[::-1], dim=1)
    before = torch.cat([h0[:, None], h[:, :-1]], dim=1)
    return db * before, db, g
    ### END SOLUTION


WHY = r"""
**Solution.** Let $g_t$ be the derivative by $h_t$, through all ways. $h_t$ is read at t, and it goes into $h_{t+1}$ with the factor $a_{t+1}$: $g_t = dh_t + a_{t+1}\, g_{t+1}$. That is the recurrence from the end, with the gates shifted by one.
$b_t$ is added to $h_t$, so its derivative is $g_t$; $a_t$ multiplies $h_{t-1}$, so its derivative is $g_t h_{t-1}$; and $h_0$ gets $a_1 g_1$.

So training needs two scans and no more: `seqlab.core.scan.linear_scan` does just that, and keeps only h.

*Common mistakes:* $a_t$ in place of $a_{t+1}$; $h_t$ in place of $h_{t-1}$; forgetting that $a_1$ multiplies $h_0$.
"""

HINTS = (
    "Let g_t be the derivative of the loss by h_t. In which two ways does h_t act on the loss?",
    "g_t = dh_t + a_{t+1} g_{t+1}, from the end. Then db = g, da_t = g_t h_{t-1}, dh0 = a_1 g_1.",
    "Loop t downwards: g = dh[:, t] + g; store it; g = a[:, t] * g. What is left after the loop is dh0.",
)


def reference(a, h, h0, dh):
    """Every pair of tokens, by the product of the gates between them."""
    T = a.shape[1]
    db = torch.stack(
        [
            sum(
                (a[:, s + 1 : t + 1].prod(1) * dh[:, t] for t in range(s, T)),
                0 * dh[:, 0],
            )
            for s in range(T)
        ],
        1,
    )
    before = torch.stack([h0, *h.unbind(1)][:-1], 1)
    dh0 = sum((a[:, : t + 1].prod(1) * dh[:, t] for t in range(T)), 0 * h0)
    return db * before, db, dh0


def cases(rng):
    def case(name, B, T, D, low=0.2, high=1.0):
        a = low + (high - low) * rand(rng, B, T, D)
        b, h0, dh = randn(rng, B, T, D), randn(rng, B, D), randn(rng, B, T, D)
        h, hs = h0, []
        for t in range(T):
            h = a[:, t] * h + b[:, t]
            hs.append(h)
        return Case(name, {"a": a, "h": torch.stack(hs, 1), "h0": h0, "dh": dh})

    return [
        case("T = 1", 1, 1, 2),
        case("T = 2", 2, 2, 3),
        case("odd T", 2, 7, 3),
        case("open gates", 1, 6, 2, 1.0, 1.0),
        case("shut gates", 1, 5, 2, 0.0, 0.0),
        case("large gates", 1, 5, 2, 1.5, 3.0),
    ]


OUTPUTS = ("da", "db", "dh0")

TIME_AXIS = {"da": 1, "db": 1}


def _by_scan(a, h, h0, dh):
    from seqlab.core.scan import sequential

    later = torch.cat([a[:, 1:], torch.ones_like(a[:, :1])], 1).flip(1)
    g = sequential(later, dh.flip(1)).flip(1)
    return g * torch.cat([h0[:, None], h], 1)[:, :-1], g, a[:, 0] * g[:, 0]


ALTERNATIVES = (_by_scan,)

MISTAKES = """
db * before → db * h
    da uses h_t: the gate a_t multiplies h_{t-1}, the state before.
torch.cat([h0[:, None], h[:, :-1]], dim=1) → torch.cat([torch.zeros_like(h0)[:, None], h[:, :-1]], dim=1)
    da of the first token is 0: a_1 multiplies h0.
db.append(g) ⏎ g = a[:, t] * g → db.append(g) ; return db * before, db, g → return db * before, db, a[:, 0] * g
    Nothing fades on the way back: g_t = dh_t + a_{t+1} g_{t+1}.
g = dh[:, t] + g ⏎ → g = dh[:, t] + a[:, t] * g ⏎ ; g = a[:, t] * g → g = 1 * g ; return db * before, db, g → return db * before, db, a[:, 0] * g
    The gates are one token off: from h_t to h_{t+1} the factor is a_{t+1}, not a_t.
return db * before, db, g → return db * before, db, db[:, 0]
    dh0 is the derivative by h_1: on the way to h0 it is multiplied by a_1.
db = torch.stack(db[::-1], dim=1) → db = torch.stack(db, dim=1)
    The derivatives are in the order in which the loop found them: from the end. Turn them round.
g = dh[:, t] + g ⏎ → g = dh[:, t] ⏎
    Only the read at the token itself counts here: h_t also acts through all later states.
"""
