"""Bug hunt: a row that sees nothing

*Find two faults that show only where a whole row is masked. · 20 minutes · ●●● · 3 points*

Texts of different lengths are packed into one batch: query i sees the keys first[i] ≤ j < last[i], and a query that is only padding sees none (first[i] = last[i]). `suspect_rows(q, k, v, first, last)` above is used for this, and its results are right wherever a query sees a key. A row that sees none
should read 0 and have lse = -∞. There are two faults in `suspect_kernel`; mending one shows the other.

`masked_rows(q, k, v, first, last)` returns `(y, lse)`: y (T, V) and lse (T,), for q (T, K), k (S, K), v (S, V), all float32, first and last (T,) of int32; scores are scaled by 1/√K, and may be as large as ±1,000. Change the kernel as you like; the launch is that of the suspect. Names of parameters must stay.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "masked_rows"


@triton.jit
def masked_rows_kernel(p_q, p_k, p_v, p_first, p_last, p_y, p_lse, T, S, scale,
                       K: tl.constexpr, V: tl.constexpr, B: tl.constexpr):  # fmt: skip
    """The reads of B queries, each of the keys first … last - 1."""
    ### BEGIN SOLUTION
    o_t = tl.program_id(0) * B + tl.arange(0, B)
    o_k, o_v, inside = tl.arange(0, K), tl.arange(0, V), o_t[:, None] < T
    b_q = tl.load(p_q + o_t[:, None] * K + o_k[None, :], mask=inside, other=0.0)
    b_first = tl.load(p_first + o_t, mask=o_t < T, other=0)
    b_last = tl.load(p_last + o_t, mask=o_t < T, other=0)
    b_y, b_sum = tl.zeros((B, V), tl.float32), tl.zeros((B,), tl.float32)
    b_top = tl.full((B,), -1e30, tl.float32)
    for start in range(0, S, B):
        o_s = start + tl.arange(0, B)
        there = o_s[:, None] < S
        b_k = tl.load(p_k + o_s[:, None] * K + o_k[None, :], mask=there, other=0.0)
        b_v = tl.load(p_v + o_s[:, None] * V + o_v[None, :], mask=there, other=0.0)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * scale
        sees = (o_s[None, :] >= b_first[:, None]) & (o_s[None, :] < b_last[:, None])
        b_s = tl.where(sees, b_s, float("-inf"))
        new = tl.maximum(b_top, tl.max(b_s, 1))
        fade, b_p = tl.exp(b_top - new), tl.exp(b_s - new[:, None])
        b_sum = b_sum * fade + tl.sum(b_p, 1)
        b_y = tl.dot(b_p, b_v, b_y * fade[:, None], input_precision="ieee")
        b_top = new
    blind = b_sum == 0.0
    b_y = b_y / tl.where(blind, 1.0, b_sum)[:, None]
    b_lse = tl.where(blind, float("-inf"), b_top + tl.log(b_sum))
    tl.store(p_y + o_t[:, None] * V + o_v[None, :], b_y, mask=inside)
    tl.store(p_lse + o_t, b_lse, mask=o_t < T)
    ### END SOLUTION


def masked_rows(q, k, v, first, last):
    """y (T, V) and lse (T,)."""
    (T, K), (S, V) = q.shape, v.shape
    y, lse = q.new_empty(T, V), q.new_empty(T)
    given = q, k, v, first, last, y, lse, T, S, K**-0.5
    masked_rows_kernel[(triton.cdiv(T, 16),)](*given, K=K, V=V, B=16)
    return y, lse


WHY = """
**Solution.** *The mask is finite.* A hidden score of -1e30 equals the start of the running maximum. In a row that sees nothing the maximum stays there, and exp(-1e30 + 1e30) = 1: each hidden key counts, and the row reads the mean of all values. With -∞ every weight is exp(-∞) = 0.

*The division has no guard.* With the first fault mended, the sum of such a row is 0, and 0 / 0 is not a number. Divide by 1 there, and set lse to -∞.

**Why did nobody notice?** Where a row sees one key, the hidden ones have weight exp(-1e30 - new) = 0. And padding is thrown away, until somebody takes a mean over all rows, or a backward meets the NaN.

