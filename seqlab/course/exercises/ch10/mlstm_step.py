r"""One step of the mLSTM

*Decode: a table, a normaliser and a scale. · 10 minutes · ●●○ · 2 points*

Write the mLSTM's step for one token: the stabiliser, the write, the read of exercise 10.4. The forget gate is given by its logarithm, `log_f`, the input gate by its exponent, `i`. S and n are kept divided by $e^m$;
before the first token S and n are 0 and m is 0 (not $-∞$: the mLSTM's read compares with 1, so its scale starts at $e^0$).
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch10.shared import log_gates, randn, whole
from seqlab.course.exercises.vocabulary import first_head, old_state, scaled


def mlstm_step(q, k, v, i, log_f, S, n, m):
    """q, k (B, H, K), v (B, H, V), i and log_f (B, H); S (B, H, V, K), n (B, H, K), m (B, H): (y, S, n, m), y (B, H, V)."""
    ### BEGIN SOLUTION
    old = log_f + m
    m = torch.maximum(old, i)
    keep, write = (old - m).exp()[..., None], (i - m).exp()[..., None]
    S = keep[..., None] * S + v[..., None] * (write * k)[..., None, :]
    n = keep * n + write * k
    size = torch.maximum((n * q).sum(-1).abs(), (-m).exp())
    return (S @ q[..., None])[..., 0] / size[..., None], S, n, m
    ### END SOLUTION


WHY = r"""
**Solution.** The same stabiliser as the sLSTM's, one number per head. S and n are two memories with the same gates: n is the one for a value that is always 1. So an implementation appends a 1 to v and keeps a single table of V + 1
rows; `seqlab` does.

*Common mistakes:* the read before the write; a 1 in place of $e^{-m}$; the old m in the read.
"""

HINTS = (
    "First the scale, then the two gates, then both memories, then the read.",
    "m = max(log_f + m, i); S ← keep S + write v kᵀ and n ← keep n + write k; y = S q / max(|n·q|, e^(-m)) with the new m.",
    "keep = (log_f + m_old - m).exp(), write = (i - m).exp(); S = keep[..., None, None] * S + v[..., None] * (write[..., None] * k)[..., None, :].",
)


def reference(q, k, v, i, log_f, S, n, m):
    one = (u[:, None] for u in (q, k, v, i, log_f))
    y, S, n, m = whole(*one, S, n, m)
    return y[:, 0], S, n, m


def cases(rng):
    def case(name, B, H, K, V, size=1.0, first=False, gate=(0.3, 0.99)):
        S, n, m = randn(rng, B, H, V, K), randn(rng, B, H, K), size * randn(rng, B, H)
        if first:
            S, n, m = 0 * S, 0 * n, 0 * m
        log_f = log_gates(rng, B, H, low=gate[0], high=gate[1])
        inputs = {"q": randn(rng, B, H, K), "k": randn(rng, B, H, K)}
        inputs |= {"v": randn(rng, B, H, V), "i": size * randn(rng, B, H)}
        inputs = {name: x.requires_grad_() for name, x in inputs.items()}
        return Case(name, {**inputs, "log_f": log_f, "S": S, "n": n, "m": m})

    return [
        case("one head", 1, 1, 2, 2),
        case("K ≠ V", 2, 3, 5, 2),
        case("the first token", 2, 2, 4, 3, first=True),
        case("exponents of a hundred", 3, 2, 3, 4, size=100.0),
        case("the gates are open", 1, 2, 3, 3, gate=(1.0, 1.0)),
        case("the gates are nearly shut", 1, 2, 3, 4, gate=(1e-7, 1e-6)),
        case("a quiet first token", 2, 2, 3, 4, size=0.1, first=True),
    ]


OUTPUTS = ("y", "S", "n", "m")

TIME_AXIS = None


def _in_one_table(q, k, v, i, log_f, S, n, m):
    table = torch.cat([S, n[..., None, :]], -2)
    values = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    new = torch.maximum(log_f + m, i)
    table = torch.exp(log_f + m - new)[..., None, None] * table
    table = table + torch.einsum("bhv, bhk, bh -> bhvk", values, k, (i - new).exp())
    y = torch.einsum("bhvk, bhk -> bhv", table, q)
    size = y[..., -1:].abs().maximum((-new).exp()[..., None])
    return y[..., :-1] / size, table[..., :-1, :], table[..., -1, :], new


ALTERNATIVES = (_in_one_table,)

MISTAKES = """
m = torch.maximum(old, i) → m = torch.maximum(m, i)
    The forget gate is missing from m: the old memory's exponent is log_f + m.
n = keep * n + write * k → n = keep * n + write
    The normaliser is a sum of keys: write times k is added to it.
n = keep * n + write * k → n = n + write * k
    The normaliser does not forget: n fades by the same gate as S.
(-m).exp() → torch.ones_like(m)
    The read compares with 1: S and n are divided by e^m, so the 1 becomes e^(-m).
.abs() →
    The absolute value of n·q is missing.
(-m).exp() → (log_f - old).exp()
    The read compares with e^(-m) of the old m: S and n have the new scale by then.
(i - m).exp() → i.exp()
    The write is not divided by e^m: its gate is exp(i - m).
keep, write = (old - m).exp()[..., None], (i - m).exp()[..., None] → keep, write = log_f.exp()[..., None], (i - m).exp()[..., None]
    The old memory is not brought to the new scale: its gate is exp(log_f + old m - new m).
v[..., None] * (write * k)[..., None, :] → v[..., None] * k[..., None, :]
    The write into S has no input gate.
n = keep * n + write * k ⏎ size → size ; , S, n, m → , S, keep * n + write * k, m
    The read uses the old n: write first, then read, with the new S and the new n.
"""

ALSO = (
    first_head("i", axis=1),
    first_head("log_f", axis=1),
    scaled("q"),
    scaled("k"),
    old_state(
        "m",
        i=3,
        says="The m that you return is the one you were given: return the new one.",
    ),
)
