"""One tile of the loop

*Add a tile of keys to reads that have begun. · 12 minutes · ●○○ · 2 points*

Sixteen queries have read some keys. For each of them three numbers are kept: top, the largest score so far; total = Σ exp(score - top); and y = Σ exp(score - top) v, which is not divided yet. `loop_tile(q, k, v, y, top, total)`
adds up to 32 further keys and returns the new `(y, top, total)`. The scores are q kᵀ / √K.

Shapes: q (16, K), k (S, K), v (S, V), y (16, V), top and total (16,), all float32; K and V are 16 or 32, S is 1 to 32. A query that has read nothing has top = -∞, total = 0, y = 0. Scores
may be as large as ±1,000. Write the kernel; the launch is given. Use `tl.dot(…, input_precision="ieee")`.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "loop_tile"


@triton.jit
def loop_tile_kernel(p_q, p_k, p_v, p_y, p_top, p_total, p_y2, p_top2, p_total2, S, scale,
                     K: tl.constexpr, V: tl.constexpr, BS: tl.constexpr):  # fmt: skip
    """Read y, top and total, add the keys 0 … S - 1, and store y2, top2 and total2."""
    ### BEGIN SOLUTION
    o_t, o_s = tl.arange(0, 16), tl.arange(0, BS)
    o_k, o_v = tl.arange(0, K), tl.arange(0, V)
    there, at_y = o_s[:, None] < S, o_t[:, None] * V + o_v[None, :]
    b_q = tl.load(p_q + o_t[:, None] * K + o_k[None, :])
    b_k = tl.load(p_k + o_s[:, None] * K + o_k[None, :], mask=there, other=0.0)
    b_v = tl.load(p_v + o_s[:, None] * V + o_v[None, :], mask=there, other=0.0)
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * scale
    b_s = tl.where(o_s[None, :] < S, b_s, -float("inf"))
    b_top = tl.load(p_top + o_t)
    new = tl.maximum(b_top, tl.max(b_s, 1))
    fade, b_p = tl.exp(b_top - new), tl.exp(b_s - new[:, None])
    b_total = fade * tl.load(p_total + o_t) + tl.sum(b_p, 1)
    b_y = fade[:, None] * tl.load(p_y + at_y)
    b_y = tl.dot(b_p, b_v, b_y, input_precision="ieee")
    tl.store(p_y2 + at_y, b_y)
    tl.store(p_top2 + o_t, new)
    tl.store(p_total2 + o_t, b_total)
    ### END SOLUTION


def loop_tile(q, k, v, y, top, total):
    """The new (y, top, total), of the shapes of the old ones."""
    (S, K), V = k.shape, v.shape[1]
    y2, top2, total2 = (torch.empty_like(x) for x in (y, top, total))
    given = q, k, v, y, top, total, y2, top2, total2, S, K**-0.5
    loop_tile_kernel[(1,)](*given, K=K, V=V, BS=32)
    return y2, top2, total2


WHY = """
**Solution.** One step of the loop: scores, the new maximum, the factor exp(top - new) for all that was kept in the old unit, then the new terms. A query that has read nothing needs no case of its own: exp(-∞ - new) is 0, since `new` is finite
as soon as one key is there.

**The masked lanes.** k = 0 behind the end gives a score of 0, not of -∞. Only the `where` keeps such a lane from being counted; that v = 0 there protects y, not the sum.

