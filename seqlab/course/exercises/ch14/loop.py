r"""The whole loop

*Causal attention over ragged tiles, without the matrix. · 20 minutes · ●●● · 3 points*

Write FlashAttention 2 for a decoder: causal, T_q queries and T_k keys (the last query at the last key), tiles of `rows` queries and `cols` keys, neither of which must divide anything. Return y and the lse of
each row. If T_q > T_k, the first queries see nothing: y = 0 and lse = -∞ there.

The check counts: in one case no tensor may have as many numbers as a quarter of the T_q × T_k pairs. (Skip the tiles that no query of the block may see: it is half of the work.)
"""

import torch

from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch14.shared import _close, _randn, may_see, pair_by_pair
from seqlab.course.exercises.vocabulary import swapped

LARGE = 160  # T of the case that is counted


def loop(q, k, v, rows, cols):
    """Causal attention by tiles. q (T_q, K), k (T_k, K), v (T_k, V); returns y (T_q, V), lse (T_q,)."""
    ### BEGIN SOLUTION
    ys, lses = [], []
    for i in range(0, len(q), rows):
        q_i = q[i : i + rows]
        at = torch.arange(i, i + len(q_i)).add(len(k) - len(q))[:, None]
        top = q.new_full((len(q_i), 1), -torch.inf)
        total, y = torch.zeros_like(top), q.new_zeros(len(q_i), v.shape[-1])
        for j in range(0, len(k), cols):
            if j > at.max():
                break  # a tile of the future
            s = q_i @ k[j : j + cols].mT * q.shape[-1] ** -0.5
            s = s.masked_fill(torch.arange(j, j + s.shape[1]) > at, -torch.inf)
            new = torch.maximum(top, s.amax(-1, keepdim=True))
            unit = torch.where(new.isfinite(), new, torch.zeros_like(new))
            fade, p = (top - unit).exp(), (s - unit).exp()
            total = fade.mul(total) + p.sum(-1, keepdim=True)
            y = fade.mul(y) + p @ v[j : j + cols]
            top = new
        ys.append((y / total).nan_to_num())  # 0 / 0: nothing seen
        lses.append((top + total.log())[:, 0])
    return torch.cat(ys), torch.cat(lses)
    ### END SOLUTION


WHY = r"""
**Solution.** The bookkeeping of three ragged ends: slices stop by themselves; positions start at T_k - T_q; and the loop over keys ends behind the last key that the block's last query sees. The unit of a row that has
seen nothing is 0 in place of -∞.

*Common mistakes:* dividing inside the loop; the maximum of the tile in place of that of the row; the number of keys taken from `cols` in the last tile.
"""

HINTS = (
    "Start from the chapter's flash2. Which positions do the queries of a block have, and behind which key can it stop?",
    "at = i + … + T_k - T_q; keys in steps of cols, up to at.max(); mask j > at; unit = 0 where the new maximum is -inf.",
    "for j in range(0, T_k, cols), up to the last position: s, mask, new, unit, fade, p, total, y. At the end y / total (1 where 0), top + log total.",
)


def reference(q, k, v, rows, cols):
    return pair_by_pair(q, k, v, may_see(len(q), len(k)))


def cases(rng):
    def case(name, T_q, T_k, K, V, rows, cols, scale=1.0):
        inputs = {
            "q": scale * _randn(rng, T_q, K),
            "k": _randn(rng, T_k, K),
            "v": _randn(rng, T_k, V),
            "rows": rows,
            "cols": cols,
        }
        return Case(name, inputs)

    return [
        case("T = 1", 1, 1, 4, 4, 4, 4),
        case("tiles that fit", 12, 12, 4, 3, 4, 4),
        case("ragged", 13, 13, 4, 5, 4, 5),
        case("tiles of 1", 5, 5, 3, 4, 1, 1),
        case("one tile", 7, 7, 4, 2, 64, 64),
        case("fewer queries than keys", 4, 11, 4, 3, 3, 4),
        case("more queries than keys", 11, 4, 4, 3, 4, 3),
        case("large scores", 9, 9, 4, 3, 4, 4, 300.0),
        case(f"T = {LARGE}", LARGE, LARGE, 8, 8, 16, 16),
    ]


def effort(inputs, effort):
    T_q, T_k = len(inputs["q"]), len(inputs["k"])
    if T_q < LARGE:
        return None
    if effort.largest >= T_q * T_k / 4:
        return f"The values are right, but a tensor of {effort.largest:,} numbers was made for {T_q} × {T_k} pairs: work tile by tile."
    return None


