r"""A cache that rolls

*One token of local attention, with W slots that are used again and again. · 12 minutes · ●●○ · 2 points*

A window of W tokens needs W slots and no more. The token at position p (counted from 0) is written into slot $p \bmod W$, over the token that has just left the window. Then its query reads all slots that have been written. While $p < W - 1$ some are still empty, and
may hold anything.

`ks` (W, K) and `vs` (W, V) are the slots before this token. Return y, and the new slots. Leave the inputs as they are: `ks` and `vs` may belong to somebody else. Scores are $q · k / \sqrt{K}$.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch11.shared import randn


def rolling(q, k, v, ks, vs, position):
    """q, k (K,), v (V,), ks (W, K), vs (W, V), position an int. Returns y (V,), ks and vs."""
    ### BEGIN SOLUTION
    W = len(ks)
    ks, vs = ks.clone(), vs.clone()
    ks[position % W], vs[position % W] = k, v
    n = min(position + 1, W)  # slots in use: the first n
    weights = torch.softmax(ks[:n] @ q * len(q) ** -0.5, 0)
    return weights @ vs[:n], ks, vs
    ### END SOLUTION


WHY = r"""
**Solution.** Slots fill in order, so before the first lap slots 0 to p are in use, later all. Cut the unused ones off, or mask their scores.

The order of the slots is not that of the tokens any more, and it does not matter: a softmax has no order. Rotary positions are applied to k *before* it is stored, with the true position, so nothing has to move.

*Common mistakes:* reading before writing (the token has to see itself as well); W - 1 old tokens and the new one kept by shifting, which costs a copy of the whole cache for each token; a count that is one short.
"""

HINTS = (
    "Which slots are in use after this token, if p < W? And if p ≥ W?",
    "Write into slot p % W of a copy; read the first min(p + 1, W) slots.",
    "ks = ks.clone(); ks[p % W] = k; n = min(p + 1, W); softmax(ks[:n] @ q / sqrt(K)) @ vs[:n].",
)


def reference(q, k, v, ks, vs, position):
    """Slot by slot, with sums of exponentials in float64."""
    W, K = ks.shape
    new_k = [k if s == position % W else ks[s] for s in range(W)]
    new_v = [v if s == position % W else vs[s] for s in range(W)]
    used = [s for s in range(W) if s <= position]
    scores = (
        torch.stack([(new_k[s].double() * q.double()).sum() for s in used]) / K**0.5
    )
    shares = (scores - scores.logsumexp(0)).exp()
    y = sum(w * new_v[s].double() for w, s in zip(shares, used, strict=True))
    return y.to(v.dtype), torch.stack(new_k), torch.stack(new_v)


def cases(rng):
    def case(name, W, K, V, position, size=1.0):
        ks, vs = randn(rng, W, K), randn(rng, W, V)
        ks[position:], vs[position:] = 99.0, 99.0  # empty slots, once position < W
        inputs = {"q": size * randn(rng, K), "k": randn(rng, K), "v": randn(rng, V)}
        return Case(name, inputs | {"ks": ks, "vs": vs, "position": position})

    return [
        case("the first token", 4, 3, 3, 0),
        case("K ≠ V, the first lap", 5, 4, 2, 2),
        case("the last empty slot", 5, 3, 2, 4),
        case("the first slot again", 5, 3, 2, 5),
        case("many laps", 7, 4, 3, 1000),
        case("one slot", 1, 3, 2, 12),
        case("large scores", 4, 3, 2, 9, 100.0),
    ]


OUTPUTS = ("y", "ks", "vs")

TIME_AXIS = None


def _by_mask(q, k, v, ks, vs, position):
    here = torch.arange(len(ks)) == position % len(ks)
    ks = torch.where(here[:, None], k, ks)
    vs = torch.where(here[:, None], v, vs)
    unused = torch.arange(len(ks)) > position
    scores = (ks @ q / len(q) ** 0.5).masked_fill(unused, -torch.inf)
    return scores.softmax(0) @ vs.masked_fill(unused[:, None], 0.0), ks, vs


ALTERNATIVES = (_by_mask,)

MISTAKES = """
n = min(position + 1, W)  # slots in use: the first n → n = W
    Empty slots are read as well: while position < W - 1 only the first position + 1 slots are in use.
n = min(position + 1, W)  # slots in use: the first n → n = max(1, min(position, W))
    One slot in use is not read on the first lap: after this token there are position + 1 of them. (Or the slots are read before the token is written.)
weights = torch.softmax(ks[:n] @ q * len(q) ** -0.5, 0) → weights = torch.softmax(ks[:n] @ q, 0)
    The scores are not divided by √K.
ks, vs = ks.clone(), vs.clone() ⏎ ks[position % W], vs[position % W] = k, v → ks, vs = torch.cat([ks[1:], k[None]]), torch.cat([vs[1:], v[None]])
    The slots are shifted: leave them where they are, and write into slot position % W.
ks[position % W], vs[position % W] = k, v → ks[min(position, W - 1)], vs[min(position, W - 1)] = k, v
    After the first lap the last slot is overwritten each time: the oldest token is in slot position % W.
ks[position % W], vs[position % W] = k, v → ks[position % W] = k
    The value is not stored: both k and v go into the slot.
ks[position % W], vs[position % W] = k, v → ks[(position + 1) % W], vs[(position + 1) % W] = k, v
    The slot is one off: position 0 belongs into slot 0.
weights = torch.softmax(ks[:n] @ q * len(q) ** -0.5, 0) → weights = torch.softmax(ks[:n] @ k * len(q) ** -0.5, 0)
    The key of the token is compared with the slots: the query is.
"""
