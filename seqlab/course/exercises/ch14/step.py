r"""A tile of the first paper

*Update a finished read by one more tile. · 12 minutes · ●●○ · 2 points*

The chapter's `flash2` divides once, at the end. The first paper did it in another way: after *each* tile, y is a finished read of what has been seen so
far, and a row also carries its maximum `top` and its sum `total`. Write this update. Scores are $q k^\top / \sqrt K$; `hidden` (n, m) is True where a
query may not look.

A row that has seen nothing so far has top = -∞, total = 0 and y = 0, and it stays so if the whole tile is hidden from it.
"""

import torch

from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch14.shared import _close, _randn, pair_by_pair


def step(q, k, v, hidden, top, total, y):
    """One tile. q (n, K), k (m, K), v (m, V), hidden (n, m), top and total (n,), y (n, V).

    Returns (top, total, y), with y divided.
    """
    ### BEGIN SOLUTION
    s = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(hidden, -torch.inf)
    new = torch.maximum(top, s.amax(-1))
    unit = torch.where(new.isfinite(), new, torch.zeros_like(new))
    p = (s - unit[:, None]).exp()
    old = (top - unit).exp() * total  # the weight of all that was read before
    both = old + p.sum(-1)
    read = old[:, None] * y + p @ v
    return new, both, (read / both[:, None]).nan_to_num()  # 0 / 0: nothing seen
    ### END SOLUTION


WHY = r"""
**Solution.** A finished y has lost its weight, so it must get it back: multiply by `total`, in the new unit. Then add the tile's terms, and divide by the
new sum. This is line 12 of the first paper's algorithm, $\mathrm{diag}(\ell')^{-1}(\mathrm{diag}(\ell)\, e^{m - m'}\, y + e^{\tilde m - m'} \tilde P v)$. FlashAttention 2
leaves out both the multiplication and the division until the last tile: the same numbers, fewer operations that the matrix unit cannot do.

*Common mistakes:* y rescaled by the change of unit alone, as if it were still a sum; the sum not rescaled; division by the old sum.
"""

HINTS = (
    "y is a mean, not a sum. By what must a mean be multiplied before something can be added to it?",
    "old = e^(top - new) · total is the weight of the past; the tile's weight is Σ p. y' = (old · y + p v) / (old + Σ p).",
    "s masked, new, unit (0 for -inf), p = exp(s - unit), old, both = old + p.sum(-1); 0 / 0 becomes 0.",
)


def _as_keys(q, k, v, hidden, top, total, y):
    """The past as one more key for each row, whose score is its lse and whose value is y."""
    s = (q.double()[:, None] * k.double()).sum(-1) / q.shape[-1] ** 0.5
    s = torch.where(hidden, -torch.inf, s)
    past = top.double() + total.double().log()
    return torch.cat([past[:, None], s], 1)


def reference(q, k, v, hidden, top, total, y):
    s = _as_keys(q, k, v, hidden, top, total, y)
    lse = s.logsumexp(-1)
    w = torch.where(s == -torch.inf, 0.0, (s - lse[:, None]).exp())
    new = torch.cat([top.double()[:, None], s[:, 1:]], 1).amax(1)
    total = torch.where(new == -torch.inf, 0.0, (lse - new).exp())
    y = w[:, :1] * y.double() + w[:, 1:] @ v.double()
    return new.float(), total.float(), y.float()


def cases(rng):
    def case(name, n, m, K, V, scale=1.0, before=6, hide=0.0):
        q, k, v = scale * _randn(rng, n, K), _randn(rng, m, K), _randn(rng, m, V)
        past, values = _randn(rng, before, K), _randn(rng, before, V)
        y, lse = pair_by_pair(q, past, values, torch.ones(n, before, dtype=torch.bool))
        top = (q @ past.mT / K**0.5).amax(-1)
        hidden = torch.rand(n, m, generator=rng) < hide
        given = {"top": top, "total": (lse - top).exp(), "y": y}
        return Case(name, {"q": q, "k": k, "v": v, "hidden": hidden, **given})

    def first(name, n, m, K, V, hide):
        given = {"top": torch.full((n,), -torch.inf), "total": torch.zeros(n)}
        hidden = torch.rand(n, m, generator=rng) < hide
        tensors = {
            "q": _randn(rng, n, K),
            "k": _randn(rng, m, K),
            "v": _randn(rng, m, V),
        }
        return Case(
            name, {**tensors, "hidden": hidden, **given, "y": torch.zeros(n, V)}
        )

    return [
        case("one query, one key", 1, 1, 4, 4),
        case("a tile of 5 × 7", 5, 7, 4, 3),
        case("a diagonal tile, half hidden", 6, 6, 3, 5, hide=0.5),
        case("large scores", 4, 5, 4, 3, scale=300.0),
        case("a tile all hidden", 3, 4, 4, 2, hide=1.0),
        first("the first tile", 5, 6, 4, 3, 0.0),
        first("the first tile, half hidden", 5, 4, 4, 3, 0.5),
        first("nothing seen yet, all hidden", 3, 4, 4, 2, 1.0),
    ]


