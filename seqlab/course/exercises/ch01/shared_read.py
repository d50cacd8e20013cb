r"""Read a shared cache

*Let heads share keys without a copy of them. · 12 minutes · ●○○ · 2 points*

The chapter repeated the shared keys, head by head, and then attended as usual. That gives the right numbers, but a decoder that does it writes the large cache again that sharing
had made small. Write the read of *one* new token for all its heads, straight from the shared cache. With H query heads and h key heads, query head i uses key head i // (H / h): the first H / h query heads use key
head 0, and so on.

$$y_i = \sum_s p_{is}\, v_s \qquad p_{is} = \mathrm{softmax}_s\, \frac{q_i \cdot k_s}{\sqrt K}$$

The new token's key and value are in the cache already, so no mask is needed. In one case the check measures your largest tensor: a copy of the keys for each query head is larger than any that is needed.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch01.shared import _randn
from seqlab.course.exercises.vocabulary import heads_mixed, scaled

WIDE = 64  # K of the case that tells copies from groups


def shared_read(q, k, v):
    """What one token reads. q (B, H, K), k (B, S, h, K), v (B, S, h, V), with h a divisor of H. Returns y (B, H, V)."""
    ### BEGIN SOLUTION
    B, H, K = q.shape
    h = k.shape[2]
    q = q.view(B, h, H // h, K)  # the heads, group by group
    scores = torch.einsum("bhgk, bshk -> bhgs", q, k) * K**-0.5
    y = torch.einsum("bhgs, bshv -> bhgv", scores.softmax(-1), v)
    return y.reshape(B, H, -1)
    ### END SOLUTION


WHY = r"""
**Solution.** Cut the axis of the query heads in two: h groups of H / h heads. The key heads then line up with the groups, and all heads of a group meet the same
keys in one matrix product, (H / h, K) times (K, S). No key is copied.

This is why multi-query attention was invented: its paper, of 2019, is about the time of decoding. One token does little arithmetic for each number of the cache, so the time goes into
reading it, and a key that is read once for eight heads costs an eighth.

*Common mistakes:* heads dealt to the key heads in turn, (B, H / h, h, K); `k.repeat` where `repeat_interleave` is meant, which is the same thing; softmax over the heads of a group.
"""

HINTS = (
    "Which axis of q has to be cut so that the key heads line up with it?",
    "q as (B, h, H / h, K): group by group. Then the scores are (B, h, H / h, S), and k keeps its h heads.",
    "scores = einsum('bhgk, bshk -> bhgs', q.view(B, h, H // h, K), k) * K**-0.5; then mix v in the same way, and put the heads together.",
)


def reference(q, k, v):
    """Head by head, in float64."""
    copies = q.shape[1] // k.shape[2]
    ys = []
    for i in range(q.shape[1]):
        keys, values = k[:, :, i // copies].double(), v[:, :, i // copies].double()
        scores = (keys @ q[:, i, :, None].double())[..., 0] / q.shape[-1] ** 0.5
        weights = (scores - scores.logsumexp(1, keepdim=True)).exp()
        ys.append((weights[..., None] * values).sum(1))
    return torch.stack(ys, 1).float()


def cases(rng):
    def case(name, B, S, H, h, K, V, scale=1.0):
        inputs = {
            "q": scale * _randn(rng, B, H, K),
            "k": _randn(rng, B, S, h, K),
            "v": _randn(rng, B, S, h, V),
        }
        return Case(name, inputs)

    return [
        case("one token in the cache", 2, 1, 4, 2, 3, 3),
        case("one key head", 2, 7, 4, 1, 4, 3),
        case("two key heads for six", 2, 7, 6, 2, 3, 5),
        case("three key heads for six", 1, 5, 6, 3, 4, 2),
        case("a key head for each", 2, 5, 3, 3, 2, 4),
        case("large values", 1, 9, 4, 2, 4, 3, scale=200.0),
        case(f"K = {WIDE}", 2, 12, 8, 2, WIDE, WIDE),
    ]


def effort(inputs, effort):
    q, k = inputs["q"], inputs["k"]
    copied = k.shape[0] * k.shape[1] * q.shape[1] * WIDE
    if q.shape[-1] == WIDE and effort.largest >= copied:
        return (
            f"The values are right, but a tensor of {effort.largest:,} numbers was made; a copy of the keys for each query head has {copied:,}. "
            "Leave the cache as it is: the heads of q can be cut into groups. (`expand` copies nothing by itself, but the product that follows does.)"
        )
    return None


TIME_AXIS = None


def _by_matmul(q, k, v):
    H, h = q.shape[1], k.shape[2]
    groups = q.unflatten(1, (h, H // h)) / q.shape[2] ** 0.5
    p = torch.softmax(groups @ k.permute(0, 2, 3, 1), dim=3)
    return (p @ v.transpose(1, 2)).flatten(1, 2)


def _group_by_group(q, k, v):
    copies = q.shape[1] // k.shape[2]
    ys = []
    for g, heads in enumerate(q.split(copies, dim=1)):
        scores = heads @ k[:, :, g].mT * q.shape[-1] ** -0.5
        ys.append(scores.softmax(-1) @ v[:, :, g])
    return torch.cat(ys, 1)


def _head_by_head(q, k, v):
    copies = q.shape[1] // k.shape[2]
    ys = []
    for i in range(q.shape[1]):
        g = i // copies
        p = torch.softmax((k[:, :, g] * q[:, i, None]).sum(-1) / q.shape[2] ** 0.5, 1)
        ys.append((p[..., None] * v[:, :, g]).sum(1))
    return torch.stack(ys, 1)


ALTERNATIVES = (_by_matmul, _group_by_group, _head_by_head)

MISTAKES = """
q.view(B, h, H // h, K) → q.view(B, H // h, h, K).transpose(1, 2) ; return y.reshape(B, H, -1) → return y.transpose(1, 2).reshape(B, H, -1)
    The heads are dealt to the key heads in turn: query head i reads key head i mod h. Neighbours share: it should be i // (H / h).
q.view(B, h, H // h, K) → q.view(B, H // h, h, K).transpose(1, 2)
    The heads are dealt to the key heads in turn, and come out in another order than they went in. Neighbours share: query head i reads key head i // (H / h).
return y.reshape(B, H, -1) → return y.transpose(1, 2).reshape(B, H, -1)
    The heads come out in another order than they went in: first the groups, then the heads of a group.
q, k) * K**-0.5 → q, k)
    The scale is missing: the scores are divided by √K.
