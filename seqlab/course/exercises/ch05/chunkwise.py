"""Chunks of a gate that changes

*Write the form in which gated models are trained. · 20 minutes · ●●● · 3 points*

Chapter 04's chunkwise form had a constant decay, and its powers could be counted. Now each token of each head has its own gate, `log_a` (B, T, H). Take running sums
*inside* each chunk, and find the three decays in them: between two tokens of the chunk, from its start to a token, and from a token to its end.

The last chunk may be shorter than `chunk_size`. The answer must not depend on `chunk_size`, but loop over chunks: the check counts. Gates of exactly 0
(`log_a` of -inf) do not occur, but very strong ones do, so form differences before exp. A model trains through this form: the gradient of `log_a` has to be
finite as well.
"""

import torch
from einops import rearrange

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch05.shared import (
    CAUSAL,
    _gates,
    _qkv,
    _randn,
    token_by_token,
)
from seqlab.course.exercises.shared import LONG, chunks_are_asked
from seqlab.course.exercises.vocabulary import (
    heads_mixed,
    scaled,
    state_ignored,
    swapped,
)


def chunkwise(q, k, v, log_a, state=None, chunk_size=64):
    """S_t = a_t S_{t-1} + v_t k_tᵀ and y_t = S_t q_t, chunk by chunk, with a gate for each token and head.

    q, k (B, T, H, K), v (B, T, H, V), log_a (B, T, H), state (B, H, V, K) or None for zeros. Returns (y, S): y
    (B, T, H, V), and S after the last token.
    """
    ### BEGIN SOLUTION
    q, k, v = (rearrange(x, "b t h d -> b h t d") for x in (q, k, v))
    B, H, T, K = q.shape
    S = q.new_zeros(B, H, v.shape[-1], K) if state is None else state
    ys = []
    for t in range(0, T, chunk_size):
        qc, kc, vc = (x[:, :, t : t + chunk_size] for x in (q, k, v))
        G = log_a[:, t : t + chunk_size].cumsum(1).mT[..., None]  # (B, H, n, 1)
        later = torch.ones(G.shape[2], G.shape[2]).triu(1).bool()
        D = (G - G.mT).masked_fill(later, -torch.inf).exp()
        y = (qc @ kc.mT * D) @ vc + G.exp() * (qc @ S.mT)
        ys.append(y)
        end = G[:, :, -1:]
        S = end.exp() * S + vc.mT @ ((end - G).exp() * kc)
    return rearrange(torch.cat(ys, dim=2), "b h t v -> b t h v"), S
    ### END SOLUTION


WHY = r"""
**Solution.** One running sum G a chunk holds all three decays. Between tokens j and i it is $e^{G_i - G_j}$; from the start to token i, $e^{G_i}$, because S was stored *before*
the chunk and meets the gate of its first token too; from token j to the end, $e^{G_n - G_j}$. No power has to be counted, which makes this simpler than with a constant.

**Why sums inside the chunk.** A running sum over the whole text would be right on paper. But it grows with the text, and a difference of two large float32 numbers
has few digits left.

*Common mistakes:* exp before the difference; `tril` after exp, which is right forward and NaN backward; the gate of the first token missing in the read of S; a state that is not carried on.
"""

HINTS = (
    "Take one running sum G of the logarithms in a chunk. Which difference of it lies between tokens j and i?",
    "exp(G_i - G_j) between tokens, exp(G_i) for what comes from S, exp(G_last - G_j) for what goes into it.",
    "y = (qc @ kc.mT * D) @ vc + G.exp() * (qc @ S.mT); S = end.exp() * S + vc.mT @ ((end - G).exp() * kc), with G (B, H, n, 1) "
    "and end = G[:, :, -1:].",
)


def reference(q, k, v, log_a, state, chunk_size):
    """Token by token, in float64."""
    S = (
        torch.zeros(len(q), q.shape[2], v.shape[-1], q.shape[-1])
        if state is None
        else state
    )
    y, S = token_by_token(*(u.double() for u in (q, k, v, log_a, S)))
    return y.float(), S.float()


def cases(rng):
    def case(name, B, T, H, K, V, C, low=0.5, high=0.98, given=True):
        state = _randn(rng, B, H, V, K) if given else None
        log_a = _gates(rng, B, T, H, low=low, high=high).requires_grad_()
        inputs = {**_qkv(rng, B, T, H, K, V), "log_a": log_a, "state": state}
        return Case(name, {**inputs, "chunk_size": C})

    return [
        case("one chunk", 2, 8, 2, 3, 4, 8, given=False),
        case("T = 1, K ≠ V", 2, 1, 3, 5, 2, 4),
        case("several chunks, no state", 1, 12, 2, 4, 4, 4, given=False),
        case("a short last chunk", 2, 11, 2, 3, 5, 4),
        case("T = H", 2, 4, 4, 3, 3, 2),
        case("a chunk longer than the text", 1, 5, 2, 4, 3, 16),
        case("strong gates", 1, 70, 2, 3, 4, 32, low=1e-5, high=1e-2),
        case("long", 1, LONG, 1, 8, 4, 128, low=0.9, high=0.999),
    ]


