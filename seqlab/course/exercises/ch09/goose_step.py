r"""One step of RWKV-7

*Write the step from raw vectors: make both keys, erase, fade, write, read. · 12 minutes · ●●○ · 2 points*

The chapter's `goose` was given a finished κ and k. Here you get the raw $k$ of a token, and make both keys, for each head:

- $κ = k \odot k_κ$, brought to length 1 *in each head*;
- the write key $k \odot (1 + (a - 1) \odot k_a)$.

Then $S ← S\,(\mathrm{diag}(w) - κ\,(a \odot κ)^\top)$ plus the write, and the read $S q$. At the end add the bonus $\left(\sum_c q_c\, r_c\, \tilde k_c\right) v$, with the write key $\tilde k$. Return y and S.
"""

import torch
import torch.nn.functional as F

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch09.shared import rand, randn
from seqlab.course.exercises.vocabulary import old_state, swapped


def goose_step(S, q, k, v, w, a, k_kappa, k_a, r):
    """One token. S (B, H, V, K); q, k, w, a (B, H, K); v (B, H, V); k_kappa, k_a and r (H, K). Returns y (B, H, V) and S."""
    ### BEGIN SOLUTION
    kappa = F.normalize(k * k_kappa, dim=-1)
    k = k * (1 + (a - 1) * k_a)
    found = torch.einsum("bhvk, bhk -> bhv", S, kappa)
    S = S * w[..., None, :] - found[..., None] * (a * kappa)[..., None, :]
    S = S + v[..., None] * k[..., None, :]
    y = torch.einsum("bhvk, bhk -> bhv", S, q)
    return y + (q * r * k).sum(-1, keepdim=True) * v, S
    ### END SOLUTION


WHY = r"""
**Solution.** Four traps, in order. κ is made from k *before* k changes. Its length is that of one head. The old table is asked under κ *before* it fades: the gate multiplies S from the right as a whole. And the bonus uses the new k.

*Another way:* build the gate $G = \mathrm{diag}(w) - κ (a \odot κ)^\top$ and write `S @ G`. That costs K³ instead of K² numbers of work per head.

*Common mistakes:* each of the four; $(a \odot κ) κ^\top$, which puts a on the wrong side: a says how much each *channel* of the table loses.
"""

HINTS = (
    "Make both keys first, and κ before k changes. What does the old S return under κ?",
    "found = S κ, from the old S. Then S = S diag(w) - found (a κ)ᵀ + v kᵀ.",
    "kappa = F.normalize(k * k_kappa, dim=-1); k = k * (1 + (a - 1) * k_a); S = S * w[..., None, :] - found[..., None] * (a * kappa)[..., None, :] + v[..., None] * k[..., None, :].",
)


def reference(S, q, k, v, w, a, k_kappa, k_a, r):
    """The gate as a matrix, in float64."""
    S, q, k, v, w, a, k_kappa, k_a, r = (
        x.double() for x in (S, q, k, v, w, a, k_kappa, k_a, r)
    )
    erase = k * k_kappa
    erase = erase / erase.square().sum(-1, keepdim=True).sqrt()
    G = torch.diag_embed(w) - erase[..., :, None] @ (a * erase)[..., None, :]
    write = k - k_a * k + a * k_a * k
    S = S @ G + v[..., :, None] @ write[..., None, :]
    y = (S @ q[..., None])[..., 0] + torch.einsum(
        "bhk, hk, bhk, bhv -> bhv", q, r, write, v
    )
    return y.float(), S.float()


