"""A gate per channel, without overflow

*Write the gradient of q from the earlier blocks of its chunk. · 25 minutes · ●●● · 3 points*

With a gate per channel the pairs of a chunk are P_ij = Σ_c q_ic k_jc d_ijc, where d_ijc = exp(log a_{j+1,c} + … + log a_{i,c}). So their gradient reaches q as dq_ic = Σ_j dP_ij k_jc d_ijc.

Chunks have C = 48 tokens, in three blocks of B = 16. A program of the given launch has one block, and adds up what comes from the **earlier blocks of its chunk**. (Pairs inside a block are left to another kernel.) `query_pairs(dP, k, log_a)` returns this part of dq, (T, H, K); it is 0 for the first block of a chunk.

k and log_a are (T, H, K), K = 16; dP is (T, H, 48), where dP[i, h, m] belongs to token m of the chunk of i. All are float32. **A channel's logs may add up to -600 in a chunk**: no exponent may be positive.

The loop goes back from the nearest block to the chunk's first, and the tiles are loaded. Write what is done with each, and what is done in the end. Each earlier block must be one `tl.dot`. b_R, 0 at first, is there to add up what you need of the blocks between.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton
from seqlab.gpu.rows import load_rows, store_rows

KERNEL = "query_pairs"


@triton.jit
def query_pairs_kernel(p_dP, p_k, p_a, p_dq, T, H,
                       K: tl.constexpr, C: tl.constexpr, B: tl.constexpr):  # fmt: skip
    """dq of tokens program_id(0) · B and on of head program_id(1), from earlier blocks."""
    start, i_h, blocks = tl.program_id(0) * B, tl.program_id(1), C // B
    b_dq, b_R = tl.zeros((B, K), tl.float32), tl.zeros((1, K), tl.float32)
    earlier = (
        start % C // B
    )  # blocks of this chunk before mine; the nearest comes first
    for n in range(0, earlier):
        first, part = start - (n + 1) * B, i_h * blocks + earlier - (n + 1)
        b_k = load_rows(p_k, first, T, i_h, H, B, K)
        b_a = load_rows(p_a, first, T, i_h, H, B, K)
        b_dP = load_rows(p_dP, start, T, part, H * blocks, B, B)
        ### BEGIN SOLUTION
        b_f = tl.cumsum(b_a, 0, reverse=True) - b_a
        b_k = b_k * tl.exp(b_f + b_R)
        b_dq = tl.dot(b_dP, b_k, b_dq, input_precision="ieee")
        b_R += tl.sum(b_a, 0)[None, :]
        ### END SOLUTION
    b_a = load_rows(p_a, start, T, i_h, H, B, K)
    ### BEGIN SOLUTION
    b_dq = b_dq * tl.exp(tl.cumsum(b_a, 0))
    ### END SOLUTION
    store_rows(p_dq, b_dq, start, T, i_h, H, B, K)


def query_pairs(dP, k, log_a):
    """The part of dq (T, H, K) that comes from earlier blocks of the chunk."""
    T, H, K = k.shape
    dq, grid = torch.empty_like(k), (triton.cdiv(T, 16), H)
    query_pairs_kernel[grid](dP, k, log_a, dq, T, H, K=K, C=48, B=16)
    return dq


WHY = """
**Solution.** The reader's block begins at a border that lies after every write of earlier blocks. Split each decay there: from the write to its block's end, over the blocks between (b_R, added up on the way back), then from the border to the read. The first two go into k, before the product; the last depends on i and c alone,
so it is multiplied once, after all products. No exponent is positive.

**What overflows** is a split at another place. exp(G_i) · exp(-G_j), with sums from the chunk's start, has a factor exp(600).