def _halves(inputs):
    m = inputs["k"].shape[0] // 2
    if m == 0:
        return []
    cut = {
        "k": inputs["k"][:m],
        "v": inputs["v"][:m],
        "hidden": inputs["hidden"][:, :m],
    }
    top, total, y = reference(**{**inputs, **cut})
    rest = {
        "k": inputs["k"][m:],
        "v": inputs["v"][m:],
        "hidden": inputs["hidden"][:, m:],
    }
    return [{**inputs, **rest, "top": top, "total": total, "y": y}]


PROPERTIES = (
    Property(
        "two half tiles = one tile",
        variants=_halves,
        holds=lambda inputs, outputs: (
            len(outputs) == 1
            or all(_close(a, b) for a, b in zip(*outputs, strict=True))
        ),
        message="A tile read as two half tiles gives something else than the tile at once.",
    ),
)

OUTPUTS = ("top", "total", "y")

TIME_AXIS = None


def _by_weights(q, k, v, hidden, top, total, y):
    """Both parts as reads with a weight, divided at once."""
    s = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(hidden, -torch.inf)
    new = torch.cat([top[:, None], s], 1).amax(1)
    safe = torch.nan_to_num(new, neginf=0.0)
    w = torch.cat([(total * (top - safe).exp())[:, None], (s - safe[:, None]).exp()], 1)
    share = w / w.sum(1, keepdim=True).clamp(min=1e-38)
    return new, w.sum(1), share[:, :1] * y + share[:, 1:] @ v


def _undivided(q, k, v, hidden, top, total, y):
    """Back to the sum, one key at a time, and divided at the end."""
    y = y * total[:, None]
    for j in range(len(k)):
        s = torch.where(hidden[:, j], -torch.inf, q @ k[j] * q.shape[-1] ** -0.5)
        new = torch.maximum(top, s)
        safe = torch.where(new == -torch.inf, 0.0, new)
        fade, p = torch.exp(top - safe), torch.exp(s - safe)
        total, y, top = fade * total + p, fade[:, None] * y + p[:, None] * v[j], new
    return top, total, torch.where(total[:, None] > 0, y / total[:, None], 0.0)


ALTERNATIVES = (_by_weights, _undivided)

MISTAKES = """
read = old[:, None] * y + p @ v → read = (top - unit).exp()[:, None] * y + p @ v
    y is rescaled by the change of unit alone, as if it were still a sum. It was divided: give it back
    its old sum first.
read = old[:, None] * y + p @ v → read = total[:, None] * y + p @ v
    y gets its old sum back, but in the old unit: the change e^(top - new) is missing there.
(top - unit).exp() * total → total
    The old sum is not rescaled, neither in the new sum nor for y: it counts units of e^top.
(top - unit).exp() * total → (top - unit).exp()
    The old weight is e^(top - new) without the old sum: what was read before counts as one single key.
(read / both[:, None]).nan_to_num() → read
    y is not divided. In this form it is a finished read after every tile.
read / both[:, None] → read / total[:, None]
    y is divided by the old sum: the new one belongs there.
read = old[:, None] * y + p @ v → read = p @ v
    What was read before is lost: y holds this tile only.
both = old + p.sum(-1) → both = p.sum(-1)
    The sum holds this tile only, and y is divided by it: the weight of the past is missing.
torch.maximum(top, s.amax(-1)) → s.amax(-1)
    Your maximum is that of the tile alone. What was seen before may hold a larger score.
.masked_fill(hidden, -torch.inf) → .masked_fill(~hidden, -torch.inf)
    The mask is turned round: hidden is True where a query may not look.
.masked_fill(hidden, -torch.inf) → .masked_fill(hidden, 0.0)
    A hidden score is set to 0, and e^0 is 1: it must become -∞.
q.shape[-1] ** -0.5 → 1
    The scores are not divided by the square root of K.
"""
