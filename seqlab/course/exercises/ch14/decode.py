r"""Decode from a cache in parts

*Read a ragged cache in spans, and say what each span weighs. · 15 minutes · ●●● · 2 points*

Each of B sequences has one new query for each of H heads, and a cache of T keys and values with h heads: query heads share them, head g of H uses head g // (H / h) of the cache. The sequences differ in
length: only the first `lengths[b]` keys of sequence b are valid, at least one; the rest is garbage. Cut the T keys into `parts` spans of equal length (`parts` divides T), read every span apart, and merge.

Return y, and for every span its *share* of the whole weight: the shares of a row add up to 1, and a span that lies behind the end of its sequence has share 0.
"""

import torch

from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch14.shared import _close, _randn, pair_by_pair
from seqlab.course.exercises.vocabulary import swapped


def decode(q, k, v, lengths, parts):
    """One token. q (B, H, K), k (B, T, h, K), v (B, T, h, V), lengths (B,); returns y (B, H, V), share (B, H, parts)."""
    ### BEGIN SOLUTION
    T, group = k.shape[1], q.shape[1] // k.shape[2]
    k, v = (x.repeat_interleave(group, dim=2) for x in (k, v))
    s = torch.einsum("bhk, bthk -> bht", q, k) * q.shape[-1] ** -0.5
    beyond = torch.arange(T) >= lengths[:, None]
    s = s.masked_fill(beyond[:, None], -torch.inf).unflatten(-1, (parts, -1))
    lse = s.logsumexp(-1)  # (B, H, parts)
    share = lse.softmax(-1)
    unit = torch.where(lse.isfinite(), lse, torch.zeros_like(lse))
    reads = (s - unit[..., None]).exp()  # a softmax in each span
    v = v.unflatten(1, (parts, -1))
    y = torch.einsum("bhp, bhpt, bpthv -> bhv", share, reads, v)
    return y, share
    ### END SOLUTION


WHY = r"""
**Solution.** Every span gives its own softmax and its own lse. The merge of many parts at once is one more softmax, over their lse: the share of part p is $e^{\mathrm{lse}_p} / \sum_r e^{\mathrm{lse}_r}$, and y is the
mean of the parts' reads with these shares. An empty span has lse = -∞ and share 0; only its own softmax must not divide by 0.

A kernel gives each span to another program. The second kernel, which merges, reads only `parts` reads and numbers for each row.

*Common mistakes:* the parts averaged evenly; shares by largest score and not by lse; heads dealt to the cache in turn.
"""

HINTS = (
    "The merge of two parts weighs them by e^lse. What is that for many parts at once?",
    "share = softmax of the spans' lse, over the spans. An empty span has lse = -inf: put 0 in its place before you subtract.",
    "s (B, H, parts, T / parts) with -inf beyond the length; lse = s.logsumexp(-1); share = lse.softmax(-1); y = Σ share · (softmax of s) v.",
)


