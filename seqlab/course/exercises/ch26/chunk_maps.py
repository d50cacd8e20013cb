"""A chunk as one map

*Turn the WY form of a chunk into a matrix and a table. · 18 minutes · ●●● · 3 points*

What a chunk of the gated delta rule does to a state is S' = S M + Z, whatever S is. With M (K, K) and Z (V, K) of each chunk, states could be scanned: two maps in a row are again such a map. (The page says why one does not. For decoding many texts from one long prompt, M and Z of the prompt may still be worth it.)

`chunk_maps(k, v, log_a, beta)` returns M (N, H, K, K) and Z (N, H, V, K) for chunks of 16 tokens, N = ⌈T / 16⌉. k is (T, H, K), v (T, H, V), log_a (T, H, 1), finite, beta (T, H); K and V are 16 or 32. Use the WY form: W and Ũ by the inverse of the triangular tile, then what they do to the state at the chunk's end.

Write the first kernel. `inverse` (the page's) and the launch are given, and `load_rows` loads tokens of a head: `load_rows(p, first, T, i_h, H, N, W)` is a tile (N, W) with 0 for tokens from T on.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton
from seqlab.gpu.rows import load_rows

KERNEL = "chunk_maps"


@triton.jit
def chunk_maps_kernel(p_k, p_v, p_a, p_beta, p_M, p_Z, T, H,
                      K: tl.constexpr, V: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """M and Z of chunk program_id(0) of head program_id(1)."""
    ### BEGIN SOLUTION
    c, i_h = tl.program_id(0), tl.program_id(1)
    o_i, o_j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    o_v, o_k = tl.arange(0, V)[:, None], tl.arange(0, K)[None, :]
    o_r = tl.arange(0, K)[:, None]
    b_k = load_rows(p_k, c * C, T, i_h, H, C, K)
    b_v = load_rows(p_v, c * C, T, i_h, H, C, V)
    b_beta = load_rows(p_beta, c * C, T, i_h, H, C, 1)
    b_G = tl.cumsum(load_rows(p_a, c * C, T, i_h, H, C, 1), 0)
    whole = tl.sum(tl.where(o_i == C - 1, b_G, 0.0))
    b_d = tl.exp(tl.where(o_i > o_j, b_G - tl.trans(b_G), float("-inf")))
    b_kk = tl.dot(b_k, tl.trans(b_k), input_precision="ieee")
    b_X = inverse(b_beta * b_kk * b_d, C)
    b_U = tl.dot(b_X, b_beta * b_v, input_precision="ieee")
    b_W = tl.dot(b_X, b_beta * tl.exp(b_G) * b_k, input_precision="ieee")
    b_kf = b_k * tl.exp(whole - b_G)
    b_Z = tl.dot(tl.trans(b_U), b_kf, input_precision="ieee")
    b_one = tl.where(o_r == o_k, tl.exp(whole), 0.0)
    b_M = b_one - tl.dot(tl.trans(b_W), b_kf, input_precision="ieee")
    tl.store(p_Z + ((c * H + i_h) * V + o_v) * K + o_k, b_Z)
    tl.store(p_M + ((c * H + i_h) * K + o_r) * K + o_k, b_M)
    ### END SOLUTION


@triton.jit
def inverse(b_L, C: tl.constexpr):
    """(I + L)⁻¹ of a strictly lower triangular tile (C, C)."""
    o_row, o_col = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    b_X = tl.where(o_row == o_col, 1.0, 0.0)
    for i in range(1, C):
        b_Li = tl.sum(tl.where(o_row == i, b_L, 0.0), 0)[:, None]
        b_X = tl.where(o_row == i, b_X - tl.sum(b_Li * b_X, 0)[None, :], b_X)
    return b_X


def chunk_maps(k, v, log_a, beta):
    """M (N, H, K, K) and Z (N, H, V, K), for chunks of 16 tokens."""
    (T, H, K), V = k.shape, v.shape[2]
    N = triton.cdiv(T, 16)
    M, Z = k.new_empty(N, H, K, K), k.new_empty(N, H, V, K)
    given = k, v, log_a, beta, M, Z, T, H
    chunk_maps_kernel[(N, H)](*given, K=K, V=V, C=16)
    return M, Z


WHY = """
**Solution.** The writes of a chunk are U = Ũ - W Sᵀ, and the state at its end is S' = e_C S + Uᵀ diag(f) K. Insert one into the other: S' = S (e_C I - Wᵀ diag(f) K) + Ũᵀ diag(f) K.

Without gates M is I - Wᵀ K: a product of 16 matrices I - β k kᵀ, as the identity less one matrix of rank 16 at most. That is the WY form.

