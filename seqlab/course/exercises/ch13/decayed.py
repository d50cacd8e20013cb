r"""The dual form with a decay

*Compute a mini-batch in which the weights fade. · 20 minutes · ●●● · 3 points*

Each token chooses a step $η_t$ and a weight decay: its $a_t$ between 0 and 1 is what is left of the weights.

$$W_t = a_t W_{t-1} - η_t\, g_t k_t^\top \qquad g_t = W_0 k_t - v_t \qquad y_t = W_t q_t$$

All errors of the mini-batch are taken at the same $W_0$. Return all reads, and the last $W_T$. **No loop over time:** find the products, as in the dual form. This is the chunk of a Titans memory without momentum.

An $a_t$ may be exactly 0, and no value or gradient may become NaN: so divide by no product of $a$. The names of the parameters must stay.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch13.shared import rand, randn, unit


def decayed(q, k, v, a, eta, W):
    """q, k (T, K), v (T, V), a and eta (T,), W (V, K). Returns y (T, V) and W (V, K)."""
    ### BEGIN SOLUTION
    T = len(k)
    later = torch.ones(T, T, dtype=torch.bool).tril(-1)
    between = torch.where(later, a[:, None], 1.0).cumprod(0).tril()  # row t, column j
    whole = a.cumprod(0)[:, None]
    G = eta[:, None] * (k @ W.mT - v)
    y = whole * (q @ W.mT) - (between * (q @ k.mT)) @ G
    return y, whole[-1] * W - (between[-1, :, None] * G).mT @ k
    ### END SOLUTION


WHY = r"""
**Solution.** Unrolled, $W_t = (a_1 \cdots a_t)\, W_0 - \sum_{j ≤ t} (a_{j+1} \cdots a_t)\, η_j\, g_j k_j^\top$. So the read is the dual form with two changes: what comes from $W_0$ is multiplied by the whole product, and the dot product of $q_t$ and $k_j$ by the product *between* them. The step $η_j$ belongs to the token that made the error, so it stands with $g_j$, a column, not with the row t.

The products come from one cumulative product for each column j: put 1 up to row j, $a_t$ below. Sums of logarithms would do too, and more exactly for long chunks, if a 0 is kept out. The quotient $(a_1 \cdots a_t) / (a_1 \cdots a_j)$ is 0 / 0 after the first 0.

*Common mistakes:* a token's own step decayed by its own $a$; $η$ taken from row t; $W_0$ not faded in the read; the errors taken at faded weights.
"""

HINTS = (
    "Unroll W_t: by what is W_0 multiplied, by what the step of token j?",
    "W_0 by a_1 ⋯ a_t, the step of token j by a_{j+1} ⋯ a_t. Build a (T, T) table of the second, with 1 on the diagonal.",
    "between = torch.where(later, a[:, None], 1.0).cumprod(0).tril(), with later = ones.tril(-1). y = whole * (q @ W.mT) - (between * (q @ k.mT)) @ (eta[:, None] * G).",
)


def reference(q, k, v, a, eta, W):
    """Token by token, as the text says."""
    now, ys = W, []
    for t in range(len(k)):
        now = a[t] * now - eta[t] * torch.outer(W @ k[t] - v[t], k[t])
        ys.append(now @ q[t])
    return torch.stack(ys), now


def cases(rng):
    def case(name, T, K, V, low=0.3, high=1.0, size=1.0, shut=()):
        a = low + (high - low) * rand(rng, T)
        a[list(shut)] = 0.0
        inputs = {"q": randn(rng, T, K), "k": unit(rng, T, K)}
        inputs |= {"v": size * randn(rng, T, V), "a": a, "eta": rand(rng, T)}
        inputs |= {"W": randn(rng, V, K)}
        return Case(name, {n: x.requires_grad_() for n, x in inputs.items()})

    return [
        case("T = 1", 1, 3, 2),
        case("K ≠ V", 7, 4, 3),
        case("nothing fades", 6, 3, 3, 1.0, 1.0),
        case("a gate at 0", 8, 3, 4, shut=[3]),
        case("two gates at 0", 9, 4, 2, shut=[0, 5]),
        case("large values", 5, 3, 3, size=40.0),
        case("a long mini-batch", 120, 3, 2, low=0.95),
    ]


def effort(inputs, cost):
    T = len(inputs["k"])
    if not cost.gradient_finite:
        return "The values are right, but a gradient is NaN or inf where some a is 0: a quotient of products is 0 / 0 there, and a logarithm is -∞. Build each product from its own factors."
    if T >= 100 and cost.calls >= T:
        return f"The values are right, but this walks over tokens: {cost.calls} torch operations for {T}. Make a (T, T) table of what is left of each step at each read."
    return None


OUTPUTS = ("y", "W")

TIME_AXIS = {"y": 0, "W": None}


def _by_spans(q, k, v, a, eta, W):
    n = torch.arange(len(k))
    t, j, s = n[:, None, None], n[:, None], n  # a_s counts between j and t
    between = torch.where((j < s) & (s <= t), a, torch.ones(())).prod(-1) * (
        n[:, None] >= n
    )
    G = (k @ W.mT - v) * eta.unsqueeze(1)
    left = between[:, :1] * a[0]
    y = torch.einsum("tj, tk, jk, jv -> tv", between, q, k, -G) + left * (q @ W.mT)
    end = left[-1] * W - torch.einsum("j, jv, jk -> vk", between[-1], G, k)
    return y, end


ALTERNATIVES = (_by_spans,)

MISTAKES = """
torch.ones(T, T, dtype=torch.bool).tril(-1) → torch.ones(T, T, dtype=torch.bool).tril()
    A token's own step is decayed by its own a: only later tokens fade it.
