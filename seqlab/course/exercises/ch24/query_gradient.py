"""dQ, by tiles of queries

*Write the kernel that gives dQ an owner. · 25 minutes · ●●● · 3 points*

The page's kernel owns keys and adds to dQ by atomics. Yours owns queries: program (i, h) has 16 queries of head h, walks along the keys that they see (query i sees keys j ≤ i), recomputes the weights from lse, and keeps its dQ in registers:

    P = exp(S - lse)      dS = P ∘ (dY Vᵀ - D)      dQ = dS K / √K,      S = Q Kᵀ / √K.

`query_gradient(q, k, v, dy, lse, D)` returns dq (T, H, K). q is (T, H, K), k (T, h, K), v (T, h, V), dy (T, H, V), lse and D (H, T), all float32; query head i reads cache head i // (H / h); K and V are 16 or 32.

Write the kernel, with tiles of 16 keys; the launch is given. No element of dq may be written by two programs, and names must stay.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "query_gradient"


@triton.jit
def query_gradient_kernel(p_q, p_k, p_v, p_dy, p_lse, p_d, p_dq, T, H, h, scale,
                          K: tl.constexpr, V: tl.constexpr, B: tl.constexpr):  # fmt: skip
    """dq of B queries of head program_id(1)."""
    ### BEGIN SOLUTION
    start, i_h = tl.program_id(0) * B, tl.program_id(1)
    o_t, o_k, o_v = start + tl.arange(0, B), tl.arange(0, K), tl.arange(0, V)
    inside, i_k = o_t[:, None] < T, i_h // (H // h)
    at_q = (o_t[:, None] * H + i_h) * K + o_k[None, :]
    at_y = (o_t[:, None] * H + i_h) * V + o_v[None, :]
    b_q = tl.load(p_q + at_q, mask=inside, other=0.0)
    b_dy = tl.load(p_dy + at_y, mask=inside, other=0.0)
    b_lse = tl.load(p_lse + i_h * T + o_t, mask=o_t < T, other=0.0)
    b_d = tl.load(p_d + i_h * T + o_t, mask=o_t < T, other=0.0)
    b_dq = tl.zeros((B, K), tl.float32)
    for first in range(0, tl.minimum(start + B, T), B):
        o_s = first + tl.arange(0, B)
        there = o_s[:, None] < T
        at_k = (o_s[:, None] * h + i_k) * K + o_k[None, :]
        at_v = (o_s[:, None] * h + i_k) * V + o_v[None, :]
        b_k = tl.load(p_k + at_k, mask=there, other=0.0)
        b_v = tl.load(p_v + at_v, mask=there, other=0.0)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * scale
        b_p = tl.exp(b_s - b_lse[:, None])
        b_p = tl.where(o_s[None, :] <= o_t[:, None], b_p, 0.0)
        b_dp = tl.dot(b_dy, tl.trans(b_v), input_precision="ieee")
        b_ds = b_p * (b_dp - b_d[:, None])
        b_dq = tl.dot(b_ds, b_k, b_dq, input_precision="ieee")
    tl.store(p_dq + at_q, b_dq * scale, mask=inside)
    ### END SOLUTION


def query_gradient(q, k, v, dy, lse, D):
    """dq (T, H, K)."""
    (T, H, K), (_, h, V) = q.shape, v.shape
    dq, grid = torch.empty_like(q), (triton.cdiv(T, 16), H)
    given = q, k, v, dy, lse, D, dq, T, H, h, K**-0.5
    query_gradient_kernel[grid](*given, K=K, V=V, B=16)
    return dq


WHY = """
**Solution.** The forward's loop, with its bounds, and other arithmetic inside: there is no maximum and no rescaling, since lse is known. Three products for each tile: scores, dP, and dS K. The scale appears twice: in the scores, and once at the end in place of each tile.

**The mask comes after exp.** A masked score of -∞ would do as well, but a query that sees nothing has lse = -∞, and -∞ + ∞ is not a number. Setting P to 0 afterwards needs no case.

