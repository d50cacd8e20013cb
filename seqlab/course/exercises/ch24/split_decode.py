"""Split and merge

*Let programs share the keys of one query. · 22 minutes · ●●● · 3 points*

One query q (K,) reads a long cache k (T, K), v (T, V). `split_decode(q, k, v, splits)` lets `splits` programs share the keys: program p reads the keys from p · span on, span of them, with span = ⌈T / splits⌉ (fewer at the end, perhaps none). It leaves its finished read and its lse. A second kernel, of one program,
merges the parts, weighted by exp(lse), and the function returns `(y, lse)`: y (V,) and lse (1,), of all keys. Everything is float32; K and V are 16 or 32; scores may be as large as ±1,000.

Write both kernels; the launches are given. `parts` is (splits, V), `lses` is (splits,); BP is a power of two, at least `splits`. There is one query, so use sums in place of `tl.dot`. A part without keys must count for nothing. The
names of the parameters of `split_decode` must stay.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "split_decode"


@triton.jit
def split_kernel(p_q, p_k, p_v, p_parts, p_lses, T, span, scale,
                 K: tl.constexpr, V: tl.constexpr, B: tl.constexpr):  # fmt: skip
    """The read of the keys of part program_id(0), and its lse; B keys at a time."""
    ### BEGIN SOLUTION
    i_p, o_k, o_v = tl.program_id(0), tl.arange(0, K), tl.arange(0, V)
    end = tl.minimum((i_p + 1) * span, T)
    b_q, b_y = tl.load(p_q + o_k), tl.zeros((V,), tl.float32)
    top, total = -1e30, 0.0
    for first in range(i_p * span, end, B):
        o_s = first + tl.arange(0, B)
        there = o_s[:, None] < end
        b_k = tl.load(p_k + o_s[:, None] * K + o_k[None, :], mask=there, other=0.0)
        b_v = tl.load(p_v + o_s[:, None] * V + o_v[None, :], mask=there, other=0.0)
        b_s = tl.sum(b_k * b_q[None, :], 1) * scale
        b_s = tl.where(o_s < end, b_s, float("-inf"))
        new = tl.maximum(top, tl.max(b_s, 0))
        fade, b_w = tl.exp(top - new), tl.exp(b_s - new)
        total = total * fade + tl.sum(b_w, 0)
        b_y = b_y * fade + tl.sum(b_w[:, None] * b_v, 0)
        top = new
    read = b_y / tl.where(total > 0, total, 1.0)
    tl.store(p_parts + i_p * V + o_v, read)
    lse = tl.where(total > 0, top + tl.log(total), float("-inf"))
    tl.store(p_lses + i_p, lse)
    ### END SOLUTION


@triton.jit
def merge_kernel(p_parts, p_lses, p_y, p_lse, splits,
                 V: tl.constexpr, BP: tl.constexpr):  # fmt: skip
    """y and lse of all parts."""
    ### BEGIN SOLUTION
    o_p, o_v = tl.arange(0, BP), tl.arange(0, V)
    b_lse = tl.load(p_lses + o_p, mask=o_p < splits, other=float("-inf"))
    top = tl.max(b_lse, 0)
    b_w = tl.exp(b_lse - top)
    there = o_p[:, None] < splits
    b_part = tl.load(p_parts + o_p[:, None] * V + o_v[None, :], mask=there, other=0.0)
    sum_w = tl.sum(b_w, 0)
    tl.store(p_y + o_v, tl.sum(b_w[:, None] * b_part, 0) / sum_w)
    tl.store(p_lse, top + tl.log(sum_w))
    ### END SOLUTION


def split_decode(q, k, v, splits):
    """y (V,) and lse (1,)."""
    (T, K), V = k.shape, v.shape[1]
    parts, lses = q.new_empty(splits, V), q.new_empty(splits)
    y, lse, span = q.new_empty(V), q.new_empty(1), triton.cdiv(T, splits)
    given = q, k, v, parts, lses, T, span, K**-0.5
    split_kernel[(splits,)](*given, K=K, V=V, B=16)
    BP = triton.next_power_of_2(splits)
    merge_kernel[(1,)](parts, lses, y, lse, splits, V=V, BP=BP)
    return y, lse


WHY = """
**Solution.** The first kernel is the loop of the page for one query over a span of keys. The second is a softmax over the parts' lse: the weight of a part is exp(lse_p - max), divided by the sum of these. An empty part leaves lse = -∞, so its weight is 0; its read must be a number all the same, because 0 · NaN is NaN.

**Two launches** make sure that all parts are there before they are merged. One launch is possible: each program adds 1 to an atomic counter when it is done, and the one that comes last merges.