K**-0.5 → K**0.5
    The scores are multiplied by √K: they are divided by it.
K**-0.5 → v.shape[-1]**-0.5
    The scale is √V: the scores are sums over K channels, so they are divided by √K.
K**-0.5 → (H * K)**-0.5
    The scale is √(H K), the width of all heads: each head's scores are divided by √K.
B, H, K = q.shape → B, H, K = q.shape ⏎ k, v = k[:, :, :1].expand_as(k), v[:, :, :1].expand_as(v)
    All heads read the first key head.
B, H, K = q.shape → B, H, K = q.shape ⏎ k, v = k.flip(2), v.flip(2)
    The key heads run backwards: the first query heads read key head 0.
scores.softmax(-1) → scores.softmax(-2)
    The softmax runs over the heads of a group: it must run over the tokens of the cache.
K**-0.5 → H**-0.5
    The scale is √H: the scores are sums over K channels, so they are divided by √K.
scores.softmax(-1) → scores.exp() / scores.exp().sum(-1, keepdim=True)
    The exponential overflows where scores are large, and inf/inf is NaN: take softmax, which subtracts the largest score first.
scores.softmax(-1) → scores
    The softmax is missing: the scores weight the values as they are.
scores.softmax(-1) → scores.softmax(1)
    The softmax runs over the key heads: it must run over the tokens of the cache.
q.view(B, h, H // h, K) → q.view(B, h, H // h, K).mean(2, keepdim=True).expand(B, h, H // h, K)
    All heads of a group give the same: their queries are averaged. Each query head has scores of its own.
B, H, K = q.shape → B, H, K = q.shape ⏎ k, v = k[:, :-1], v[:, :-1]
    The newest token of the cache is not read: its own key and value are in the cache, and count.
B, H, K = q.shape → B, H, K = q.shape ⏎ k, v = (u.mean(2, keepdim=True).expand_as(u) for u in (k, v))
    The key heads are averaged: each group reads its own.
"""

ALSO = (
    heads_mixed(
        "v",
        2,
        says="Keys and values come from different key heads: a query head reads both from head i // (H / h).",
    ),
    scaled("q", says="The scores are divided by K, √K twice: once is enough."),
)
