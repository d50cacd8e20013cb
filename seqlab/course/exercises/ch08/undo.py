r"""Undo a write

*Find the table before a token from the table after it. · 10 minutes · ●●○ · 2 points*

A training run that keeps no states could compute them backwards, token by token. A write of the delta rule with a key of length 1,

$$S' = S\,(I - \beta\, k k^\top) + \beta\, v k^\top$$

can be undone as long as $\beta \ne 1$. Given $S'$ and the token, return $S$. Invert no matrix and solve no system: the check sees which functions you call. $\beta$ is between 0 and 2, at least 0.1 away from 1.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch08.shared import randn, strengths, unit
from seqlab.course.exercises.vocabulary import first_head


def undo(S, k, v, beta):
    """S' (B, H, V, K), k (B, H, K) of length 1, v (B, H, V), beta (B, H): the S before the write."""
    ### BEGIN SOLUTION
    after = torch.einsum("bhvk, bhk -> bhv", S, k)
    b = beta[..., None]
    before = (after - b * v) / (1 - b)  # what k returned
    return S - (after - before)[..., None] * k[..., None, :]
    ### END SOLUTION


WHY = r"""
**Solution.** Only what happens along $k$ matters. Let $r = S k$ be what the key returned before, $r' = S' k$ what it returns after. The write gives $r' = (1 - \beta)\, r + \beta v$, so $r = (r' - \beta v) / (1 - \beta)$. Everything across
$k$ is unchanged, so $S = S' - (r' - r)\, k^\top$.

In matrices: $(I - \beta k k^\top)^{-1} = I + \frac{\beta}{1 - \beta} k k^\top$. At $\beta = 1$ the part along $k$ is lost for good, and near it rounding is multiplied by $1 / (1 - \beta)$. At $\beta = 2$ a reflection is undone without any loss:
it is its own inverse.

*Common mistakes:* subtracting the write $\beta (v - S' k) k^\top$ of the *new* table; forgetting that $v$ was multiplied by $\beta$; changing what lies across $k$.
"""

HINTS = (
    "What does k return before and after the write? Write one equation for the two.",
    "r' = (1 - β) r + β v. Solve for r; everything across k stays.",
    "before = (after - β v) / (1 - β); S - (after - before) kᵀ.",
)


def reference(S, k, v, beta):
    """By the inverse matrix."""
    S, k, v, beta = (u.double() for u in (S, k, v, beta))
    out = torch.empty_like(S)
    for b in range(S.shape[0]):
        for h in range(S.shape[1]):
            A = torch.eye(k.shape[-1]).double() - beta[b, h] * torch.outer(
                k[b, h], k[b, h]
            )
            written = beta[b, h] * torch.outer(v[b, h], k[b, h])
            out[b, h] = (S[b, h] - written) @ torch.linalg.inv(A)
    return out.float()


def cases(rng):
    def case(name, B, H, V, K, low=0.0, high=0.9, size=1.0):
        beta = low + strengths(rng, B, H, most=high - low)
        inputs = {"S": size * randn(rng, B, H, V, K), "k": unit(rng, B, H, K)}
        inputs |= {"v": size * randn(rng, B, H, V), "beta": beta}
        return Case(
            name, {n: u if n == "k" else u.requires_grad_() for n, u in inputs.items()}
        )

    return [
        case("one head", 1, 1, 2, 3),
        case("K ≠ V", 2, 3, 2, 5),
        case("β = 0: nothing was written", 1, 2, 3, 3, 0.0, 0.0),
        case("β above 1", 2, 2, 3, 4, 1.1, 1.9),
        case("β = 2: a reflection", 1, 2, 4, 3, 2.0, 2.0),
        case("large values", 2, 2, 3, 4, 0.1, 0.8, size=1000.0),
    ]


RULED_OUT = {
    name: "Here a matrix is inverted or a system solved: a few dot products with k are enough."
    for name in (
        "inv",
        "solve",
        "pinv",
        "inverse",
        "linalg_inv",
        "linalg_inv_ex",
        "linalg_pinv",
        "linalg_solve",
        "linalg_lstsq",
        "solve_ex",
        "inv_ex",
    )
}

OUTPUTS = ("S",)

TIME_AXIS = None

TOLERANCE = 1e-3


def _by_sherman_morrison(S, k, v, beta):
    clean = S - (beta[..., None] * v)[..., None] * k[..., None, :]
    along = (clean @ k[..., None])[..., 0]
    rate = beta / (1 - beta)
    return clean + rate[..., None, None] * along[..., None] * k[..., None, :]


def _by_parts(S, k, v, beta):
    along = (S * k[..., None, :]).sum(-1, keepdim=True)  # (B, H, V, 1)
    across = S - along * k[..., None, :]
    b = beta[..., None, None]
    return across + (along - b * v[..., None]) / (1 - b) * k[..., None, :]


ALTERNATIVES = (_by_parts, _by_sherman_morrison)

MISTAKES = """
(after - b * v) / (1 - b) → (after - v) / (1 - b)
    v was written with the strength β: take β v away.
(after - b * v) / (1 - b) → (after - b * v) / (1 + b)
    The part along k was multiplied by 1 - β, so divide by 1 - β.
(after - b * v) / (1 - b) → after - b * v
    The write is taken away, but what the token removed is not put back: divide by 1 - β.
S - (after - before)[..., None] * k[..., None, :] → S - b[..., None] * (v - after)[..., None] * k[..., None, :]
    This subtracts the write that the new table would get: the removal was measured on the old one.
S - (after - before)[..., None] * k[..., None, :] → S + (after - before)[..., None] * k[..., None, :]
    The sign is turned: S k has to become what the key returned before.
(after - b * v) / (1 - b) → (after + b * v) / (1 - b)
    β v is added once more: take it away.
S - (after - before)[..., None] * k[..., None, :] → before[..., None] * k[..., None, :]
    What lies across k is lost: the write did not touch it.
(after - b * v) / (1 - b) → (after - b * v) / (1 - b).abs()
    For β above 1 the part along k has changed its sign: divide by 1 - β itself, not by its size.
S - (after - before)[..., None] * k[..., None, :] → (S - (b * v)[..., None] * k[..., None, :]) / (1 - b)[..., None]
    The whole table is divided by 1 - β: the write multiplied only the part along k by it.
S - (after - before)[..., None] * k[..., None, :] → S + (b * (after - b * v) - b * v)[..., None] * k[..., None, :]
    I + β k kᵀ does not undo I - β k kᵀ: what is left along k must be divided by 1 - β.
S - (after - before)[..., None] * k[..., None, :] → S + (b / (1 - b) * after - b * v)[..., None] * k[..., None, :]
    Two readings are mixed: if β v kᵀ is taken off first, what k returns must be read from the table without it.
S - (after - before)[..., None] * k[..., None, :] → S + ((after - v) / (1 - b))[..., None] * k[..., None, :]
    A factor β is missing: with β = 0 nothing was written, so nothing must change.
"""

ALSO = (first_head("beta", axis=1),)