**The gradient of k** is the same with time exchanged: the blocks *after* this one, with the decay from the border in q.
"""

HINTS = (
    "Which point lies between every write of the earlier blocks and every read of this one?",
    "dq = exp(sum of logs from the block's start to i) · Σ over earlier blocks of dP @ (k · exp(logs after j to its block's end + logs of the blocks between)).",
    "In the loop: k * tl.exp(tl.cumsum(a, 0, reverse=True) - a + b_R); b_dq = tl.dot(dP, k, b_dq); then b_R += tl.sum(a, 0)[None, :]. At the end b_dq * tl.exp(tl.cumsum(b_a, 0)).",
)


def reference(dP, k, log_a):
    dq = torch.zeros_like(k, dtype=torch.float64)
    for i in range(len(k)):
        start = i // 48 * 48
        for j in range(start, i // 16 * 16):
            d = log_a[j + 1 : i + 1].double().sum(0).exp()
            dq[i] += dP[i, :, j - start, None].double() * k[j].double() * d
    return dq.float()


def cases(rng):
    def draw(*shape):
        return torch.randn(*shape, generator=rng)

    found = []
    for name, (T, H) in {"two blocks": (20, 2), "two chunks": (50, 1)}.items():
        # Some channels hardly decay; the logs of others add up to some -600 in a chunk.
        log_a = -torch.rand(T, H, 16, generator=rng) * torch.tensor([0.1, 25.0]).repeat(
            8
        )
        found.append(
            Case(name, {"dP": draw(T, H, 48), "k": draw(T, H, 16), "log_a": log_a})
        )
    return found


OUTPUTS = ("dq",)


@triton.jit
def forward_kernel(p_dP, p_k, p_a, p_dq, T, H,
                   K: tl.constexpr, C: tl.constexpr, B: tl.constexpr):  # fmt: skip
    start, i_h = tl.program_id(0) * B, tl.program_id(1)
    b_dq = tl.zeros((B, K), tl.float32)
    for first in range(start // C * C, start, B):
        b_a = load_rows(p_a, first, T, i_h, H, B, K)
        b_dq *= tl.exp(tl.sum(b_a, 0))[None, :]
        b_k = load_rows(p_k, first, T, i_h, H, B, K)
        b_k *= tl.exp(tl.cumsum(b_a, 0, reverse=True) - b_a)
        at = p_dP + first % C
        o_t, o_j = start + tl.arange(0, B)[:, None], tl.arange(0, B)[None, :]
        b_dP = tl.load(at + (o_t * H + i_h) * C + o_j, mask=o_t < T, other=0.0)
        b_dq += tl.dot(b_dP, b_k, input_precision="ieee")
    b_dq *= tl.exp(tl.cumsum(load_rows(p_a, start, T, i_h, H, B, K), 0))
    store_rows(p_dq, b_dq, start, T, i_h, H, B, K)


def forward(dP, k, log_a):
    T, H, K = k.shape
    dq, grid = torch.empty_like(k), (triton.cdiv(T, 16), H)
    forward_kernel[grid](dP, k, log_a, dq, T, H, K=K, C=48, B=16)
    return dq


ALTERNATIVES = (forward,)

MISTAKES = """
tl.cumsum(b_a, 0, reverse=True) - b_a → tl.cumsum(b_a, 0, reverse=True)
    A write is decayed by its own gate, too: d_ij begins with that of j + 1.
tl.exp(b_f + b_R) → tl.exp(b_f)
    The decay over the blocks between is missing.
tl.exp(b_f + b_R) → tl.exp(b_R)
    The decay from the write to its block's end is missing.
b_dq * tl.exp(tl.cumsum(b_a, 0)) → b_dq * 1.0
    The decay from the border to the read is missing.
b_dq * tl.exp(tl.cumsum(b_a, 0)) → b_dq * tl.exp(tl.cumsum(b_a, 0) - b_a)
    The reader's own gate is left out: d_ij ends with that of i.
b_k = b_k * tl.exp(b_f + b_R)⏎b_dq = tl.dot(b_dP, b_k, b_dq, input_precision="ieee")⏎b_R += tl.sum(b_a, 0)[None, :] → b_R += tl.sum(b_a, 0)[None, :]⏎b_k = b_k * tl.exp(b_f + b_R)⏎b_dq = tl.dot(b_dP, b_k, b_dq, input_precision="ieee")
    A block's own gates are counted among those between: add them to b_R after its product.
"""