**Common mistakes.** The identity does not fade with the chunk; W without the decay since the chunk's start; keys without the decay to its end; β for the columns of L in place of its rows. Transposed products: (V, C)(C, K) gives Z, (K, C)(C, K) gives M.
"""

HINTS = (
    "Write U as Ũ - W Sᵀ, and the state at the end with U in it. Which part contains S?",
    "M = e_C I - Wᵀ diag(f) K and Z = Ũᵀ diag(f) K, where f_j is the decay after token j to the end of the chunk and e_C that of the whole chunk.",
    "b_kf = b_k * tl.exp(whole - b_G); b_Z = tl.dot(tl.trans(b_U), b_kf); b_M = tl.where(o_r == o_k, tl.exp(whole), 0.0) - tl.dot(tl.trans(b_W), b_kf).",
)


def reference(k, v, log_a, beta):
    """The rule itself, on the unit table without values, and on an empty one with them."""
    k, v, a, beta = k.double(), v.double(), log_a.double().exp(), beta.double()
    (T, H, K), V = k.shape, v.shape[2]
    Ms, Zs = [], []
    for span in torch.arange(T).split(16):
        M = torch.eye(K, dtype=k.dtype).repeat(H, 1, 1)
        Z = k.new_zeros(H, V, K)
        for t in span:
            M, Z = (a[t, :, :, None] * S for S in (M, Z))
            key, b = k[t, :, :, None], beta[t, :, None, None]
            M = M - b * (M @ key) @ key.mT
            Z = Z + b * (v[t, :, :, None] - Z @ key) @ key.mT
        Ms.append(M)
        Zs.append(Z)
    return torch.stack(Ms).float(), torch.stack(Zs).float()


def cases(rng):
    def draw(*shape):
        return torch.randn(*shape, generator=rng)

    found = []
    for name, (T, H, K, V) in {
        "one token": (1, 1, 16, 16),
        "a ragged end": (21, 2, 16, 32),
        "two chunks": (32, 1, 32, 16),
    }.items():
        k = draw(T, H, K)
        k = k / k.norm(dim=-1, keepdim=True) + 0.1
        log_a = -torch.rand(T, H, 1, generator=rng) / 5 - 0.02
        beta = 0.2 + torch.rand(T, H, generator=rng)
        inputs = {"k": k, "v": draw(T, H, V), "log_a": log_a, "beta": beta}
        found.append(Case(name, inputs))
    return found


OUTPUTS = ("M", "Z")


@triton.jit
def by_tokens_kernel(p_k, p_v, p_a, p_beta, p_M, p_Z, T, H,
                     K: tl.constexpr, V: tl.constexpr, C: tl.constexpr):  # fmt: skip
    i_h, c = tl.program_id(0), tl.program_id(1)
    o_k, o_v = tl.arange(0, K), tl.arange(0, V)
    b_M = tl.where(o_k[:, None] == o_k[None, :], 1.0, 0.0)
    b_Z = tl.zeros((V, K), tl.float32)
    for t in range(c * C, tl.minimum(c * C + C, T)):
        row = t * H + i_h
        a, beta = tl.exp(tl.load(p_a + row)), tl.load(p_beta + row)
        b_k, b_v = tl.load(p_k + row * K + o_k), tl.load(p_v + row * V + o_v)
        b_M, b_Z = a * b_M, a * b_Z
        b_M -= beta * tl.sum(b_M * b_k[None, :], 1)[:, None] * b_k[None, :]
        b_new = b_v - tl.sum(b_Z * b_k[None, :], 1)
        b_Z += beta * b_new[:, None] * b_k[None, :]
    at = c * H + i_h
    tl.store(p_M + (at * K + o_k[:, None]) * K + o_k[None, :], b_M)
    tl.store(p_Z + (at * V + o_v[:, None]) * K + o_k[None, :], b_Z)


def by_tokens(k, v, log_a, beta):
    (T, H, K), V = k.shape, v.shape[2]
    N = triton.cdiv(T, 16)
    M, Z = k.new_empty(N, H, K, K), k.new_empty(N, H, V, K)
    given = k, v, log_a, beta, M, Z, T, H
    by_tokens_kernel[(H, N)](*given, K=K, V=V, C=16)
    return M, Z


ALTERNATIVES = (by_tokens,)

MISTAKES = """
tl.where(o_r == o_k, tl.exp(whole), 0.0) → tl.where(o_r == o_k, 1.0, 0.0)
    The old state does not fade: the identity in M is multiplied by the chunk's gates.
b_beta * tl.exp(b_G) * b_k → b_beta * b_k
    W reads a state that has not faded: the decay from the chunk's start to the token is missing.
b_k * tl.exp(whole - b_G) → b_k
    What a token writes does not fade to the chunk's end: f is missing in the keys.
b_beta * b_kk * b_d → b_kk * b_d
    β is missing in L: a correction is as strong as the write.
b_beta * b_kk * b_d → tl.trans(b_beta) * b_kk * b_d
    L has the β of the earlier token: it belongs to the one that is corrected, the row.
b_beta * b_kk * b_d → b_beta * b_kk * tl.where(o_i > o_j, 1.0, 0.0)
    L has no decay: an earlier write has faded when a later key finds it.
tl.dot(b_X, b_beta * b_v, input_precision="ieee") → b_beta * b_v
    Ũ is β V itself: the system has not been solved for the values.
"""