PROPERTIES = (CAUSAL,)


def effort(inputs, cost):
    if not cost.gradient_finite:
        return (
            "The values are right, but the gradient of log_a is NaN or inf where gates are strong. Above the diagonal the differences are positive "
            "and exp overflows: mask with -inf first, then exp, and change nothing in place after it."
        )
    return chunks_are_asked(inputs, cost)


OUTPUTS = ("y", "S")


def _by_einsum(q, k, v, log_a, state=None, chunk_size=64):
    B, _, H, K = q.shape
    S = torch.zeros(B, H, v.shape[-1], K) if state is None else state
    ys = []
    for qc, kc, vc, g in zip(
        *(x.split(chunk_size, dim=1) for x in (q, k, v, log_a)), strict=True
    ):
        G = g.cumsum(1)  # (B, n, H)
        n = torch.arange(G.shape[1])
        past = (n[:, None] >= n)[None, :, :, None]
        D = torch.where(past, G[:, :, None] - G[:, None], -torch.inf).exp()
        y = torch.einsum("bihk, bjhk, bijh, bjhv -> bihv", qc, kc, D, vc)
        ys.append(y + torch.einsum("bih, bhvk, bihk -> bihv", G.exp(), S, qc))
        left = (G[:, -1:] - G).exp()
        S = G[:, -1].exp()[..., None, None] * S + torch.einsum(
            "bjh, bjhv, bjhk -> bhvk", left, vc, kc
        )
    return torch.cat(ys, 1), S


def _spans_summed(q, k, v, log_a, state=None, chunk_size=64):
    """Each span summed on its own, as seqlab's core does."""
    B, T, H, K = q.shape
    S = torch.zeros(B, H, v.shape[-1], K) if state is None else state
    ys = []
    for t in range(0, T, chunk_size):
        part = slice(t, t + chunk_size)
        qc, kc, vc = (x[:, part].transpose(1, 2) for x in (q, k, v))
        g = log_a[:, part].mT
        n = g.shape[-1]
        D = g[..., None].expand(*g.shape, n).tril(-1).cumsum(-2).exp().tril()
        start = g.cumsum(-1).exp()[..., None]
        ys.append((qc @ kc.mT * D) @ vc + start * (qc @ S.mT))
        S = start[:, :, -1:] * S + vc.mT @ (D[:, :, -1, :, None] * kc)
    return torch.cat(ys, 2).transpose(1, 2), S


ALTERNATIVES = (_by_einsum, _spans_summed)

MISTAKES = """
+ G.exp() * (qc @ S.mT) → + qc @ S.mT
    The state does not fade in the reads: at token i it has met all gates of the chunk up to i, exp(G_i).
+ G.exp() * (qc @ S.mT) → + (G - G[:, :, :1]).exp() * (qc @ S.mT)
    The state lacks the gate of the chunk's first token in the reads: it was stored before that token.
+ G.exp() * (qc @ S.mT) → + 0 * G
    The state is not read: what came before the chunk is missing.
+ G.exp() * (qc @ S.mT) → + G[:, :, -1:].exp() * (qc @ S.mT)
    The state fades to the end of the chunk in every read: at token i it has met the gates up to i only.
S = end.exp() * S + vc.mT → S = S + vc.mT
    The old state does not fade over the chunk: it meets all its gates, exp(G_last).
(end - G).exp() * kc → kc
    The writes do not fade on their way to the end of the chunk: token j's weighs exp(G_last - G_j).
(end - G).exp() * kc → G.exp() * kc
    The writes fade from the start of the chunk: what counts is what comes after j, exp(G_last - G_j).
S = end.exp() * S + vc.mT @ → S = vc.mT @
    The state starts anew in each chunk: it is carried on, faded by exp(G_last).
cumsum(1).mT[..., None]  # (B, H, n, 1) → cumsum(1).mT[..., None] - log_a[:, t : t + chunk_size].mT[..., None]
    The running sums are one gate short: G_i includes the gate of token i itself.
triu(1) → triu(0)
    The diagonal is masked as well: a token reads its own pair.
masked_fill(later, -torch.inf) → masked_fill(later, 0)
    Above the diagonal exp(0) = 1 is left: later tokens are read. Put -inf there before exp.
D = (G - G.mT) → D = (G.mT - G)
    The difference is turned round: between j and i the decay is exp(G_i - G_j).
"""

ALSO = (
    swapped(),
    state_ignored("state"),
    scaled("q"),
    heads_mixed("log_a", 2),
)
