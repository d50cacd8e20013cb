"""The graded exercises of chapter 03, linear attention.

The references add up the pairs (j, t), with sums and products only: no state is carried and nothing is factored. So an
answer that folds a state, multiplies matrices or walks over chunks is compared with something that does none of these.
Shapes: q, k (B, T, H, K), v (B, T, H, V), S (B, H, V, K).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, einsum

import seqlab.core.recurrence as core
from seqlab.course.exercise import Case, Exercise, Property
from seqlab.course.exercises.shared import LONG, chunks_are_asked

# What several exercises share


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
    return [
        inputs
        | {name: torch.cat([x[:, :h], 2 * x[:, h:].flip(1)], 1) for name, x in _along_time(inputs)}
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
        {name: x[:, span] for name, x in _along_time(inputs)} for span in (slice(h), slice(h, None))
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


# 03.1 The feature map


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
        "The + 1 is missing: elu(x) alone falls to -1, so scores can be negative. Print phi of -2.": lambda x: (
            F.elu(x)
        ),
        "This is relu(x) + 1: all negative inputs give the same 1. Use elu, which is exp(x) - 1 there.": (
            lambda x: F.relu(x) + 1
        ),
        "This is relu(x): it is 0 for all negative inputs, and their gradient is 0 too. Use elu(x) + 1.": lambda x: (
            F.relu(x)
        ),
        "The 1 is added before elu, not after: elu(x + 1) still falls to -1. Add it to the result.": (
            lambda x: F.elu(x + 1)
        ),
        "This is exp(x) everywhere. φ is exp(x) for x ≤ 0 only; for x > 0 it is x + 1. F.elu chooses.": lambda x: (
            x.exp()
        ),
        "This is elu(x) + 2: the 1 is added twice, or the map is applied twice. Its smallest value is 1, not 0.": (
            lambda x: F.elu(F.elu(x) + 1) + 1
        ),
        "This is elu(x) - 1: the sign of the 1 is wrong. elu reaches down to -1, so add 1 to lift it above 0.": (
            lambda x: F.elu(x) - 1
        ),
        "This is a softmax over the features: each feature now depends on the others. φ acts on every number alone.": (
            lambda x: x.softmax(-1)
        ),
        "The 1 is added on the right only, to x > 0. elu(x) + 1 is x + 1 there and exp(x) - 1 + 1 on the left.": (
            lambda x: torch.where(x > 0, x + 1, x.exp() - 1)
        ),
        "The 1 is missing on the right. elu(x) + 1 is exp(x) for x ≤ 0, and x + 1 for x > 0.": (
            lambda x: torch.where(x > 0, x, x.exp())
        ),
        "The left side is 1 too high. There elu(x) = exp(x) - 1, so elu(x) + 1 is exp(x), not exp(x) + 1.": (
            lambda x: torch.where(x > 0, x + 1, x.exp() + 1)
        ),
        "The two branches are swapped: exp(x) belongs to x ≤ 0, and x + 1 to x > 0.": (
            lambda x: torch.where(x > 0, x.exp(), x + 1)
        ),
        "alpha is 2: elu then falls to -2, and φ to -1. Leave alpha at 1, its default.": lambda x: (
            F.elu(x, alpha=2) + 1
        ),
        "This is softplus(x) = log(1 + exp(x)): also positive, but another map. At 0 it gives 0.69; elu(0) + 1 is 1.": (
            lambda x: F.softplus(x)
        ),
    },
    alternatives=(lambda x: F.elu(x) + 1, lambda x: x.clamp(max=0).exp() + x.clamp(min=0)),
    outputs=("φ(x)",),
    time_axis=None,
)


# 03.2 Write


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
            {"S": _numbers(rng, B, H, V, K)}
            | {n: _numbers(rng, B, H, V if n == "v" else K) for n in names},
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
        "Give v a last axis of size 1 and k a last-but-one axis of size 1; their product is (B, H, V, K). Add S.",
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
        "The write is subtracted: the sign is wrong. The new memory is S + v kᵀ.": lambda S, k, v: (
            S - _outer(v, k)
        ),
        "One table is written for all sequences and heads: the products are summed over b and h. Keep both axes: "
        "each head of each sequence has its own table.": lambda S, k, v: (
            S + einsum("bhv,bhk->vk", v, k)
        ),
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
        "v and k are multiplied entry by entry: v[i] k[i]. Every v[i] meets every k[j]; "
        "give v a last axis and k a last-but-one axis of size 1.": lambda S, k, v: S + v * k,
        "v and k both got their new axis at the end, so they are multiplied entry by entry. k needs it before its last "
        "axis: k[..., None, :].": lambda S, k, v: S + v[..., None] * k[..., None],
        "The dot product v·k, one number, is added everywhere. The write is the outer product v kᵀ, a table.": (
            lambda S, k, v: S + (v * k).sum(-1)[..., None, None]
        ),
        "The feature map is applied here, although k comes with it already. Write v kᵀ with k as it is.": (
            lambda S, k, v: S + _outer(v, _phi(k))
        ),
        "The feature map is applied to v and k. It belongs to keys and queries only, and k comes with it already.": (
            lambda S, k, v: S + _outer(_phi(v), _phi(k))
        ),
        "torch.outer takes two plain vectors, but v is (B, H, V). Multiply v[..., :, None] and k[..., None, :], or use "
        "einsum.": lambda S, k, v: S + torch.outer(v, k),
        "`v @ k.mT` multiplies the last two axes, which are H and V: it sums over entries, or cannot. Give v a last "
        "axis and k a last-but-one axis of size 1.": lambda S, k, v: S + v @ k.mT,
        "`v.mT @ k` sums over the heads: @ takes H for the axis to sum over. Give v a last axis and k a last-but-one "
        "axis of size 1.": lambda S, k, v: S + v.mT @ k,
        "v is a column, but k is a column too: `@` needs a row on the right, k[..., None, :].": (
            lambda S, k, v: S + v[..., None] @ k[..., None]
        ),
        "v got its new axis, but k did not: broadcasting then lines up k's heads with the rows of v. Use "
        "k[..., None, :].": lambda S, k, v: S + v[..., None] * k,
        "S is returned unchanged: the token was not written. Return S + v kᵀ.": lambda S, k, v: (
            S.clone()
        ),
    },
    alternatives=(
        lambda S, k, v: S + v[..., :, None] * k[..., None, :],
        lambda S, k, v: S + v.unsqueeze(-1) @ k.unsqueeze(-2),
        lambda S, k, v: S + einsum("bhv,bhk->bhvk", v, k),
    ),
    outputs=("S",),
    time_axis=None,
)


# 03.3 Read


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
        "Only the column under the largest entry of q is read. Sum all columns, each times its entry of q.": (
            lambda S, q: _apply(S, F.one_hot(q.argmax(-1), q.shape[-1]).to(S))
        ),
        "squeeze() without an axis takes away every axis of size 1, also B or H. Take away the last one: [..., 0] or "
        "squeeze(-1).": lambda S, q: (S @ q[..., None]).squeeze(),
        "q multiplies S from the left: that reads Sᵀ q. q has width K and must meet the columns, the last axis of S: "
        "S @ q[..., None].": lambda S, q: (S.mT @ q[..., None])[..., 0],
        "`q @ S` takes (H, K) for a matrix, and multiplies from the left. Make q a column, S @ q[..., None], and take "
        "the last axis away again.": lambda S, q: q @ S,
        "`S @ q` takes (H, K) for a matrix. Make q a column, S @ q[..., None], and take the last axis away again.": (
            lambda S, q: S @ q
        ),
        "y still has the axis of size 1 that q got for `@`. Take it away: (S @ q[..., None])[..., 0].": (
            lambda S, q: S @ q[..., None]
        ),
        "q stands at the rows: q[..., None] is (B, H, K, 1). It must stand at the columns, q[..., None, :].": (
            lambda S, q: (S * q[..., None]).sum(-1)
        ),
        "The products are not summed: every column of S, times its entry of q. Sum over the last axis.": (
            lambda S, q: S * q[..., None, :]
        ),
        "The feature map is applied here, although q comes with it already. Read with q as it is.": (
            lambda S, q: _apply(S, _phi(q))
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


# 03.4 Two keys that overlap

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
        "This would be the read of orthogonal keys. The overlap is 0.6: what does (k₂, 5) add to a read at k₁?": 14.0,
        "This is the read if the third write had overwritten the first. A memory that only adds keeps both 10 and 4.": (
            0.6 * 5 + 4
        ),
        "This is the last value written under k₁, as in a dictionary. The first write is still there; k₂ leaks.": 4.0,
        "This is the plain sum of the three values. Each is weighted by the overlap of its key with k₁: "
        "one overlap is only 0.6.": 19.0,
        "This is the read at k₂, not at k₁. At k₁ the values 10 and 4 count whole and 5 counts 0.6.": 0.6
        * 14
        + 5,
        "This is divided by the sum of the overlaps. No normaliser is used here: y = S k₁.": 17
        / 2.6,
        "This is divided by the number of writes. A read is a sum, not a mean.": 17 / 3,
        "The overlap is subtracted. A positive k₂·k₁ adds to the read; only a negative one would take away.": 11.0,
        "The overlap is squared. The key meets the query once, in k₂·k₁ = 0.6.": 10 + 0.36 * 5 + 4,
        "The third write is missing: 10 + 0.6 · 5 are the first two. What does (k₁, 4) add?": 13.0,
    },
    alternatives=(17, torch.tensor(17.0).item()),
    outputs=("smeared",),
)


# 03.5 State against cache


def _cache_over_state(
    *,
    k_and_v=2,
    tokens=32_768,
    cached_heads=4,
    layers=28,
    heads=10,
    rows=193,
    columns=128,
    width=2,
    state_width=4,
):
    """Bytes of the KV cache over bytes of the state. `layers` counts in both, so it cancels."""
    cache = layers * k_and_v * tokens * cached_heads * 128 * width
    return cache / (layers * heads * rows * columns * state_width)


_RATIO = _cache_over_state()
_CACHE = 28 * 2 * 32_768 * 4 * 128 * 2

RATIO = Exercise(
    id="03.5",
    title="How many times larger is the cache?",
    objective="Count the bytes of a KV cache and of a linear attention's state, and divide.",
    name="cache_over_state",
    points=1,
    minutes=8,
    difficulty=2,
    hints=(
        "Count the numbers first, then multiply by the bytes of each number: 2 for bfloat16, 4 for float32.",
        "Cache: layers × 2 (a key and a value) × tokens × key-value heads × 128. State: layers × heads × (V + 1) × K.",
        "cache = 28 * 2 * 32_768 * 4 * 128 * 2; state = 28 * 10 * (192 + 1) * ... * ...; cache / state",
    ),
    reference=_RATIO,
    mistakes={
        "The cache is half of what it should be: it keeps a key and a value for each token. Is the factor 2 there?": (
            _cache_over_state(k_and_v=1)
        ),
        "The cache is counted with the 24 query heads. Grouped queries share keys and values: 4 heads are cached.": (
            _cache_over_state(cached_heads=24)
        ),
        "One key-value head is counted in the cache. There are 4 of them, and each keeps its own keys and values.": (
            _cache_over_state(cached_heads=1)
        ),
        "The layers are counted in the cache but not in the state. Every layer has a state of its own.": 28
        * _RATIO,
        "The layers are counted in the state but not in the cache. Every layer has a cache of its own.": _RATIO
        / 28,
        "One table is counted for all heads. Each of the 10 heads of a layer has its own state, 193 × 128.": (
            _cache_over_state(heads=1)
        ),
        "The state is counted with the 4 heads of the cache. The linear model has 10 heads of its own.": (
            _cache_over_state(heads=4)
        ),
        "The state is counted with the 24 query heads of the other model. The linear model has 10 heads.": (
            _cache_over_state(heads=24)
        ),
        "The normaliser's row is missing: a 1 is appended to v, so the state of a head is (V + 1) × K.": (
            _cache_over_state(rows=192)
        ),
        "The state of a head is counted as K × K. Its rows belong to v with its 1, its columns to k: (V + 1) × K.": (
            _cache_over_state(rows=128)
        ),
        "Both are counted with the same bytes a number. The cache is bfloat16 (2 bytes), the state float32 (4).": (
            _cache_over_state(state_width=2)
        ),
        "The cache is counted in bits, the state in bytes. bfloat16 has 16 bits, which are 2 bytes.": 8
        * _RATIO,
        "The state is counted in bits, the cache in bytes. float32 has 32 bits, which are 4 bytes.": _RATIO
        / 8,
        "The tokens are counted at the wrong place. The cache keeps a key and a value for each of the 32,768 tokens; "
        "the state is one table, the same size after any number of them.": _RATIO / 32_768,
        "This is the cache alone. The question asks cache / state.": _CACHE,
        "This is the state alone. The question asks cache / state.": _CACHE / _RATIO,
        "This is the difference. How many times larger is a quotient: cache / state.": _CACHE
        - _CACHE / _RATIO,
        "The fraction is upside down: this is state over cache. The question asks cache / state.": 1
        / _RATIO,
    },
    alternatives=(32_768 * 2 * 4 * 128 * 2 / (10 * 193 * 128 * 4), 67.913),
    outputs=("cache_over_state",),
    tolerance=1e-3,
)


# 03.6 The recurrent form

SIZES = [
    ("T = 1", 1, 1, 1, 2, 3),
    ("one head, K = V", 1, 5, 1, 3, 3),
    ("odd T, K ≠ V", 2, 7, 2, 5, 3),
    ("three heads, K = V", 2, 13, 3, 4, 4),
]  # name, B, T, H, K, V


def _sequence_cases(rng):
    """Without and with a given state, K = V and K ≠ V in both."""
    cases = [Case(name, _tokens(rng, *sizes)) for name, *sizes in SIZES]
    return cases + [_with_state(rng, name, *sizes) for name, *sizes in SIZES[::-1]]


def _with_state(rng, name, B, T, H, K, V):
    return Case(
        f"{name}, a state is given",
        _tokens(rng, B, T, H, K, V) | {"state": _numbers(rng, B, H, V, K)},
    )


def _fold(start=_start, write=lambda S, k, v: S + _outer(v, k), read=_apply, read_first=False):
    """Linear attention token by token, with one part exchanged: how the wrong answers are made."""

    def fold(q, k, v, state=None):
        S, ys = start(q, k, v, state), []
        for q_t, k_t, v_t in zip(q.unbind(1), k.unbind(1), v.unbind(1), strict=True):
            before, S = S, write(S, k_t, v_t)
            ys.append(read(before if read_first else S, q_t))
        return torch.stack(ys, 1), S

    return fold


def _then(function, change):
    """`function` with its outputs changed: change(*outputs, inputs)."""
    return lambda **inputs: change(*function(**inputs), inputs)


def _where_the_fold_parts(t, inputs):
    if t == 0:
        start = "the given state" if "state" in inputs else "zeros"
        return f"does S start from {start}, is v_0 k_0ᵀ added, and is S q_0 read, with nothing scaled or mapped?"
    if t == inputs["q"].shape[1] - 1:
        return "only the last token is wrong: does the loop reach it, and is it written before it is read?"
    return "does S go from one token to the next as it is, in float32, with one write added?"


FOLD = Exercise(
    id="03.6",
    title="The recurrent form",
    objective="Walk over time with one carried state: write, then read, at each token.",
    name="fold",
    points=2,
    minutes=12,
    difficulty=2,
    hints=(
        "Start from the given state, or from zeros. At each token you need your 03.2 and 03.3: in which order?",
        "S_t = S_{t-1} + v_t k_tᵀ comes first, then y_t = S_t q_t: a token can read what it has just written.",
        "S = zeros (B, H, V, K) or state; for t in range(T): S = write(S, k[:, t], v[:, t]); "
        "ys.append(read(S, q[:, t])). At the end torch.stack(ys, dim=1).",
    ),
    reference=_pair_by_pair,
    cases=_sequence_cases,
    mistakes={
        "Each token is read before it is written: y_t uses S_{t-1}. Write first, so that y_t = S_t q_t.": (
            _fold(read_first=True)
        ),
        "Each token replaces the state: S holds only v_t k_tᵀ of the last token. Add the write to the S before it.": (
            _fold(write=lambda S, k, v: _outer(v, k))
        ),
        "The given state is ignored: the fold always starts from zeros. Start from `state` when it is not None.": (
            _fold(start=lambda q, k, v, state: _start(q, k, v, None))
        ),
        "The state is added to the result at the end, but the reads never see it. Put it into S before the loop.": (
            _then(
                _fold(start=lambda q, k, v, state: _start(q, k, v, None)),
                lambda y, S, inputs: (y, S + inputs.get("state", 0)),
            )
        ),
        "The given state is returned unchanged, although y is right. Return the S that the loop ends with.": (
            _then(_fold(), lambda y, S, inputs: (y, inputs.get("state", torch.zeros_like(S))))
        ),
        "The last token is missing from the returned state: S_{T-1} comes back instead of S_T. "
        "Return S after the last write.": _then(
            _fold(), lambda y, S, inputs: (y, S - _outer(inputs["v"][:, -1], inputs["k"][:, -1]))
        ),
        "The state is transposed: k vᵀ is written and Sᵀ q is read. y is right where no state is given, but S must be "
        "(B, H, V, K), a row for each entry of v.": _fold(
            start=lambda q, k, v, state: _start(q, k, v, None).mT if state is None else state,
            write=lambda S, k, v: S + einsum("bhk,bhv->bhkv", k, v),
            read=lambda S, q: einsum("bhkv,bhk->bhv", S, q),
        ),
        "k vᵀ is written where v kᵀ belongs, and S q is read: writing and reading disagree about which axis is k's.": (
            _fold(write=lambda S, k, v: S + einsum("bhk,bhv->bhkv", k, v))
        ),
        "The scores are scaled by K^-1/2. Linear attention here uses q·k as it is: remove the factor.": (
            _fold(read=lambda S, q: _apply(S, q) / q.shape[-1] ** 0.5)
        ),
        "Every y is read from the last state: token t sees the tokens after it. Read inside the loop, "
        "right after the write.": lambda q, k, v, state=None: (
            einsum("bhvk,bthk->bthv", _pair_by_pair(q, k, v, state)[1], q),
            _pair_by_pair(q, k, v, state)[1],
        ),
        "The memory is read with the key, not with the query: y_t = S_t q_t.": (
            lambda q, k, v, state=None: _fold()(k, k, v, state)
        ),
        "q and k are swapped: values are stored under the key k_t and read with the query q_t.": (
            lambda q, k, v, state=None: _fold()(k, q, v, state)
        ),
        "All heads and sequences share one table. Each has its own: keep the axes b and h in the write.": (
            _fold(write=lambda S, k, v: S + einsum("bhv,bhk->vk", v, k))
        ),
        "y is divided by the sum of the weights. The normaliser comes in 03.8; here y_t = S_t q_t.": (
            _then(
                _fold(),
                lambda y, S, inputs: (
                    y / (inputs["q"] * inputs["k"].cumsum(1)).sum(-1, keepdim=True),
                    S,
                ),
            )
        ),
        "The feature map is applied here, although q and k come with it already. Use q and k as they are.": (
            lambda q, k, v, state=None: _fold()(_phi(q), _phi(k), v, state)
        ),
        "A tensor has no truth value: `if state:` and `state or …` fail when a state is given. Write "
        "`if state is not None`.": lambda q, k, v, state=None: _fold()(
            q, k, v, state or _start(q, k, v, None)
        ),
        "The empty memory has the shape (B, H, K, K). It needs a row for each entry of v: (B, H, V, K).": (
            _fold(start=lambda q, k, v, state: _start(q, k, k, state))
        ),
        "The empty memory has the shape (B, H, K, V). Its rows belong to v and its columns to k: (B, H, V, K).": (
            _fold(start=lambda q, k, v, state: _start(k, q, v, None).mT if state is None else state)
        ),
        "The reads are joined along the heads: torch.cat adds no axis. torch.stack(ys, dim=1) gives (B, T, H, V).": (
            _then(_fold(), lambda y, S, inputs: (y.flatten(1, 2), S))
        ),
        "The reads are stacked along the first axis: y is (T, B, H, V). Use torch.stack(ys, dim=1).": (
            _then(_fold(), lambda y, S, inputs: (y.transpose(0, 1), S))
        ),
        "The outputs are swapped: return y first, then the last state.": (
            _then(_fold(), lambda y, S, inputs: (S, y))
        ),
        "The reads are summed over time: y_t is a running sum. The past is already in S_t; read it once.": (
            _then(_fold(), lambda y, S, inputs: (y.cumsum(1), S))
        ),
    },
    alternatives=(
        _fold(),
        core.recurrent,
        lambda q, k, v, state=None: core.parallel(q, k, v, state=state),
    ),
    properties=(CAUSAL, HALVES),
    outputs=("y", "S"),
    time_axis={"y": 1, "S": None},
    parts_hint=_where_the_fold_parts,
)


# 03.7 The parallel form


def _pairs_cases(rng):
    sizes = [SIZES[0], ("T = 256", 1, 256, 1, 3, 2), *SIZES[1:]]
    return [Case(name, _tokens(rng, *s)) for name, *s in sizes]


def _all_at_once_is_asked(inputs, effort):
    T = inputs["q"].shape[1]
    if T < 100 or effort.calls < T:
        return None
    return (
        f"The values are right, but this walks token by token: {effort.calls:,} torch operations for {T} tokens. "
        "Compute all pairs at once: scores (T, T), a mask, times v."
    )


def _pairs(weights):
    """All pairs at once, with `weights` (scores (B, H, T, T), K) in place of the causal mask."""

    def all_pairs(q, k, v):
        scores = einsum("bihk,bjhk->bhij", q, k)
        return einsum("bhij,bjhv->bihv", weights(scores, q.shape[-1]), v)

    return all_pairs


def _reshaped_pairs(q, k, v):
    q, k, v = (x.reshape(x.shape[0], x.shape[2], x.shape[1], -1) for x in (q, k, v))
    y = (q @ k.mT).tril() @ v
    return y.reshape(y.shape[0], y.shape[2], y.shape[1], -1)


def _reshaped_back(q, k, v):
    B, T, H, _ = q.shape
    return _pairs(lambda s, K: s.tril())(q, k, v).transpose(1, 2).reshape(B, T, H, -1)


def _masked_across_heads(q, k, v):
    return einsum("bijh,bjhv->bihv", einsum("bihk,bjhk->bijh", q, k).tril(), v)


def _where_the_pairs_part(t, inputs):
    if t > 0:
        return "which tokens does the mask let this one read, and is each weight the plain q_t·k_j?"
    return (
        "y_0 is (q_0·k_0) v_0 and nothing else. Are the axes in the right order? Is anything scaled, or sent through φ "
        "or exp? May token 0 read itself, and only itself?"
    )


def _causal_softmax(scores):
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(-1)


PAIRS = Exercise(
    id="03.7",
    title="The parallel form",
    objective="Compute all reads at once from the T × T scores and a causal mask, without a state.",
    name="all_pairs",
    points=2,
    minutes=12,
    difficulty=2,
    hints=(
        "This is causal attention without the softmax. What must the score of a later token be, to add nothing?",
        "y_t = Σ_{j ≤ t} (q_t·k_j) v_j: scores q kᵀ in each head, 0 where j > t, times v. The diagonal stays.",
        'scores = einsum("bihk,bjhk->bhij", q, k).tril(), then another einsum of scores with v, which gives "bihv".',
    ),
    reference=lambda q, k, v: _pair_by_pair(q, k, v)[0],
    cases=_pairs_cases,
    mistakes={
        "There is no causal mask: token t reads the tokens after it. Set the scores with j > t to 0.": (
            _pairs(lambda s, K: s)
        ),
        "The mask hides the diagonal: token t cannot read itself. Keep j = t: tril(), not tril(-1).": (
            _pairs(lambda s, K: s.tril(-1))
        ),
        "The mask is the wrong way round: token t reads only itself and the later ones. Rows are queries, "
        "keys: keep the lower triangle.": _pairs(lambda s, K: s.triu()),
        "The mask lets one later token through: tril(1) keeps j ≤ t + 1. Use tril(), which keeps j ≤ t.": (
            _pairs(lambda s, K: s.tril(1))
        ),
        "The mask keeps exactly what it should hide: token t reads only the later ones. Set those with j > t to 0, "
        "not j ≤ t.": _pairs(lambda s, K: s.triu(1)),
        "The scores are transposed after the mask: token t reads itself and the later ones. Rows are queries, "
        "columns are keys; leave them so.": _pairs(lambda s, K: s.tril().mT),
        "The scores go through exp. Linear attention weighs v_j with the score itself, and 0 in the future.": (
            _pairs(lambda s, K: s.exp().tril())
        ),
        "Scores of the future are set to 0 before a softmax, where 0 still weighs exp(0) = 1. Here no softmax is "
        "wanted at all.": _pairs(lambda s, K: s.tril().softmax(-1)),
        "Each y is divided by the number of tokens so far. y_t is a sum, not a mean.": (
            _pairs(lambda s, K: s.tril() / torch.arange(1.0, 1 + s.shape[-1])[:, None])
        ),
        "`reshape` or `view` does not move an axis: it cuts the numbers anew, and mixes time with heads. "
        "Use transpose(1, 2), or einsum.": _reshaped_pairs,
        "`reshape` takes y back from (B, H, T, V), and mixes time with heads: it cuts the numbers anew. Use "
        "transpose(1, 2).": _reshaped_back,
        "tril() masks the last two axes, and here these are a token and the head. Put the scores into the order "
        "(B, H, T, T) first.": _masked_across_heads,
        "The feature map is applied here, although q and k come with it already. Use q and k as they are.": (
            lambda q, k, v: _pairs(lambda s, K: s.tril())(_phi(q), _phi(k), v)
        ),
        "A softmax is left in. Linear attention weighs v_j with the score itself: q_t·k_j, and 0 in the future.": (
            _pairs(lambda s, K: _causal_softmax(s))
        ),
        "A softmax with 1/√K is left in: this is the usual attention. Use the score itself, and 0 in the future.": (
            _pairs(lambda s, K: _causal_softmax(s / K**0.5))
        ),
        "The future is masked after a softmax, so it still takes part in the sum below the fraction. Here no softmax "
        "is wanted at all.": _pairs(lambda s, K: s.softmax(-1).tril()),
        "The scores are scaled by K^-1/2. Linear attention here uses q·k as it is: remove the factor.": (
            _pairs(lambda s, K: s.tril() / K**0.5)
        ),
        "The scores are transposed: row t holds k_t·q_j. Queries are the rows and keys the columns: q kᵀ, then mask.": (
            _pairs(lambda s, K: s.mT.tril())
        ),
        "The future is masked with -inf. That is for scores which go through exp; here a masked score must be 0.": (
            _pairs(
                lambda s, K: s.masked_fill(torch.ones_like(s, dtype=torch.bool).triu(1), -torch.inf)
            )
        ),
        "Each row is divided by its sum. The normaliser is the next exercise; here y_t is the plain sum.": (
            _pairs(lambda s, K: s.tril() / s.tril().sum(-1, keepdim=True))
        ),
        "The heads attend to each other, not the tokens: `@` multiplies the last two axes, which are H and K. "
        "Move time next to K first, to (B, H, T, K), and back at the end.": lambda q, k, v: (
            (q @ k.mT).tril() @ v
        ),
        "The heads attend to each other, and without a mask: `@` multiplies the last two axes, which are H and K. "
        "Move time next to K first, to (B, H, T, K), and back at the end.": lambda q, k, v: (
            (q @ k.mT) @ v
        ),
        "The scores of all heads are summed: every head uses the same weights. Keep the axis h in the scores.": (
            _pairs(lambda s, K: s.tril().sum(1, keepdim=True).expand_as(s))
        ),
    },
    alternatives=(
        _pairs(lambda s, K: s.tril()),
        lambda q, k, v: (
            (q.transpose(1, 2) @ k.transpose(1, 2).mT).tril() @ v.transpose(1, 2)
        ).transpose(1, 2),
        lambda q, k, v: core.parallel(q, k, v)[0],
        lambda q, k, v: (
            ((q[:, :, None] * k[:, None]).sum(-1).movedim(-1, 1).tril()) @ v.transpose(1, 2)
        ).transpose(1, 2),
    ),
    properties=(CAUSAL,),
    parts_hint=_where_the_pairs_part,
    effort=_all_at_once_is_asked,
)


# 03.8 The normaliser


def _with_ones(v):
    return torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)


def _normalised(q, k, v, state=None):
    y, S = _pair_by_pair(q, k, _with_ones(v), state)
    return y[..., :-1] / y[..., -1:], S


def _normaliser_cases(rng):
    cases = []
    for given in (False, True):
        for name, B, T, H, K, V in SIZES:
            state = (
                {"state": F.pad(_numbers(rng, B, H, V, K), (0, 0, 0, 1), value=2.0)}
                if given
                else {}
            )
            inputs = _positive_tokens(rng, B, T, H, K, V) | state
            cases.append(Case(name + ", a state is given" * given, inputs))
    small = _positive_tokens(rng, 2, 5, 2, 3, 4)
    return [*cases, Case("small features", small | {"q": small["q"] / 4, "k": small["k"] / 4})]


def _divide(by):
    """Read with the column of ones, then divide by `by(y, S, q, k)` (B, T, H, 1)."""

    def normalised(q, k, v, state=None):
        y, S = core.parallel(q, k, _with_ones(v), state=state)
        return y[..., :-1] / by(y, S, q, k), S

    return normalised


def _zeros_appended(q, k, v, state=None):
    y, S = core.parallel(q, k, F.pad(v, (0, 1)), state=state)
    return y[..., :-1] / y[..., -1:], S


def _ones_kept(q, k, v, state=None):
    y, S = core.parallel(q, k, _with_ones(v), state=state)
    return y / y[..., -1:], S


def _ones_first(read):
    """The 1 stands before v; y is `read` from what comes back."""

    def normalised(q, k, v, state=None):
        y, S = core.parallel(q, k, F.pad(v, (1, 0), value=1.0), state=state)
        return read(y), S

    return normalised


def _where_the_quotient_parts(t, inputs):
    if t > 0:
        return "is y_t divided by the sum of the weights up to t, and no further?"
    if "state" in inputs:
        return "does the given state count both above and below the line, and is nothing added, scaled or mapped?"
    return (
        "with no state given y_0 is v_0 itself, since its one weight cancels. Is y_0 divided by its own last column, "
        "with nothing added, scaled or mapped?"
    )


NORMALISER = Exercise(
    id="03.8",
    title="The normaliser is one more row of the state",
    objective="Append a 1 to every v, run the unchanged recurrence, and divide by what the 1 became.",
    name="normalised",
    points=1,
    minutes=8,
    difficulty=2,
    hints=(
        "The recurrence sums weight times value. Which value must be stored for it to sum the weights alone?",
        "With v' = [v, 1] the last entry of S_t q_t is Σ_{j≤t} q_t·k_j, the normaliser of token t.",
        "y, S = core.recurrent(q, k, torch.cat([v, torch.ones_like(v[..., :1])], dim=-1), state=state); "
        "divide y[..., :-1] by y[..., -1:].",
    ),
    reference=_normalised,
    cases=_normaliser_cases,
    mistakes={
        "y is not divided: the last column of the read is dropped. Divide the other columns by it.": (
            _divide(lambda y, S, q, k: 1)
        ),
        "The normaliser of the last token divides every y: token t knows the keys that come after it. "
        "Divide each y_t by its own last entry.": _divide(
            lambda y, S, q, k: einsum("bhk,bthk->bth", S[:, :, -1], q)[..., None]
        ),
        "All y are divided by one number, the normaliser of the last token. Divide each y_t by its own last entry.": (
            _divide(lambda y, S, q, k: y[:, -1:, :, -1:])
        ),
        "y is divided by the number of tokens so far: that is a mean. Divide by the sum of the weights q_t·k_j.": (
            _divide(lambda y, S, q, k: torch.arange(1.0, 1 + q.shape[1])[:, None, None])
        ),
        "y is divided by the sum of the keys, without the query. The sum of the weights is q_t·(k_1 + … + k_t).": (
            _divide(lambda y, S, q, k: k.cumsum(1).sum(-1, keepdim=True))
        ),
        "y is divided by the sum of all its columns. Only the last column, which the ones became, is the normaliser.": (
            _divide(lambda y, S, q, k: y.sum(-1, keepdim=True))
        ),
        "y is divided by this token's own weight q_t·k_t. The normaliser sums the weights of all tokens up to t.": (
            _divide(lambda y, S, q, k: (q * k).sum(-1, keepdim=True))
        ),
        "The column of ones is missing: v goes into the recurrence as it is, and y is not divided.": (
            lambda q, k, v, state=None: core.parallel(q, k, v, state=state)
        ),
        "The appended column holds zeros, so you divide by 0. Append ones: torch.ones_like(v[..., :1]), or F.pad with "
        "value=1.0.": _zeros_appended,
        "The normaliser is kept at 1 or more: y is wrong where the weights sum to less. Divide by the sum itself.": (
            _divide(lambda y, S, q, k: y[..., -1:].clamp(min=1))
        ),
        "1 is added to the normaliser: the weights no longer sum to 1. Divide by the sum itself.": (
            _divide(lambda y, S, q, k: y[..., -1:] + 1)
        ),
        "The feature map is applied here, although q and k come with it already. Use q and k as they are.": (
            lambda q, k, v, state=None: _normalised(_phi(q), _phi(k), v, state)
        ),
        "The returned state is divided too. Divide y only: the state must go on as plain sums.": (
            _then(_normalised, lambda y, S, inputs: (y, S / S[:, :, -1:]))
        ),
        "The given state is ignored: pass it on to the recurrence, it has the row of the normaliser already.": (
            lambda q, k, v, state=None: _normalised(q, k, v)
        ),
        "The 1 stands before v, not after it: y is right without a given state, but the normaliser is the first row "
        "of S where the last is asked for.": _ones_first(lambda y: y[..., 1:] / y[..., :1]),
        "The 1 stands before v, but the last column divides, which is an entry of v. Put the ones behind v.": (
            _ones_first(lambda y: y[..., :-1] / y[..., -1:])
        ),
        "The 1 stands before v and its column is dropped, but the last column divides, an entry of v. Put the ones "
        "behind v.": _ones_first(lambda y: y[..., 1:] / y[..., -1:]),
        "`y[..., -1]` loses the last axis, so broadcasting lines up its heads with the entries of v. Keep the axis: "
        "y[..., -1:].": lambda q, k, v, state=None: _divide(lambda y, S, q, k: y[..., -1])(
            q, k, v, state
        ),
        "y is divided by its first column, an entry of v. The ones were appended behind v: divide by y[..., -1:].": (
            _divide(lambda y, S, q, k: y[..., :1])
        ),
        "y is divided by the sum of its own entries. Only the last column, which the ones became, is the normaliser.": (
            _divide(lambda y, S, q, k: y[..., :-1].sum(-1, keepdim=True))
        ),
        "1e-3 is added to the normaliser: too large where the features are small. Features are positive here, so leave "
        "it out.": _divide(lambda y, S, q, k: y[..., -1:] + 1e-3),
        "1e-4 is added to the normaliser: too large where the features are small. Features are positive here, so leave "
        "it out.": _divide(lambda y, S, q, k: y[..., -1:] + 1e-4),
        "The state of core.recurrent must be passed by name: core.recurrent(q, k, v, state=state).": (
            lambda q, k, v, state=None: core.recurrent(q, k, _with_ones(v), state)
        ),
        "The column of ones is still in y: it has V + 1 columns. Return y[..., :-1] divided by y[..., -1:].": (
            lambda q, k, v, state=None: core.parallel(q, k, _with_ones(v), state=state)
        ),
        "The last column of y is always 1: y was divided by it but it was not taken away. Return y[..., :-1] of it.": (
            _ones_kept
        ),
        "The row of the normaliser is cut off the returned state. Without it the next call cannot go on: "
        "return S as (B, H, V + 1, K).": _then(_normalised, lambda y, S, inputs: (y, S[:, :, :-1])),
    },
    alternatives=(
        _divide(lambda y, S, q, k: y[..., -1:]),
        _divide(lambda y, S, q, k: y[..., -1:] + 1e-6),
    ),
    properties=(CAUSAL,),
    outputs=("y", "S"),
    time_axis={"y": 1, "S": None},
    parts_hint=_where_the_quotient_parts,
)


# 03.9 The bug hunt


def _stream_reference(q, k, v, S, z):
    y, SZ = _normalised(q, k, v, torch.cat([S, z[:, :, None]], dim=2))
    return y, SZ[:, :, :-1], SZ[:, :, -1]


def _stream_cases(rng):
    cases = []
    for name, B, T, H, K, V in SIZES:
        memory = {"S": torch.zeros(B, H, V, K), "z": torch.zeros(B, H, K)}
        cases.append(
            Case(f"{name}, an empty memory", _positive_tokens(rng, B, T, H, K, V) | memory)
        )
    for name, B, T, H, K, V in SIZES[::-1]:
        memory = {"S": _numbers(rng, B, H, V, K), "z": 1 + _numbers(rng, B, H, K).abs()}
        cases.append(
            Case(f"{name}, S and z are given", _positive_tokens(rng, B, T, H, K, V) | memory)
        )
    return cases


def _total(z, q, k):
    return (z * q).sum(-1, keepdim=True)


def _stream(
    before=lambda z, k: z, add=lambda z, k: z + k, read_S="new", read_z="new", total=_total
):
    """The code to mend, with its parts open: z before the loop, z at a token, which S and z are read, the division."""

    def stream(q, k, v, S, z):
        ys, z = [], before(z, k)
        for q_t, k_t, v_t in zip(q.unbind(1), k.unbind(1), v.unbind(1), strict=True):
            Ss, zs = {"old": S, "new": S + _outer(v_t, k_t)}, {"old": z, "new": add(z, k_t)}
            S, z = Ss["new"], zs["new"]
            ys.append(_apply(Ss[read_S], q_t) / total(zs[read_z], q_t, k_t))
        return torch.stack(ys, 1), S, z

    return stream


_ALL_KEYS = {"before": lambda z, k: z + k.sum(1), "add": lambda z, k: z}


def _all_at_once(q, k, v, S, z):
    Ss = S[:, None] + (v[..., :, None] * k[..., None, :]).cumsum(1)  # (B, T, H, V, K)
    zs = z[:, None] + k.cumsum(1)
    return (Ss @ q[..., None])[..., 0] / (zs * q).sum(-1, keepdim=True), Ss[:, -1], zs[:, -1]


HUNT = Exercise(
    id="03.9",
    title="Bug hunt: the model that knew the future",
    objective="Find and mend two faults in a normalised linear attention that leaves a perfect state behind.",
    name="stream",
    points=2,
    minutes=12,
    difficulty=2,
    hints=(
        "Change only the last token and look at which y move. Then ask what the first y may depend on.",
        "z_t = z_{t-1} + k_t grows token by token, as S does; and y_t = S_t q_t / z_t·q_t uses both after the write.",
        "In the loop, in this order: S = S + v_t k_tᵀ, z = z + k_t, then the read. No sum over time before the loop.",
    ),
    reference=_stream_reference,
    cases=_stream_cases,
    mistakes={
        "Both faults are still there. Which keys are in z at the first token? Does a token read its own write?": (
            _stream(**_ALL_KEYS, read_S="old")
        ),
        "One fault is mended. The other: z sums the keys of the whole sequence before the loop, so every y knows the "
        "keys to come.": _stream(**_ALL_KEYS),
        "One fault is mended, z grows token by token. The other: S is read before the token is written.": (
            _stream(read_S="old")
        ),
        "S and z are both read before the token is written. y_t uses S_t and z_t: update both, then read.": (
            _stream(read_S="old", read_z="old")
        ),
        "z lags one token behind S: it is read before k_t is added. Update both, then read.": _stream(
            read_z="old"
        ),
        "Every key enters z twice: once in the sum before the loop, once inside it. Keep only the one inside.": (
            _stream(before=lambda z, k: z + k.sum(1))
        ),
        "z restarts from zeros: the given z, the keys of earlier calls, is lost. Start from z as it comes in.": (
            _stream(before=lambda z, k: torch.zeros_like(z))
        ),
        "z is replaced by the newest key. It is a sum over all keys so far: z = z + k_t.": _stream(
            add=lambda z, k: k
        ),
        "z never changes: the new keys are not added to it. Add k_t inside the loop.": _stream(
            add=lambda z, k: z
        ),
        "The division is gone: y is S q, without the normaliser. Divide by z·q.": _stream(
            total=lambda z, q, k: 1
        ),
        "y is divided by z·k_t. The sum of the weights is z·q_t: it is the query that reads.": (
            _stream(total=lambda z, q, k: _total(z, k, k))
        ),
        "y is divided by the sum of z, without the query. The sum of the weights is z·q_t.": (
            _stream(total=lambda z, q, k: z.sum(-1, keepdim=True))
        ),
        "y is divided by this token's own weight q_t·k_t. The normaliser is z·q_t, with z over all keys up to t.": (
            _stream(total=lambda z, q, k: _total(k, q, k))
        ),
        "z·q has lost its last axis, so broadcasting lines up its heads with the entries of v. Keep the axis, with "
        "[..., None] or keepdim=True.": _stream(total=lambda z, q, k: _total(z, q, k)[..., 0]),
        "The given S and z are ignored: both start from zeros, and earlier calls are forgotten. Start from them.": (
            lambda q, k, v, S, z: _stream()(q, k, v, torch.zeros_like(S), torch.zeros_like(z))
        ),
        "The given S is ignored: it starts from zeros, while z goes on. Start from S as it comes in.": (
            lambda q, k, v, S, z: _stream()(q, k, v, torch.zeros_like(S), z)
        ),
        "y is right, but the z that came in is returned. Return the z the loop ends with, for the next call.": (
            _then(_stream(), lambda y, S, z, inputs: (y, S, inputs["z"]))
        ),
        "The returned z averages the keys. It is their plain sum, like the z inside the loop.": (
            _then(_stream(), lambda y, S, z, inputs: (y, S, inputs["z"] + inputs["k"].mean(1)))
        ),
    },
    alternatives=(_stream(), _all_at_once),
    properties=(CAUSAL,),
    outputs=("y", "S", "z"),
    time_axis={"y": 1, "S": None, "z": None},
    parts_hint=lambda t, inputs: (
        "which keys are in z, and which writes are in S, at the moment y_t is read?"
    ),
)


# 03.10 The chunkwise form


def _chunk_cases(rng):
    sizes = [
        ("T = 1, less than a chunk of 4", 1, 1, 1, 2, 3, 4),
        ("two chunks of 3, one head, K = V", 1, 6, 1, 3, 3, 3),
        ("chunks of one token", 1, 5, 2, 3, 2, 1),
        ("T = 5, less than a chunk of 8", 2, 5, 1, 2, 3, 8),
        ("T = 7 is no multiple of the chunk size 3, K ≠ V", 2, 7, 2, 5, 3, 3),
        ("T = 33 is no multiple of the chunk size 8, three heads, K = V", 2, 33, 3, 4, 4, 8),
    ]
    plain = [Case(name, _tokens(rng, *s) | {"chunk_size": C}) for name, *s, C in sizes]
    given = [_with_state(rng, name, *s) for name, *s, _ in sizes]
    given = [
        Case(c.name, c.inputs | {"chunk_size": C}) for c, (*_, C) in zip(given, sizes, strict=True)
    ]
    long = Case(
        f"long: T = {LONG}, chunks of 128", _tokens(rng, 1, LONG, 1, 3, 2) | {"chunk_size": 128}
    )
    return [plain[0], long, *plain[1:], *given]


def _chunked(
    start=_start,
    inside=lambda s: s.tril(),
    reads=lambda S, S_next, first: S,
    write=lambda S, k, v: S + einsum("bjhv,bjhk->bhvk", v, k),
    scale=lambda K: 1,
):
    """The chunkwise form with one part exchanged: the scores inside a chunk, the state that is read, the write."""

    def chunked(q, k, v, state=None, chunk_size=4):
        q = q * scale(q.shape[-1])
        first = S = start(q, k, v, state)
        ys = []
        for q_c, k_c, v_c in zip(*(x.split(chunk_size, dim=1) for x in (q, k, v)), strict=True):
            S_next = write(S, k_c, v_c)
            scores = einsum("bihk,bjhk->bhij", q_c, k_c)
            y_before = einsum("bhvk,bihk->bihv", reads(S, S_next, first), q_c)
            ys.append(y_before + einsum("bhij,bjhv->bihv", inside(scores), v_c))
            S = S_next
        return torch.cat(ys, 1), S

    return chunked


def _whole_chunks_only(q, k, v, state=None, chunk_size=4):
    T = q.shape[1] // chunk_size * chunk_size
    if T == 0:
        raise ValueError(
            "torch.cat(): expected a non-empty list of Tensors"
        )  # as a loop over no chunk does
    return _chunked()(q[:, :T], k[:, :T], v[:, :T], state, chunk_size)


def _zeros_in_the_rest(q, k, v, state=None, chunk_size=4):
    T = q.shape[1] // chunk_size * chunk_size
    y, S = _chunked()(q[:, :T], k[:, :T], v[:, :T], state, chunk_size)
    return F.pad(y, (0, 0, 0, 0, 0, q.shape[1] - T)), S


def _all_chunks_at_once(q, k, v, state=None, chunk_size=4):
    """The state each chunk finds is a cumulative sum. Zeros fill the last chunk up: they write nothing."""
    T = q.shape[1]
    q, k, v = (F.pad(x, (0, 0, 0, 0, 0, -T % chunk_size)) for x in (q, k, v))
    first = _start(q, k, v, state)
    q, k, v = (x.unflatten(1, (-1, chunk_size)).movedim(3, 1) for x in (q, k, v))  # (B, H, N, C, ·)
    S = first[:, :, None] + (v.mT @ k).cumsum(2)
    found = torch.cat([first[:, :, None], S[:, :, :-1]], dim=2)
    y = q @ found.mT + (q @ k.mT).tril() @ v
    return y.movedim(1, 3).flatten(1, 2)[:, :T], S[:, :, -1]


def _every_product_written_out(q, k, v, state=None, chunk_size=4):
    """Chunk after chunk with sums of products only, and a mask from comparing times."""
    S, ys = _start(q, k, v, state), []
    for start in range(0, q.shape[1], chunk_size):
        q_c, k_c, v_c = (x[:, start : start + chunk_size] for x in (q, k, v))
        i = torch.arange(q_c.shape[1])
        seen = (i[:, None] >= i)[None, :, :, None]
        weights = torch.where(seen, (q_c[:, :, None] * k_c[:, None]).sum(-1), 0)  # (B, C, C, H)
        y = (weights[..., None] * v_c[:, None]).sum(2)
        ys.append(y + (S[:, None] * q_c[..., None, :]).sum(-1))
        S = S + (v_c[..., :, None] * k_c[..., None, :]).sum(1)
    return torch.cat(ys, 1), S


def _before_the_last_chunk(q, k, v, state=None, chunk_size=4):
    y, S = _pair_by_pair(q, k, v, state)
    start = (q.shape[1] - 1) // chunk_size * chunk_size
    return y, S - einsum("bjhv,bjhk->bhvk", v[:, start:], k[:, start:])


def _from_the_first_state(q, k, v, state=None, chunk_size=4):
    first = _start(q, k, v, state)
    chunks = zip(*(x.split(chunk_size, dim=1) for x in (q, k, v)), strict=True)
    ys, Ss = zip(*(_pair_by_pair(*chunk, first) for chunk in chunks), strict=True)
    return torch.cat(ys, 1), Ss[-1]


def _where_chunks_part(t, inputs):
    C = inputs["chunk_size"]
    if t == 0:
        state = "S q_0, with the given state S, plus " if "state" in inputs else ""
        return f"y_0 is {state}(q_0·k_0) v_0: is each part there, and nothing scaled or sent through φ?"
    if t % C == 0:
        return f"t = {t} is where a new chunk begins: is the state carried across chunks, and read with q?"
    return f"t = {t} is inside a chunk of {C}: does it read the carried state, and the tokens of its own chunk up to t?"


def _other_chunk_sizes(inputs):
    T = inputs["q"].shape[1]
    return [inputs | {"chunk_size": C} for C in (1, 2, T)] if T < LONG else []


ANY_CHUNK_SIZE = Property(
    "the chunk size does not matter",
    _other_chunk_sizes,
    lambda inputs, outputs: all(
        _equal(a, b) for out in outputs[1:] for a, b in zip(outputs[0], out, strict=True)
    ),
    "Another chunk_size gives another answer. The size only groups the work: look at what one chunk hands to the next.",
)

CHUNKED = Exercise(
    id="03.10",
    title="The chunkwise form",
    objective="Join the two forms: pairs inside a chunk, the carried state for everything before it.",
    name="chunked",
    points=3,
    minutes=25,
    difficulty=3,
    hints=(
        "Split time into chunks. A read has two parts: the tokens of the own chunk, and all before the chunk.",
        "Inside: the parallel form on the chunk. Before: S q with the S from before the chunk. "
        "After both: S + Σ_j v_j k_jᵀ over the chunk.",
        "for t in range(0, T, chunk_size): slice q, k, v with t : t + chunk_size; y = (S read by q) + "
        'all_pairs(q, k, v); then S = S + einsum("bjhv,bjhk->bhvk", v, k).',
    ),
    reference=lambda q, k, v, state=None, chunk_size=4: _pair_by_pair(q, k, v, state),
    cases=_chunk_cases,
    mistakes={
        "The state is not carried across chunks: every chunk starts from the same first state. Keep the S that "
        "one chunk leaves for the next.": _from_the_first_state,
        "The S of a chunk replaces the one before: a chunk sees only the chunk just before it. Add to S: "
        "S = S + Σ_j v_j k_jᵀ.": _chunked(write=lambda S, k, v: einsum("bjhv,bjhk->bhvk", v, k)),
        "S is never updated: it is returned as it came in, and every chunk reads the same. After each chunk: "
        "S = S + Σ_j v_j k_jᵀ.": _chunked(write=lambda S, k, v: S),
        "S is carried and returned rightly, but no y reads it: the tokens before the chunk are forgotten. Add S q.": (
            _chunked(reads=lambda S, S_next, first: 0 * S)
        ),
        "Every chunk reads the first state, not the carried one, although S is summed rightly. Read the S from just "
        "before the chunk.": _chunked(reads=lambda S, S_next, first: first),
        "The tokens of the own chunk are forgotten: y reads the S from before the chunk and nothing else. "
        "Add the parallel form of the chunk.": _chunked(inside=lambda s: 0 * s),
        "A token reads later tokens of its own chunk: there is no causal mask inside it, or S is read after the "
        "chunk was written.": (_chunked(inside=lambda s: s)),
        "The mask inside the chunk hides the diagonal: a token cannot read itself. Use tril(), not tril(-1).": (
            _chunked(inside=lambda s: s.tril(-1))
        ),
        "The mask inside the chunk is the wrong way round: keep the lower triangle, rows are queries.": (
            _chunked(inside=lambda s: s.triu())
        ),
        "S is updated before the chunk reads it: the tokens of the chunk count twice, later ones too. Read first, "
        "then write the chunk.": _chunked(reads=lambda S, S_next, first: S_next),
        "Only the last token of each chunk is written to S. Sum v_j k_jᵀ over all tokens j of the chunk.": (
            _chunked(write=lambda S, k, v: S + _outer(v[:, -1], k[:, -1]))
        ),
        "The write into S is transposed: k vᵀ instead of v kᵀ. S is (B, H, V, K).": (
            _chunked(write=lambda S, k, v: S + einsum("bjhk,bjhv->bhkv", k, v))
        ),
        "The given state is ignored: the first chunk starts from zeros. Start from `state` when it is not None.": (
            _chunked(start=lambda q, k, v, state: _start(q, k, v, None))
        ),
        "The returned S lacks the last chunk: it is the one the last chunk started from. Update S after the last "
        "chunk too.": _before_the_last_chunk,
        "The last chunk is left out when it is not full: y is shorter than T. Go on to T: "
        "range(0, T, chunk_size), and a slice may be shorter.": _whole_chunks_only,
        "The last chunk is left out when it is not full: y stays 0 there. Go on to T: "
        "range(0, T, chunk_size), and a slice may be shorter.": _zeros_in_the_rest,
        "The scores are scaled by K^-1/2. Linear attention here uses q·k as it is: remove the factor.": (
            _chunked(scale=lambda K: K**-0.5)
        ),
        "Only the scores inside the chunk are scaled by K^-1/2, which no longer fits the read of S. Remove it.": (
            lambda q, k, v, state=None, chunk_size=4: _chunked(
                inside=lambda s: s.tril() / q.shape[-1] ** 0.5
            )(q, k, v, state, chunk_size)
        ),
        "The feature map is applied here, although q and k come with it already. Use q and k as they are.": (
            lambda q, k, v, state=None, chunk_size=4: _chunked()(
                _phi(q), _phi(k), v, state, chunk_size
            )
        ),
        "A softmax is left in inside the chunk. The weights are the scores themselves, 0 in the future.": (
            _chunked(inside=_causal_softmax)
        ),
    },
    alternatives=(
        _chunked(),
        lambda q, k, v, state=None, chunk_size=4: core.chunkwise(
            q, k, v, state=state, chunk_size=chunk_size
        ),
        _all_chunks_at_once,
        _every_product_written_out,
    ),
    properties=(CAUSAL, HALVES, ANY_CHUNK_SIZE),
    outputs=("y", "S"),
    time_axis={"y": 1, "S": None},
    parts_hint=_where_chunks_part,
    effort=chunks_are_asked,
)


EXERCISES: list[Exercise] = [PHI, WRITE, READ, SMEAR, RATIO, FOLD, PAIRS, NORMALISER, HUNT, CHUNKED]
