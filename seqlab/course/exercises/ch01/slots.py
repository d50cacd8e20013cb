r"""A cache in any order

*Let positions, not places, say who may look at whom. · 20 minutes · ●●● · 3 points*

The chapter's mask assumes that the keys lie in order and that the queries are the last of them. Real caches are tables of slots: when a text ends, its slots are used again, so a slot may hold *any* token, or none. The number of slots has nothing to do with the number of queries.
So each slot says which position it holds, `k_at`, with −1 for an empty one, and each query has its position, `q_at`. A query sees a slot if

$$0 \le k_{at} \le q_{at}$$

Write causal attention with this rule, with the scale $1/\sqrt K$. A query that sees nothing returns 0. The result must be finite, and so must be the gradients with respect to q, k and v: models are trained through it.
"""

import torch

from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch01.shared import _close, _randn
from seqlab.course.exercises.vocabulary import heads_mixed, late


def slots(q, k, v, q_at, k_at):
    """y_i = Σ_j softmax_j(q_i·k_j / √K) v_j, over the slots j with 0 <= k_at[j] <= q_at[i]; 0 if there is none.

    q (B, T, H, K), k (B, S, H, K), v (B, S, H, V); q_at (T,) and k_at (S,), whole numbers. Returns y (B, T, H, V).
    """
    ### BEGIN SOLUTION
    seen = (k_at >= 0) & (k_at <= q_at[:, None])  # (T, S)
    scores = torch.einsum("bihk, bjhk -> bhij", q, k) * q.shape[-1] ** -0.5
    lowest = torch.finfo(scores.dtype).min  # not -∞: a row of it alone is NaN
    p = scores.masked_fill(~seen, lowest).softmax(-1) * seen
    return torch.einsum("bhij, bjhv -> bihv", p, v)
    ### END SOLUTION


WHY = r"""
**Solution.** The rule becomes a table of T × S truth values, by comparing every k_at with every q_at. Everything else is attention as always. Where a query sees nothing, a softmax over −∞ alone is 0/0. With the lowest finite number in place of −∞ such a row becomes uniform, and the product with the table sets it to 0. In all other rows
the product changes nothing, since a hidden weight is already exactly 0.

Attention sees a *set* of keys: their order in memory means nothing. That is why paged caches work, and why the position has to be in the key (RoPE) and in the mask.

With q_at = S − T … S − 1 and k_at = 0 … S − 1 this is the chapter's mask; if T > S, the first queries see nothing.

*Common mistakes:* `tril`, which counts places; a mean over all values where nothing is seen; empty slots read, since −1 ≤ q_at; hidden scores set to 0, which is a weight of e⁰; −∞ *added* to the scores and NaN replaced behind the softmax: y is right
then, and the gradient of q is NaN.
"""

HINTS = (
    "Compare every q_at with every k_at: a table of T rows and S columns says who sees whom.",
    "seen = (k_at >= 0) & (k_at <= q_at[:, None]). What does a softmax give in a row where all scores are -∞, and what should it give?",
    "p = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1) * seen; then mix v.",
)


def reference(q, k, v, q_at, k_at):
    """Query by query, over the slots that it sees, in float64."""
    B, T, H, K = q.shape
    y = torch.zeros(B, T, H, v.shape[-1], dtype=torch.float64)
    for i in range(T):
        seen = [j for j, n in enumerate(k_at.tolist()) if 0 <= n <= int(q_at[i])]
        if seen:
            keys, values = k[:, seen].detach().double(), v[:, seen].detach().double()
            scores = (keys * q[:, i, None].detach().double()).sum(
                -1
            ) / K**0.5  # (B, S, H)
            y[:, i] = (scores.softmax(1)[..., None] * values).sum(1)
    return y.float()


