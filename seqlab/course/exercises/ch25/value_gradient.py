"""dV of a chunk

*Write a kernel of the backward, from S's neighbour dS. · 20 minutes · ●●● · 3 points*

The page's `walk_kernel` with BACK leaves dS, the gradient of the state *after* each chunk. With it, dV is a matter of the chunk alone. A value v_j is read by later tokens of its chunk, through pairs, and by everything after the chunk, through the state:

    dv_j = Σ_{i ≥ j} d_ij (q_i · k_j) dy_i + dS (f_j k_j),

where d_ij is the product of the gates a_{j+1} … a_i, and f_j that of the gates after j up to the chunk's end.

`value_gradient(q, k, dy, log_a, dS)` returns dv (T, H, V), for chunks of 16 tokens. q and k are (T, H, K), dy (T, H, V), log_a (T, H, 1), dS (N, H, V, K), all float32; K and V are 16 or 32. Logs are finite; a chunk's sum may be -200.

The tiles are loaded, and dv is stored at the end: write what lies between.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton
from seqlab.gpu.rows import load_rows, store_rows

KERNEL = "value_gradient"


@triton.jit
def value_gradient_kernel(p_q, p_k, p_dy, p_a, p_dS, p_dv, T, H,
                          K: tl.constexpr, V: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """dv of chunk program_id(0) of head program_id(1)."""
    c, i_h = tl.program_id(0), tl.program_id(1)
    b_q = load_rows(p_q, c * C, T, i_h, H, C, K)
    b_k = load_rows(p_k, c * C, T, i_h, H, C, K)
    b_dy = load_rows(p_dy, c * C, T, i_h, H, C, V)
    b_a = load_rows(p_a, c * C, T, i_h, H, C, 1)
    o_v, o_k = tl.arange(0, V)[:, None], tl.arange(0, K)[None, :]
    b_dS = tl.load(p_dS + ((c * H + i_h) * V + o_v) * K + o_k)
    ### BEGIN SOLUTION
    b_G, b_f = tl.cumsum(b_a, 0), tl.cumsum(b_a, 0, reverse=True) - b_a
    o_j, o_i = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    b_d = tl.exp(tl.where(o_i >= o_j, tl.trans(b_G) - b_G, float("-inf")))
    b_P = tl.dot(b_k, tl.trans(b_q), input_precision="ieee") * b_d
    b_dv = tl.dot(b_P, b_dy, input_precision="ieee")
    b_dv = tl.dot(b_k * tl.exp(b_f), tl.trans(b_dS), b_dv, input_precision="ieee")
    ### END SOLUTION
    store_rows(p_dv, b_dv, c * C, T, i_h, H, C, V)


def value_gradient(q, k, dy, log_a, dS):
    """dv (T, H, V)."""
    (T, H, K), V = q.shape, dy.shape[2]
    dv, grid = torch.empty_like(dy), (triton.cdiv(T, 16), H)
    value_gradient_kernel[grid](q, k, dy, log_a, dS, dv, T, H, K=K, V=V, C=16)
    return dv


WHY = """
**Solution.** The pairs of the forward, transposed: row j, column i, with j ≤ i. Computing k qᵀ at once is better than transposing the result of q kᵀ: a tile that comes out of a product lies in registers in an order that a second product cannot always use. Then the write's own way to the state, backwards: dS times f_j k_j.

**Check by roles.** dv is the forward on reversed time, with k as the query, q as the key and dy as the value (section 6 of the page).

