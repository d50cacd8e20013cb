"""The whole forward, with a sink

*Write a forward that is not on the page. · 25 minutes · ●●○ · 3 points*

Some models give each head a **sink**: one more score, a learned number s, that has no key and no value. It takes part in the softmax and reads nothing:

    y_i = Σ_j exp(S_ij) v_j / (exp(s) + Σ_j exp(S_ij))        lse_i = log(exp(s) + Σ_j exp(S_ij))

So a query that finds nothing may read nearly nothing. `attend_with_sink(q, k, v, sink)` returns `(y, lse)` for q (T, H, K), k (S, H, K), v (S, H, V) and sink (H,), in float32; y is (T, H, V), lse (H, T). Every query sees every key; S_ij = q_i · k_j / √K, and the sink is not scaled.
K and V are 16 or 32; T and S are any numbers from 1 on; scores may be as large as ±1,000.

Write the kernel and its launch, with tiles of 16 queries and 16 keys. Only tiles may stay on the chip; names of parameters must stay.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "attend_with_sink"


@triton.jit
def sink_kernel(p_q, p_k, p_v, p_sink, p_y, p_lse, T, S, H, scale,
                K: tl.constexpr, V: tl.constexpr, B: tl.constexpr):  # fmt: skip
    """Queries program_id(0) · B and on of head program_id(1)."""
    ### BEGIN SOLUTION
    i_h, o_k, o_v = tl.program_id(1), tl.arange(0, K), tl.arange(0, V)
    o_t = tl.program_id(0) * B + tl.arange(0, B)
    inside = o_t[:, None] < T
    at_q = p_q + (o_t[:, None] * H + i_h) * K + o_k[None, :]
    b_q = tl.load(at_q, mask=inside, other=0.0)
    b_y, b_sum = tl.zeros((B, V), tl.float32), tl.full((B,), 1.0, tl.float32)
    b_top = tl.zeros((B,), tl.float32) + tl.load(p_sink + i_h)
    for first in range(0, S, B):
        o_s = first + tl.arange(0, B)
        there = o_s[:, None] < S
        at_k = p_k + (o_s[:, None] * H + i_h) * K + o_k[None, :]
        at_v = p_v + (o_s[:, None] * H + i_h) * V + o_v[None, :]
        b_k = tl.load(at_k, mask=there, other=0.0)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * scale
        b_s = tl.where(o_s[None, :] < S, b_s, float("-inf"))
        new = tl.maximum(b_top, tl.max(b_s, 1))
        fade, b_p = tl.exp(b_top - new), tl.exp(b_s - new[:, None])
        b_sum = b_sum * fade + tl.sum(b_p, 1)
        b_v = tl.load(at_v, mask=there, other=0.0)
        b_y = tl.dot(b_p, b_v, b_y * fade[:, None], input_precision="ieee")
        b_top = new
    at_y = p_y + (o_t[:, None] * H + i_h) * V + o_v[None, :]
    tl.store(at_y, b_y / b_sum[:, None], mask=inside)
    tl.store(p_lse + i_h * T + o_t, b_top + tl.log(b_sum), mask=o_t < T)
    ### END SOLUTION


def attend_with_sink(q, k, v, sink):
    """y (T, H, V) and lse (H, T)."""
    (T, H, K), (S, _, V) = q.shape, v.shape
    y, lse = q.new_empty(T, H, V), q.new_empty(H, T)
    ### BEGIN SOLUTION
    sizes = {"K": K, "V": V, "B": 16}
    grid = (triton.cdiv(T, 16), H)
    sink_kernel[grid](q, k, v, sink, y, lse, T, S, H, K**-0.5, **sizes)
    ### END SOLUTION
    return y, lse


WHY = """
**Solution.** The sink is a first key whose value is 0: begin with top = s, sum = 1, y = 0, and the loop of the page does the rest. The start is finite, so no tile can compute -∞ + ∞, and the sum is never 0.

**Another way** is to begin as the page does and to add the sink at the end: new = max(top, s), then rescale sum and y once more and add exp(s - new) to the sum. If only y were wanted, it is y · sigmoid(lse - s), with lse that of attention without a sink:
so a kernel that returns its lse needs no change at all.