def reference(q, k, v, lengths, parts):
    """Every head of every sequence alone, whole; a share is a sum of weights."""
    B, H, T, group = len(q), q.shape[1], k.shape[1], q.shape[1] // k.shape[2]
    y, share = torch.zeros(B, H, v.shape[-1]), torch.zeros(B, H, parts)
    for b in range(B):
        n = int(lengths[b])
        for g in range(H):
            keys, values = k[b, :n, g // group], v[b, :n, g // group]
            seen = torch.ones(1, n, dtype=torch.bool)
            y[b, g] = pair_by_pair(q[b, g][None], keys, values, seen)[0][0]
            w = (keys.double() @ q[b, g].double() / q.shape[-1] ** 0.5).softmax(0)
            w = torch.cat([w, w.new_zeros(T - n)])
            share[b, g] = w.view(parts, -1).sum(-1).float()
    return y, share


def cases(rng):
    def case(name, B, T, H, h, K, V, parts, lengths, scale=1.0):
        inputs = {
            "q": scale * _randn(rng, B, H, K),
            "k": _randn(rng, B, T, h, K),
            "v": _randn(rng, B, T, h, V),
            "lengths": torch.tensor(lengths),
            "parts": parts,
        }
        return Case(name, inputs)

    return [
        case("T = 1", 1, 1, 2, 2, 4, 4, 1, [1]),
        case("one part", 2, 6, 2, 2, 4, 3, 1, [6, 6]),
        case("three full parts", 2, 9, 2, 2, 4, 3, 3, [9, 9]),
        case("lengths differ", 3, 12, 2, 2, 4, 3, 3, [12, 7, 9]),
        case("empty spans", 2, 12, 2, 1, 4, 5, 4, [1, 5]),
        case("four heads on two", 2, 8, 4, 2, 3, 4, 2, [8, 6]),
        case("six heads on two, ragged", 2, 10, 6, 2, 3, 2, 5, [3, 10]),
        case("a part for each key", 1, 6, 2, 2, 4, 3, 6, [5]),
        case("large scores", 2, 8, 2, 2, 4, 3, 4, [8, 5], 150.0),
    ]


PROPERTIES = (
    Property(
        "what lies beyond the end does not count",
        variants=lambda inputs: [
            {
                **inputs,
                "k": torch.where(_valid(inputs), inputs["k"], 3.0),
                "v": torch.where(_valid(inputs), inputs["v"], -5.0),
            }
        ],
        holds=lambda inputs, outputs: all(
            _close(a, b) for a, b in zip(*outputs, strict=True)
        ),
        message="Keys or values beyond the length of a sequence change the result.",
    ),
)


def _valid(inputs):
    T = inputs["k"].shape[1]
    return (torch.arange(T) < inputs["lengths"][:, None])[..., None, None]


OUTPUTS = ("y", "share")

TIME_AXIS = None


def _span_by_span(q, k, v, lengths, parts):
    group, size = q.shape[1] // k.shape[2], k.shape[1] // parts
    y = q.new_zeros(*q.shape[:2], v.shape[-1])
    lse = q.new_full(q.shape[:2], -torch.inf)
    found = []
    for p in range(parts):
        span = slice(p * size, (p + 1) * size)
        heads = q.unflatten(1, (-1, group))
        s = torch.einsum("bhgk, bthk -> bhgt", heads, k[:, span]) / q.shape[-1] ** 0.5
        here = torch.arange(p * size, (p + 1) * size) < lengths[:, None]
        s = torch.where(here[:, None, None], s, -torch.inf)
        part = s.logsumexp(-1)
        w = torch.where(s > -torch.inf, torch.exp(s - part[..., None]), 0.0)
        read = torch.einsum("bhgt, bthv -> bhgv", w, v[:, span]).flatten(1, 2)
        part = part.flatten(1, 2)
        both = torch.logaddexp(lse, part)
        y = (lse - both).exp()[..., None] * y + (part - both).exp()[..., None] * read
        lse = both
        found.append(part)
    return y, (torch.stack(found, -1) - lse[..., None]).exp()


def _whole_then_summed(q, k, v, lengths, parts):
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[2], 2) for x in (k, v))
    s = (q[:, None] * k).sum(-1).transpose(1, 2) / q.shape[-1] ** 0.5
    beyond = torch.arange(k.shape[1])[None, None] >= lengths[:, None, None]
    w = s.masked_fill(beyond, -torch.inf).softmax(-1)
    return (w.transpose(1, 2)[..., None] * v).sum(1), w.unflatten(-1, (parts, -1)).sum(
        -1
    )


ALTERNATIVES = (_span_by_span, _whole_then_summed)

MISTAKES = """
share = lse.softmax(-1) → share = (lse > -torch.inf).float() / (lse > -torch.inf).sum(-1, keepdim=True)
    The parts are averaged evenly: a part counts by its weight, e^lse.
share = lse.softmax(-1) → share = s.amax(-1).softmax(-1)
    The parts are weighted by their largest scores: use their log-sum-exps, which know how many keys
    there are.
share = lse.softmax(-1) → share = lse.exp()
    The shares do not add up to 1: they are weights, not yet divided by their sum over the parts.
share = lse.softmax(-1) → share = lse.masked_fill(lse == -torch.inf, 0).softmax(-1)
    An empty span has weight, as if its lse were 0: it must be -∞ in the softmax over spans.
k, v = (x.repeat_interleave(group, dim=2) for x in (k, v)) → k, v = (x.repeat(1, 1, group, 1) for x in (k, v))
    The query heads are dealt to the cache's heads in turn, g mod h. Neighbours share a head: g uses g //
    (H / h).
torch.arange(T) >= lengths[:, None] → torch.arange(T) > lengths[:, None]
    One key too many is valid in each sequence: the first lengths[b] keys are 0 … lengths[b] - 1.
torch.arange(T) >= lengths[:, None] → torch.arange(T) >= lengths[:, None] + T
    The lengths are ignored: what lies beyond the end is garbage.
torch.arange(T) >= lengths[:, None] → torch.arange(T) >= lengths.max() + 0 * lengths[:, None]
    All sequences have the length of the longest one.
y = torch.einsum("bhp, bhpt, bpthv -> bhv", share, reads, v) → y = torch.einsum("bhpt, bpthv -> bhv", reads, v)
    The reads of the parts are added without their shares.
q.shape[-1] ** -0.5 → 1
    The scores are not divided by the square root of K.
"""

ALSO = (swapped("The outputs have changed places: return (y, share)."),)
