"""Grouped queries in one tile

*Let one program read a head of the cache for all queries that share it. · 18 minutes · ●●○ · 2 points*

One new token has a query for each of H heads, q (H, K); the cache has h heads, k (S, h, K) and v (S, h, V), and H = G · h. Query head i reads cache head i // G. The page's kernel would start a program for each *query* head, and load each key G times. Here a program has a head of the *cache*: the G
queries that read it are the rows of one tile (of 16 rows; G ≤ 16). `packed(q, k, v)` returns y (H, V). The query sees all S keys; scores are scaled by 1/√K; K and V are 16 or 32.

Write the kernel, 16 keys at a time; the launch is given. The names of the parameters of `packed` must stay.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "packed"


@triton.jit
def packed_kernel(p_q, p_k, p_v, p_y, S, h, scale, G: tl.constexpr,
                  K: tl.constexpr, V: tl.constexpr, B: tl.constexpr):  # fmt: skip
    """The reads of the G query heads that share head program_id(0) of the cache."""
    ### BEGIN SOLUTION
    i_k, o_g = tl.program_id(0), tl.arange(0, B)
    o_k, o_v = tl.arange(0, K), tl.arange(0, V)
    i_h = i_k * G + o_g[:, None]
    b_q = tl.load(p_q + i_h * K + o_k[None, :], mask=o_g[:, None] < G, other=0.0)
    b_y, b_sum = tl.zeros((B, V), tl.float32), tl.zeros((B,), tl.float32)
    b_top = tl.full((B,), -1e30, tl.float32)
    for first in range(0, S, B):
        o_s = first + tl.arange(0, B)
        there = o_s[:, None] < S
        at_k = p_k + (o_s[:, None] * h + i_k) * K + o_k[None, :]
        at_v = p_v + (o_s[:, None] * h + i_k) * V + o_v[None, :]
        b_k = tl.load(at_k, mask=there, other=0.0)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * scale
        b_s = tl.where(o_s[None, :] < S, b_s, float("-inf"))
        new = tl.maximum(b_top, tl.max(b_s, 1))
        fade, b_p = tl.exp(b_top - new), tl.exp(b_s - new[:, None])
        b_sum = b_sum * fade + tl.sum(b_p, 1)
        b_v = tl.load(at_v, mask=there, other=0.0)
        b_y = tl.dot(b_p, b_v, b_y * fade[:, None], input_precision="ieee")
        b_top = new
    at_y = p_y + i_h * V + o_v[None, :]
    tl.store(at_y, b_y / b_sum[:, None], mask=o_g[:, None] < G)
    ### END SOLUTION


def packed(q, k, v):
    """y (H, V), for q (H, K), k (S, h, K), v (S, h, V)."""
    (H, K), (S, h, V) = q.shape, v.shape
    y = q.new_empty(H, V)
    packed_kernel[(h,)](q, k, v, y, S, h, K**-0.5, G=H // h, K=K, V=V, B=16)
    return y


WHY = """
**Solution.** Row g of the tile is query head i_k · G + g. All rows read the same keys, so a tile of keys is loaded once and multiplied with G rows: G times fewer bytes than a program for each query head asks for. The rows from G on are empty: they load q = 0, compute a mean of v, and must not be stored,
since what follows belongs to the next program.

**Another way** asks for more bytes: a program for each query head, with `i_h // G` as its head of the cache.

