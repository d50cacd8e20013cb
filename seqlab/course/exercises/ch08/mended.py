r"""Bug hunt: fade and clear

*Find what is wrong in code that runs, from how its answers differ. · 15 minutes · ●●● · 3 points*

This function computes Gated DeltaNet token by token. It runs, and a model trains with it. It has **two bugs**. Run the cell below: it shows two symptoms. Then write the right version into `mended`. You may copy the code and
change a few lines.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch08.shared import by_steps, randn, strengths, unit


def mended(q, k, v, log_a, beta):
    """Gated DeltaNet from an empty table. q, k (B, T, H, K), k of length 1, v (B, T, H, V), log_a and beta (B, T, H): y (B, T, H, V)."""
    ### BEGIN SOLUTION
    B, T, H, K = q.shape
    S = q.new_zeros(B, H, v.shape[-1], K)
    ys = []
    for t in range(T):
        S = log_a[:, t].exp()[..., None, None] * S
        found = (S @ k[:, t, ..., None])[..., 0]
        write = beta[:, t, :, None] * (v[:, t] - found)
        S = S + write[..., None] * k[:, t, :, None, :]
        ys.append((S @ q[:, t, ..., None])[..., 0])
    return torch.stack(ys, dim=1)
    ### END SOLUTION


WHY = r"""
**The first bug**: the write came before the fading. What the token had just written was multiplied by its own decay, so even a newest value written with β = 1 came back too small.

**The second bug**: β multiplied the value and not the removal: $\beta v - S k$ in place of $\beta (v - S k)$. With β = 1 nothing shows. With β = 0 the token should do nothing, and it cleared its key.

**How to find such bugs.** Ask for what must hold whatever the numbers are: with β = 1 the key of the last token returns its value exactly; with β = 0 and no decay nothing changes. Each such sentence isolates one line.

*Common mistakes:* mending one of the two; fading after the removal was measured, which is right only without decay.
"""

HINTS = (
    "Each symptom isolates one line: which lines matter if β = 1? If β = 0 and nothing fades?",
    "The order is fade, ask, write, read. And β multiplies the whole difference.",
    "Move the line with log_a to the top of the loop; write = beta * (v - found).",
)


def reference(q, k, v, log_a, beta):
    B, _, H, K = q.shape
    rows = []
    for b in range(B):
        heads = [
            by_steps(
                q[b, :, h],
                k[b, :, h],
                v[b, :, h],
                log_a[b, :, h, None],
                beta[b, :, h],
                torch.zeros(v.shape[-1], K),
            )[0]
            for h in range(H)
        ]
        rows.append(torch.stack(heads, 1))
    return torch.stack(rows)


def cases(rng):
    def case(name, B, T, H, K, V, most=1.0, fade=0.5, whole=False):
        beta = strengths(rng, B, T, H, most=most)
        if whole:
            beta = torch.ones(B, T, H)
        inputs = {"q": randn(rng, B, T, H, K), "k": unit(rng, B, T, H, K)}
        inputs |= {"v": randn(rng, B, T, H, V), "beta": beta}
        inputs |= {"log_a": -fade * torch.rand(B, T, H, generator=rng)}
        return Case(name, {n: u.requires_grad_() for n, u in inputs.items()})

    return [
        case("T = 1", 1, 1, 1, 3, 2),
        case("K ≠ V", 2, 7, 2, 4, 3),
        case("no decay", 1, 8, 2, 3, 4, fade=0.0),
        case("β = 1", 2, 6, 2, 4, 3, whole=True),
        case("β up to 2", 1, 9, 2, 4, 4, most=2.0),
        case("strong decay", 1, 6, 2, 3, 3, fade=4.0),
    ]


OUTPUTS = ("y",)

TIME_AXIS = 1


def _by_matrices(q, k, v, log_a, beta):
    B, T, H, K = q.shape
    S = torch.zeros(B, H, v.shape[-1], K)
    ys = []
    for t in range(T):
        kk = torch.einsum("bhi, bhj -> bhij", k[:, t], k[:, t])
        A = torch.eye(K) - beta[:, t, :, None, None] * kk
        new = torch.einsum("bhv, bhk, bh -> bhvk", v[:, t], k[:, t], beta[:, t])
        S = torch.exp(log_a[:, t])[..., None, None] * (S @ A) + new
        ys.append(torch.einsum("bhvk, bhk -> bhv", S, q[:, t]))
    return torch.stack(ys, 1)


def _by_seqlab(q, k, v, log_a, beta):
    from seqlab.core.recurrence import chunkwise

    return chunkwise(q, k, v, log_a=log_a[..., None], beta=beta, chunk_size=3)[0]


ALTERNATIVES = (_by_matrices, _by_seqlab)

MISTAKES = """
S = log_a[:, t].exp()[..., None, None] * S ⏎ found → found ; beta[:, t, :, None] * (v[:, t] - found) → beta[:, t, :, None] * v[:, t] - found ; S = S + write[..., None] * k[:, t, :, None, :] → S = log_a[:, t].exp()[..., None, None] * (S + write[..., None] * k[:, t, :, None, :])
    Both bugs are still there: the write comes before the fading, and β does not multiply the removal.
S = log_a[:, t].exp()[..., None, None] * S ⏎ found → found ; S = S + write[..., None] * k[:, t, :, None, :] → S = log_a[:, t].exp()[..., None, None] * (S + write[..., None] * k[:, t, :, None, :])
    β is mended, the order is not: what a token writes is faded by its own decay.
beta[:, t, :, None] * (v[:, t] - found) → beta[:, t, :, None] * v[:, t] - found
    The order is mended, β is not: it multiplies the value alone. With β = 0 the token still clears its key.
S = log_a[:, t].exp()[..., None, None] * S ⏎ found → found ; S = S + write[..., None] * k[:, t, :, None, :] → S = log_a[:, t].exp()[..., None, None] * S + write[..., None] * k[:, t, :, None, :]
    What is removed is measured on a table that has not faded yet: fade first, then ask what the key returns.
beta[:, t, :, None] * (v[:, t] - found) → v[:, t] - beta[:, t, :, None] * found
    β multiplies the removal alone: it multiplies the value, too.
log_a[:, t].exp()[..., None, None] * S → log_a[:, t][..., None, None] * S
    The decay is used as its logarithm.
S = log_a[:, t].exp()[..., None, None] * S ⏎ found → found
    Nothing fades: the decay is missing.
beta[:, t, :, None] * (v[:, t] - found) → beta[:, t, :, None] * v[:, t]
    Nothing is removed: this is a gated sum.
S = S + write[..., None] * k[:, t, :, None, :] ⏎ ys.append((S @ q[:, t, ..., None])[..., 0]) → ys.append((S @ q[:, t, ..., None])[..., 0]) ⏎ S = S + write[..., None] * k[:, t, :, None, :]
    The read comes before the write: a token reads the table with its own value in it.
S = log_a[:, t].exp()[..., None, None] * S ⏎ found → found ; ys.append((S @ q[:, t, ..., None])[..., 0]) → ys.append((S @ q[:, t, ..., None])[..., 0]) ⏎ S = log_a[:, t].exp()[..., None, None] * S
    β is mended. The fading has moved the wrong way, behind the read: the next token's table fades by this token's decay.
(v[:, t] - found) → (beta[:, t, :, None] * v[:, t] - found)
    β multiplies the value twice: the bracket around the difference is enough.
"""
