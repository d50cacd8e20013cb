r"""Texts of different length in one batch

*Turn queries and keys by positions that differ from row to row. · 15 minutes · ●●○ · 2 points*

A server decodes several texts at once. Each has its own cache, and each cache another length. So the next tokens of row b have the positions `start[b]`, `start[b]` + 1, …: RoPE must continue there, or the new
keys do not fit those in the cache.

Pair p of a head is channels $(p,\; p + K/2)$, as in Llama. The token at position n turns it by the angle $\varphi = n\,\theta_p$, with $\theta_p = \text{base}^{-2p/K}$:

$$(a, b) \to (a \cos\varphi - b \sin\varphi,\;\; b \cos\varphi + a \sin\varphi)$$

Positions go up to a million. In float32 an angle of a million radians is known to about 0.03 only, so compute θ and the angles in float64; the result has the dtype of x.
"""

import torch

from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch01.shared import _close, _randn
from seqlab.course.exercises.vocabulary import first_sequence


def rope(x, start, base):
    """Turn x (B, T, H, K), K even. start (B,), whole numbers: token t of row b has the position start[b] + t. base: a number.

    Returns (B, T, H, K).
    """
    ### BEGIN SOLUTION
    T, K = x.shape[1], x.shape[-1]
    theta = base ** -(torch.arange(0, K, 2).double() / K)
    n = start[:, None] + torch.arange(T)  # (B, T)
    angle = n[:, :, None, None] * theta  # (B, T, 1, K/2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
    ### END SOLUTION


WHY = r"""
**Solution.** As in the chapter, but the positions are a table (B, T), `start[:, None] + torch.arange(T)`, and the angles get an axis for the heads, which all turn alike.

A score depends on the distance alone, so a whole row may start anywhere: at 0, or at a million. What must not happen is that the cache of a row was filled from 0 and its new tokens start at 0 again, or where another row's do. Nothing fails then; the
distances are wrong, and the text gets worse.

Float32 has 24 bits. A million takes 20 of them, and 4 are left for the part of the angle behind the point. Libraries keep tables of cos and sin that were computed once, in float32 at least; in bfloat16, with 8 bits, positions above 256 would no longer differ by 1.

*Common mistakes:* start of the first row for all; neighbours as pairs, as in RetNet; the start added to the angle, not to the position.
"""

HINTS = (
    "What is the position of each token of each row? It is a table with B rows and T columns.",
    "n = start[:, None] + arange(T); the angle is n θ_p, with an axis for the heads: (B, T, 1, K/2).",
    "angle = n[:, :, None, None] * theta in float64; a, b = x.chunk(2, -1); cat([a cos - b sin, b cos + a sin], -1).",
)


