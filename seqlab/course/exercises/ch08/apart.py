r"""Erase here, write there

*Give erasing and writing gates of their own, channel by channel. · 12 minutes · ●●○ · 2 points*

One $\beta$ decides how much of the old value goes and how much of the new one comes. Gated DeltaNet-2 decides both by channel, and apart: a gate $b$ for each **key** channel says what is erased, a gate $w$ for each **value** channel what is written.

1. The table fades: each key channel by its own $a$, given as `log_a`.
2. The faded table is read under $b \odot k$. That answer is erased.
3. $w \odot v$ is written. Both happen under the key $k$, whole.

Write `apart(S, k, v, log_a, b, w)`, which returns the next table. Keep the names of the parameters.
"""

import torch

from seqlab.core import dplr
from seqlab.course.exercise import Case
from seqlab.course.exercises.ch08.shared import randn, strengths, unit


def apart(S, k, v, log_a, b, w):
    """S (B, H, V, K); k, log_a, b (B, H, K); v, w (B, H, V). Returns S (B, H, V, K)."""
    ### BEGIN SOLUTION
    S = S * log_a.exp()[..., None, :]
    erased = S @ (b * k)[..., None]
    return S + ((w * v)[..., None] - erased) * k[..., None, :]
    ### END SOLUTION


WHY = r"""
**Solution.** $S \leftarrow \tilde S + (w \odot v - \tilde S (b \odot k))\, k^\top$ with $\tilde S = S\,\mathrm{diag}(a)$. With $b = w = \beta$ in all channels it is KDA's step, and with one $a$ as well Gated DeltaNet's.

What is new? With $b = 0$ and $w = 1$ the pair is *added*: the old value stays under the key, as in linear attention. With $b = 1$ and $w = 0$ the key is cleared and nothing is written. One $\beta$ can do neither. And where $b$ is 0 in a channel of the key, what lies in that column is not looked at, though the write still goes there.

The key under which the table is read, $b \odot k$, is no longer the key under which it is written. So the transition $\mathrm{diag}(a)\,(I - (b \odot k)\, k^\top)$ is not symmetric, and the chunk needs the form of chapter 09 with two keys.

*Common mistakes:* reading before the fading; a gate on the written key as well; $w$ on the erased part.
"""

HINTS = (
    "Begin with the delta rule's step. Where does β appear in it, and on which of the two axes of S does each gate live?",
    "β (v - S k) becomes w ∘ v - S (b ∘ k), with S already faded.",
    "S = S * log_a.exp()[..., None, :]; then add (w v - S (b k)) kᵀ.",
)


def reference(S, k, v, log_a, b, w):
    """By the form with two keys, for one token: no line in common with the step."""
    erased = -log_a.exp() * b * k
    q, *xs = (x[:, None] for x in (k, k, w * v, erased, k, log_a))
    return dplr.chunkwise(q, *xs, state=S)[1]


def cases(rng):
    def case(name, B, H, V, K, b=None, w=None, fade=None):
        log_a = (
            -strengths(rng, B, H, K, most=2)
            if fade is None
            else torch.full((B, H, K), fade)
        )
        b = strengths(rng, B, H, K) if b is None else torch.full((B, H, K), b)
        w = strengths(rng, B, H, V) if w is None else torch.full((B, H, V), w)
        inputs = {
            "S": randn(rng, B, H, V, K),
            "k": unit(rng, B, H, K),
            "v": randn(rng, B, H, V),
        }
        inputs |= {"log_a": log_a, "b": b, "w": w}
        return Case(name, {n: x.requires_grad_() for n, x in inputs.items()})

    return [
        case("one head", 1, 1, 3, 4),
        case("two texts, three heads", 2, 3, 5, 4),
        case("erase nothing", 1, 2, 3, 5, b=0.0),
        case("write nothing", 1, 2, 3, 5, w=0.0),
        case("no fading", 2, 2, 4, 4, fade=0.0),
        case("a reflection", 1, 2, 3, 4, b=2.0),
    ]


OUTPUTS = ("S",)


def _by_matrices(S, k, v, log_a, b, w):
    outer = torch.einsum("bhi, bhj -> bhij", b * k, k)
    one = torch.eye(k.shape[-1], dtype=k.dtype)
    gate = torch.diag_embed(log_a.exp()) @ (one - outer)
    return S @ gate + torch.einsum("bhv, bhk -> bhvk", w * v, k)


def _by_einsum(S, k, v, log_a, b, w):
    S = torch.einsum("bhvk, bhk -> bhvk", S, log_a.exp())
    answer = torch.einsum("bhvk, bhk, bhk -> bhv", S, b, k)
    return S + torch.einsum("bhv, bhk -> bhvk", w * v - answer, k)


ALTERNATIVES = (_by_matrices, _by_einsum)

MISTAKES = """
erased = S @ → erased = (S / log_a.exp()[..., None, :]) @
    The old value is read before the fading here: the table fades first, and what the key returns after it is erased.
(b * k)[..., None] → k[..., None]
    All that the key returns is erased here, whatever b says: the table is read under b ∘ k.
- erased) * k[..., None, :] → - erased) * (b * k)[..., None, :]
    The write goes under b ∘ k here. The gate b is for the read alone; both parts are written under the whole key.
((w * v)[..., None] - erased) → w[..., None] * (v[..., None] - erased)
    w also weakens the erasing here: it belongs to the new value alone.
(w * v)[..., None] → v[..., None]
    The new value is written whole here, whatever w says.
((w * v)[..., None] - erased) → ((w * v)[..., None] + erased)
    The old value is added once more here, where it should be removed.
S * log_a.exp()[..., None, :] → S + 0 * log_a.exp()[..., None, :]
    Nothing fades here: each key channel of the table is multiplied by its a first.
((w * v)[..., None] - erased) → (w * v)[..., None]
    Nothing is erased here: what the faded table returns under b ∘ k must go.
S = S * log_a.exp()[..., None, :] ⏎ erased → erased ; return S + ((w * v)[..., None] - erased) * k[..., None, :] → return (S + ((w * v)[..., None] - erased) * k[..., None, :]) * log_a.exp()[..., None, :]
    The fading comes last here, so the new value fades as well: the old table fades first.
S * log_a.exp()[..., None, :] → S * log_a[..., None, :]
    The decay is used as its logarithm.
(b * k)[..., None] → k[..., None] ; S + ((w * v)[..., None] - erased) * k[..., None, :] → S + (w * v)[..., None] * k[..., None, :] - erased * (b * k)[..., None, :]
    b is on the wrong key: the table is read under b ∘ k, and that answer is erased under k, whole.
S + ((w * v)[..., None] - erased) * k[..., None, :] → S + (w * v)[..., None] * k[..., None, :] - erased * (b * k)[..., None, :]
    b acts twice: it belongs to the key that reads; what was read is erased under k, whole.
"""