**Common mistakes.** The chunk's *first* dS, that is, the gradient of the state before it. The mask as in the forward, j ≥ i, for the transposed tile. b in the place of f.
"""

HINTS = (
    "Write the forward as y = (P ∘ d) V + … and S' = … + Vᵀ (f k). What are the gradients of V in both?",
    "dv = (P ∘ d)ᵀ dy + (f k) dSᵀ. Build the transposed tile directly: k qᵀ, kept where i ≥ j, with exp(G_i - G_j).",
    'b_P = tl.dot(b_k, tl.trans(b_q), input_precision="ieee") * tl.exp(tl.where(o_i >= o_j, tl.trans(b_G) - b_G, float("-inf"))), o_j over rows; dv = tl.dot(b_P, b_dy); then add tl.dot(b_k * tl.exp(cumsum reversed - b_a), tl.trans(b_dS)).',
)


def reference(q, k, dy, log_a, dS):
    dv, T = torch.zeros_like(dy, dtype=torch.float64), len(q)
    for j in range(T):
        end = min(j // 16 * 16 + 16, T)
        read = k[j].double()
        for i in range(j, end):
            d = log_a[j + 1 : i + 1].double().sum(0).exp()
            dv[j] += d * (q[i].double() * read).sum(-1, keepdim=True) * dy[i].double()
        f = log_a[j + 1 : end].double().sum(0).exp()
        dv[j] += (dS[j // 16].double() @ (f * read)[..., None])[..., 0]
    return dv.float()


def cases(rng):
    def draw(*shape):
        return torch.randn(*shape, generator=rng)

    found = []
    for name, (T, H, K, V, size) in {
        "a last chunk of one token": (17, 2, 16, 32, 0.2),
        "strong gates": (16, 1, 32, 16, 25.0),
    }.items():
        given = {"q": draw(T, H, K) / 4, "k": draw(T, H, K), "dy": draw(T, H, V)}
        given["log_a"] = -size * torch.rand(T, H, 1, generator=rng) - 0.02
        found.append(Case(name, given | {"dS": draw(-(-T // 16), H, V, K)}))
    return found


OUTPUTS = ("dv",)


@triton.jit
def backwards_kernel(p_q, p_k, p_dy, p_a, p_dS, p_dv, T, H,
                     K: tl.constexpr, V: tl.constexpr, C: tl.constexpr):  # fmt: skip
    i_h, c = tl.program_id(0), tl.program_id(1)
    o_k, o_v = tl.arange(0, K), tl.arange(0, V)
    b_dS = tl.load(p_dS + ((c * H + i_h) * V + o_v[:, None]) * K + o_k[None, :])
    end = tl.minimum(c * C + C, T)
    for n in range(0, end - c * C):
        row = (end - 1 - n) * H + i_h
        b_q, b_dy = tl.load(p_q + row * K + o_k), tl.load(p_dy + row * V + o_v)
        b_dS += b_dy[:, None] * b_q[None, :]
        b_k = tl.load(p_k + row * K + o_k)
        tl.store(p_dv + row * V + o_v, tl.sum(b_dS * b_k[None, :], 1))
        b_dS *= tl.exp(tl.load(p_a + row))


def backwards(q, k, dy, log_a, dS):
    (T, H, K), V = q.shape, dy.shape[2]
    dv, grid = torch.empty_like(dy), (H, triton.cdiv(T, 16))
    backwards_kernel[grid](q, k, dy, log_a, dS, dv, T, H, K=K, V=V, C=16)
    return dv


ALTERNATIVES = (backwards,)

MISTAKES = """
tl.where(o_i >= o_j, tl.trans(b_G) - b_G, float("-inf")) → tl.where(o_j >= o_i, b_G - tl.trans(b_G), float("-inf"))
    A value is given to earlier tokens: the tile is transposed, so it keeps i ≥ j.
o_i >= o_j → o_i > o_j
    The token's own read is left out: i = j counts.
b_k * tl.exp(b_f), tl.trans(b_dS) → b_k, tl.trans(b_dS)
    What goes through the state does not decay to the chunk's end: f is missing.
b_k * tl.exp(b_f), tl.trans(b_dS) → b_k * tl.exp(b_G), tl.trans(b_dS)
    This decays from the chunk's start (b); a write decays to the chunk's end (f).
b_k * tl.exp(b_f), tl.trans(b_dS) → b_k * tl.exp(b_f + b_a), tl.trans(b_dS)
    On the way through the state a write is decayed by its own gate, too.
input_precision="ieee") * b_d → input_precision="ieee") * tl.where(o_i >= o_j, 1.0, 0.0)
    The pairs do not decay.
b_dv = tl.dot(b_k * tl.exp(b_f), tl.trans(b_dS), b_dv, input_precision="ieee") → b_dv = b_dv + 0.0
    What is read after the chunk, through the state, is missing.
"""
