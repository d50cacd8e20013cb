r"""The inverse of the mask

*Undo a memory in one subtraction. · 10 minutes · ●○○ · 1 point*

Take a layer with one key: every token writes under it with weight 1, and every token reads it. Then the layer is the mask itself,
$y = L\,v$, with $L_{ij} = a_{j+1} \cdots a_i$ for $j \le i$. Given y and the gates, find v.

L is a full triangle of T² / 2 numbers. Its inverse is nearly empty. Work in O(T), without a loop over tokens and without any
T × T matrix: the check counts both. Gates may be exactly 0.
"""

import torch

from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch07.shared import (
    FLAT,
    _close,
    _log_gates,
    _randn,
    products,
)
from seqlab.course.exercises.vocabulary import early, heads_mixed, late

LONG = 256  # tokens of the case that tells a loop and a matrix from one subtraction


def unmix(y, log_a):
    """The v of which y = L v in each head: L_ij = a_{j+1} ⋯ a_i for j ≤ i, else 0.

    y (B, T, H, P), log_a (B, T, H). Returns v (B, T, H, P).
    """
    ### BEGIN SOLUTION
    before = torch.cat([torch.zeros_like(y[:, :1]), y[:, :-1]], dim=1)  # y_{t-1}
    return y - log_a.exp()[..., None] * before
    ### END SOLUTION


WHY = r"""
**Solution.** Read L as a recurrence instead of a matrix: $y_t = a_t\,y_{t-1} + v_t$. So $v_t = y_t - a_t\,y_{t-1}$, and
the first token has nothing before it. As a matrix, $L^{-1}$ has ones on its diagonal, $-a_t$ below it, and nothing else: two
bands. That is duality at its shortest: a full matrix whose inverse is two bands *is* a recurrence.

*Common mistakes:* the gate of token t - 1 in place of t; v_{t-1} in place of y_{t-1}; the first token lost; a solve with the
T × T matrix, which is right, but O(T²).
"""

HINTS = (
    "L has two readings. Which recurrence does y = L v obey?",
    "y_t = a_t y_{t-1} + v_t, from an empty state.",
    "before = y shifted by one token, with zeros first; v = y - log_a.exp()[..., None] * before.",
)


def reference(y, log_a):
    L = products(log_a.transpose(1, 2))  # (B, H, T, T)
    v = torch.linalg.solve_triangular(L, y.double().transpose(1, 2), upper=False)
    return v.transpose(1, 2).float()


def cases(rng):
    def case(name, B, T, H, P, log_a=None):
        log_a = _log_gates(rng, B, T, H) if log_a is None else log_a
        return Case(name, {"y": _randn(rng, B, T, H, P), "log_a": log_a})

    zero_and_one = (
        torch.tensor([0.0, FLAT, -0.3, 0.0, FLAT]).view(1, 5, 1).expand(1, 5, 2)
    )
    return [
        case("T = 1", 2, 1, 2, 3),
        case("odd T", 2, 7, 2, 3),
        case("H = P = T", 2, 4, 4, 4),
        case("strong gates", 1, 9, 2, 1, _log_gates(rng, 1, 9, 2, strength=30)),
        case("gates of exactly 0 and 1", 1, 5, 2, 2, zero_and_one.clone()),
        case(f"long: T = {LONG}", 1, LONG, 1, 1),
    ]


def effort(inputs, effort):
    T = inputs["y"].shape[1]
    if T < LONG:
        return None
    if effort.calls >= T:
        return f"The values are right, but this walks token by token: {effort.calls:,} torch operations for {T:,} tokens."
    if effort.largest >= T * T:
        return "The values are right, but a T × T matrix was made: the inverse of L needs only a token and the one before it."
    return None


def parts_hint(t, inputs):
    return (
        "what stands before the first token?"
        if t == 0
        else "which gate lies between y_{t-1} and y_t?"
    )


PROPERTIES = (
    Property(
        "linear in y",
        variants=lambda inputs: [{**inputs, "y": 2 * inputs["y"]}],
        holds=lambda inputs, outputs: _close(2 * outputs[0], outputs[1]),
        message="Twice the y does not give twice the v: undoing L is linear in y.",
    ),
)

OUTPUTS = ("v",)


def _in_place_of_a_copy(y, log_a):
    v = y.clone()
    v[:, 1:] -= torch.exp(log_a[:, 1:]).unsqueeze(-1) * y[:, :-1]
    return v


ALTERNATIVES = (
    _in_place_of_a_copy,
    lambda y, log_a: y - torch.einsum("bth, bthp -> bthp", log_a.exp(), _shifted(y)),
)


def _shifted(y):
    return torch.nn.functional.pad(y, (0, 0, 0, 0, 1, 0))[:, :-1]


MISTAKES = """
y - log_a → y + log_a
    You add a_t y_{t-1}: y_t = a_t y_{t-1} + v_t, so v_t is what is left when it is taken away.
log_a.exp()[..., None] * before → before
    The gate is left out: this undoes a plain sum, where nothing is forgotten.
log_a.exp()[..., None] * before → torch.nn.functional.pad(log_a, (0, 0, 1, 0))[:, :-1].exp()[..., None] * before
    This takes the gate of token t - 1. Between y_{t-1} and y_t lies the gate of token t.
return y - → y = before * 0 + y ⏎ return y - 2 *
    Twice too much is taken away: a_t y_{t-1} is to be subtracted once.
return y - log_a.exp()[..., None] * before → return solution(solution(y, log_a), log_a)
    L is undone twice: this is its inverse applied to the right answer.
return y - log_a.exp()[..., None] * before → return torch.cat([torch.zeros_like(y[:, :1]), (y - log_a.exp()[..., None] * before)[:, 1:]], dim=1)
    The first token is lost: nothing comes before it, so v_1 = y_1.
return y - log_a.exp()[..., None] * before → S, ys = 0 * y[:, 0], [] ⏎ for t in range(y.shape[1]): ⏎     S = log_a[:, t].exp()[..., None] * S + y[:, t] ⏎     ys.append(S) ⏎ return torch.stack(ys, 1)
    This is L y, the memory once more. What is asked for is the v of which y is L v.
return y - log_a.exp()[..., None] * before → S, ys = 0 * y[:, 0], [] ⏎ for t in range(y.shape[1]): ⏎     S = y[:, t] - log_a[:, t].exp()[..., None] * S ⏎     ys.append(S) ⏎ return torch.stack(ys, 1)
    This takes away a_t v_{t-1}, your own last answer. It must be a_t y_{t-1}: y_{t-1} already holds all
    earlier writes.
return y - log_a.exp()[..., None] * before → return log_a.exp()[..., None] * (y - before)
    The difference is taken before the gate: v_t = y_t - a_t y_{t-1}, so only y_{t-1} is decayed.
"""

ALSO = (
    heads_mixed("log_a", 2),
    late("v"),
    early("v"),
)