**Another way** is to merge two parts by their log-sum-exp, as chapter 14 did. It needs a division in each tile.
"""

HINTS = (
    "Which two factors convert to the new unit: that of what was kept, and that of the new scores?",
    "new = max(top, max of the tile); fade = exp(top - new); total = fade · total + Σ p; y = fade · y + p v.",
    'b_s = tl.where(o_s[None, :] < S, dot · scale, -inf); b_p = tl.exp(b_s - new[:, None]); tl.dot(b_p, b_v, fade[:, None] * b_y, input_precision="ieee").',
)


def reference(q, k, v, y, top, total):
    scores = (q.double()[:, None] * k.double()[None]).sum(-1) * q.shape[1] ** -0.5
    new = torch.maximum(top.double(), scores.amax(1))
    old = (top.double() - new).exp()
    p = (scores - new[:, None]).exp()
    made = (
        old[:, None] * y.double() + (p[:, :, None] * v.double()[None]).sum(1),
        new,
        old * total.double() + p.sum(1),
    )
    return tuple(x.float() for x in made)


def cases(rng):
    def draw(*shape):
        return torch.randn(*shape, generator=rng)

    found = []
    sizes = {
        "one key": (1, 16, 32, 1.0, 0.0),
        "a whole tile": (32, 16, 16, 1.0, 0.0),
        "low scores": (9, 16, 32, 1.0, -3.0),
        "large scores": (21, 32, 16, 12.0, 0.0),
    }
    for name, (S, K, V, size, low) in sizes.items():
        q, k = size * draw(16, K), size * draw(S, K)
        top, total, y = size**2 * draw(16) + 0.5, 1 + draw(16).abs(), draw(16, V)
        if low:
            q, k, top = q.abs() + 1, -k.abs() - 1, top - 9
        top[::4], total[::4], y[::4] = -torch.inf, 0, 0
        given = {"q": q, "k": k, "v": draw(S, V) + 1, "y": y, "top": top}
        found.append(Case(name, given | {"total": total}))
    return found


OUTPUTS = ("y", "top", "total")


@triton.jit
def by_keys_kernel(p_q, p_k, p_v, p_y, p_top, p_total, p_y2, p_top2, p_total2, S, scale,
                   K: tl.constexpr, V: tl.constexpr):  # fmt: skip
    t, o_k, o_v = tl.program_id(0), tl.arange(0, K), tl.arange(0, V)
    b_q, top = tl.load(p_q + t * K + o_k), tl.load(p_top + t)
    total, b_y = tl.load(p_total + t), tl.load(p_y + t * V + o_v)
    for j in range(0, S):
        s = tl.sum(b_q * tl.load(p_k + j * K + o_k), 0) * scale
        new = tl.maximum(top, s)
        fade, p = tl.exp(top - new), tl.exp(s - new)
        total, b_y = fade * total + p, fade * b_y + p * tl.load(p_v + j * V + o_v)
        top = new
    tl.store(p_y2 + t * V + o_v, b_y)
    tl.store(p_top2 + t, top)
    tl.store(p_total2 + t, total)


def by_keys(q, k, v, y, top, total):
    (S, K), V = k.shape, v.shape[1]
    y2, top2, total2 = (torch.empty_like(x) for x in (y, top, total))
    given = q, k, v, y, top, total, y2, top2, total2, S, K**-0.5
    by_keys_kernel[(16,)](*given, K=K, V=V)
    return y2, top2, total2


ALTERNATIVES = (by_keys,)

MISTAKES = """
b_s = tl.where(o_s[None, :] < S, b_s, -float("inf")) → b_s = b_s + 0.0
    Lanes behind the last key are counted: their score is 0, and it must be -∞.
fade * tl.load(p_total + o_t) + → tl.load(p_total + o_t) +
    total is not rescaled: multiply it by exp(top - new).
b_y = fade[:, None] * tl.load(p_y + at_y) → b_y = tl.load(p_y + at_y)
    y is not rescaled: what was read so far is in the old unit.
b_total = fade * tl.load(p_total + o_t) + tl.sum(b_p, 1) → b_total = tl.sum(b_p, 1)
    total forgets the keys that were read before.
b_y = tl.dot(b_p, b_v, b_y, input_precision="ieee") → b_y = tl.dot(b_p, b_v, input_precision="ieee")
    y forgets what was read before: pass it to tl.dot, or add it.
tl.store(p_y2 + at_y, b_y) → tl.store(p_y2 + at_y, b_y / b_total[:, None])
    y is divided by total already: here it stays a sum, so that more keys can be added.
new = tl.maximum(b_top, tl.max(b_s, 1)) → new = tl.max(b_s, 1)
    The maximum is that of this tile alone: it must not fall below the old one.
input_precision="ieee") * scale → input_precision="ieee")
    The scores are not divided by √K.
mask=there, other=0.0)⏎b_v = → other=0.0)⏎b_v =
    The load of k has no mask: lanes behind the last key read beyond k.
"""
