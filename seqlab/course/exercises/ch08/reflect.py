r"""The key that turns one vector into another

*Find the reflection between two given rows. · 10 minutes · ●●○ · 1 point*

With $\beta = 2$ and a key of length 1, a row $s$ of the table becomes $s\,(I - 2 k k^\top)$. Given two rows $a$ and $b$ of the **same length**, find the key that turns $a$ into $b$. There are two, $k$ and $-k$:
return the one with $k \cdot a \ge 0$. Where $a = b$, nothing is to be turned; return 0 there.

(That any row can be sent to any other of its length by a single token is what makes $\beta = 2$ powerful.)
"""

import torch

from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch08.shared import randn


def reflect(a, b):
    """a and b (N, K), each a[n] as long as b[n]: the keys (N, K), of length 1, or 0 where a = b."""
    ### BEGIN SOLUTION
    return torch.nn.functional.normalize(a - b, dim=-1)
    ### END SOLUTION


WHY = r"""
**Solution.** $a\,(I - 2 k k^\top) = a - 2 (a \cdot k)\, k$. So $a - b$ has to be a multiple of $k$: the key is $(a - b) / \lVert a - b \rVert$. It works because the lengths agree: $\lVert a - b \rVert^2 = 2\,(a \cdot a - a \cdot b) = 2\,
a \cdot (a - b)$, so $2 (a \cdot k)\,k = a - b$. For the sign: $a \cdot (a - b) \ge 0$.

This is Householder's reflection. QR decompositions use it to send a column to a multiple of $e_1$; the chapter's WY form comes from there.

*Common mistakes:* the key halfway between the two, $(a + b) / \lVert a + b \rVert$, which turns $a$ into $-b$; the wrong sign; 0 / 0.
"""

HINTS = (
    "Write a (I - 2 k kᵀ) out. In which direction does a move?",
    "a moves along k alone, so k is parallel to a - b. Normalise it.",
    "(a - b) / |a - b|, with a denominator of 1 where a = b.",
)


def reference(a, b):
    """The eigenvector of the symmetric matrix that a bᵀ makes: the one with the smallest eigenvalue."""
    keys = []
    for x, y in zip(a.double(), b.double(), strict=True):
        M = (
            torch.outer(x, y)
            + torch.outer(y, x)
            - torch.outer(x, x)
            - torch.outer(y, y)
        )
        values, vectors = torch.linalg.eigh(M)
        k = vectors[:, 0] if values[0] < -1e-12 else torch.zeros_like(x)
        keys.append(k if k @ x >= 0 else -k)
    return torch.stack(keys).float()


def cases(rng):
    def case(name, N, K, size=1.0, equal=False, opposite=False):
        a, b = size * randn(rng, N, K), randn(rng, N, K)
        b = b / b.norm(dim=-1, keepdim=True) * a.norm(dim=-1, keepdim=True)
        if equal:
            b[0] = a[0]
        if opposite:
            b = -a
        return Case(name, {"a": a, "b": b})

    return [
        case("one pair in the plane", 1, 2),
        case("many", 7, 5),
        case("long rows", 3, 4, size=100.0),
        case("a and b are opposite", 2, 3, opposite=True),
        case("the first pair is equal", 3, 4, equal=True),
        case("64 channels", 2, 64),
    ]


PROPERTIES = (
    Property(
        "the way back is the same reflection",
        variants=lambda inputs: [{"a": inputs["b"], "b": inputs["a"]}],
        holds=lambda inputs, outputs: torch.allclose(
            outputs[0], -outputs[1], atol=1e-3
        ),
        message="From b back to a the key must be the same, up to its sign.",
    ),
)

OUTPUTS = ("k",)

TIME_AXIS = None


def _by_where(a, b):
    length = (a - b).norm(dim=-1, keepdim=True)
    return (a - b) / torch.where(length > 0, length, 1.0)


def _by_nan(a, b):
    k = a - b
    return (k / k.square().sum(-1, keepdim=True).sqrt()).nan_to_num(0.0)


ALTERNATIVES = (_by_nan, _by_where)

MISTAKES = """
a - b → a + b
    This key lies halfway between a and b: the reflection turns a into -b. It has to lie along the way from a to b.
a - b → b - a
    The sign is turned: of the two keys, the one with k·a ≥ 0 is asked for.
torch.nn.functional.normalize(a - b, dim=-1) → a - b
    The key is not of length 1.
torch.nn.functional.normalize(a - b, dim=-1) → torch.nn.functional.normalize(a - b, dim=0)
    The pairs are normalised together, channel by channel: each key by itself has length 1.
a - b → a
    This key is a's own direction: the reflection turns a into -a, whatever b is.
torch.nn.functional.normalize(a - b, dim=-1) → (a - b) / (a - b).square().sum(-1, keepdim=True).clamp(min=1e-20)
    This divides by the square of the length: then the key has not length 1.
torch.nn.functional.normalize(a - b, dim=-1) → (a - b) / a.norm(dim=-1, keepdim=True)
    This divides by the length of a: a - b has a length of its own, which depends on the angle.
torch.nn.functional.normalize(a - b, dim=-1) → (a - b) / (a - b).norm().clamp(min=1e-20)
    This divides by the length of all pairs together: each key by itself has length 1.
torch.nn.functional.normalize(a - b, dim=-1) → torch.nn.functional.normalize(a - b, dim=-1).abs()
    The signs of the channels are lost: k and -k are alike, but only as a whole.
"""
