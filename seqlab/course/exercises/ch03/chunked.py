r"""The chunkwise form

*Join the two forms: pairs inside a chunk, the carried state for everything before it. · 25 minutes · ●●● · 3 points*

`fold` does little work, but one token at a time. `all_pairs` does all tokens at once, but T² of work. The chunkwise
form has the best of both: cut time into chunks of C tokens, use pairs inside a chunk, and the carried state for
everything before it. For a token t of a chunk that begins at s,

$$y_t = S_{s-1}\,q_t + \sum_{s \le j \le t} (q_t \cdot k_j)\, v_j , \qquad S_{s+C-1} = S_{s-1} + \sum_{j=s}^{s+C-1} v_j\,k_j^\top .$$

T need not be a multiple of C: the last chunk may be shorter. There is no normaliser. The loop goes over chunks of
`chunk_size` tokens, not over tokens, and no T × T matrix is built. The check counts on a long sequence. Your
`all_pairs` may be used once 03.7 is right.
"""

import torch
import torch.nn.functional as F
from torch import einsum

import seqlab.core.recurrence as core
from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch03.all_pairs import all_pairs
from seqlab.course.exercises.ch03.shared import (
    CAUSAL,
    HALVES,
    _equal,
    _pair_by_pair,
    _start,
    _tokens,
    _with_state,
    causal_softmax,  # noqa: F401 (for the edits)
)
from seqlab.course.exercises.shared import LONG, chunks_are_asked
from seqlab.course.exercises.vocabulary import scaled, state_ignored


def chunked(q, k, v, state=None, chunk_size=4):
    """The chunkwise form: pairs inside a chunk of `chunk_size` tokens, the carried state for all before it.

    y_t = S q_t + Σ_{j ≤ t} (q_t·k_j) v_j, with S from before the chunk and j inside it; then S + Σ_j v_j k_jᵀ.
    q, k: (B, T, H, K), v: (B, T, H, V), state: S_0 (B, H, V, K), or None for zeros. T may be any length.
    Returns y (B, T, H, V) and the last state S_T (B, H, V, K).
    """
    ### BEGIN SOLUTION
    B, T, H, K = q.shape
    S = q.new_zeros(B, H, v.shape[-1], K) if state is None else state
    ys = []
    for t in range(0, T, chunk_size):
        q_c, k_c, v_c = (x[:, t : t + chunk_size] for x in (q, k, v))
        from_before = einsum("bhvk,bihk->bihv", S, q_c)
        ys.append(from_before + all_pairs(q_c, k_c, v_c))
        S = S + einsum("bjhv,bjhk->bhvk", v_c, k_c)
    return torch.cat(ys, dim=1), S
    ### END SOLUTION


WHY = r"""
**Solution.** Split the sum over j ≤ t at the beginning s of the chunk. The part before s is S_{s-1} q_t: the
recurrent form, but one step for a whole chunk. The part from s on is the parallel form on C tokens. Then one matrix
product writes the whole chunk into S.

With C = 1 this is `fold`; with C = T it is `all_pairs`. In between, the work is about T (C + V) K instead of T² K,
nearly all of it in matrix products, and there are only T / C steps that wait for each other. Every trained
linear-attention model runs in this form, and so do the kernels of part V.

*Common mistakes:* starting every chunk from the same state; updating S before the chunk has read it, which counts
its tokens twice; leaving out the mask inside the chunk; `range(T // chunk_size)`, which drops the last tokens.
"""

HINTS = (
    "Split time into chunks. A read has two parts: the tokens of the own chunk, and all before the chunk.",
    "Inside: the parallel form on the chunk. Before: S q with the S from before the chunk. "
    "After both: S + Σ_j v_j k_jᵀ over the chunk.",
    "for t in range(0, T, chunk_size): slice q, k, v with t : t + chunk_size; y = (S read by q) + "
    'all_pairs(q, k, v); then S = S + einsum("bjhv,bjhk->bhvk", v, k).',
)


