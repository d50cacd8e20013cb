r"""A chunk with a border in it

*Keep texts apart that share a row. · 20 minutes · ●●● · 3 points*

Training packs texts one after the other into a row, and a text must not see the one before it. So each token has a flag:
`starts` is True where a new text begins. There the memory is emptied *before* the token writes. Attention does this with its
mask. Now do it for one chunk of the four steps:

$$y_i = \text{(pairs inside the chunk)} + \text{(the read of } S\text{)} \qquad S' = \text{(what is left of } S\text{)} + \text{(the writes)}$$

with gates $a_t$ as before, and nothing passing a border. Use all pairs of the chunk at once, no loop over tokens. The answer must
be finite, and so must its gradient with respect to the gates: models are trained through it.
"""

import torch

from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch07.shared import _close, _log_gates, _randn, by_steps
from seqlab.course.exercises.vocabulary import old_state, pairs_at_once, swapped


def borders(q, k, v, log_a, starts, S):
    """One chunk: y_i = Σ_{j≤i} L_ij (q_i·k_j) v_j + (what is left of S at i) q_i, and the state after it.

    q, k (B, T, H, N), v (B, T, H, P), log_a (B, T, H), starts (B, T) of bool, S (B, H, P, N).
    Returns (y, S): y (B, T, H, P), and the new S.
    """
    ### BEGIN SOLUTION
    log_a = log_a.masked_fill(starts[..., None], -torch.inf)
    log_a = log_a.transpose(1, 2)  # (B, H, T)
    q, k, v = (u.transpose(1, 2) for u in (q, k, v))
    T = log_a.shape[-1]
    steps = log_a[..., None].expand(*log_a.shape, T)
    L = steps.tril(-1).cumsum(-2).exp().tril()
    since_start = log_a.cumsum(-1).exp()[..., None]  # (B, H, T, 1)
    y = (q @ k.mT * L) @ v + since_start * (q @ S.mT)
    S = since_start[:, :, -1:] * S + v.mT @ (L[..., -1, :, None] * k)
    return y.transpose(1, 2), S
    ### END SOLUTION


WHY = r"""
**Solution.** A border is a gate of 0: set $\log a_t = -\infty$ where `starts` is True, and everything else follows. The
gate acts before the token's own write, so the token that opens a text still writes. In L every span over a border has a sum
of -∞ and an exponential of 0. The read of S dies at the first border, and so does S itself. Spans must sum their own terms:
a difference of cumulative sums would be -∞ minus -∞ after the first border.

The gradient is finite, because a masked entry passes none on and exp(-∞) has slope 0.

*Common mistakes:* emptying the memory after the token that starts; forgetting that S must die too, in the read or in the new
state; -1e9 in place of -∞ with differences of cumulative sums, which leaves rounding of size 64.
"""

HINTS = (
    "Which gate makes a memory forget everything?",
    "A border at t is a_t = 0, so log a_t = -∞. Then L, the read of S and the new S follow as in the chapter.",
    "log_a = log_a.masked_fill(starts[..., None], -torch.inf); then L by a masked cumsum, since_start = "
    "log_a.cumsum(1).exp(), and the writes decayed by the last row of L.",
)


def reference(q, k, v, log_a, starts, S):
    """Token by token, with the state set to 0 at a border."""
    kept = (~starts).float()[..., None]
    ys = []
    for t in range(q.shape[1]):
        S = S * kept[:, t, :, None, None]
        one = slice(t, t + 1)
        y, S = by_steps(q[:, one], k[:, one], v[:, one], log_a[:, one], S)
        ys.append(y)
    return torch.cat(ys, 1), S


def cases(rng):
    def case(name, B, T, H, N, P, at, strength=1.0, learned=False):
        starts = torch.zeros(B, T, dtype=torch.bool)
        for b, t in at:
            starts[b, t] = True
        log_a = _log_gates(rng, B, T, H, strength=strength)
        inputs = {
            "q": _randn(rng, B, T, H, N),
            "k": _randn(rng, B, T, H, N),
            "v": _randn(rng, B, T, H, P),
            "log_a": log_a.requires_grad_() if learned else log_a,
            "starts": starts,
            "S": _randn(rng, B, H, P, N),
        }
        return Case(name, inputs)

    return [
        case("T = 1, no border", 2, 1, 2, 3, 3, []),
        case("T = 1, a border", 2, 1, 2, 3, 3, [(0, 0), (1, 0)]),
        case("odd T, no border", 1, 7, 2, 4, 3, []),
        case("one border in one row", 2, 7, 2, 4, 3, [(0, 3)]),
        case("borders at both ends", 2, 6, 3, 2, 5, [(0, 0), (1, 5)]),
        case("two borders side by side", 1, 8, 2, 3, 3, [(0, 3), (0, 4)]),
        case("strong gates, learned", 1, 9, 2, 3, 2, [(0, 4)], 40, True),
        case("T = 160", 1, 160, 1, 3, 2, [(0, 10), (0, 50)]),
    ]


