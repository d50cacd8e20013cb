"""An operator with three members

*Join spans of a softmax, and let a tile take up where the last one stopped. · 12 minutes · ●●○ · 2 points*

Attention with one fixed query reads, at each token, the average of all values so far, weighted by exp of their scores:

    y_t = Σ_{j ≤ t} exp(score_j) v_j / Σ_{j ≤ t} exp(score_j).

It can be scanned. A span of tokens is three numbers: m, the largest score in it, s = Σ exp(score_j - m), and u = Σ exp(score_j - m) v_j. A single token is (score, 1, v). Write `join_spans`, which gives the three numbers of two spans, the earlier one first. The kernel and its launch are given:
the kernel scans tiles of 16 tokens and joins each prefix of a tile to all that came before. So both spans may be long. Scores reach ±300.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "running_average"


@triton.jit
def join_spans(m1, s1, u1, m2, s2, u2):
    """(m, s, u) of a span and the one after it."""
    ### BEGIN SOLUTION
    m = tl.maximum(m1, m2)
    w1, w2 = tl.exp(m1 - m), tl.exp(m2 - m)
    return m, w1 * s1 + w2 * s2, w1 * u1 + w2 * u2
    ### END SOLUTION


@triton.jit
def running_average_kernel(p_score, p_v, p_y, T, BT: tl.constexpr):
    o, zero = tl.arange(0, BT), tl.zeros((1,), tl.float32)
    m, s, u = zero - float("inf"), zero, zero
    for start in range(0, T, BT):
        there = start + o < T
        b_m = tl.load(p_score + start + o, mask=there, other=-1000.0)
        b_v = tl.load(p_v + start + o, mask=there, other=0.0)
        b_m, b_s, b_u = tl.associative_scan((b_m, b_v * 0 + 1, b_v), 0, join_spans)
        b_m, b_s, b_u = join_spans(m, s, u, b_m, b_s, b_u)
        tl.store(p_y + start + o, b_u / b_s, mask=there)
        m = tl.sum(tl.where(o == BT - 1, b_m, 0.0), 0, keep_dims=True)
        s = tl.sum(tl.where(o == BT - 1, b_s, 0.0), 0, keep_dims=True)
        u = tl.sum(tl.where(o == BT - 1, b_u, 0.0), 0, keep_dims=True)


def running_average(score, v):
    """y (T,) for score and v (T,)."""
    y = torch.empty_like(v)
    running_average_kernel[(1,)](score, v, y, len(v), BT=16)
    return y


WHY = """
**Solution.** Both spans are brought to the common maximum, and their sums are added: it is the merge of two parts of a softmax, which split decoding in chapter 24 needed.

**Why both weights?** In the interpreter the second span of a scan is always a single token, whose s is 1. An operator that assumes so is right here and wrong on a GPU, where long spans are joined. The kernel's last `join_spans` has a long second span, and so it finds out.

**Another way** is to carry log s + m in one number. Without any maximum, exp overflows at a score of 89.
"""

HINTS = (
    "Sums of two spans can be added once they have the same maximum. What is a sum multiplied by if its maximum grows from m1 to m?",
    "exp(score - m) = exp(score - m1) · exp(m1 - m). The same for the second span: either of the two may have the smaller maximum.",
    "m = tl.maximum(m1, m2); w1, w2 = tl.exp(m1 - m), tl.exp(m2 - m); return m, w1 * s1 + w2 * s2, and the same for u.",
)


def reference(score, v):
    score, v = score.double(), v.double()
    y = [score[: t + 1].softmax(0) @ v[: t + 1] for t in range(len(v))]
    return torch.stack(y).float()


def cases(rng):
    def draw(T):
        return torch.randn(T, generator=rng)

    return [
        Case("one token", {"score": draw(1), "v": draw(1)}),
        Case("three tiles", {"score": 2 * draw(37), "v": draw(37)}),
        Case("large scores", {"score": 100 * draw(21), "v": draw(21)}),
    ]


OUTPUTS = ("y",)


@triton.jit
def by_tokens_kernel(p_score, p_v, p_y, T):
    m, s, u = tl.load(p_score), 0.0, 0.0
    for t in range(0, T):
        score = tl.load(p_score + t)
        new = tl.maximum(m, score)
        old, weight = tl.exp(m - new), tl.exp(score - new)
        s, u, m = old * s + weight, old * u + weight * tl.load(p_v + t), new
        tl.store(p_y + t, u / s)


def by_tokens(score, v):
    y = torch.empty_like(v)
    by_tokens_kernel[(1,)](score, v, y, len(v))
    return y


ALTERNATIVES = (by_tokens,)

MISTAKES = """
w1 * s1 + w2 * s2 → w1 * s1 + w2
    The second span is taken for a single token, whose s is 1: it may be a long one.
w1 * u1 + w2 * u2 → w1 * u1 + u2
    u of the second span is not brought to the common maximum: it has to be multiplied as its s is.
w1 * s1 + w2 * s2, w1 * u1 + w2 * u2 → s1 + s2, u1 + u2
    The sums are added as they are: each has been scaled by its own maximum.
w1 * s1 + w2 * s2, w1 * u1 + w2 * u2 → w2 * s1 + w1 * s2, w2 * u1 + w1 * u2
    The two weights are exchanged: the first span is scaled by exp(m1 - m).
return m, w1 * s1 → return m2, w1 * s1
    The maximum that is returned is that of the second span, but s and u are scaled by that of both.
tl.exp(m1 - m), tl.exp(m2 - m) → tl.exp(m1 - m), tl.exp(0 * m)
    The second span is never scaled down: its maximum may be the smaller one.
"""