PROPERTIES = (
    Property(
        "the tiles do not change the result",
        variants=lambda inputs: (
            [{**inputs, "rows": 3, "cols": 2}] if len(inputs["q"]) < LARGE else []
        ),
        holds=lambda inputs, outputs: (
            len(outputs) == 1 or _close(outputs[0][0], outputs[1][0])
        ),
        message="The result depends on the tile: look at the ends of the blocks, and at what is rescaled between them.",
    ),
)

OUTPUTS = ("y", "lse")

TIME_AXIS = 0


def parts_hint(t, inputs):
    rows = inputs["rows"]
    if t and t % rows == 0:
        return "a new block of queries begins here: what must start afresh?"
    return "which keys may this query see, and what is rescaled when a new maximum appears?"


def _by_merging(q, k, v, rows, cols):
    """Each tile's own softmax, merged by lse."""
    ys, lses = [], []
    for i in range(0, len(q), rows):
        q_i = q[i : i + rows]
        at = torch.arange(i, i + len(q_i)) + len(k) - len(q)
        y, lse = q.new_zeros(len(q_i), v.shape[1]), q.new_full((len(q_i),), -torch.inf)
        for j in range(0, len(k), cols):
            if j > at[-1]:
                break
            s = q_i @ k[j : j + cols].T / q.shape[1] ** 0.5
            s = torch.where(
                torch.arange(j, j + s.shape[1]) > at[:, None], -torch.inf, s
            )
            part = s.logsumexp(-1)
            w = torch.nan_to_num(torch.exp(s - part[:, None]), nan=0.0)
            both = torch.logaddexp(lse, part)
            safe = torch.where(both == -torch.inf, 0.0, both)
            y = (lse - safe).exp()[:, None] * y
            y = y + (part - safe).exp()[:, None] * (w @ v[j : j + cols])
            lse = both
        ys.append(y)
        lses.append(lse)
    return torch.cat(ys), torch.cat(lses)


def _keys_outside(q, k, v, rows, cols):
    """FlashAttention 1's order, with sums in place of finished reads."""
    at = torch.arange(len(q)) + len(k) - len(q)
    top, total = q.new_full((len(q),), -torch.inf), q.new_zeros(len(q))
    y = q.new_zeros(len(q), v.shape[1])
    for j in range(0, len(k), cols):
        for i in range(0, len(q), rows):
            r = slice(i, min(i + rows, len(q)))
            if at[r][-1] < j:
                continue
            s = q[r] @ k[j : j + cols].T / q.shape[1] ** 0.5
            s = s.masked_fill(torch.arange(j, j + s.shape[1]) > at[r, None], -torch.inf)
            new = torch.maximum(top[r], s.amax(1))
            safe = torch.nan_to_num(new, neginf=0.0)
            p = torch.exp(s - safe[:, None])
            fade = torch.exp(top[r] - safe)
            total[r] = fade * total[r] + p.sum(1)
            y[r] = fade[:, None] * y[r] + p @ v[j : j + cols]
            top[r] = new
    return y / total.clamp(min=1e-38)[:, None], top + total.log()


ALTERNATIVES = (_by_merging, _keys_outside)

MISTAKES = """
total = fade.mul(total) + → total = total +
    The sum is not rescaled when a larger maximum appears: y is, so they no longer fit together.
y = fade.mul(y) + → y = y +
    y is not rescaled when a larger maximum appears: the sum is, so they no longer fit together.
y = fade.mul(y) + p @ v[j : j + cols] → y = fade.mul(y) + p @ v[j : j + cols] / total
    Each tile is divided by the sum so far, and y once more at the end: divide once.
torch.maximum(top, s.amax(-1, keepdim=True)) → s.amax(-1, keepdim=True)
    The maximum is that of the newest tile. Rows keep the largest of all tiles so far.
.add(len(k) - len(q))[:, None] → [:, None]
    The first query is at the first key: the last one must be at the last.
.masked_fill(torch.arange(j, j + s.shape[1]) > at, -torch.inf) → .masked_fill(torch.arange(j, j + s.shape[1]) >= at, -torch.inf)
    A query does not see its own key: the mask begins one key too early.
.masked_fill(torch.arange(j, j + s.shape[1]) > at, -torch.inf) → .masked_fill(torch.zeros(1).bool(), -torch.inf)
    In the tiles on the diagonal nothing is masked: queries see keys of their future.
at.max() → at.min()
    The loop over keys stops where the block's first query stops. The last one sees further.
(top + total.log())[:, 0] → total.log()[:, 0]
    The lse is in units of e^top: add the maximum to the logarithm of the sum.
(top + total.log())[:, 0] → (top + total)[:, 0]
    The maximum is added to the sum: add it to the sum's logarithm.
q.shape[-1] ** -0.5 → 1
    The scores are not divided by the square root of K.
(y / total).nan_to_num() → y
    y is never divided by the sum of the weights.
"""

ALSO = (swapped("The outputs have changed places: return (y, lse)."),)
