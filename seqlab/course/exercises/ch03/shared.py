"""What several exercises of chapter 03 draw and compare."""

import torch
import torch.nn.functional as F
from torch import Tensor

from seqlab.course.exercise import Case, Property


def _numbers(rng, *shape):
    return torch.randn(*shape, generator=rng)


def _tokens(rng, B, T, H, K, V):
    return {
        "q": _numbers(rng, B, T, H, K),
        "k": _numbers(rng, B, T, H, K),
        "v": _numbers(rng, B, T, H, V),
    }


def _positive_tokens(rng, *sizes):
    """As after φ = elu + 1: every feature of q and k is positive, so the normaliser is too."""
    x = _tokens(rng, *sizes)
    return x | {name: F.elu(x[name]) + 1 for name in ("q", "k")}


def _pair_by_pair(q, k, v, state=None):
    """y_t = S₀ q_t + Σ_{j≤t} (q_t·k_j) v_j and S_T = S₀ + Σ_j v_j k_jᵀ: every pair by itself, 128 rows at a time."""
    ys, j = [], torch.arange(q.shape[1])
    for t in j.split(128):
        weights = (q[:, t, None] * k[:, None]).sum(-1)  # (B, t, j, H)
        weights = torch.where((j <= t[:, None])[..., None], weights, 0)
        ys.append((weights[..., None] * v[:, None]).sum(2))
    y, S = torch.cat(ys, 1), (v[..., :, None] * k[..., None, :]).sum(1)
    if state is not None:
        y, S = y + (state[:, None] * q[..., None, :]).sum(-1), S + state
    return y, S


def _start(q, k, v, state):
    return (
        q.new_zeros(len(q), q.shape[2], v.shape[-1], k.shape[-1])
        if state is None
        else state
    )


def _tuple(output):
    return output if isinstance(output, (tuple, list)) else (output,)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-4)


def _half(inputs) -> int:
    return (inputs["q"].shape[1] + 1) // 2


def _other_future(inputs):
    """The same tokens up to the half; after it, twice as long and in the other order."""
    h = _half(inputs)
    return [
        inputs
        | {
            name: torch.cat([x[:, :h], 2 * x[:, h:].flip(1)], 1)
            for name, x in _along_time(inputs)
        }
    ]


def _along_time(inputs):
    return [(name, inputs[name]) for name in ("q", "k", "v")]


def _past_unchanged(inputs, outputs):
    h = _half(inputs)
    before, after = (_tuple(out)[0] for out in outputs)
    return _equal(before[:, :h], after[:, :h])


CAUSAL = Property(
    "causal",
    _other_future,
    _past_unchanged,
    "An earlier y changes when only later tokens change: y_t may use the tokens up to t, and no others.",
)


def _two_halves(inputs):
    """The first half of the tokens; the second half, started from the true state after the first."""
    h = _half(inputs)
    if h == inputs["q"].shape[1]:
        return []
    first, second = (
        {name: x[:, span] for name, x in _along_time(inputs)}
        for span in (slice(h), slice(h, None))
    )
    carried = _pair_by_pair(**first, state=inputs.get("state"))[1]
    return [inputs | first, inputs | second | {"state": carried}]


def _continues(inputs, outputs):
    """Judged only where the first half ends in the true state: the second half then started from the answer's own."""
    if len(outputs) == 1:
        return True
    (y, S), (_, S_first), (y_second, S_second) = outputs
    if not _equal(S_first, _two_halves(inputs)[1]["state"]):
        return True
    return _equal(y[:, _half(inputs) :], y_second) and _equal(S, S_second)


HALVES = Property(
    "two halves = the whole",
    _two_halves,
    _continues,
    "Two halves, with the state carried from one to the other, do not give the same as the whole.",
)


def _memory_cases(rng, *names):
    """S and, by name, k or q (B, H, K) and v (B, H, V)."""
    sizes = [
        ("one head, K = V", 1, 1, 3, 3),
        ("K ≠ V", 1, 1, 2, 3),
        ("several heads and sequences, K = V", 3, 2, 4, 4),
        ("several heads and sequences, K ≠ V", 2, 3, 5, 2),
        ("K = 1", 2, 2, 1, 4),
    ]
    return [
        Case(
            name,
            {"S": _numbers(rng, B, H, V, K)}
            | {n: _numbers(rng, B, H, V if n == "v" else K) for n in names},
        )
        for name, B, H, K, V in sizes
    ]


SIZES = [
    ("T = 1", 1, 1, 1, 2, 3),
    ("one head, K = V", 1, 5, 1, 3, 3),
    ("odd T, K ≠ V", 2, 7, 2, 5, 3),
    ("three heads, K = V", 2, 13, 3, 4, 4),
]  # name, B, T, H, K, V


def _with_state(rng, name, B, T, H, K, V):
    return Case(
        f"{name}, a state is given",
        _tokens(rng, B, T, H, K, V) | {"state": _numbers(rng, B, H, V, K)},
    )


def _with_ones(v):
    return torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)


def _normalised(q, k, v, state=None):
    y, S = _pair_by_pair(q, k, _with_ones(v), state)
    return y[..., :-1] / y[..., -1:], S


def causal_softmax(scores):
    """For the mistakes: the softmax that linear attention leaves out."""
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(-1)
