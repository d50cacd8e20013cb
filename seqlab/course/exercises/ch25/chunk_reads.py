"""Outputs of a chunk, read before the write

*Write the outputs for a recurrence that is not on the page. · 25 minutes · ●●○ · 3 points*

RWKV-6 (chapter 09) reads before it writes, and gives the token's own value a weight u of its own. Here it is with a gate per head:

    y_t = S_{t-1} q_t + u (q_t · k_t) v_t        S_t = a_t S_{t-1} + v_t k_tᵀ

So the read of token t knows neither its own gate nor its own write. Let S be the state before a chunk and its first token number 0. In terms of the chunk, with d_ij the product of the gates a_{j+1} … a_{i-1} for j < i, and b_i that of a_0 … a_{i-1} (1 for the first token):

    y_i = S (b_i q_i) + Σ_{j < i} d_ij (q_i · k_j) v_j + u (q_i · k_i) v_i.

`chunk_reads(q, k, v, log_a, u, S)` returns y (T, H, V), for chunks of 16 tokens. q and k are (T, H, K), v (T, H, V), log_a (T, H, 1), u (H,), S (N, H, V, K) with the state before each chunk; all are float32; K and V are 16 or 32. Logs are finite, but their sum over a chunk may be -200.

The tiles are loaded, and y is stored at the end: write what lies between.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton
from seqlab.gpu.rows import load_rows, store_rows

KERNEL = "chunk_reads"


@triton.jit
def chunk_reads_kernel(p_q, p_k, p_v, p_a, p_u, p_S, p_y, T, H,
                       K: tl.constexpr, V: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """y of chunk program_id(0) of head program_id(1)."""
    c, i_h = tl.program_id(0), tl.program_id(1)
    b_q = load_rows(p_q, c * C, T, i_h, H, C, K)
    b_k = load_rows(p_k, c * C, T, i_h, H, C, K)
    b_v = load_rows(p_v, c * C, T, i_h, H, C, V)
    b_a = load_rows(p_a, c * C, T, i_h, H, C, 1)
    o_v, o_k = tl.arange(0, V)[:, None], tl.arange(0, K)[None, :]
    b_S = tl.load(p_S + ((c * H + i_h) * V + o_v) * K + o_k)
    ### BEGIN SOLUTION
    b_G = tl.cumsum(b_a, 0)
    b_before = b_G - b_a
    o_i, o_j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    b_d = tl.exp(tl.where(o_i > o_j, b_before - tl.trans(b_G), float("-inf")))
    b_d = tl.where(o_i == o_j, tl.load(p_u + i_h), b_d)
    b_P = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * b_d
    b_y = tl.dot(b_P, b_v, input_precision="ieee")
    b_y = tl.dot(b_q * tl.exp(b_before), tl.trans(b_S), b_y, input_precision="ieee")
    ### END SOLUTION
    store_rows(p_y, b_y, c * C, T, i_h, H, C, V)


def chunk_reads(q, k, v, log_a, u, S):
    """y (T, H, V)."""
    (T, H, K), V = q.shape, v.shape[2]
    y, grid = torch.empty_like(v), (triton.cdiv(T, 16), H)
    chunk_reads_kernel[grid](q, k, v, log_a, u, S, y, T, H, K=K, V=V, C=16)
    return y


WHY = """
**Solution.** The page's kernel with two sums of logs in place of one: G_i with the own gate for what is *written* at a token, G_i - a_i without it for what is *read* there. The diagonal of the pairs, which the page gives a decay of 1, gets u.

**Mask before exp.** For j ≥ i the difference is positive, up to 200 here, and exp of it is ∞; ∞ · 0 afterwards would be NaN.

**The first token of a chunk** reads S without any decay: b_0 = 1. Its own gate acts between the state and token 1.