def cases(rng):
    def case(name, B, H, K, V, q_at, k_at, scale=1.0):
        T, S = len(q_at), len(k_at)
        inputs = {
            "q": (scale * _randn(rng, B, T, H, K)).requires_grad_(),
            "k": _randn(rng, B, S, H, K).requires_grad_(),
            "v": _randn(rng, B, S, H, V).requires_grad_(),
            "q_at": torch.tensor(q_at),
            "k_at": torch.tensor(k_at),
        }
        return Case(name, inputs)

    return [
        case("one token, itself", 2, 2, 3, 3, [0], [0]),
        case(
            "in order, as many queries as slots",
            2,
            2,
            4,
            4,
            [0, 1, 2, 3, 4],
            [0, 1, 2, 3, 4],
        ),
        case("the last 3 of 7", 1, 2, 3, 5, [4, 5, 6], [0, 1, 2, 3, 4, 5, 6]),
        case("T = 1, in any order", 2, 3, 4, 2, [5], [3, 0, 5, 1, 4, 2]),
        case(
            "in any order, empty slots",
            1,
            2,
            3,
            4,
            [4, 5, 6],
            [6, -1, 2, 5, -1, 0, 4, 1, 3],
        ),
        case("slots of a later text", 1, 1, 3, 2, [2, 3], [9, 3, 0, 8, 1, 2]),
        case("more queries than slots", 1, 2, 4, 3, [0, 1, 2, 3, 4], [4, 3, 2]),
        case("no slot in use", 1, 2, 3, 3, [0, 1], [-1, -1, -1]),
        case("large values", 1, 2, 4, 3, [2, 3], [1, 3, 0, 2], scale=300.0),
        _far_below(case("all that is seen scores far below 0", *FAR)),
    ]


FAR = 1, 2, 4, 3, [1, 2], [0, 4, 2, 3, 1]


def _far_below(far):
    """Scores of about -30,000 where the query sees, of 0 elsewhere, all exact in float32."""
    for name in ("q", "k"):
        x = far.inputs[name].detach()
        far.inputs[name] = (x * 4).round() / 4
    far.inputs["q"][..., 0] = -(2.0**16)
    seen = far.inputs["k_at"] <= 1
    far.inputs["k"][..., 0] = seen[None, :, None].float()
    for name in ("q", "k"):
        far.inputs[name].requires_grad_()
    return far


def effort(inputs, effort):
    if not effort.gradient_finite:
        return (
            "The values are right, but a gradient is not finite: NaN or ∞ lies behind a value that looks right, probably in a row in which nothing is seen, or a "
            "tensor that the gradient needs was changed in place."
        )
    return None


def parts_hint(t, inputs):
    if (inputs["k_at"] < 0).any():
        return "some slots are empty: are they hidden from every query?"
    return "which slots does this query see, by their positions, and what does it return if there are none?"


def _shuffled(inputs):
    order = torch.randperm(
        len(inputs["k_at"]), generator=torch.Generator().manual_seed(1)
    )
    k, v = (inputs[name].detach()[:, order] for name in ("k", "v"))
    return [{**inputs, "k": k, "v": v, "k_at": inputs["k_at"][order]}]


PROPERTIES = (
    Property(
        "the order of the slots means nothing",
        variants=_shuffled,
        holds=lambda inputs, outputs: _close(*outputs),
        message="If the slots change places, each with its position, the result changes.",
    ),
)


def _by_bias(q, k, v, q_at, k_at):
    hidden = (k_at[None] > q_at[:, None]) | (k_at < 0)[None]
    q, k, v = (u.transpose(1, 2) for u in (q, k, v))
    scores = q @ k.mT / q.shape[-1] ** 0.5 - hidden * 1e9
    y = scores.softmax(-1) @ v
    return (y * ~hidden.all(-1)[:, None]).transpose(1, 2)


def _infinite_then_zero(q, k, v, q_at, k_at):
    seen = (k_at >= 0) & (k_at <= q_at.unsqueeze(1))
    scores = torch.einsum("bihk, bjhk -> bhij", q / q.shape[-1] ** 0.5, k)
    p = torch.softmax(scores.masked_fill(~seen, -torch.inf), -1)
    return torch.einsum("bhij, bjhv -> bihv", p.masked_fill(~seen, 0.0), v)


def _one_query_at_a_time(q, k, v, q_at, k_at):
    ys = []
    for i, n in enumerate(q_at.tolist()):
        seen = ((k_at >= 0) & (k_at <= n)).nonzero()[:, 0]
        scores = (
            torch.einsum("bhk, bjhk -> bhj", q[:, i], k[:, seen]) / q.shape[-1] ** 0.5
        )
        ys.append(torch.einsum("bhj, bjhv -> bhv", scores.softmax(-1), v[:, seen]))
    return torch.stack(ys, 1)


ALTERNATIVES = (_by_bias, _infinite_then_zero, _one_query_at_a_time)