**Another way** is the page's: let the kernel for dK and dV add to dq by atomics. That saves two of seven products, and its results differ in their last bits from run to run.
"""

HINTS = (
    "Which part of the page's `attend_kernel` chooses the keys, and which part of `keys_kernel` makes dS? Join them.",
    "For each tile of keys: P = exp(q kᵀ · scale - lse) where j ≤ i, else 0; dS = P · (dy vᵀ - D); dq += dS k. Behind the loop multiply by scale.",
    'for first in range(0, tl.minimum(start + B, T), B): load k and v of head i_h // (H // h); b_dq = tl.dot(b_ds, b_k, b_dq, input_precision="ieee"); store b_dq * scale.',
)


def reference(q, k, v, dy, lse, D):
    G = q.shape[1] // k.shape[1]
    q, k, v, dy, lse, D = (x.double() for x in (q, k, v, dy, lse, D))
    k, v = k.repeat_interleave(G, 1), v.repeat_interleave(G, 1)
    P = (
        torch.einsum("thk,shk->hts", q, k) * q.shape[-1] ** -0.5 - lse[..., None]
    ).exp()
    dS = P.tril() * (torch.einsum("thv,shv->hts", dy, v) - D[..., None])
    return (torch.einsum("hts,shk->thk", dS, k) * q.shape[-1] ** -0.5).float()


def cases(rng):
    def draw(*shape):
        return torch.randn(*shape, generator=rng)

    sizes = {
        "one token": (1, 2, 1, 16, 32),
        "whole tiles": (32, 2, 2, 16, 16),
        "a ragged end": (21, 2, 1, 32, 16),
        "grouped queries": (9, 6, 2, 16, 32),
    }
    found = []
    for name, (T, H, h, K, V) in sizes.items():
        q, k, v, dy = draw(T, H, K), draw(T, h, K), draw(T, h, V) + 0.5, draw(T, H, V)
        scores = torch.einsum("thk,shk->hts", q, k.repeat_interleave(H // h, 1)) * (
            K**-0.5
        )
        hidden = torch.ones(T, T).triu(1).bool()
        scores = scores.masked_fill(hidden, -torch.inf)
        y = torch.einsum(
            "hts,shv->thv", scores.softmax(-1), v.repeat_interleave(H // h, 1)
        )
        given = {"q": q, "k": k, "v": v, "dy": dy, "lse": scores.logsumexp(-1)}
        # D of a loss that also uses lse: not only dy · y.
        D = (dy * y).sum(-1).T.contiguous() - 0.3
        found.append(Case(name, given | {"D": D}))
    return found


@triton.jit
def by_keys_kernel(p_q, p_k, p_v, p_dy, p_lse, p_d, p_dq, T, H, h, scale,
                   K: tl.constexpr, V: tl.constexpr, B: tl.constexpr):  # fmt: skip
    i_h, o_t = tl.program_id(0), tl.program_id(1) * B + tl.arange(0, B)
    o_k, o_v, i_k = tl.arange(0, K)[None, :], tl.arange(0, V)[None, :], i_h // (H // h)
    row, inside = o_t[:, None] * H + i_h, o_t[:, None] < T
    b_q = tl.load(p_q + row * K + o_k, mask=inside, other=0.0) * scale
    b_dy = tl.load(p_dy + row * V + o_v, mask=inside, other=0.0)
    b_lse = tl.load(p_lse + i_h * T + o_t, mask=o_t < T, other=0.0)
    b_d = tl.load(p_d + i_h * T + o_t, mask=o_t < T, other=0.0)
    b_dq = tl.zeros((B, K), tl.float32)
    for j in range(0, T):
        b_k = tl.load(p_k + (j * h + i_k) * K + o_k)
        b_v = tl.load(p_v + (j * h + i_k) * V + o_v)
        b_s = tl.where(j <= o_t, tl.sum(b_q * b_k, 1), float("-inf"))
        b_ds = tl.exp(b_s - b_lse) * (tl.sum(b_dy * b_v, 1) - b_d) * scale
        b_dq += b_ds[:, None] * b_k
    tl.store(p_dq + row * K + o_k, b_dq, mask=inside)


def by_keys(q, k, v, dy, lse, D):
    (T, H, K), (_, h, V) = q.shape, v.shape
    dq = torch.empty_like(q)
    given = q, k, v, dy, lse, D, dq, T, H, h, K**-0.5
    by_keys_kernel[(H, triton.cdiv(T, 32))](*given, K=K, V=V, B=32)
    return dq


ALTERNATIVES = (by_keys,)

MISTAKES = """
tl.store(p_dq + at_q, b_dq * scale, mask=inside) → tl.store(p_dq + at_q, b_dq, mask=inside)
    dq is not multiplied by the scale: S = q kᵀ / √K, so dQ = dS K / √K.
b_ds = b_p * (b_dp - b_d[:, None]) → b_ds = b_p * b_dp
    D is missing: dS = P (dP - D).
b_ds = b_p * (b_dp - b_d[:, None]) → b_ds = b_dp - b_d[:, None]
    dS lacks the factor P.
b_ds = b_p * (b_dp - b_d[:, None]) → b_ds = b_p * (b_dp + b_d[:, None])
    D has the wrong sign: dS = P (dP - D).
b_p = tl.where(o_s[None, :] <= o_t[:, None], b_p, 0.0) → b_p = b_p + 0.0
    The mask is missing: a query must not see later keys.
b_p = tl.where(o_s[None, :] <= o_t[:, None], b_p, 0.0) → b_p = tl.where(o_s[None, :] < o_t[:, None], b_p, 0.0)
    A query sees its own key, too.
tl.exp(b_s - b_lse[:, None]) → tl.exp(b_s)
    The weights are not divided: P = exp(S - lse).
tl.exp(b_s - b_lse[:, None]) → tl.exp2(b_s - b_lse[:, None])
    This is 2 to the power of S - lse: both are in units of e here.
i_h // (H // h) → i_h % h
    The head of the cache is i_h // (H / h): neighbours share a head.
b_dq = tl.dot(b_ds, b_k, b_dq, input_precision="ieee") → b_dq = tl.dot(b_ds, b_k, input_precision="ieee")
    dq forgets the tiles before: pass it to tl.dot, or add to it.
b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * scale → b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee")
    The scores are not divided by √K.
range(0, tl.minimum(start + B, T), B) → range(0, start, B)
    The tile on the diagonal is missing.
"""