**Another way** is to leave the diagonal out of the product and to add u (q_i · k_i) v_i as a sum over rows: tl.sum(b_q * b_k, 1).
"""

HINTS = (
    "Where does the page's kernel count the reader's own gate, and where its own write?",
    "With G the cumulative sum: reads have G_i - a_i, writes G_j. d_ij = exp(G_i - a_i - G_j) for j < i, u on the diagonal, 0 for j > i.",
    'b_d = tl.exp(tl.where(o_i > o_j, (b_G - b_a) - tl.trans(b_G), float("-inf"))); then tl.where(o_i == o_j, u, b_d); the state is read with b_q * tl.exp(b_G - b_a).',
)


def reference(q, k, v, log_a, u, S):
    ys = []
    for t in range(len(q)):
        state = S[t // 16].double() if t % 16 == 0 else state
        now = v[t].double()[:, :, None] * k[t].double()[:, None, :]
        seen = state + u.double()[:, None, None] * now
        ys.append((seen @ q[t].double()[:, :, None])[..., 0])
        state = log_a[t].double().exp()[..., None] * state + now
    return torch.stack(ys).float()


def cases(rng):
    def draw(*shape):
        return torch.randn(*shape, generator=rng)

    found = []
    for name, (T, H, K, V, size) in {
        "a last chunk of one token": (17, 2, 16, 32, 0.2),
        "strong gates": (16, 1, 32, 16, 25.0),
    }.items():
        given = {"q": draw(T, H, K) / 4, "k": draw(T, H, K), "v": draw(T, H, V)}
        given["log_a"] = -size * torch.rand(T, H, 1, generator=rng) - 0.02
        given |= {"u": draw(H) + 2, "S": draw(-(-T // 16), H, V, K)}
        found.append(Case(name, given))
    return found


OUTPUTS = ("y",)


@triton.jit
def by_tokens_kernel(p_q, p_k, p_v, p_a, p_u, p_S, p_y, T, H,
                     K: tl.constexpr, V: tl.constexpr, C: tl.constexpr):  # fmt: skip
    i_h, c = tl.program_id(0), tl.program_id(1)
    o_k, o_v = tl.arange(0, K), tl.arange(0, V)
    u = tl.load(p_u + i_h)
    b_S = tl.load(p_S + ((c * H + i_h) * V + o_v[:, None]) * K + o_k[None, :])
    for t in range(c * C, tl.minimum(c * C + C, T)):
        row = t * H + i_h
        b_k, b_v = tl.load(p_k + row * K + o_k), tl.load(p_v + row * V + o_v)
        b_now = b_v[:, None] * b_k[None, :]
        b_q = tl.load(p_q + row * K + o_k)
        tl.store(p_y + row * V + o_v, tl.sum((b_S + u * b_now) * b_q[None, :], 1))
        b_S = tl.exp(tl.load(p_a + row)) * b_S + b_now


def by_tokens(q, k, v, log_a, u, S):
    (T, H, K), V = q.shape, v.shape[2]
    y = torch.empty_like(v)
    grid = (H, triton.cdiv(T, 16))
    by_tokens_kernel[grid](q, k, v, log_a, u, S, y, T, H, K=K, V=V, C=16)
    return y


ALTERNATIVES = (by_tokens,)

MISTAKES = """
b_before = b_G - b_a → b_before = b_G
    Reads see their own gate, too: a read at token i knows the gates up to i - 1.
tl.where(o_i == o_j, tl.load(p_u + i_h), b_d) → tl.where(o_i == o_j, 1.0, b_d)
    The token's own write has weight 1: it is u.
tl.where(o_i == o_j, tl.load(p_u + i_h), b_d) → b_d
    The token's own write is left out: it counts with weight u.
tl.where(o_i == o_j, tl.load(p_u + i_h), b_d) → tl.where(o_i == o_j, tl.load(p_u), b_d)
    Every head takes the u of head 0.
b_q * tl.exp(b_before), tl.trans(b_S) → b_q, tl.trans(b_S)
    What is read from the state does not decay inside the chunk.
b_q * tl.exp(b_before), tl.trans(b_S) → b_q * tl.exp(b_G), tl.trans(b_S)
    The state is read through the reader's own gate: the first token of a chunk reads it whole.
b_before - tl.trans(b_G) → b_before - tl.trans(b_before)
    A pair is decayed by the gate of the token that was written, too: d_ij begins with that of j + 1.
"""
