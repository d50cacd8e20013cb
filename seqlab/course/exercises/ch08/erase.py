r"""Clear a key, write nothing

*Remove one key's value from a batch of tables, without building a matrix of keys. · 6 minutes · ●○○ · 1 point*

Sometimes a memory should only forget: "delete what is stored under $k$". That is the delta rule with $v = 0$. Here the keys have **any length**, and a strength $\beta = 1$ must clear the key
*completely*: afterwards $S k = 0$. With $\beta = \frac12$, half of $S k$ is left. So the strength has to be measured against the key's own length. A key of length 0 clears nothing.

Do not build $k k^\top$: it has $K^2$ numbers for every head. The check counts.
"""

import torch

from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch08.shared import randn, strengths
from seqlab.course.exercises.vocabulary import first_head


def erase(S, k, beta):
    """S (B, H, V, K), k (B, H, K) of any length, beta (B, H): the new S."""
    ### BEGIN SOLUTION
    direction = torch.nn.functional.normalize(k, dim=-1)  # 0 for a key of length 0
    found = (S @ direction[..., None])[..., 0]  # (B, H, V)
    return S - beta[..., None, None] * found[..., None] * direction[..., None, :]
    ### END SOLUTION


WHY = r"""
**Solution.** $S - \beta\, S k\, k^\top / \lVert k \rVert^2$. Check it: times $k$ it gives $S k - \beta\, S k = (1 - \beta)\, S k$. The step size 1 of the chapter's gradient step is exact for keys of length 1; for others, dividing by
$\lVert k \rVert^2$ makes it exact. (Signal processing calls that *normalised* least mean squares.) Layers avoid the division by normalising the key once. The product is taken from the right: first $S k$, V numbers, then an outer
product with $k$. So nothing of size $K \times K$ is made.

*Common mistakes:* dividing by $\lVert k \rVert$ in place of its square; $0 / 0$ for an empty key; erasing rows (value channels).
"""

HINTS = (
    "What does S return for k, and what must be subtracted so that it returns 0?",
    "Subtract beta · (S k) kᵀ / |k|². A zero key needs a denominator that is not 0: torch.nn.functional.normalize has one.",
    "d = normalize(k, dim=-1); found = (S @ d[..., None])[..., 0]; S - beta[..., None, None] * found[..., None] * d[..., None, :].",
)


def reference(S, k, beta):
    """A projection onto k, written out."""
    S, k, beta = S.double(), k.double(), beta.double()
    out = S.clone()
    for b in range(S.shape[0]):
        for h in range(S.shape[1]):
            P = torch.outer(k[b, h], k[b, h])
            if P.abs().sum() > 0:
                P = P / P.trace()
            out[b, h] = S[b, h] @ (torch.eye(len(P)).double() - beta[b, h] * P)
    return out.float()


def cases(rng):
    def case(name, B, H, V, K, size=1.0, most=1.0, whole=False):
        S, k = randn(rng, B, H, V, K), size * randn(rng, B, H, K)
        beta = strengths(rng, B, H, most=most)
        if whole:
            beta = torch.ones(B, H)
        inputs = {"S": S, "k": k, "beta": beta}
        return Case(name, {n: u.requires_grad_() for n, u in inputs.items()})

    empty = case("a key of length 0", 1, 2, 3, 4)
    k = empty.inputs["k"].detach().clone()
    k[:, 0] = 0
    zero = Case(empty.name, {**empty.inputs, "k": k})
    return [
        case("one head", 1, 1, 2, 3),
        case("K ≠ V", 2, 3, 2, 5),
        case("β = 1 clears", 2, 2, 3, 4, whole=True),
        case("long keys", 2, 2, 3, 4, size=30.0),
        case("short keys", 1, 2, 4, 3, size=0.01),
        case("β up to 2", 2, 2, 3, 3, most=2.0),
        case("K = 256", 1, 1, 2, 256),
        zero,
    ]


def effort(inputs, effort):
    K = inputs["k"].shape[-1]
    if K == 256 and effort.largest > 16 * K:
        return f"The values are right, but a tensor of {effort.largest:,} numbers was made: S has {inputs['S'].numel():,}. Take S k first, then the outer product."
    return None


PROPERTIES = (
    Property(
        "the length of the key does not count",
        variants=lambda inputs: [{**inputs, "k": 3 * inputs["k"]}],
        holds=lambda inputs, outputs: torch.allclose(*outputs, atol=1e-3, rtol=1e-3),
        message="A key three times as long erases more: measure the strength against |k|².",
    ),
)

OUTPUTS = ("S",)

TIME_AXIS = None


def _by_normalising(S, k, beta):
    length = k.norm(dim=-1, keepdim=True)
    k = k / length.masked_fill(length == 0, 1.0)
    found = torch.einsum("bhvk, bhk, bh -> bhv", S, k, beta)
    return S - torch.einsum("bhv, bhk -> bhvk", found, k)


def _by_einsum(S, k, beta):
    size = torch.einsum("bhk, bhk -> bh", k, k)
    rate = beta / (size + (size == 0))
    found = torch.einsum("bhvk, bhk -> bhv", S, k)
    return S - rate[..., None, None] * found[..., :, None] * k[..., None, :]


ALTERNATIVES = (_by_einsum, _by_normalising)

MISTAKES = """
torch.nn.functional.normalize(k, dim=-1) → k
    The key's length is not taken out: what is subtracted must be divided by |k|².
found = (S @ direction[..., None])[..., 0] → found = (S @ k[..., None])[..., 0]
    The length is taken out once, but k stands twice in what is subtracted: divide by |k|², not by |k|.
S - beta → S + beta
    The sign is turned: what the key returns is added once more.
return S - beta[..., None, None] * → return S - (1 - beta[..., None, None]) *
    β says how much is cleared, not how much is left.
return S - beta[..., None, None] * → return S -
    β is not used: every key is cleared completely.
return S - beta[..., None, None] * → return beta[..., None, None] *
    This is what has to be subtracted from S: the old table is missing.
S - beta[..., None, None] * found[..., None] * direction[..., None, :] → S * (1 - beta[..., None, None])
    The whole table fades: only what k returns is to be cleared.
return S - beta[..., None, None] * → return S - beta[..., None, None] ** 2 *
    β is used twice: k stands twice in what is subtracted, β once.
"""

ALSO = (first_head("beta", axis=1), first_head("k", axis=1))
