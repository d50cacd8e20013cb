r"""What the outer loop asks of a step

*Find the gradient of the answer by each step size. · 12 minutes · ●●○ · 2 points*

One mini-batch with a step size for each token, then one question:

$$W' = W - \sum_j η_j\, g_j k_j^\top \qquad g_j = W k_j - v_j \qquad L = \tfrac12 \lVert W' q - y \rVert^2$$

The outer loop trains what makes $η_j$ of token $j$. Return $∂L / ∂η_j$ for all tokens, shape (b,). The rows of `k` and `v` are the tokens; `y` is the wanted answer.

Autograd gives the same numbers, and would pass. But the formula is the point: find it by hand, and look at the sign: when does the outer loop make a step larger?
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch13.shared import rand, randn, unit


def outer(W, k, v, eta, q, y):
    """W (V, K), k (b, K), v (b, V), eta (b,), q (K,), y (V,). Returns dL/deta (b,)."""
    ### BEGIN SOLUTION
    g = k @ W.mT - v
    answer = W @ q - (eta * (k @ q)) @ g
    return -(g @ (answer - y)) * (k @ q)
    ### END SOLUTION


WHY = r"""
**Solution.** $W' q = W q - \sum_j η_j\, g_j\,(k_j · q)$: the dual form for one query. So $∂(W' q) / ∂η_j = -g_j\,(k_j · q)$, and by the chain rule $∂L / ∂η_j = -(W' q - y) · g_j\; (k_j · q)$.

A step becomes larger where this is negative: where the error that is left, $W' q - y$, points the same way as the error of token $j$, and its key is like the query. Once the answer is right, or the key has nothing to do with the question, there is no pull. This is how a layer finds out that some tokens (a question without its value, say) should not write at all.

*Common mistakes:* the error of the old W; the own error $g_j$ with a turned sign; the factor $k_j · q$.
"""

HINTS = (
    "Write W' q without W', as in the dual form. How does it depend on one eta_j?",
    "W' q = W q - Σ_j eta_j g_j (k_j · q). Then dL/deta_j = (W' q - y) · (-g_j (k_j · q)).",
    "g = k @ W.mT - v; answer = W @ q - (eta * (k @ q)) @ g; return -(g @ (answer - y)) * (k @ q).",
)


def reference(W, k, v, eta, q, y):
    """Autograd through a loop of explicit steps, in float64."""
    W, k, v, eta, q, y = (x.double() for x in (W, k, v, eta, q, y))
    with torch.enable_grad():
        leaf = eta if eta.requires_grad else eta.requires_grad_()
        new = W
        for j in range(len(k)):
            new = new - leaf[j] * torch.outer(W @ k[j] - v[j], k[j])
        loss = (new @ q - y).square().sum() / 2
        (found,) = torch.autograd.grad(loss, leaf)
    return found.float()


def cases(rng):
    def case(name, b, V, K, size=1.0, most=1.0):
        inputs = {
            "W": randn(rng, V, K),
            "k": unit(rng, b, K),
            "v": size * randn(rng, b, V),
            "eta": most * rand(rng, b),
            "q": unit(rng, K),
            "y": randn(rng, V),
        }
        return Case(name, inputs)

    return [
        case("one token", 1, 3, 4),
        case("K ≠ V", 5, 2, 4),
        case("V = 1", 7, 1, 3),
        case("steps of 0", 4, 3, 3, most=0.0),
        case("large values", 3, 4, 2, size=50.0),
        case("large steps", 6, 3, 5, most=4.0),
    ]


OUTPUTS = ("deta",)

TIME_AXIS = None


def _by_weights(W, k, v, eta, q, y):
    g = torch.einsum("vk, jk -> jv", W, k) - v
    new = W - torch.einsum("j, jv, jk -> vk", eta, g, k)
    return -torch.einsum("v, jv, jk, k -> j", new @ q - y, g, k, q)


ALTERNATIVES = (_by_weights,)

MISTAKES = """
(answer - y) → (W @ q - y)
    The error of the old W is used: the question comes after the steps.
return -(g → return (g
    The sign is turned: a step goes down the gradient, so it enters W' with a minus.
return -(g @ (answer - y)) * (k @ q) → return -(g @ (answer - y))
    The factor k · q is missing: a step acts on the answer only as far as its key is like the query.
g = k @ W.mT - v → g = k @ W.mT
    The values are missing from the errors of the tokens.
g = k @ W.mT - v → g = -v
    This is the inner product's gradient: the squared loss has W k - v.
answer = W @ q - (eta * (k @ q)) @ g → answer = W @ q + (eta * (k @ q)) @ g
    The steps go up the inner loss here: W' is W minus the steps.
answer = W @ q - (eta * (k @ q)) @ g → answer = W @ q - (k @ q) @ g
    The answer ignores the step sizes: each step is multiplied by its eta.
return -(g @ (answer - y)) * (k @ q) → return -(g @ (answer - y)) * (k @ q) * eta
    This is the derivative by the logarithm of the step: the factor eta is too much.
g = k @ W.mT - v → g = v - k @ W.mT
    The errors of the tokens have the other sign: g_j is W k_j - v_j.
g = k @ W.mT - v → g, now = [], W ⏎ for j in range(len(k)): g += [now @ k[j] - v[j]]; now = now - eta[j] * torch.outer(g[j], k[j]) ⏎ g = torch.stack(g)
    The errors are taken at the newest weights, as if each token were a mini-batch: all are taken at W.
"""