**Another way** leaves (Σ, top, total) undivided. It costs one number more for each part and saves a division: either is fine.
"""

HINTS = (
    "What must a part leave behind, so that its keys count in the whole as much as they should?",
    "y = Σ_p w_p y_p / Σ_p w_p with w_p = exp(lse_p - max lse), and lse = max + log Σ_p w_p. A part without keys has lse = -∞ and any finite read.",
    "First kernel: for first in range(i_p * span, end, B) with end = tl.minimum((i_p + 1) * span, T), lanes masked by o_s < end; total may be 0. Second kernel: masked lanes hold lse = -inf and 0.",
)


def reference(q, k, v, splits):
    scores = (k.double() @ q.double()) * len(q) ** -0.5
    y = scores.softmax(0) @ v.double()
    return y.float(), scores.logsumexp(0)[None].float()


def cases(rng):
    def draw(*shape):
        return torch.randn(*shape, generator=rng)

    sizes = {
        "one key": (1, 16, 32, 1, 1.0),
        "one part": (20, 16, 32, 1, 1.0),
        "ragged spans": (50, 32, 16, 3, 2.0),
        "parts without keys": (9, 16, 16, 7, 1.0),
        "large scores": (35, 16, 16, 2, 14.0),
    }
    return [
        Case(
            name,
            {
                "q": size * draw(K),
                "k": size * draw(T, K),
                "v": draw(T, V) + 1,
                "splits": splits,
            },
        )
        for name, (T, K, V, splits, size) in sizes.items()
    ]


OUTPUTS = ("y", "lse")


@triton.jit
def keywise_kernel(p_q, p_k, p_v, p_parts, p_lses, T, span, scale,
                   K: tl.constexpr, V: tl.constexpr):  # fmt: skip
    i_p, o_k, o_v = tl.program_id(0), tl.arange(0, K), tl.arange(0, V)
    b_q, b_y = tl.load(p_q + o_k), tl.zeros((V,), tl.float32)
    lse = -1e30
    for j in range(i_p * span, tl.minimum((i_p + 1) * span, T)):
        s = tl.sum(b_q * tl.load(p_k + j * K + o_k), 0) * scale
        top = tl.maximum(lse, s)
        new = top + tl.log(tl.exp(lse - top) + tl.exp(s - top))
        b_y = tl.exp(lse - new) * b_y + tl.exp(s - new) * tl.load(p_v + j * V + o_v)
        lse = new
    tl.store(p_parts + i_p * V + o_v, b_y)
    tl.store(p_lses + i_p, lse)


@triton.jit
def in_turn_kernel(p_parts, p_lses, p_y, p_lse, splits, V: tl.constexpr):
    o_v = tl.arange(0, V)
    lse, b_y = -1e30, tl.zeros((V,), tl.float32)
    for i_p in range(0, splits):
        part = tl.load(p_lses + i_p)
        top = tl.maximum(lse, part)
        new = top + tl.log(tl.exp(lse - top) + tl.exp(part - top))
        b_part = tl.load(p_parts + i_p * V + o_v)
        b_y = tl.exp(lse - new) * b_y + tl.exp(part - new) * b_part
        lse = new
    tl.store(p_y + o_v, b_y)
    tl.store(p_lse, lse)


def in_turn(q, k, v, splits):
    (T, K), V = k.shape, v.shape[1]
    parts, lses = q.new_empty(splits, V), q.new_empty(splits)
    y, lse, span = q.new_empty(V), q.new_empty(1), triton.cdiv(T, splits)
    given = q, k, v, parts, lses, T, span, K**-0.5
    keywise_kernel[(splits,)](*given, K=K, V=V)
    in_turn_kernel[(1,)](parts, lses, y, lse, splits, V=V)
    return y, lse


ALTERNATIVES = (in_turn,)

MISTAKES = """
b_w = tl.exp(b_lse - top) → b_w = tl.where(b_lse > -1e30, 1.0, 0.0) ; tl.store(p_lse, top + tl.log(sum_w)) → tl.store(p_lse, top + tl.log(tl.sum(tl.exp(b_lse - top), 0)))
    The parts are averaged evenly: the weight of a part is exp(lse).
tl.store(p_y + o_v, tl.sum(b_w[:, None] * b_part, 0) / sum_w) → tl.store(p_y + o_v, tl.sum(b_w[:, None] * b_part, 0))
    The merged read is not divided by the sum of the weights.
tl.store(p_lse, top + tl.log(sum_w)) → tl.store(p_lse, top)
    lse is the largest of the parts' lse: the others are missing.
tl.store(p_lse, top + tl.log(sum_w)) → tl.store(p_lse, tl.log(sum_w))
    lse lacks the maximum of the parts' lse.
there = o_s[:, None] < end → there = o_s[:, None] < T ; b_s = tl.where(o_s < end, b_s, float("-inf")) → b_s = tl.where(o_s < T, b_s, float("-inf"))
    A part reads beyond its span: its last tile takes keys that the next part reads as well.
end = tl.minimum((i_p + 1) * span, T) → end = (i_p + 1) * span
    The last part reads beyond the last key.
b_s = tl.where(o_s < end, b_s, float("-inf")) → b_s = b_s + 0.0
    Lanes behind the end of a part are counted: their score is 0, and it must be -∞.
range(i_p * span, end, B) → range(0, end, B)
    Every part begins at the first key.
read = b_y / tl.where(total > 0, total, 1.0) → read = b_y
    The parts are not divided by their sums: a weight of exp(lse) asks for finished reads.
b_y = b_y * fade + → b_y = b_y +
    y is not rescaled where the maximum of a part rises.
top + tl.log(total), float("-inf")) → top + tl.log(total), 0.0)
    A part without keys has lse = 0 here, so it counts as much as a key with score 0: it must be -∞.
b_s = tl.sum(b_k * b_q[None, :], 1) * scale → b_s = tl.sum(b_k * b_q[None, :], 1)
    The scores are not divided by √K.
"""