MISTAKES = """
(k_at >= 0) & (k_at <= q_at[:, None]) → torch.ones(len(q_at), len(k_at)).tril(len(k_at) - len(q_at)).bool()
    The mask counts places, from the end: slots may hold any position, so compare k_at with q_at.
(k_at >= 0) & (k_at <= q_at[:, None]) → torch.ones(len(q_at), len(k_at)).tril().bool()
    The mask counts places, from the start: slots may hold any position, so compare k_at with q_at.
(k_at >= 0) & (k_at <= q_at[:, None]) → torch.ones(len(q_at), len(k_at)).tril(len(k_at) - len(q_at)).bool() & (k_at >= 0)
    Empty slots are hidden, but the mask counts places: slots may hold any position, so compare k_at with q_at.
(k_at >= 0) & (k_at <= q_at[:, None]) → (k_at <= q_at[:, None])
    Empty slots are read: -1 is not above any q_at, so they have to be hidden as well.
(k_at >= 0) & (k_at <= q_at[:, None]) → (k_at >= 0) & (k_at < q_at[:, None])
    A query does not see its own token: the slot with k_at = q_at counts.
(k_at >= 0) & (k_at <= q_at[:, None]) → (k_at >= 0) & (k_at >= q_at[:, None])
    The mask is turned round: a query sees what comes after it, and not what came before.
(k_at >= 0) & (k_at <= q_at[:, None]) → (k_at > 0) & (k_at <= q_at[:, None])
    The slot with position 0 is hidden: only -1 means that a slot is empty.
(k_at >= 0) & (k_at <= q_at[:, None]) → ((k_at >= 0) & (k_at <= q_at[:, None])) | (k_at > q_at.max())
    Slots with positions behind the last query are read: the rule hides them, since k_at is above q_at.
(k_at >= 0) & (k_at <= q_at[:, None]) → (k_at >= 0).expand(len(q_at), -1)
    Every slot in use is read: a query sees only positions up to its own.
.softmax(-1) * seen → .softmax(-1)
    A query that sees nothing returns the mean of all values: it must return 0.
masked_fill(~seen, lowest) → masked_fill(~seen, 0.0)
    Hidden scores are set to 0 before the softmax: they still take a share, e⁰, from those that are seen.
masked_fill(~seen, lowest) → masked_fill(~seen, 0.0) ; .softmax(-1) * seen → .softmax(-1)
    Hidden scores are set to 0, which hides nothing: a weight of e⁰ is left.
scores.masked_fill(~seen, lowest).softmax(-1) * seen → scores.softmax(-1) * seen
    The weights are hidden after the softmax, so the rest does not add up to 1: hide the scores before it.
* q.shape[-1] ** -0.5 →
    The scale is missing: the scores are divided by √K.
q.shape[-1] ** -0.5 → v.shape[-1] ** -0.5
    The scale is √V: the scores are sums over K channels, so they are divided by √K.
.softmax(-1) * seen → .softmax(1) * seen
    The softmax runs over the heads: each query shares its weight among the slots.
scores.masked_fill(~seen, lowest).softmax(-1) * seen → scores.masked_fill(~seen, -torch.inf).softmax(-1)
    Where a query sees nothing, this is a softmax over −∞ alone, and 0/0 is NaN: such a query must return 0, and its gradients must be finite.
masked_fill(~seen, lowest) → masked_fill(~seen, -20.0)
    Hidden scores become a number that scores can fall below: then the hidden slots take all the weight, and what is seen rounds to nothing. Take the lowest number of the dtype, or −∞.
scores.masked_fill(~seen, lowest).softmax(-1) * seen → scores.softmax(-1) * seen ; return torch.einsum("bhij, bjhv -> bihv", p, v) → p = p / p.sum(-1, keepdim=True).clamp(min=1e-20); return torch.einsum("bhij, bjhv -> bihv", p, v)
    The weights are hidden after the softmax, and divided by what is left. If the hidden scores are far larger, the seen weights have rounded to 0 by then: hide the scores before the softmax.
.softmax(-1) * seen → .softmax(-2) * seen
    The softmax runs over the queries: each query shares its weight among the slots.
"""

ALSO = (
    heads_mixed(
        "v",
        2,
        says="Keys and values come from different heads: head h of q reads k and v of head h.",
    ),
    late(),
)
