r"""RWKV-5, all tokens at once

*Find the matrix of weights behind a recurrence that reads before it writes. · 12 minutes · ●●○ · 2 points*

The chapter's `eagle` walks token by token. Written out, its read is $y_t = \sum_{s ≤ t} W_{ts}\, v_s$. Find W and return y, for one head with one decay $a$ per key channel, the same at all tokens. Each entry of W is a sum
over the K channels. Use no loop over tokens, and build no state: the check counts operations.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch09.shared import rand, randn


def all_at_once(q, k, v, a, u):
    """q, k (T, K), v (T, V), a and u (K,), a between 0 and 1: y (T, V)."""
    ### BEGIN SOLUTION
    T = len(q)
    age = torch.arange(T)[:, None] - torch.arange(T) - 1
    fading = a ** age.clamp(min=0)[..., None]  # (T, T, K)
    W = torch.einsum("tk, sk, tsk -> ts", q, k, fading)
    W = W.masked_fill(age < 0, 0.0) + torch.diag((q * u * k).sum(1))
    return W @ v
    ### END SOLUTION


WHY = r"""
**Solution.** When token t reads, the write of token s has faded $t - 1 - s$ times: at each token after s and before t, for token t itself reads before it fades the table. So $W_{ts} = \sum_c q_{tc}\, a_c^{t-1-s}\, k_{sc}$ below the diagonal. On the
diagonal stands the bonus, $\sum_c q_{tc} u_c k_{tc}$, and above it 0.

$a^{t-1-s}$ cannot be split into $a^{t}$ times $a^{-s}$ for long texts: the second factor overflows. This form needs T · T · K numbers; chunks (chapter 07) need fewer.

*Common mistakes:* an exponent of t - s; the bonus added to the diagonal's old weight; a triangle with the diagonal.
"""

HINTS = (
    "How many times has the write of token s faded when token t reads? Count for t = s + 1.",
    "W_ts = Σ_c q_tc a_c^(t-1-s) k_sc below the diagonal, Σ_c q_tc u_c k_tc on it.",
    "einsum('tk, sk, tsk -> ts', q, k, a ** age.clamp(min=0)[..., None]) with age = t - s - 1; mask age < 0; add diag((q * u * k).sum(1)).",
)


def reference(q, k, v, a, u):
    """The recurrence, in float64."""
    q, k, v, a, u = (x.double() for x in (q, k, v, a, u))
    S, ys = torch.zeros(v.shape[1], k.shape[1]).double(), []
    for q_t, k_t, v_t in zip(q, k, v, strict=True):
        ys.append(S @ q_t + v_t * (q_t * u * k_t).sum())
        S = S * a + v_t[:, None] * k_t
    return torch.stack(ys).float()


def cases(rng):
    def case(name, T, K, V, low=0.3, high=0.99):
        inputs = {"q": randn(rng, T, K), "k": randn(rng, T, K), "v": randn(rng, T, V)}
        inputs |= {"a": low + (high - low) * rand(rng, K), "u": randn(rng, K)}
        if low > 0 and high < 1:
            inputs = {name: x.requires_grad_() for name, x in inputs.items()}
        return Case(name, inputs)

    return [
        case("T = 1", 1, 3, 2),
        case("T = 2", 2, 3, 3),
        case("odd T, K ≠ V", 7, 4, 2),
        case("nothing fades", 6, 3, 3, 1.0, 1.0),
        case("fades at once", 6, 3, 2, 0.0, 0.0),
        case("long", 80, 3, 2, 0.05, 0.9),
    ]


def effort(inputs, cost):
    T = len(inputs["q"])
    if T >= 64 and cost.calls >= T:
        return f"The values are right, but this walks over tokens: {cost.calls} torch operations for {T}. Build W for all pairs."
    return None


OUTPUTS = ("y",)

TIME_AXIS = 0


def _by_logs(q, k, v, a, u):
    T = len(q)
    t = torch.arange(T)
    age = (t[:, None] - t - 1).clamp(min=0)
    table = torch.stack(
        [(q[:, [c]] * k[:, c]) * a[c] ** age for c in range(len(a))]
    ).sum(0)
    return table.tril(-1) @ v + (q * u * k).sum(1, keepdim=True) * v


def _by_where(q, k, v, a, u):
    t = torch.arange(len(q))
    age = t[:, None] - t - 1
    factor = torch.where((age < 0)[..., None], u, a ** age.clamp(min=0)[..., None])
    factor = factor * (age >= -1)[..., None]
    return ((q[:, None] * factor * k).sum(-1)) @ v


ALTERNATIVES = (_by_logs, _by_where)

MISTAKES = """
torch.arange(T)[:, None] - torch.arange(T) - 1 → torch.arange(T)[:, None] - torch.arange(T)
    The weights do not fit: the write of token t - 1 has not faded when t reads, and the diagonal holds the bonus alone.
+ torch.diag((q * u * k).sum(1)) → + torch.diag((q * k).sum(1))
    On the diagonal u is missing: a token counts itself through the bonus.
+ torch.diag((q * u * k).sum(1)) →
    A token does not see itself: on the diagonal stands the bonus.
W.masked_fill(age < 0, 0.0) → W
    The future is read: above the diagonal W is 0.
W.masked_fill(age < 0, 0.0) → W.masked_fill(age < -1, 0.0)
    The diagonal counts twice: once with a weight of 1, and once with the bonus.
fading = a ** age.clamp(min=0)[..., None]  # (T, T, K) → fading = (a * torch.ones_like(q[:, None] * q)) ** 0
    Nothing fades: the write of token s has faded t - 1 - s times.
torch.einsum("tk, sk, tsk -> ts", q, k, fading) → torch.einsum("sk, tk, tsk -> ts", q, k, fading)
    q and k have changed places: the later token asks, with its q.
age.clamp(min=0)[..., None] → (age.clamp(min=0) + 1)[..., None]
    Each write has faded once too often: t reads before it fades the table.
"""
