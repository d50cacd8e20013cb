r"""Another inner loss

*Take one inner step on a loss that outliers cannot pull. · 8 minutes · ●○○ · 1 point*

With the squared loss, a value that is 100 times too large moves the state 100 times as far. A loss of **Huber's** kind is quadratic near 0 and grows like a straight line beyond a limit. With the error $e = W k - v$ and its length $\lVert e \rVert$, let

$$\ell = \tfrac12 \lVert e \rVert^2 \;\text{ if } \lVert e \rVert \le c, \qquad \ell = c\,\lVert e \rVert - \tfrac12 c^2 \;\text{ otherwise.}$$

Return $W$ after one step of size `eta` on this loss. Here `limit` is $c > 0$. Training has to get through your step: its gradients are checked as well. An error of exactly 0 occurs. The names of the parameters must stay.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch13.shared import randn, unit


def huber(W, k, v, eta, limit):
    """One step on the Huber loss. W (V, K), k (K,), v (V,), eta and limit numbers: W (V, K)."""
    ### BEGIN SOLUTION
    e = W @ k - v
    e = e * limit / e.norm().clamp(min=limit)
    return W - eta * torch.outer(e, k)
    ### END SOLUTION


WHY = r"""
**Solution.** By the error the gradient is $e$ inside the limit, and $c\, e / \lVert e \rVert$ outside: the same direction, with the length held at $c$. By $W$ it is that, times $k^\top$. So Huber's loss is the delta rule with a step size that shrinks for large errors, $\beta = \eta \min(1, c / \lVert e \rVert)$. The token decides, through its error.

The two halves meet: at $\lVert e \rVert = c$ both have the value $c^2 / 2$ and the slope $c$.

*Common mistakes:* holding each number of $e$ by itself (another loss: its direction changes); a unit vector without $c$; measuring the length of the gradient, which contains the length of $k$, instead of that of the error. A division by $\lVert e \rVert$ for an error of 0 gives NaN in the gradient, even if `torch.where` does not choose it; `clamp` keeps the divisor away from 0.
"""

HINTS = (
    "What is the derivative of the loss by e, inside the limit and outside?",
    "Inside it is e, outside c · e / ‖e‖. The derivative by W is that, as an outer product with k.",
    "e = W @ k - v; e = e * limit / e.norm().clamp(min=limit); return W - eta * torch.outer(e, k).",
)


def reference(W, k, v, eta, limit):
    """Autograd on the loss as it is written, in float64."""
    at = [x.double() for x in (W, k, v)]
    leaf = at[0] if at[0].requires_grad else at[0].requires_grad_()
    square = (leaf @ at[1] - at[2]).square().sum()
    inside = bool(square.sqrt() <= limit)
    loss = square / 2 if inside else limit * square.sqrt() - limit**2 / 2
    with torch.enable_grad():
        (g,) = torch.autograd.grad(loss, leaf, create_graph=True)
    return (leaf - eta * g).to(W.dtype)


def cases(rng):
    def case(name, V, K, limit, eta=0.5, size=1.0, k=None):
        inputs = {
            "W": randn(rng, V, K),
            "k": unit(rng, K) if k is None else k,
            "v": size * randn(rng, V),
        }
        inputs = {n: x.requires_grad_() for n, x in inputs.items()}
        return Case(name, inputs | {"eta": eta, "limit": limit})

    exact = case("an error of 0", 2, 3, 1.0)
    exact.inputs["W"] = torch.zeros(2, 3, requires_grad=True)
    exact.inputs["v"] = torch.zeros(2, requires_grad=True)
    return [
        case("a small error", 3, 4, 50.0),
        case("a large error", 3, 5, 0.5, size=20.0),
        case("K = V = 1", 1, 1, 0.1),
        case("a long key", 4, 3, 1.5, k=3 * randn(rng, 3)),
        case("an outlier", 2, 6, 2.0, 1.0, 1000.0),
        exact,
    ]


def effort(inputs, cost):
    if not cost.gradient_finite:
        return "The values are right, but where the error is exactly 0 a gradient is NaN: something is divided by the error's length, or the length itself has no derivative there. Keep the divisor away from 0 before you divide; torch.where, or a minimum afterwards, comes too late."
    return None


OUTPUTS = ("W",)

TIME_AXIS = None


def _by_branch(W, k, v, eta, limit):
    e = v - W @ k
    share = limit / e.norm() if e.norm() > limit else 1.0
    return W + eta * share * e[:, None] * k


ALTERNATIVES = (_by_branch,)

MISTAKES = """
e = e * limit / e.norm().clamp(min=limit) → e = e / e.norm().clamp(min=limit)
    The error is divided by its length without the factor `limit`: outside the limit its length should be `limit`.
e = e * limit / e.norm().clamp(min=limit) → e = e.clamp(-limit, limit)
    Each number of the error is held by itself, which changes its direction: hold its length.
e = e * limit / e.norm().clamp(min=limit) ⏎ →
    The limit does nothing: this is the squared loss.
e.norm().clamp(min=limit) → torch.outer(e, k).norm().clamp(min=limit)
    The length of the gradient decides, and it contains that of the key: the length of the error should.
e.norm().clamp(min=limit) → e.norm()
    Small errors are stretched to the limit as well: inside it the gradient is the error.
e = W @ k - v → e = v - W @ k
    The step goes up the gradient: the sign of the error is turned.
e = e * limit / e.norm().clamp(min=limit) → e = e * (e.norm() <= limit)
    A large error is thrown away: its direction stays, with the length `limit`.
e.norm().clamp(min=limit) → e.norm().square().clamp(min=limit)
    The squared length is compared with the limit and divides: take its root.
e = e * limit / e.norm().clamp(min=limit) → e = torch.where(e.norm() > limit, e / e.norm(), e)
    Beyond the limit the error gets the length 1: its length should be `limit`.
"""