def cases(rng):
    sizes = [
        ("T = 1, less than a chunk of 4", 1, 1, 1, 2, 3, 4),
        ("two chunks of 3, one head, K = V", 1, 6, 1, 3, 3, 3),
        ("chunks of one token", 1, 5, 2, 3, 2, 1),
        ("T = 5, less than a chunk of 8", 2, 5, 1, 2, 3, 8),
        ("T = 7 is no multiple of the chunk size 3, K ≠ V", 2, 7, 2, 5, 3, 3),
        (
            "T = 33 is no multiple of the chunk size 8, three heads, K = V",
            2,
            33,
            3,
            4,
            4,
            8,
        ),
    ]
    plain = [Case(name, _tokens(rng, *s) | {"chunk_size": C}) for name, *s, C in sizes]
    given = [_with_state(rng, name, *s) for name, *s, _ in sizes]
    given = [
        Case(c.name, c.inputs | {"chunk_size": C})
        for c, (*_, C) in zip(given, sizes, strict=True)
    ]
    long = Case(
        f"long: T = {LONG}, chunks of 128",
        _tokens(rng, 1, LONG, 1, 3, 2) | {"chunk_size": 128},
    )
    return [plain[0], long, *plain[1:], *given]


def _all_chunks_at_once(q, k, v, state=None, chunk_size=4):
    """The state each chunk finds is a cumulative sum. Zeros fill the last chunk up: they write nothing."""
    T = q.shape[1]
    q, k, v = (F.pad(x, (0, 0, 0, 0, 0, -T % chunk_size)) for x in (q, k, v))
    first = _start(q, k, v, state)
    q, k, v = (
        x.unflatten(1, (-1, chunk_size)).movedim(3, 1) for x in (q, k, v)
    )  # (B, H, N, C, ·)
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
        weights = torch.where(
            seen, (q_c[:, :, None] * k_c[:, None]).sum(-1), 0
        )  # (B, C, C, H)
        y = (weights[..., None] * v_c[:, None]).sum(2)
        ys.append(y + (S[:, None] * q_c[..., None, :]).sum(-1))
        S = S + (v_c[..., :, None] * k_c[..., None, :]).sum(1)
    return torch.cat(ys, 1), S


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
        _equal(a, b)
        for out in outputs[1:]
        for a, b in zip(outputs[0], out, strict=True)
    ),
    "Another chunk_size gives another answer. The size only groups the work: look at what one chunk hands to the next.",
)


def reference(q, k, v, state=None, chunk_size=4):
    return _pair_by_pair(q, k, v, state)


def masked_pairs(q, k, v, mask):
    """All pairs with `mask(scores)` in place of the causal mask; for the mistakes."""
    scores = einsum("bihk,bjhk->bhij", q, k)
    return einsum("bhij,bjhv->bihv", mask(scores), v)


effort = chunks_are_asked

parts_hint = _where_chunks_part

PROPERTIES = (CAUSAL, HALVES, ANY_CHUNK_SIZE)

OUTPUTS = ("y", "S")

TIME_AXIS = {"y": 1, "S": None}

ALTERNATIVES = (
    lambda q, k, v, state=None, chunk_size=4: core.chunkwise(
        q, k, v, state=state, chunk_size=chunk_size
    ),
    _all_chunks_at_once,
    _every_product_written_out,
)