**Common mistakes.** The sink in each tile; the sink scaled by 1/√K; a start of top = s with sum = 0.
"""

HINTS = (
    "What would the loop hold after it has read the sink as if it were its first key?",
    "Begin with top = sink[head], sum = 1 and y = 0. Keys behind the end need a score of -∞.",
    "b_top = tl.zeros((B,), tl.float32) + tl.load(p_sink + i_h); b_sum = tl.full((B,), 1.0, tl.float32); then the page's loop over range(0, S, B).",
)


def reference(q, k, v, sink):
    scores = torch.einsum("thk,shk->hts", q.double(), k.double()) * q.shape[-1] ** -0.5
    more = sink.double()[:, None, None].expand(-1, len(q), 1)
    lse = torch.cat([scores, more], -1).logsumexp(-1)
    y = torch.einsum("hts,shv->thv", (scores - lse[..., None]).exp(), v.double())
    return y.float(), lse.float()


def cases(rng):
    def draw(*shape):
        return torch.randn(*shape, generator=rng)

    sizes = {
        "one query, one key": (1, 1, 2, 16, 32, 1.0),
        "whole tiles": (16, 32, 1, 16, 16, 1.0),
        "ragged ends": (17, 21, 2, 32, 16, 1.0),
        "large scores": (7, 20, 2, 16, 16, 12.0),
    }
    return [
        Case(
            name,
            {
                "q": size * draw(T, H, K),
                "k": size * draw(S, H, K),
                "v": draw(S, H, V) + 1,
                "sink": 2 * draw(H) + 1,
            },
        )
        for name, (T, S, H, K, V, size) in sizes.items()
    ]


OUTPUTS = ("y", "lse")


@triton.jit
def sink_last_kernel(p_q, p_k, p_v, p_sink, p_y, p_lse, T, S, H, scale,
                     K: tl.constexpr, V: tl.constexpr, B: tl.constexpr):  # fmt: skip
    i_h, o_t = tl.program_id(0), tl.program_id(1) * B + tl.arange(0, B)
    o_k, o_v = tl.arange(0, K)[None, :], tl.arange(0, V)[None, :]
    row, inside = o_t[:, None] * H + i_h, o_t[:, None] < T
    b_q = tl.load(p_q + row * K + o_k, mask=inside, other=0.0)
    b_top, b_sum = tl.full((B,), -1e30, tl.float32), tl.zeros((B,), tl.float32)
    b_y = tl.zeros((B, V), tl.float32)
    for j in range(0, S):
        b_s = tl.sum(b_q * tl.load(p_k + (j * H + i_h) * K + o_k), 1) * scale
        new = tl.maximum(b_top, b_s)
        fade, b_p = tl.exp(b_top - new), tl.exp(b_s - new)
        b_sum = fade * b_sum + b_p
        b_v = tl.load(p_v + (j * H + i_h) * V + o_v)
        b_y = fade[:, None] * b_y + b_p[:, None] * b_v
        b_top = new
    sink = tl.load(p_sink + i_h)
    new = tl.maximum(b_top, sink)
    fade = tl.exp(b_top - new)
    b_sum = b_sum * fade + tl.exp(sink - new)
    tl.store(p_y + row * V + o_v, b_y * (fade / b_sum)[:, None], mask=inside)
    tl.store(p_lse + i_h * T + o_t, new + tl.log(b_sum), mask=o_t < T)


def sink_last(q, k, v, sink):
    (T, H, K), (S, _, V) = q.shape, v.shape
    y, lse = q.new_empty(T, H, V), q.new_empty(H, T)
    given = q, k, v, sink, y, lse, T, S, H, K**-0.5
    sink_last_kernel[(H, triton.cdiv(T, 32))](*given, K=K, V=V, B=32)
    return y, lse


ALTERNATIVES = (sink_last,)

MISTAKES = """
tl.full((B,), 1.0, tl.float32) → tl.zeros((B,), tl.float32)
    This is attention without a sink: its term, exp(s - top), is missing from the sum.
+ tl.load(p_sink + i_h) → + tl.load(p_sink + i_h) * scale
    The sink is scaled by 1/√K: it is a score as it stands.
tl.load(p_sink + i_h) → tl.load(p_sink)
    Every head takes the sink of head 0.
b_sum = b_sum * fade + tl.sum(b_p, 1) → b_sum = b_sum * fade + tl.sum(b_p, 1) + tl.exp(tl.load(p_sink + i_h) - new)
    The sink is counted again in each tile of keys: it is one score for a row.
b_s = tl.where(o_s[None, :] < S, b_s, float("-inf")) → b_s = b_s + 0.0
    Lanes behind the last key are counted: their score is 0, and it must be -∞.
b_y / b_sum[:, None] → b_y
    y is not divided by the sum.
b_y * fade[:, None] → b_y
    y is not rescaled where the maximum rises.
b_top + tl.log(b_sum) → tl.log(b_sum)
    lse lacks the maximum: it is top + log of the sum.
b_top + tl.log(b_sum) → b_top + tl.log(b_sum - tl.exp(tl.load(p_sink + i_h) - b_top))
    lse leaves the sink out: the denominator of y contains it.
input_precision="ieee") * scale → input_precision="ieee")
    The scores are not divided by √K.
at_k = p_k + (o_s[:, None] * H + i_h) * K → at_k = p_k + (i_h * S + o_s[:, None]) * K
    This reads k as (H, S, K): it is (S, H, K), so the next key of a head is H · K numbers away.
"""
