r"""A mini-batch in progress

*Go on reading in the middle of a mini-batch. · 12 minutes · ●●○ · 2 points*

A text comes in pieces of any length, and a mini-batch of `b` tokens may be half done when a piece ends. So the state is two tables: `W`, the weights at the start of the mini-batch in progress, and `A` $= \sum g_j k_j^\top$, summed over its `n` tokens so far ($0 ≤ n < b$). Inside a mini-batch

$$g_t = W k_t - v_t \qquad A ← A + g_t k_t^\top \qquad y_t = (W - η A)\, q_t$$

After its last token $W - η A$ becomes the new $W$, and $A$ becomes 0. Return all reads y, and W and A after the piece. Reading a text in pieces must give the same as reading it at once. The names of the parameters must stay.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch13.shared import randn, unit


def resume(q, k, v, W, A, n, eta, b):
    """q, k (T, K), v (T, V), W and A (V, K), n and b whole numbers. Returns y (T, V), W, A."""
    ### BEGIN SOLUTION
    ys = []
    for t in range(len(k)):
        A = A + torch.outer(W @ k[t] - v[t], k[t])
        ys.append((W - eta * A) @ q[t])
        if (n + t + 1) % b == 0:
            W, A = W - eta * A, torch.zeros_like(A)
    return torch.stack(ys), W, A
    ### END SOLUTION


WHY = r"""
**Solution.** The weights at token t are never stored: $W$ and $A$ are enough, and twice as large as the state of the delta rule. That is what TTT keeps in `seqlab` (`InnerState`), and why a started mini-batch costs memory.

The count goes on from `n`: where a mini-batch ends depends on the position in the whole text, not in the piece. With b = 1 every token ends one, $A$ is always 0, and this is the delta rule.

*Common mistakes:* counting from the start of the piece; taking $g_t$ at $W - η A$, which is the delta rule whatever b is; reading before the token's own step; keeping $A$ after it has been added to $W$.
"""

HINTS = (
    "Which of the two tables does g_t use, and which does the read use?",
    "A grows with each token; the read uses W - eta A; at (n + t + 1) % b == 0 both change.",
    "A = A + outer(W k - v, k); y = (W - eta A) q; then if (n + t + 1) % b == 0: W, A = W - eta * A, zeros_like(A).",
)


def reference(q, k, v, W, A, n, eta, b):
    """By whole pieces of mini-batches, in products."""
    ys, t = [], 0
    while t < len(k):
        m = min(b - (n + t) % b, len(k) - t)
        Q, K, V = q[t : t + m], k[t : t + m], v[t : t + m]
        G = K @ W.mT - V
        ys.append(Q @ (W - eta * A).mT - eta * (Q @ K.mT).tril() @ G)
        A = A + G.mT @ K
        t += m
        if (n + t) % b == 0:
            W, A = W - eta * A, torch.zeros_like(A)
    return torch.cat(ys), W, A


def cases(rng):
    def case(name, T, K, V, n, b, eta=0.3, size=1.0):
        A = randn(rng, V, K) if n else torch.zeros(V, K)
        inputs = {"q": randn(rng, T, K), "k": unit(rng, T, K)}
        inputs |= {"v": size * randn(rng, T, V), "W": randn(rng, V, K), "A": A}
        inputs = {name: x.requires_grad_() for name, x in inputs.items()}
        return Case(name, inputs | {"n": n, "eta": eta, "b": b})

    return [
        case("one token of a new mini-batch", 1, 3, 2, 0, 4),
        case("the last token of a mini-batch", 1, 3, 4, 3, 4),
        case("from the middle to the next", 7, 4, 3, 2, 5),
        case("several mini-batches", 13, 3, 3, 1, 4),
        case("b = 1", 5, 3, 2, 0, 1),
        case("longer than the piece", 4, 2, 3, 3, 16),
        case("large values", 6, 4, 2, 1, 3, size=30.0),
    ]


OUTPUTS = ("y", "W", "A")

TIME_AXIS = {"y": 0, "W": None, "A": None}


def _by_lists(q, k, v, W, A, n, eta, b):
    ys = []
    for q_t, k_t, v_t in zip(q, k, v, strict=True):
        W_t = W - eta * A
        g = W @ k_t - v_t
        ys.append(W_t @ q_t - eta * g * (k_t @ q_t))
        A = A + g[:, None] * k_t
        n = (n + 1) % b
        if n == 0:
            W, A = W - eta * A, 0 * A
    return torch.stack(ys), W, A


ALTERNATIVES = (_by_lists,)

MISTAKES = """
if (n + t + 1) % b == 0: → if (t + 1) % b == 0:
    The mini-batches are counted from the start of the piece: n tokens of the first are already read.
torch.outer(W @ k[t] - v[t], k[t]) → torch.outer((W - eta * A) @ k[t] - v[t], k[t])
    The error is taken at W - eta A, the newest weights: within a mini-batch it is taken at W.
W, A = W - eta * A, torch.zeros_like(A) → W = W - eta * A
    A is not emptied at the end of a mini-batch, so its steps are taken again.
A = A + torch.outer(W @ k[t] - v[t], k[t]) ⏎ ys.append((W - eta * A) @ q[t]) → ys.append((W - eta * A) @ q[t]) ⏎ A = A + torch.outer(W @ k[t] - v[t], k[t])
    Each read comes before the token's own step: y_t includes g_t.
ys = [] → ys, A = [], torch.zeros_like(A)
    The given A is ignored: the mini-batch in progress loses the tokens it has read.
return torch.stack(ys), W, A → return torch.stack(ys), W - eta * A, A
    The weights at the last token are returned: W stays that of the start of the mini-batch.
if (n + t + 1) % b == 0: → if (n + t) % b == 0:
    Each mini-batch ends one token late.
ys.append((W - eta * A) @ q[t]) → ys.append(W @ q[t])
    The reads use W, without the steps of the mini-batch in progress.
W @ k[t] - v[t] → -v[t]
    This is the gradient of the inner product: nothing of what the key returns is taken off.
if (n + t + 1) % b == 0: → if (n + t + 1) % b == 0 and t + 1 < len(k):
    The reads are right, but a mini-batch that ends with the piece is not closed: after its last token W - eta A is the new W, and A is 0.
A = A + torch.outer(W @ k[t] - v[t], k[t]) → A = A + eta * torch.outer(W @ k[t] - v[t], k[t]) ; ys.append((W - eta * A) @ q[t]) → ys.append((W - A) @ q[t]) ; W, A = W - eta * A, torch.zeros_like(A) → W, A = W - A, torch.zeros_like(A)
    The step size is inside A: A is the sum of the gradients alone, and eta multiplies it in the read.
if (n + t + 1) % b == 0: → if (t + 1) % b == 0 and t + 1 < len(k):
    The mini-batches are counted from the start of the piece, and the last is not closed: n tokens of the first are already read.
return torch.stack(ys), W, A → return torch.stack(ys), W - eta * A, torch.zeros_like(A)
    The mini-batch is closed at the end of the piece: it stays open until it has b tokens.
"""