MISTAKES = """
S = S + einsum("bjhv,bjhk->bhvk", v_c, k_c) → last = S + einsum("bjhv,bjhk->bhvk", v_c, k_c) ; return torch.cat(ys, dim=1), S → return torch.cat(ys, dim=1), last
    The state is not carried across chunks: every chunk starts from the same first state. Keep the S
    that one chunk leaves for the next.
S = S + einsum → S = einsum
    The S of a chunk replaces the one before: a chunk sees only the chunk just before it. Add to S:
    S = S + Σ_j v_j k_jᵀ.
S = S + einsum("bjhv,bjhk->bhvk", v_c, k_c) → pass
    S is never updated: it is returned as it came in, and every chunk reads the same. After each
    chunk: S = S + Σ_j v_j k_jᵀ.
from_before + →
    S is carried and returned rightly, but no y reads it: the tokens before the chunk are forgotten.
    Add S q.
ys = [] → ys = [] ⏎ first = S ; "bhvk,bihk->bihv", S, q_c → "bhvk,bihk->bihv", first, q_c
    Every chunk reads the first state, not the carried one, although S is summed rightly. Read the S
    from just before the chunk.
+ all_pairs(q_c, k_c, v_c) →
    The tokens of the own chunk are forgotten: y reads the S from before the chunk and nothing else.
    Add the parallel form of the chunk.
all_pairs(q_c, k_c, v_c) → masked_pairs(q_c, k_c, v_c, lambda s: s)
    A token reads later tokens of its own chunk: there is no causal mask inside it, or S is read
    after the chunk was written.
all_pairs(q_c, k_c, v_c) → masked_pairs(q_c, k_c, v_c, lambda s: s.tril(-1))
    The mask inside the chunk hides the diagonal: a token cannot read itself. Use tril(), not
    tril(-1).
all_pairs(q_c, k_c, v_c) → masked_pairs(q_c, k_c, v_c, lambda s: s.triu())
    The mask inside the chunk is the wrong way round: keep the lower triangle, rows are queries.
from_before = einsum("bhvk,bihk->bihv", S, q_c) ⏎ ys.append(from_before + all_pairs(q_c, k_c, v_c)) ⏎ S = S + einsum("bjhv,bjhk->bhvk", v_c, k_c) → S = S + einsum("bjhv,bjhk->bhvk", v_c, k_c) ⏎ from_before = einsum("bhvk,bihk->bihv", S, q_c) ⏎ ys.append(from_before + all_pairs(q_c, k_c, v_c))
    S is updated before the chunk reads it: the tokens of the chunk count twice, later ones too.
    Read first, then write the chunk.
einsum("bjhv,bjhk->bhvk", v_c, k_c) → einsum("bhv,bhk->bhvk", v_c[:, -1], k_c[:, -1])
    Only the last token of each chunk is written to S. Sum v_j k_jᵀ over all tokens j of the chunk.
bjhv,bjhk->bhvk", v_c, k_c → bjhk,bjhv->bhkv", k_c, v_c
    The write into S is transposed: k vᵀ instead of v kᵀ. S is (B, H, V, K).
S = S + einsum("bjhv,bjhk->bhvk", v_c, k_c) → before = S ⏎ S = S + einsum("bjhv,bjhk->bhvk", v_c, k_c) ; return torch.cat(ys, dim=1), S → return torch.cat(ys, dim=1), before
    The returned S lacks the last chunk: it is the one the last chunk started from. Update S after
    the last chunk too.
range(0, T, chunk_size) → range(0, T - chunk_size + 1, chunk_size)
    The last chunk is left out when it is not full: y is shorter than T. Go on to T: range(0, T,
    chunk_size), and a slice may be shorter.
ys = [] → ys = [v[:, :0]] ; range(0, T, chunk_size) → range(0, T - chunk_size + 1, chunk_size) ; return torch.cat(ys, dim=1), S → y = torch.cat(ys, dim=1) ⏎ return torch.cat([y, torch.zeros_like(v[:, y.shape[1] :])], dim=1), S
    The last chunk is left out when it is not full: y stays 0 there. Go on to T: range(0, T,
    chunk_size), and a slice may be shorter.
all_pairs(q_c, k_c, v_c) → masked_pairs(q_c, k_c, v_c, lambda s: s.tril() / K**0.5)
    Only the scores inside the chunk are scaled by K^-1/2, which no longer fits the read of S.
    Remove it.
* → return solution(F.elu(q) + 1, F.elu(k) + 1, v, state, chunk_size)
    The feature map is applied here, although q and k come with it already. Use q and k as they are.
all_pairs(q_c, k_c, v_c) → masked_pairs(q_c, k_c, v_c, lambda s: causal_softmax(s))
    A softmax is left in inside the chunk. The weights are the scores themselves, 0 in the future.
all_pairs(q_c, k_c, v_c) → masked_pairs(q_c, k_c, v_c, lambda s: s.masked_fill(torch.ones(s.shape[-2:]).triu(1).bool(), -1e9))
    The future inside the chunk is masked with -1e9. A large negative score vanishes only in an exp;
    here a masked score must be 0.
einsum("bjhv,bjhk->bhvk", v_c, k_c) → einsum("bjhv,bjhk->bhvk", v_c, k_c) / v_c.shape[1]
    The writes of a chunk are averaged. S is a plain sum of v_j k_jᵀ over all tokens.
einsum("bjhv,bjhk->bhvk", v_c, k_c) → einsum("bjhv,blhk->bhvk", v_c, k_c)
    The values of a chunk and its keys are summed first, then multiplied: every value is stored
    under every key of the chunk. Multiply token by token, v_j k_jᵀ, then sum.
"""

ALSO = (
    state_ignored(
        says="The given state is ignored: the first chunk starts from zeros. Start from `state` when it is not None."
    ),
    scaled(
        "q",
        says="The scores are scaled by K^-1/2. Linear attention here uses q·k as it is: remove the factor.",
    ),
)