def effort(inputs, effort):
    if not effort.gradient_finite:
        return "The values are right, but the gradient of log_a is not finite: 0 · ∞ or ∞ - ∞ lies behind a value that looks right."
    return pairs_at_once(inputs, effort)


def parts_hint(t, inputs):
    if inputs["starts"].any():
        return "which pairs lie on two sides of a border, and does S pass it?"
    return "no border is at work yet: look at the pairs inside, and at the read of S."


def _without_the_past(inputs):
    """The same with everything before the last border replaced, S too."""
    starts = inputs["starts"]
    if not starts.any(1).all():
        return []
    last = int(starts.long().cumsum(1).argmax(1).min())
    changed = dict(inputs)
    for name in ("q", "k", "v"):
        x = inputs[name].clone()
        x[:, :last] = 3 - 2 * x[:, :last]
        changed[name] = x
    return [{**changed, "S": inputs["S"] * 0 + 5}]


def _as_before(inputs, outputs):
    if len(outputs) == 1:
        return True
    last = int(inputs["starts"].long().cumsum(1).argmax(1).min())
    (y, S), (y2, S2) = outputs
    alone = inputs["starts"][:, last].all()
    return not alone or (_close(y[:, last:], y2[:, last:]) and _close(S, S2))


PROPERTIES = (
    Property(
        "nothing passes a border",
        variants=_without_the_past,
        holds=_as_before,
        message="What stands before a border, or the given S, changes what comes after it.",
    ),
)

OUTPUTS = ("y", "S")

TIME_AXIS = {"y": 1, "S": None}


def _by_text_numbers(q, k, v, log_a, starts, S):
    """The border as a mask on pairs: two tokens belong together if their text has the same number."""
    text = starts.long().cumsum(1)  # 0 belongs to the text of S
    same = (text[:, :, None] == text[:, None, :])[:, None]
    T = q.shape[1]
    below = torch.ones(T, T, dtype=torch.bool).tril(-1)
    sums = torch.where(below, log_a.transpose(1, 2)[..., None], 0.0).cumsum(-2)
    L = sums.exp().tril() * same
    left = log_a.cumsum(1).exp() * (text == 0)[..., None]  # (B, T, H)
    weights = torch.einsum("bihn, bjhn -> bhij", q, k) * L
    y = torch.einsum("bhij, bjhp -> bihp", weights, v)
    y = y + left[..., None] * torch.einsum("bhpn, bihn -> bihp", S, q)
    writes = torch.einsum("bhj, bjhp, bjhn -> bhpn", L[:, :, -1], v, k)
    return y, left[:, -1, :, None, None] * S + writes


ALTERNATIVES = (_by_text_numbers,)

MISTAKES = """
log_a.masked_fill(starts[..., None], -torch.inf) → log_a
    The borders are ignored: a text reads the one before it. Look for starts.
log_a.masked_fill(starts[..., None], -torch.inf) → log_a.masked_fill(starts.roll(1, 1)[..., None], -torch.inf)
    The memory is emptied one token late: the token that starts a text must not see the one before it,
    and its own write stays.
log_a.masked_fill(starts[..., None], -torch.inf) → log_a.masked_fill(~starts[..., None], -torch.inf)
    The flags are turned round: memory is emptied at every token except those that start a text.
log_a.masked_fill(starts[..., None], -torch.inf) → log_a.masked_fill(starts[..., None], 0.0)
    At a border the gate is 1: log a = 0 keeps everything. A gate of 0 has the logarithm -∞.
y = (q @ k.mT * L) @ v + since_start * (q @ S.mT) → free = (~starts).float()[:, None, :, None] ⏎ y = (q @ k.mT * L) @ v + free.cummin(2).values * (q @ S.mT)
    The read of S is not decayed: it needs the product of the gates since the start of the chunk.
since_start * (q @ S.mT) → (q @ S.mT)
    S is read as if nothing had happened since: at token i it has been decayed by all gates up to i,
    and it is empty after a border.
since_start[:, :, -1:] * S + → S +
    The new state holds the old one whole: it has been decayed by all gates of the chunk, and a border
    empties it.
(L[..., -1, :, None] * k) → k
    The writes enter the new state undecayed: token j's write has been decayed by the gates after j,
    which the last row of L holds.
since_start[:, :, -1:] * S + v.mT → 0 * S + v.mT
    The new state forgets the old one, border or not. Where no border lies in the chunk, S lives on,
    decayed.
+ since_start * (q @ S.mT) →
    S is never read: y holds only pairs of this chunk.
(q @ k.mT * L) @ v → (q @ k.mT * L.tril(-1)) @ v
    A token does not read its own write: the diagonal of L is 1, at a border too.
steps.tril(-1) → steps.tril()
    A token's own gate decays its own write, and at a border the write is lost. A span begins at j +
    1.
(q @ k.mT * L) @ v → (q @ k.mT).tril() @ v
    The pairs are neither decayed nor kept apart: L is missing on the scores.
"""

ALSO = (
    old_state("S", 1),
    swapped("The outputs have changed places: return (y, S)."),
)
