r"""A gate with biases

*Take the k best of a row by one score, and weigh them by another. · 12 minutes · ●●○ · 2 points*

DeepSeek-V3 keeps its experts balanced without a loss: each expert has a bias, which counts when experts are *chosen*, but not when they are *weighed*. With s = σ(z), elementwise,

- a token takes the k experts with the largest s + b; of equal ones the lowest number first;
- their weights are s (without b), divided by the sum of s over the k chosen.

`biased_gate(z, bias, k)` returns weights (N, k) in float32 and experts (N, k) in int32, the best first. z is (N, E), bias (E,), both float32. E need not be a power of two. The scores are loaded and the results stored for you; write what is between. Lanes from E on have s = 0, and s + b = -∞.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "biased_gate"


@triton.jit
def biased_gate_kernel(p_z, p_b, p_w, p_e, N, E, K: tl.constexpr, BN: tl.constexpr,
                       BE: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """Weights b_w and experts b_e (BN, BK) of BN tokens."""
    o_n = tl.program_id(0) * BN + tl.arange(0, BN)[:, None]
    o_e, o_k = tl.arange(0, BE)[None, :], tl.arange(0, BK)[None, :]
    there = (o_n < N) & (o_e < E)
    b_z = tl.load(p_z + o_n * E + o_e, mask=there, other=float("-inf"))
    b_b = tl.load(p_b + o_e, mask=o_e < E, other=float("-inf"))
    b_s = tl.sigmoid(b_z)
    b_score = b_s + b_b
    b_w, b_e = tl.zeros((BN, BK), tl.float32), tl.zeros((BN, BK), tl.int32)
    ### BEGIN SOLUTION
    for j in tl.static_range(K):
        b_best = tl.max(b_score, 1)[:, None]
        b_first = tl.min(tl.where(b_score == b_best, o_e, BE), 1)[:, None]
        b_own = tl.sum(tl.where(o_e == b_first, b_s, 0.0), 1)[:, None]
        b_w = tl.where(o_k == j, b_own, b_w)
        b_e = tl.where(o_k == j, b_first, b_e)
        b_score = tl.where(o_e == b_first, float("-inf"), b_score)
    b_w = b_w / tl.sum(b_w, 1)[:, None]
    ### END SOLUTION
    there = (o_n < N) & (o_k < K)
    tl.store(p_w + o_n * K + o_k, b_w, mask=there)
    tl.store(p_e + o_n * K + o_k, b_e, mask=there)


def biased_gate(z, bias, k):
    """Weights (N, k) and experts (N, k)."""
    N, E = z.shape
    w, e = z.new_empty(N, k), torch.empty(N, k, dtype=torch.int32)
    sizes = {"BE": triton.next_power_of_2(E), "BK": triton.next_power_of_2(k)}
    grid = (triton.cdiv(N, 4),)
    biased_gate_kernel[grid](z, bias, w, e, N, E, K=k, BN=4, **sizes)
    return w, e


WHY = """
**Solution.** Search in one tile and read from another. `b_score` = s + b is struck out as on the page; the weight of the expert that was found is picked from `b_s` by a sum over a row in which all other lanes are 0.

**Why not divide by the sum of all s?** Sigmoids do not sum to 1, so the weights of the chosen are rescaled to.

**What does the bias do?** An expert with too few tokens gets a larger b, until it is chosen more often. The output, and so the gradient, never sees b.
"""

HINTS = (
    "The page finds the best logit and strikes it out. Which of the two tiles must be searched here, and from which do weights come?",
    "b_first from b_score; the score of that expert is tl.sum(tl.where(o_e == b_first, b_s, 0.0), 1).",
    "In the loop: b_best, b_first, b_own, b_w = tl.where(o_k == j, b_own, b_w), the same for b_e, and b_score struck out; behind it b_w / tl.sum(b_w, 1)[:, None].",
)


def reference(z, bias, k):
    w, e = z.new_empty(len(z), k), torch.empty(len(z), k, dtype=torch.int32)
    for n, row in enumerate(z.double().sigmoid().tolist()):
        order = sorted(range(len(row)), key=lambda i: (-row[i] - bias[i].item(), i))
        total = sum(row[i] for i in order[:k])
        for j, i in enumerate(order[:k]):
            w[n, j], e[n, j] = row[i] / total, i
    return w, e


def cases(rng):
    sizes = {
        "two of six": (4, 6, 2),
        "one of four": (1, 4, 1),
        "three of seven": (6, 7, 3),
    }
    return [
        Case(
            name,
            {
                "z": torch.randn(N, E, generator=rng),
                "bias": torch.randn(E, generator=rng) / 2,
                "k": k,
            },
        )
        for name, (N, E, k) in sizes.items()
    ]


OUTPUTS = ("weights", "experts")


def in_torch(z, bias, k):
    s = z.sigmoid()
    e = (s + bias).topk(k).indices
    w = s.gather(1, e)
    return w / w.sum(1, keepdim=True), e.int()


@triton.jit
def one_token_kernel(p_z, p_b, p_w, p_e, E, K, BE: tl.constexpr):
    n, o_e = tl.program_id(0), tl.arange(0, BE)
    b_s = tl.sigmoid(tl.load(p_z + n * E + o_e, mask=o_e < E, other=float("-inf")))
    b_left = b_s + tl.load(p_b + o_e, mask=o_e < E, other=float("-inf"))
    b_rank = tl.zeros((BE,), tl.int32) + BE
    for j in range(0, K):
        e = tl.argmax(b_left, 0)
        b_rank = tl.where(o_e == e, j, b_rank)
        b_left = tl.where(o_e == e, float("-inf"), b_left)
    b_chosen = b_rank < K
    total = tl.sum(tl.where(b_chosen, b_s, 0.0), 0)
    tl.store(p_w + n * K + b_rank, b_s / total, mask=b_chosen)
    tl.store(p_e + n * K + b_rank, o_e, mask=b_chosen)


def one_token(z, bias, k):
    N, E = z.shape
    w, e = z.new_empty(N, k), torch.empty(N, k, dtype=torch.int32)
    BE = triton.next_power_of_2(E)
    one_token_kernel[(N,)](z, bias, w, e, E, k, BE=BE)
    return w, e


ALTERNATIVES = (one_token,)

MISTAKES = """
b_own = tl.sum(tl.where(o_e == b_first, b_s, 0.0), 1)[:, None] → b_own = b_best
    The weights hold the bias, too: it chooses, but the weight is s alone.
b_best = tl.max(b_score, 1)[:, None] → b_best = tl.max(b_s, 1)[:, None] ; tl.where(b_score == b_best, o_e, BE) → tl.where(b_s == b_best, o_e, BE) ; b_score = tl.where(o_e == b_first, float("-inf"), b_score) → b_s = tl.where(o_e == b_first, -1.0, b_s)
    The experts are chosen without the bias: search s + b.
b_w = b_w / tl.sum(b_w, 1)[:, None] → b_w = b_w * 1.0
    The weights are not divided by their sum over the chosen experts.
tl.sum(b_w, 1)[:, None] → tl.sum(b_s, 1)[:, None]
    The weights are divided by the sum over all experts: only the chosen ones count.
b_w = b_w / tl.sum(b_w, 1)[:, None] → b_w = tl.exp(b_w) / tl.sum(tl.where(o_k < K, tl.exp(b_w), 0.0), 1)[:, None]
    The weights are a softmax of s: divide s by its sum.
b_score = tl.where(o_e == b_first, float("-inf"), b_score) → b_score = b_score * 1.0
    The best expert is found k times: strike it out before the next search.
"""
