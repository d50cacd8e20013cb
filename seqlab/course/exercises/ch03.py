"""The graded exercises of chapter 03, linear attention.

The references add up the pairs (j, t) one by one, with sums and products only: no state, no mask, no matrix product. So
an answer that folds a state, masks a matrix or walks over chunks is compared with something that does none of these.
Shapes: q, k (B, T, H, K), v (B, T, H, V), S (B, H, V, K).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, einsum

import seqlab.recurrence as core
from seqlab.course.exercise import Case, Exercise, Property

# What several exercises share -----------------------------------------------------------------------------------------


def _numbers(rng, *shape):
    return torch.randn(*shape, generator=rng)


def _tokens(rng, B, T, H, K, V):
    return {"q": _numbers(rng, B, T, H, K), "k": _numbers(rng, B, T, H, K), "v": _numbers(rng, B, T, H, V)}


def _positive_tokens(rng, *sizes):
    """As after φ = elu + 1: every feature of q and k is positive, so the normaliser is too."""
    x = _tokens(rng, *sizes)
    return x | {name: F.elu(x[name]) + 1 for name in ("q", "k")}


def _unmasked_sum(q, k, v, state=None):
    """y_t = S₀ q_t + Σ_{j≤t} (q_t·k_j) v_j and S_T = S₀ + Σ_j v_j k_jᵀ: every pair by itself."""
    ys = []
    for t in range(q.shape[1]):
        weights = (q[:, t, None] * k[:, : t + 1]).sum(-1, keepdim=True)  # (B, t+1, H, 1)
        ys.append((weights * v[:, : t + 1]).sum(1))
    y, S = torch.stack(ys, 1), (v[..., :, None] * k[..., None, :]).sum(1)
    if state is not None:
        y, S = y + (state[:, None] * q[..., None, :]).sum(-1), S + state
    return y, S


def _start(q, k, v, state):
    return q.new_zeros(len(q), q.shape[2], v.shape[-1], k.shape[-1]) if state is None else state


def _outer(v, k):
    return einsum("bhv,bhk->bhvk", v, k)


def _apply(S, q):
    return einsum("bhvk,bhk->bhv", S, q)


def _tuple(output):
    return output if isinstance(output, (tuple, list)) else (output,)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-4)


def _half(inputs) -> int:
    return (inputs["q"].shape[1] + 1) // 2


def _other_future(inputs):
    """The same tokens up to the half; after it, twice as long and in the other order."""
    h = _half(inputs)
    return [inputs | {name: torch.cat([x[:, :h], 2 * x[:, h:].flip(1)], 1) for name, x in _along_time(inputs)}]


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


def _second_half(inputs):
    """The second half of the tokens, started from the true state after the first half."""
    h = _half(inputs)
    if h == inputs["q"].shape[1]:
        return []
    first, second = ({name: x[:, span] for name, x in _along_time(inputs)} for span in (slice(h), slice(h, None)))
    return [inputs | second | {"state": _unmasked_sum(**first, state=inputs.get("state"))[1]}]


def _continues(inputs, outputs):
    if len(outputs) == 1:
        return True
    (y, S), (y_second, S_second) = outputs
    return _equal(y[:, _half(inputs) :], y_second) and _equal(S, S_second)


HALVES = Property(
    "two halves = the whole",
    _second_half,
    _continues,
    "The second half of a sequence, started from the state after the first half, gives something else than the whole "
    "sequence at once: look at where `state` enters y and the returned S.",
)


# 03.1 The feature map -------------------------------------------------------------------------------------------------


def _phi(x):
    return torch.where(x > 0, x + 1, x.exp())


def _phi_cases(rng):
    return [
        Case("a row from -3 to 3", {"x": torch.linspace(-3, 3, 7)}),
        Case("T = 1", {"x": _numbers(rng, 1, 1, 1, 4)}),
        Case("odd T, two heads", {"x": 2 * _numbers(rng, 2, 5, 2, 3)}),
        Case("all negative", {"x": -_numbers(rng, 1, 4, 2, 3).abs() - 0.1}),
    ]


PHI = Exercise(
    id="03.1",
    title="A feature map that is never negative",
    objective="Write φ(x) = elu(x) + 1, which makes every score φ(q)·φ(k) positive.",
    name="phi",
    points=1,
    minutes=3,
    difficulty=1,
    hints=(
        "Look at elu at x = 0 and far to the left: what must be added so that it never falls below 0?",
        "elu(x) = x for x > 0, and exp(x) - 1 for x ≤ 0. It is in torch.nn.functional, imported as F.",
        "return F.elu(...) + ...",
    ),
    reference=_phi,
    cases=_phi_cases,
    mistakes={
        "The + 1 is missing: elu(x) alone falls to -1, so scores can be negative. Print phi of a negative number.": F.elu,
        "This is relu(x) + 1: all negative inputs give the same 1. Use elu, which is exp(x) - 1 there.": (
            lambda x: F.relu(x) + 1
        ),
        "This is relu(x): it is 0 for all negative inputs, and their gradient is 0 too. Use elu(x) + 1.": F.relu,
        "The 1 is added before elu, not after: elu(x + 1) still falls to -1. Add it to the result.": (
            lambda x: F.elu(x + 1)
        ),
        "This is exp(x) everywhere. φ is exp(x) only for x ≤ 0; for x > 0 it is x + 1. F.elu makes the choice.": torch.exp,
        "The map is applied twice: elu(elu(x) + 1) + 1. Its smallest value is 1, not 0. Apply it once.": (
            lambda x: F.elu(F.elu(x) + 1) + 1
        ),
        "This is elu(x) - 1: the sign of the 1 is wrong. elu reaches down to -1, so add 1 to lift it above 0.": (
            lambda x: F.elu(x) - 1
        ),
        "This is a softmax over the features: each feature now depends on the others. φ acts on every number alone.": (
            lambda x: x.softmax(-1)
        ),
        "This is softplus(x) = log(1 + exp(x)): also positive, but another map. At 0 it gives 0.69; elu(0) + 1 is 1.": (
            F.softplus
        ),
    },
    alternatives=(lambda x: F.elu(x) + 1, lambda x: x.clamp(max=0).exp() + x.clamp(min=0)),
    outputs=("φ(x)",),
    time_axis=None,
)


# 03.2 Write -----------------------------------------------------------------------------------------------------------


def _write(S, k, v):
    S = S.clone()
    for i in range(S.shape[-1]):
        S[..., i] += v * k[..., i : i + 1]
    return S


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
            {"S": _numbers(rng, B, H, V, K)} | {n: _numbers(rng, B, H, V if n == "v" else K) for n in names},
        )
        for name, B, H, K, V in sizes
    ]


def _write_cases(rng):
    cases = _memory_cases(rng, "k", "v")
    empty = {"S": torch.zeros(1, 2, 3, 3), "k": _numbers(rng, 1, 2, 3), "v": _numbers(rng, 1, 2, 3)}
    return [*cases, Case("an empty memory", empty)]


WRITE = Exercise(
    id="03.2",
    title="Write one token into the memory",
    objective="Store the pair (k, v) in the table S.",
    name="write",
    points=1,
    minutes=5,
    difficulty=1,
    hints=(
        "The write adds a table of the shape of S: every entry of v times every entry of k.",
        "S has rows for the entries of v and columns for the entries of k: (v kᵀ)[i, j] = v[i] k[j].",
        "Give v a last axis of size 1 and k a last-but-one axis of size 1; the product broadcasts to (B, H, V, K). Add S.",
    ),
    reference=_write,
    cases=_write_cases,
    mistakes={
        "This writes k vᵀ, the transpose of v kᵀ. S is (B, H, V, K): its rows belong to v, its columns to k.": (
            lambda S, k, v: S + einsum("bhk,bhv->bhkv", k, v)
        ),
        "The write replaces the memory instead of adding to it: all that S held is lost. Add v kᵀ to S.": (
            lambda S, k, v: _outer(v, k)
        ),
        "The write is multiplied into S instead of added: an empty memory would stay empty for ever.": (
            lambda S, k, v: S * _outer(v, k)
        ),
        "The write is subtracted: the sign is wrong. The new memory is S + v kᵀ.": lambda S, k, v: S - _outer(v, k),
        "One table is written for all sequences and heads: the products are summed over b and h. Keep both axes: "
        "each head of each sequence has its own table.": lambda S, k, v: S + einsum("bhv,bhk->vk", v, k),
        "The products are summed over the heads. Each head has its own table: keep the axis h in the result.": (
            lambda S, k, v: S + einsum("bhv,bhk->bvk", v, k)[:, None]
        ),
        "The write is scaled by K^-1/2. That factor belongs to softmax's scores; the memory stores v kᵀ as it is.": (
            lambda S, k, v: S + _outer(v, k) / k.shape[-1] ** 0.5
        ),
        "What the key held before is removed first: v - S k is written. That is the delta rule, a later chapter's "
        "memory. Linear attention only adds v kᵀ.": lambda S, k, v: S + _outer(v - _apply(S, k), k),
        "Only v is added, the same into every column: the key is not used. Column j of the write is k[j] v.": (
            lambda S, k, v: S + v[..., None]
        ),
        "S is returned unchanged: the token was not written. Return S + v kᵀ.": lambda S, k, v: S.clone(),
    },
    alternatives=(
        lambda S, k, v: S + v[..., :, None] * k[..., None, :],
        lambda S, k, v: S + v.unsqueeze(-1) @ k.unsqueeze(-2),
        lambda S, k, v: S + einsum("bhv,bhk->bhvk", v, k),
    ),
    outputs=("S",),
    time_axis=None,
)


# 03.3 Read ------------------------------------------------------------------------------------------------------------


def _read(S, q):
    return sum(S[..., i] * q[..., i : i + 1] for i in range(S.shape[-1]))


READ = Exercise(
    id="03.3",
    title="Read from the memory",
    objective="Look up what S holds for the query q.",
    name="read",
    points=1,
    minutes=4,
    difficulty=1,
    hints=(
        "The read is a weighted sum of the columns of S. What weighs column j?",
        "y = S q: y[i] = Σ_j S[i, j] q[j], in each head of each sequence. The axis K disappears.",
        "Put q where it meets the columns, (B, H, 1, K), multiply and sum over the last axis; or give q a last axis of "
        "size 1 for `@`, and take it away afterwards.",
    ),
    reference=_read,
    cases=lambda rng: _memory_cases(rng, "q"),
    mistakes={
        "This reads Sᵀ q: q meets the rows of S. q has width K, so it must meet the columns, the last axis of S.": (
            lambda S, q: einsum("bhvk,bhv->bhk", S, q)
        ),
        "q stands at the columns, but the sum runs over the rows: the result has width K. Sum over the last axis.": (
            lambda S, q: (S * q[..., None, :]).sum(-2)
        ),
        "The read is scaled by K^-1/2. That factor belongs to softmax's scores; here y is S q and nothing else.": (
            lambda S, q: _apply(S, q) / q.shape[-1] ** 0.5
        ),
        "A softmax is left on q. The memory is read with q as it is: that is what keeps it linear.": (
            lambda S, q: _apply(S, q.softmax(-1))
        ),
        "The read is divided by the sum of q. A normaliser comes later, and then it is made of the stored keys.": (
            lambda S, q: _apply(S, q) / q.sum(-1, keepdim=True)
        ),
        "The columns are averaged instead of summed: the result is K times too small. Use sum, not mean.": (
            lambda S, q: _apply(S, q) / q.shape[-1]
        ),
        "Only the column under the largest entry of q is returned. A read takes all columns, each times its entry of q.": (
            lambda S, q: _apply(S, F.one_hot(q.argmax(-1), q.shape[-1]).to(S))
        ),
        "The reads of all heads are summed. Each head reads its own table: keep the axis h in the result.": (
            lambda S, q: _apply(S, q).sum(1, keepdim=True).expand(S.shape[:3])
        ),
    },
    alternatives=(
        lambda S, q: (S @ q[..., None])[..., 0],
        lambda S, q: (S * q[..., None, :]).sum(-1),
        lambda S, q: einsum("bhvk,bhk->bhv", S, q),
    ),
    time_axis=None,
)


# 03.4 Two keys that overlap -------------------------------------------------------------------------------------------

SMEAR = Exercise(
    id="03.4",
    title="Predict a smeared read",
    objective="Say what a read returns when the stored keys overlap and one of them was written twice.",
    name="smeared",
    points=1,
    minutes=5,
    difficulty=2,
    hints=(
        "Write S as a sum of three writes, then read it: S k₁ is a sum of three terms.",
        "A write (k, v) answers the read q with (k·q) v. For unit keys k·k = 1, and here k₁·k₂ = 0.6.",
        "(k₁·k₁)·10 + (k₂·k₁)·5 + (k₁·k₁)·4",
    ),
    reference=10 + 0.6 * 5 + 4,
    mistakes={
        "This is the read if k₁ and k₂ were orthogonal. Their overlap is 0.6: what does (k₂, 5) add to a read at k₁?": 14.0,
        "This is the read if the third write had overwritten the first. A memory that only adds keeps both 10 and 4.": (
            0.6 * 5 + 4
        ),
        "This is the last value written under k₁, as in a dictionary. Here the first write is still there, and k₂ leaks in.": 4.0,
        "This is the plain sum of the three values. Each is weighted by the overlap of its key with k₁, and one overlap "
        "is only 0.6.": 19.0,
        "This is the read at k₂, not at k₁. At k₁ the values 10 and 4 count whole and 5 counts 0.6.": 0.6 * 14 + 5,
        "This is divided by the sum of the overlaps. No normaliser is used here: y = S k₁.": 17 / 2.6,
        "This is divided by the number of writes. A read is a sum, not a mean.": 17 / 3,
        "The overlap is subtracted. A positive k₂·k₁ adds to the read; only a negative one would take away.": 11.0,
        "The overlap is squared. The key meets the query once, in k₂·k₁ = 0.6.": 10 + 0.36 * 5 + 4,
        "The third write is missing: 10 + 0.6 · 5 are the first two. What does (k₁, 4) add?": 13.0,
        "The first write came with the overlap 0.6 too. k₁ overlaps with itself wholly: k₁·k₁ = 1.": 0.6 * 10
        + 0.6 * 5
        + 4,
    },
    alternatives=(17, torch.tensor(17.0).item()),
)


# 03.5 State against cache ---------------------------------------------------------------------------------------------

_CACHE = 28 * 2 * 32_768 * 8 * 128 * 2
_STATE = 28 * 24 * 129 * 128 * 4

RATIO = Exercise(
    id="03.5",
    title="How many times larger is the cache?",
    objective="Count the bytes of a KV cache and of a linear attention's state, and divide.",
    name="cache_over_state",
    points=1,
    minutes=8,
    difficulty=2,
    hints=(
        "Count numbers first, then multiply by the bytes of each number: 2 for bfloat16, 4 for float32.",
        "Cache: layers × 2 (k and v) × tokens × key-value heads × 128. State: layers × heads × (V + 1) × K.",
        "(28 * 2 * 32_768 * 8 * 128 * 2) / (28 * 24 * (128 + 1) * 128 * ...)",
    ),
    reference=_CACHE / _STATE,
    mistakes={
        "The cache is half of what it should be: it keeps a key and a value for each token. Is the factor 2 there?": (
            _CACHE / 2 / _STATE
        ),
        "The cache is counted with the 24 query heads. Grouped queries share keys and values: 8 heads are cached.": (
            3 * _CACHE / _STATE
        ),
        "The layers are counted in the cache but not in the state. Every layer has a state of its own.": (
            28 * _CACHE / _STATE
        ),
        "The layers are counted in the state but not in the cache. Every layer has a cache of its own.": (
            _CACHE / 28 / _STATE
        ),
        "One table is counted for all heads. Each of the 24 heads has its own state, 129 × 128.": 24 * _CACHE / _STATE,
        "The state is counted with the 8 key-value heads. The linear model has 24 heads, each with its own state.": (
            3 * _CACHE / _STATE + 0.0 if False else _CACHE / (_STATE / 3) * 1.0
        ),
        "The normaliser's row is missing: the state of a head is (V + 1) × K, because a 1 is appended to v.": (
            _CACHE / _STATE * 129 / 128
        ),
    },
    alternatives=(),
)