y = whole * (q @ W.mT) → y = (q @ W.mT)
    W_0 does not fade in the reads: at token t it is multiplied by a_1 ⋯ a_t.
whole[-1] * W → W
    W_0 does not fade in the state that is returned.
(k @ W.mT - v) → (whole * (k @ W.mT) - v)
    The errors are taken at faded weights: within the mini-batch all are taken at W_0.
G = eta[:, None] * (k @ W.mT - v) → G = (k @ W.mT - v) ; - (between * (q @ k.mT)) @ G → - eta[:, None] * (between * (q @ k.mT)) @ G ; (between[-1, :, None] * G) → (eta[-1] * between[-1, :, None] * G)
    The step size is that of the token that reads: it belongs to the token that made the error.
(between * (q @ k.mT)) @ G → ((q @ k.mT).tril()) @ G
    The steps do not fade in the reads: between tokens j and t lie a_{j+1} ⋯ a_t.
(between[-1, :, None] * G).mT @ k → G.mT @ k
    The steps do not fade in the state that is returned.
.cumprod(0).tril()  # row t, column j → .cumprod(0).tril(-1)
    A token's own step is missing from its read.
(k @ W.mT - v) → (-v)
    This is the gradient of the inner product, a gated sum: what W_0 returns is not taken off.
y = whole * (q @ W.mT) → y = (q @ W.mT) ; whole[-1] * W → W
    W_0 does not fade, in the reads and in the state: at token t it is multiplied by a_1 ⋯ a_t.
(between * (q @ k.mT)) @ G → ((q @ k.mT).tril()) @ G ; (between[-1, :, None] * G).mT @ k → G.mT @ k
    The steps do not fade, in the reads and in the state: between tokens j and t lie a_{j+1} ⋯ a_t.
G = eta[:, None] * (k @ W.mT - v) → G = (k @ W.mT - v) ; - (between * (q @ k.mT)) @ G → - eta[:, None] * ((between * (q @ k.mT)) @ G) ; (between[-1, :, None] * G) → (eta[:, None] * between[-1, :, None] * G)
    In the reads the step size is that of the token that reads: it belongs to the token that made the error.
whole = a.cumprod(0)[:, None] → whole = torch.cat([torch.ones(1), a.cumprod(0)[:-1]])[:, None]
    W_0 has faded once too few: at token t it is multiplied by a_1 ⋯ a_t, the token's own a included.
.cumprod(0).tril()  # row t, column j → .cumprod(0)
    The triangle is missing: a token reads the steps of later ones.
* → ys, now = [], W ⏎ for t in range(len(k)): now = a[t] * now - eta[t] * torch.outer(now @ k[t] - v[t], k[t]); ys += [now @ q[t]] ⏎ return torch.stack(ys), now
    The errors are taken at the newest weights, which is the delta rule with a decay: within the mini-batch all are taken at W_0.
* → ys, now = [], W ⏎ for t in range(len(k)): ys += [now @ q[t]]; now = a[t] * now - eta[t] * torch.outer(W @ k[t] - v[t], k[t]) ⏎ return torch.stack(ys), now
    Each read comes before the token's own step: y_t is W_t q_t.
* → return solution(q, k, v, 1 - a, eta, W)
    a is what is forgotten here: it is what is left of the weights.
"""