def cases(rng):
    def case(name, B, H, K, V, a=None, w=None, empty=False, size=1.0):
        inputs = {"S": randn(rng, B, H, V, K), "q": randn(rng, B, H, K)}
        inputs |= {"k": size * randn(rng, B, H, K), "v": randn(rng, B, H, V)}
        inputs |= {"w": 0.55 + 0.44 * rand(rng, B, H, K), "a": rand(rng, B, H, K)}
        inputs |= {name: randn(rng, H, K) for name in ("k_kappa", "k_a", "r")}
        if a is not None:
            inputs["a"] = torch.full((B, H, K), a)
        if w is not None:
            inputs["w"] = torch.full((B, H, K), w)
        if empty:
            inputs["S"] = 0 * inputs["S"]
        return Case(name, {name: x.requires_grad_() for name, x in inputs.items()})

    return [
        case("one head", 1, 1, 4, 4),
        case("two heads, K ≠ V", 2, 2, 3, 5),
        case("an empty table", 2, 2, 4, 3, empty=True),
        case("a is 0: nothing is erased", 1, 2, 4, 3, a=0.0),
        case("a and w are 1: erased whole", 2, 3, 4, 4, a=1.0, w=1.0),
        case("a long key", 1, 2, 5, 2, size=30.0),
    ]


OUTPUTS = ("y", "S")

TIME_AXIS = None

TOLERANCE = 1e-4


def _by_matrix(S, q, k, v, w, a, k_kappa, k_a, r):
    kappa = k * k_kappa / (k * k_kappa).norm(dim=-1, keepdim=True)
    k = torch.lerp(k, k * a, k_a.expand_as(k))
    gate = torch.diag_embed(w) - kappa.unsqueeze(-1) * (a * kappa).unsqueeze(-2)
    S = S @ gate + v.unsqueeze(-1) * k.unsqueeze(-2)
    return (S * q.unsqueeze(-2)).sum(-1) + (q * r * k).sum(-1, True) * v, S


def _in_one_write(S, q, k, v, w, a, k_kappa, k_a, r):
    kappa = F.normalize(k * k_kappa, dim=-1)
    k = k * (1 + (a - 1) * k_a)
    values = torch.stack([-(S @ kappa[..., None])[..., 0], v], -1)
    S = S * w[..., None, :] + values @ torch.stack([a * kappa, k], -2)
    return (S @ q[..., None])[..., 0] + (q * r * k).sum(-1)[..., None] * v, S


ALTERNATIVES = (_by_matrix, _in_one_write)

MISTAKES = """
kappa = F.normalize(k * k_kappa, dim=-1) ⏎ k = k * (1 + (a - 1) * k_a) → k = k * (1 + (a - 1) * k_a) ⏎ kappa = F.normalize(k * k_kappa, dim=-1)
    κ is made from the write key: make it from the raw k, before k changes.
kappa = F.normalize(k * k_kappa, dim=-1) → kappa = F.normalize((k * k_kappa).flatten(1), dim=-1).view_as(k)
    κ has length 1 over all heads together: each head's κ has length 1 on its own.
kappa = F.normalize(k * k_kappa, dim=-1) → kappa = k * k_kappa
    κ is not brought to length 1.
kappa = F.normalize(k * k_kappa, dim=-1) → kappa = F.normalize(k, dim=-1) * k_kappa
    k_kappa is applied after the length is set to 1: first scale the channels, then normalise.
found = torch.einsum("bhvk, bhk -> bhv", S, kappa) → found = torch.einsum("bhvk, bhk -> bhv", S * w[..., None, :], kappa)
    The faded table is asked: κ asks the old table, before it fades.
(a * kappa)[..., None, :] → kappa[..., None, :]
    The learning rate a is missing: each channel loses a times what was found.
torch.einsum("bhvk, bhk -> bhv", S, kappa) → torch.einsum("bhvk, bhk -> bhv", S, a * kappa) ; (a * kappa)[..., None, :] → kappa[..., None, :]
    a is on the wrong side: the table is asked under κ itself, and a scales what each channel loses.
k = k * (1 + (a - 1) * k_a) → k = k * (1 + a * k_a)
    The write key is off: the factor is 1 + (a - 1) k_a, which is 1 where a is 1.
k = k * (1 + (a - 1) * k_a) → k = 1 * k
    The write key is the raw k: it is to be scaled by 1 + (a - 1) k_a.
return y + (q * r * k).sum(-1, keepdim=True) * v, S → return y, S
    S is right; y lacks the bonus, (Σ q r k) v.
return y + (q * r * k).sum(-1, keepdim=True) * v, S → return y + (q * k).sum(-1, keepdim=True) * v, S
    S is right; r is missing from the bonus.
"""

ALSO = (swapped(), old_state("S", 1))