def reference(x, start, base):
    """Each pair as a complex number, row by row and token by token."""
    B, T, _, K = x.shape
    y = torch.empty_like(x)
    for row in range(B):
        for t in range(T):
            n = int(start[row]) + t
            turn = torch.tensor(
                [n * float(base) ** (-2 * p / K) for p in range(K // 2)],
                dtype=torch.float64,
            )
            z = torch.complex(*x[row, t].detach().double().chunk(2, dim=-1))
            z = z * torch.polar(torch.ones_like(turn), turn)
            y[row, t] = torch.cat([z.real, z.imag], -1)
    return y


def cases(rng):
    def case(name, T, H, K, start, base=10000.0, scale=1.0):
        x = scale * _randn(rng, len(start), T, H, K)
        return Case(name, {"x": x, "start": torch.tensor(start), "base": base})

    return [
        case("T = 1, the first token", 1, 2, 4, [0, 0]),
        # Not the last: a check names the last of several that part at once, and this one asks for float64.
        case("positions near a million", 3, 2, 8, [1_000_000, 999_000]),
        case("odd T, all rows from 0", 5, 2, 6, [0, 0]),
        case("T = 1, caches of different length", 1, 2, 4, [7, 2, 40]),
        case("two channels", 3, 1, 2, [5, 0]),
        case("odd T, another base", 7, 3, 8, [3, 11], base=500000.0),
        case("large values", 3, 2, 4, [1, 6], scale=1000.0),
    ]


def _moved(inputs):
    return [{**inputs, "start": inputs["start"] + 12}]


def _same_scores(inputs, outputs):
    here, there = (y.double() for y in outputs)
    scores = [torch.einsum("bihk, bjhk -> bhij", y, y) for y in (here, there)]
    size = max(1.0, scores[0].abs().max().item())
    return _close(scores[0] / size, scores[1] / size, 1e-4)


PROPERTIES = (
    Property(
        "scores know only the distance",
        variants=_moved,
        holds=_same_scores,
        message="If all positions of a row move by the same number, the dot products change: they should depend on the distance alone.",
    ),
)


def parts_hint(t, inputs):
    if inputs["start"].max() > 100_000:
        return "are θ and the angle computed in float64, from the exponent on? In float32 a product of a million and θ has lost what cos and sin need."
    return "which position has this token in its row, which channels are a pair, and by which angle do they turn?"


def _complex(x, start, base):
    K = x.shape[-1]
    theta = torch.tensor(base, dtype=torch.float64) ** (
        torch.arange(K // 2).double() * (-2 / K)
    )
    n = torch.arange(x.shape[1])[None] + start[:, None]
    turn = torch.polar(
        torch.ones(()).double(), torch.einsum("bt, p -> btp", n.double(), theta)
    )
    z = torch.complex(*x.double().chunk(2, -1)) * turn[:, :, None]
    return torch.cat([z.real, z.imag], -1).to(x.dtype)


def _turned_half(x, start, base):
    """x cos + (the halves swapped, one with a minus) sin, as in many libraries."""
    K = x.shape[-1]
    theta = 1.0 / base ** (torch.arange(0, K, 2, dtype=torch.float64) / K)
    n = start.double()[:, None] + torch.arange(x.shape[1])
    angle = torch.cat([n[..., None] * theta] * 2, -1)[:, :, None]
    a, b = x[..., : K // 2], x[..., K // 2 :]
    return (x * angle.cos() + torch.cat([-b, a], -1) * angle.sin()).to(x.dtype)


def _row_by_row(x, start, base):
    K = x.shape[-1]
    ys = []
    for row, first in zip(x, start.tolist(), strict=True):
        n = torch.arange(first, first + x.shape[1], dtype=torch.float64)
        angle = torch.outer(n, float(base) ** (-2 * torch.arange(K // 2).double() / K))
        c, s = (f(angle)[:, None].to(x.dtype) for f in (torch.cos, torch.sin))
        a, b = row.tensor_split(2, -1)
        ys.append(torch.cat([a * c - b * s, a * s + b * c], -1))
    return torch.stack(ys)


ALTERNATIVES = (_complex, _turned_half, _row_by_row)

MISTAKES = """
start[:, None] + torch.arange(T) → 0 * start[:, None] + torch.arange(T)
    The start is ignored: the positions begin at 0 again, and the new keys do not fit those in the cache.
start[:, None] + torch.arange(T) → start[:, None] + 0 * torch.arange(T)
    All tokens of a row turn by its start: t is left out. Token t has the position start + t.
start[:, None] + torch.arange(T) → torch.arange(T) - start[:, None]
    The start is subtracted: token t of row b has the position start[b] + t.
start[:, None] + torch.arange(T) → start[:, None] + torch.arange(T) + 1
    The positions are one too high: start is the position of the first token.
start[:, None] + torch.arange(T) → start[:, None] * (1 + torch.arange(T))
    The start is a step here: token t of row b has the position start[b] + t.
angle = n[:, :, None, None] * theta → angle = start[:, None, None, None] + torch.arange(T)[:, None, None] * theta
    The start is added to the angle: it belongs to the position, which is then multiplied by θ.
a, b = x.chunk(2, dim=-1) ⏎ return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1) → a, b = x[..., 0::2], x[..., 1::2] ⏎ return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
    Neighbours are taken as pairs, as in RetNet: here a pair is channels p and p + K/2.
a, b = x.chunk(2, dim=-1) ⏎ return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1) → a, b = x[..., 0::2], x[..., 1::2] ⏎ return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
    Neighbours are taken as pairs, and put back as two halves: a pair is channels p and p + K/2, before and after.
a, b = x.chunk(2, dim=-1) ⏎ return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1) → a, b = x.chunk(2, dim=-1) ⏎ return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
    The pairs are put back as neighbours: the first half of the channels holds the a, the second half the b.
torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1) → torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)
    The pairs turn the other way. Scores are the same, but a cache that other code has filled does not fit.
torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1) → torch.cat([a * cos - b * sin, b * cos + (a * cos - b * sin) * sin], dim=-1)
    The new b is made from the new a: it needs the old one.
torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1) → torch.cat([a * cos - b * sin, b * cos - a * sin], dim=-1)
    A sign is off: (a, b) becomes (a cos - b sin, b cos + a sin), which keeps its length.
base ** -(torch.arange(0, K, 2).double() / K) → base ** (torch.arange(0, K, 2).double() / K)
    θ grows from pair to pair: the exponent lacks its minus.
base ** -(torch.arange(0, K, 2).double() / K) → base ** -(torch.arange(K // 2).double() / K)
    The exponents are half of what they should be, -p/K: they are -2p/K.
base ** -(torch.arange(0, K, 2).double() / K) → base ** -torch.linspace(0, 1, K // 2).double()
    θ runs down to 1/base, with the end included, as in RetNet: here the exponent is -2p/K, which stops one step short of -1.
base ** -(torch.arange(0, K, 2).double() / K) → base ** -(2 * torch.arange(0, K, 2).double() / K)
    The exponents are twice what they should be: p counts pairs, and arange(0, K, 2) is 2p already.
torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1) → torch.cat([a * cos - b * sin, a * cos + b * sin], dim=-1)
    In the new b, a and b have changed places: it is b cos + a sin.
start[:, None] + torch.arange(T) → start[:, None] * T + torch.arange(T)
    The start is multiplied by T, as if it counted texts: it is a position already.
base ** -(torch.arange(0, K, 2).double() / K) → 10000.0 ** -(torch.arange(0, K, 2).double() / K)
    The base is always 10,000: use the one that is given.
base ** -(torch.arange(0, K, 2).double() / K) → base ** -(torch.arange(2, K + 2, 2).double() / K)
    The pairs are counted from 1: pair 0 has θ = 1.
base ** -(torch.arange(0, K, 2).double() / K) → (base ** -(torch.arange(0, K, 2).double() / K)).flip(0)
    The angles run backwards: pair 0 turns the fastest.
angle = n[:, :, None, None] * theta → angle = (n[:, :, None, None].float() * theta.float())
    Right near 0, but not near a million: the angles are computed in float32.
"""

ALSO = (
    first_sequence(
        "start",
        says="All rows begin where the first one does: row b begins at start[b].",
    ),
)