**Why 16 rows?** A matrix unit multiplies tiles of 16 rows and more. With G = 4, three quarters of its work is thrown away, and it costs nothing: decoding waits for memory.
"""

HINTS = (
    "Which query heads read head i_k of the cache? They are neighbours in q.",
    "Row g of the tile is query head i_k · G + g; rows from G on are masked in the load of q and in the store of y.",
    "i_h = i_k * G + o_g[:, None]; k[j, i_k] is at (j * h + i_k) * K; then the page's loop without causality.",
)


def reference(q, k, v):
    G = len(q) // k.shape[1]
    keys, values = (
        x.double().repeat_interleave(G, 1).transpose(0, 1) for x in (k, v)
    )  # (H, S, ·)
    scores = (keys * q.double()[:, None]).sum(-1) * q.shape[1] ** -0.5
    return (scores.softmax(-1)[..., None] * values).sum(1).float()


def cases(rng):
    def draw(*shape):
        return torch.randn(*shape, generator=rng)

    sizes = {
        "one key": (1, 2, 3, 16, 16),
        "whole tiles": (32, 2, 4, 16, 32),
        "a ragged end": (21, 3, 2, 32, 16),
        "one head of the cache": (20, 1, 5, 16, 16),
        "as many heads as queries": (9, 3, 1, 16, 16),
    }
    return [
        Case(
            name,
            {
                "q": 2 * draw(h * G, K),
                "k": 2 * draw(S, h, K),
                "v": draw(S, h, V) + 1,
            },
        )
        for name, (S, h, G, K, V) in sizes.items()
    ]


@triton.jit
def by_query_heads_kernel(p_q, p_k, p_v, p_y, S, h, scale, G: tl.constexpr,
                          K: tl.constexpr, V: tl.constexpr):  # fmt: skip
    i_h, o_k, o_v = tl.program_id(0), tl.arange(0, K), tl.arange(0, V)
    b_q, i_k = tl.load(p_q + i_h * K + o_k), i_h // G
    top, total, b_y = -1e30, 0.0, tl.zeros((V,), tl.float32)
    for j in range(0, S):
        s = tl.sum(b_q * tl.load(p_k + (j * h + i_k) * K + o_k), 0) * scale
        new = tl.maximum(top, s)
        fade, p = tl.exp(top - new), tl.exp(s - new)
        total = fade * total + p
        b_y = fade * b_y + p * tl.load(p_v + (j * h + i_k) * V + o_v)
        top = new
    tl.store(p_y + i_h * V + o_v, b_y / total)


def by_query_heads(q, k, v):
    (H, K), (S, h, V) = q.shape, v.shape
    y = q.new_empty(H, V)
    by_query_heads_kernel[(H,)](q, k, v, y, S, h, K**-0.5, G=H // h, K=K, V=V)
    return y


ALTERNATIVES = (by_query_heads,)

MISTAKES = """
i_h = i_k * G + o_g[:, None] → i_h = i_k + h * o_g[:, None]
    These are every h-th head of q: the heads that share head i_k of the cache are neighbours, from i_k · G on.
i_h = i_k * G + o_g[:, None] → i_h = o_g[:, None]
    Every program takes the first G heads of q.
tl.store(at_y, b_y / b_sum[:, None], mask=o_g[:, None] < G) → tl.store(at_y, b_y / b_sum[:, None])
    The store has no mask: the empty rows of the tile are written over the rows of the next program.
mask=o_g[:, None] < G, other=0.0) → other=0.0)
    The load of q has no mask: the last program reads beyond q.
b_s = tl.where(o_s[None, :] < S, b_s, float("-inf")) → b_s = b_s + 0.0
    Lanes behind the last key are counted: their score is 0, and it must be -∞.
(o_s[:, None] * h + i_k) * K → (i_k * S + o_s[:, None]) * K
    This reads k as (h, S, K): it is (S, h, K), so the next key of a head is h · K numbers away.
(o_s[:, None] * h + i_k) * V → (i_k * S + o_s[:, None]) * V
    This reads v as (h, S, V): it is (S, h, V), so the next value of a head is h · V numbers away.
(o_s[:, None] * h + i_k) * K → o_s[:, None] * h * K
    Every program reads the keys of head 0 of the cache.
b_y * fade[:, None] → b_y
    y is not rescaled where the maximum rises.
b_y / b_sum[:, None] → b_y
    y is not divided by the sum.
input_precision="ieee") * scale → input_precision="ieee")
    The scores are not divided by √K.
"""