**The other way round** is no better: with -∞ as the start *and* as the mask, the first tile without a visible key gives exp(-∞ + ∞), even in rows that see keys later.
"""

HINTS = (
    "Follow a row that sees nothing through the loop of the suspect: what are new, b_p and b_sum after the first tile?",
    "The fill of the mask must be below the start of the maximum: -inf and -1e30. Then b_sum is 0 in such a row: what is divided by it?",
    'b_s = tl.where(sees, b_s, float("-inf")); blind = b_sum == 0.0; divide by tl.where(blind, 1.0, b_sum); lse = tl.where(blind, float("-inf"), b_top + tl.log(b_sum)).',
)


def reference(q, k, v, first, last):
    scores = (q.double()[:, None] * k.double()[None]).sum(-1) * q.shape[1] ** -0.5
    j = torch.arange(len(k))
    sees = (j >= first[:, None]) & (j < last[:, None])
    scores = scores.masked_fill(~sees, -torch.inf)
    P = torch.nan_to_num(scores.softmax(-1), nan=0.0)
    return (P @ v.double()).float(), scores.logsumexp(-1).float()


def cases(rng):
    def draw(*shape):
        return torch.randn(*shape, generator=rng)

    found = []
    sizes = {
        "one query, one key": (1, 1, 16, 32, 1.0),
        "every row sees": (16, 32, 16, 16, 1.0),
        "rows that see nothing": (21, 37, 16, 32, 1.0),
        "late keys": (9, 50, 32, 16, 1.0),
        "large scores": (12, 40, 16, 16, 14.0),
    }
    for name, (T, S, K, V, size) in sizes.items():
        first = torch.randint(0, S, (T,), generator=rng, dtype=torch.int32)
        last = torch.minimum(first + 9, torch.tensor(S, dtype=torch.int32))
        if name in ("rows that see nothing", "large scores"):
            last[::3] = first[::3]
        if name == "late keys":
            first[:], last[:] = 35, 50
        given = {"q": size * draw(T, K), "k": size * draw(S, K), "v": draw(S, V) + 1}
        found.append(Case(name, given | {"first": first, "last": last}))
    return found


OUTPUTS = ("y", "lse")


@triton.jit
def by_rows_kernel(p_q, p_k, p_v, p_first, p_last, p_y, p_lse, scale,
                   K: tl.constexpr, V: tl.constexpr):  # fmt: skip
    t, o_k, o_v = tl.program_id(0), tl.arange(0, K), tl.arange(0, V)
    b_q, b_y = tl.load(p_q + t * K + o_k), tl.zeros((V,), tl.float32)
    top, total = -1e30, 0.0
    for j in range(tl.load(p_first + t), tl.load(p_last + t)):
        s = tl.sum(b_q * tl.load(p_k + j * K + o_k), 0) * scale
        new = tl.maximum(top, s)
        fade, p = tl.exp(top - new), tl.exp(s - new)
        total = fade * total + p
        b_y = fade * b_y + p * tl.load(p_v + j * V + o_v)
        top = new
    tl.store(p_y + t * V + o_v, b_y / tl.maximum(total, 1e-30))
    tl.store(p_lse + t, tl.where(total > 0, top + tl.log(total), float("-inf")))


def by_rows(q, k, v, first, last):
    (T, K), V = q.shape, v.shape[1]
    y, lse = q.new_empty(T, V), q.new_empty(T)
    given = q, k, v, first, last, y, lse, K**-0.5
    by_rows_kernel[(T,)](*given, K=K, V=V)
    return y, lse


ALTERNATIVES = (by_rows,)

MISTAKES = """
b_s = tl.where(sees, b_s, float("-inf")) → b_s = tl.where(sees, b_s, -1e30)
    A hidden score is -1e30, which is where the maximum starts: in a row that sees nothing every key has weight 1, behind the end of k too.
b_s = tl.where(sees, b_s, float("-inf")) → b_s = tl.where(sees, b_s, -1e30) ; blind = b_sum == 0.0 → blind = b_first == b_last
    lse and the sum know which rows are blind, but y does not: in such a row it is still the sum of all values, because hidden scores are -1e30 and not -∞.
b_lse = tl.where(blind, float("-inf"), b_top + tl.log(b_sum)) → b_lse = tl.where(blind, 0.0, b_top + tl.log(b_sum))
    A row that sees nothing has lse = -∞, not 0: a merge would count it as a key.
b_lse = tl.where(blind, float("-inf"), b_top + tl.log(b_sum)) → b_lse = tl.where(blind, -1e30, b_top + tl.log(b_sum))
    A row that sees nothing has lse = -1e30 here: it must be -∞.
b_lse = tl.where(blind, float("-inf"), b_top + tl.log(b_sum)) → b_lse = tl.where(blind, float("-inf"), tl.log(b_sum))
    lse lacks the maximum: it is top + log of the sum.
(o_s[None, :] < b_last[:, None]) → (o_s[None, :] <= b_last[:, None])
    last is not seen: the keys are first … last - 1.
(o_s[None, :] >= b_first[:, None]) & (o_s[None, :] < b_last[:, None]) → o_s[None, :] < b_last[:, None]
    The keys before first are seen.
b_y * fade[:, None] → b_y
    y is not rescaled where the maximum rises.
"""
