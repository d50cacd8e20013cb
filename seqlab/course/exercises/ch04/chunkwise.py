"""Chunkwise retention with a carried state

*Write the form that models are trained with: pairs inside a chunk, a state between chunks. · 30 minutes · ●●● · 3 points*

Training wants few steps and no T² work. Cut the text into chunks of `chunk_size` tokens. Inside a chunk use all
pairs, as in 04.5; carry a state from chunk to chunk, as in 04.3. Three powers of γ join the two, and it pays to
draw a time line first.

In a chunk of n tokens, with i and j counted from 0 *in that chunk*, and S the state before it:

- token i reads the pairs inside, weighted by γ^(i-j), and the state, weighted by γ^(i+1);
- then S becomes γⁿ S plus each write of the chunk, weighted by γ^(n-1-j).

The last chunk may be shorter than `chunk_size`. The answer must not depend on `chunk_size`, but loop over chunks: a
loop over tokens gives the right numbers and misses the point, and so does one chunk of all T tokens. The check counts.
"""

import torch
from einops import rearrange

import seqlab.core.recurrence as core
from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch04.shared import (
    CAUSAL,
    HALVES,
    _chunkwise,
    _close,
    _gammas,
    _qkv,
    _randn,
    _retnet_gammas,
    chunkwise_reference,
)
from seqlab.course.exercises.shared import LONG, chunks_are_asked
from seqlab.course.exercises.vocabulary import first_head, scaled


def chunkwise(q, k, v, gamma, state=None, chunk_size=64):
    """Retention, chunk by chunk. For a chunk of n tokens, with S the state before it and i, j = 0 .. n - 1 inside it:

        y_i = Σ_{j≤i} γ^(i-j) (q_i · k_j) v_j + γ^(i+1) S q_i        S ← γⁿ S + Σ_j γ^(n-1-j) v_j k_jᵀ

    q, k (B, T, H, K), v (B, T, H, V), gamma (H,), state (B, H, V, K) or None for zeros. T need not be a multiple of
    chunk_size. Returns (y, S), y (B, T, H, V), S (B, H, V, K) after the last token.
    """
    ### BEGIN SOLUTION
    q, k, v = (rearrange(x, "b t h d -> b h t d") for x in (q, k, v))
    B, H, T, K = q.shape
    S = q.new_zeros(B, H, v.shape[-1], K) if state is None else state
    log_gamma = gamma.log()[:, None]  # (H, 1)
    ys = []
    for t in range(0, T, chunk_size):
        qc, kc, vc = (x[:, :, t : t + chunk_size] for x in (q, k, v))
        n = qc.shape[2]
        i = torch.arange(n)
        distance = i[:, None] - i
        # (H, n, n)
        D = (
            (distance * log_gamma[..., None])
            .masked_fill(distance < 0, -torch.inf)
            .exp()
        )
        since_start = ((i + 1) * log_gamma).exp()[..., None]  # (H, n, 1)
        to_end = ((n - 1 - i) * log_gamma).exp()[..., None]
        ys.append((qc @ kc.mT * D) @ vc + since_start * (qc @ S.mT))
        S = since_start[:, -1:] * S + vc.mT @ (to_end * kc)
    return rearrange(torch.cat(ys, dim=2), "b h t v -> b t h v"), S
    ### END SOLUTION


WHY = r"""
**Solution.** Count the decays between a write and its read. From token j to token i of one chunk there are i - j.
The state S belongs to the moment just before token 0; token 0 decays it once before it reads, so token i has i + 1.
A write of token j decays at tokens j + 1, …, n - 1: n - 1 - j times. The old state decays at all n tokens. The
pieces must fit: a write in the last place of a chunk (γ⁰) that is read first in the next (γ¹) has met one decay, as
it should.

**What it costs.** Each chunk builds C² scores, and there are T/C chunks: T·C in all, not T². With chunk_size = 1
this is the recurrent form, and with chunk_size = T the parallel one.

*Common mistakes:* γ^i on the read and γ^(n-j) on the writes, each off by one. γ instead of γⁿ on the state.
chunk_size where n belongs, which shows only when the last chunk is short. Computing S before y, so that the chunk
reads its own writes twice. γ^i · γ^(-j) for D, which is right for mild decays and nan for strong ones.
"""

HINTS = (
    "Each chunk does two things. Its y comes from pairs inside it and from the state before it. "
    "Then it makes the state that the next chunk needs. Count the decays between each write and its read.",
    "The powers of γ along a path add up to its length. Follow a write of token j to the end of its chunk, and "
    "from there to token i of the next: (n - 1 - j) + (i + 1). Inside a chunk the path is i - j, across it n.",
    "For each chunk, heads first: y = (qc @ kc.mT * D) @ vc + (gamma[:, None] ** (i + 1))[..., "
    "None] * (qc @ S.mT); then S = (gamma ** n)[:, None, None] * S + vc.mT @ ((gamma[:, "
    "None] ** (n - 1 - i))[..., None] * kc). n is the length of this chunk: the last one may be shorter.",
)


def _all_chunks_at_once(q, k, v, gamma, state, chunk_size):
    """Padded with tokens that neither decay nor write: only the states are made one after the other."""
    T, C = q.shape[1], min(chunk_size, q.shape[1])
    q, k, v = (torch.nn.functional.pad(x, (0, 0, 0, 0, 0, -T % C)) for x in (q, k, v))
    q, k, v = (rearrange(x, "b (n c) h d -> b n h c d", c=C) for x in (q, k, v))
    real = rearrange(torch.arange(T + -T % C) < T, "(n c) -> n 1 c", c=C)
    G = (real * gamma.log()[:, None]).cumsum(-1)  # (N, H, C)
    D = (
        (G[..., None] - G[..., None, :])
        .masked_fill(torch.ones(C, C).triu(1).bool(), -torch.inf)
        .exp()
    )
    writes = v.mT @ ((G[..., -1:] - G).exp()[..., None] * k)  # (B, N, H, V, K)
    S, before = torch.zeros_like(writes[:, 0]) if state is None else state, []
    for n, write in enumerate(writes.unbind(1)):
        before.append(S)
        S = G[n, :, -1].exp()[:, None, None] * S + write
    y = (q @ k.mT * D) @ v + G.exp()[..., None] * (q @ torch.stack(before, 1).mT)
    return rearrange(y, "b n h c v -> b (n c) h v")[:, :T], S


def cases(rng):
    def case(name, B, T, H, K, V, C, gamma, given):
        state = _randn(rng, B, H, V, K) if given else None
        return Case(
            name,
            {
                **_qkv(rng, B, T, H, K, V),
                "gamma": gamma,
                "state": state,
                "chunk_size": C,
            },
        )

    return [
        case("T = 1, no state", 2, 1, 2, 4, 4, 4, _gammas(rng, 2), False),
        case("one chunk, no state", 1, 6, 2, 4, 4, 6, _gammas(rng, 2), False),
        case("two chunks, no state", 1, 8, 2, 4, 4, 4, _gammas(rng, 2), False),
        case("two chunks, a state given", 2, 8, 2, 3, 5, 4, _gammas(rng, 2), True),
        case(
            "T = 13 in chunks of 5, a state given",
            2,
            13,
            3,
            4,
            2,
            5,
            _gammas(rng, 3),
            True,
        ),
        case("chunks of 1", 1, 5, 2, 4, 4, 1, _gammas(rng, 2), True),
        case(
            "a chunk longer than T, a state given",
            1,
            7,
            2,
            4,
            4,
            64,
            _gammas(rng, 2),
            True,
        ),
        case("the decays of the paper", 2, 37, 4, 6, 3, 16, _retnet_gammas(4), True),
        case(
            f"long: T = {LONG}, chunks of 128",
            1,
            LONG,
            1,
            3,
            2,
            128,
            torch.tensor([0.98]),
            True,
        ),
        case(
            "γ near 0, long chunks",
            1,
            70,
            2,
            4,
            4,
            64,
            torch.tensor([1e-3, 0.02]),
            True,
        ),
    ]


CHUNK_SIZE = Property(
    "the chunk size does not matter",
    variants=lambda inputs: (
        [{**inputs, "chunk_size": C} for C in (1, 3, T)]
        if (T := inputs["q"].shape[1]) < LONG
        else []
    ),
    holds=lambda inputs, outputs: all(
        _close(a, b)
        for out in outputs[1:]
        for a, b in zip(outputs[0], out, strict=True)
    ),
    message="Another chunk_size gives another answer: it may change the speed, never y or S. "
    "Compare chunk_size = 1, the recurrent form, with chunk_size = T, the parallel form.",
)


def _chunk_hint(t, inputs):
    C = inputs["chunk_size"]
    if t >= C:
        return "is the state carried from chunk to chunk, decayed by γⁿ, and read with γ^(i+1), where i starts anew?"
    if inputs["state"] is not None:
        return "how is the given state read inside the first chunk? Token i of it needs γ^(i+1)."
    return "no state is at work yet: look at the pairs inside the chunk, (Q Kᵀ ⊙ D) V."


reference = chunkwise_reference


effort = chunks_are_asked

parts_hint = _chunk_hint

PROPERTIES = (CAUSAL, CHUNK_SIZE, HALVES)

OUTPUTS = ("y", "S")

TIME_AXIS = {"y": 1, "S": None}

ALTERNATIVES = (
    _chunkwise,
    _all_chunks_at_once,
    lambda q, k, v, gamma, state, chunk_size: core.chunkwise(
        q,
        k,
        v,
        log_a=gamma.log()[:, None].expand(*q.shape[:3], 1),
        state=state,
        chunk_size=chunk_size,
    ),
)

MISTAKES = """
since_start * (qc → (i * log_gamma).exp()[..., None] * (qc
    Your read from the state has one power of γ too few: token i = 0 already stands one step after
    the state, so it needs γ^(i+1), not γ^i. Look at the factor on q.
n - 1 - i → n - i
    Your writes have one power of γ too many: the last token of a chunk writes undecayed, so token j
    needs γ^(n-1-j), not γ^(n-j). Look at the factor on k.
since_start[:, -1:] * S → (1 * log_gamma[..., None]).exp() * S
    Your state is decayed by γ once a chunk: a chunk of n tokens decays it n times. Look for γⁿ on
    S.
since_start[:, -1:] * S → (0 * log_gamma[..., None]).exp() * S
    Your state is not decayed between chunks: look for γⁿ on S before the writes are added.
n - 1 - i → 0 * i
    Your writes into the state are not decayed: token j is n-1-j steps old when its chunk ends. Look
    for γ^(n-1-j) on the writes.
since_start * (qc → (0 * i * log_gamma).exp()[..., None] * (qc
    Your read from the state is not decayed: token i stands i+1 steps after it. Look for γ^(i+1) on
    q.
n - 1 - i → i
    Your powers on the writes run the wrong way: token j has γ^j, the oldest counts most. It needs
    γ^(n-1-j).
(i + 1) * log_gamma → (n - 1 - i) * log_gamma ; n - 1 - i → i + 1 ; since_start[:, -1:] * S → (n * log_gamma[..., None]).exp() * S
    Your powers on read and writes have changed places: the read needs γ^(i+1), the writes
    γ^(n-1-j).
since_start * (qc → ((t + i + 1) * log_gamma).exp()[..., None] * (qc
    Your read counts its power of γ from the start of the text: i starts anew in each chunk, because
    S has already been decayed up to the chunk's start.
S = since_start[:, -1:] * S + vc.mT @ (to_end * kc) → last = since_start[:, -1:] * S + vc.mT @ (to_end * kc) ⏎ S = torch.zeros_like(S) ; return rearrange(torch.cat(ys, dim=2), "b h t v -> b t h v"), S → return rearrange(torch.cat(ys, dim=2), "b h t v -> b t h v"), last
    No state is carried: each chunk starts from an empty one. Keep S from one chunk to the next.
S = q.new_zeros(B, H, v.shape[-1], K) if state is None else state → S = q.new_zeros(B, H, v.shape[-1], K)
    The given state is ignored: the first chunk starts empty. Look at what S is before the loop.
n - 1 - i → chunk_size - 1 - i ; since_start[:, -1:] * S → (chunk_size * log_gamma[..., None]).exp() * S
    The last chunk decays the state as if it were full: its own length n counts, not chunk_size
    (padding with zeros does the same). Look at the powers in a chunk that is cut short.
ys.append((qc @ kc.mT * D) @ vc + since_start * (qc @ S.mT)) ⏎ S = since_start[:, -1:] * S + vc.mT @ (to_end * kc) → S = since_start[:, -1:] * S + vc.mT @ (to_end * kc) ⏎ ys.append((qc @ kc.mT * D) @ vc + since_start * (qc @ S.mT))
    The chunk reads the state that already holds its own writes: its pairs are counted twice.
    Compute y before S.
(qc @ kc.mT * D) → (qc @ kc.mT * (distance >= 0))
    Your pairs inside a chunk are not decayed, only cut off at the diagonal. Look for D on the
    scores.
(qc @ kc.mT * D) → (qc @ kc.mT * (-distance.abs() * log_gamma[..., None]).neg().exp())
    Inside a chunk a token reads the future: D must be 0 above the diagonal.
(qc @ kc.mT * D) → (qc @ kc.mT * D.tril(-1))
    Inside a chunk a token does not read its own pair: the diagonal of D is 1. Look at < against ≤.
(qc @ kc.mT * D) → (qc @ kc.mT * ((distance + 1) * log_gamma[..., None]).masked_fill(distance < 0, -torch.inf).exp())
    Inside a chunk the pairs have one power of γ too many, γ^(i-j+1): the diagonal of D is 1.
(qc @ kc.mT * D) → (qc @ kc.mT * ((distance + 1) * log_gamma[..., None]).masked_fill(distance < 0, -torch.inf).exp()) ; n - 1 - i → n - i
    Every pair is decayed once too often: γ multiplies a write at its own token already. D needs
    γ^(i-j), the writes γ^(n-1-j).
since_start * (qc → (i * log_gamma).exp()[..., None] * (qc ; n - 1 - i → n - i
    Your read and the writes are both off by one, γ^i and γ^(n-j): they need γ^(i+1) and γ^(n-1-j).
since_start * (qc → ((i + 2) * log_gamma).exp()[..., None] * (qc
    Your read from the state has one power of γ too many: token i needs γ^(i+1), not γ^(i+2). Look
    at the factor on q.
since_start * (qc → ((n + i + 1) * log_gamma).exp()[..., None] * (qc
    Your state is decayed before it is read: γⁿ is in the read as well. Compute y first, then decay
    S.
since_start * (qc → ((0 * i + n) * log_gamma).exp()[..., None] * (qc
    All tokens of a chunk read the state with γⁿ: token i stands i+1 steps after it. Look for
    γ^(i+1) on q.
since_start[:, -1:] * S → ((n - 1) * log_gamma[..., None]).exp() * S
    Your state keeps γ^(n-1) over a chunk: each of its n tokens decays it, so it keeps γⁿ.
since_start[:, -1:] * S → ((n + 1) * log_gamma[..., None]).exp() * S
    Your state keeps γ^(n+1) over a chunk: each of its n tokens decays it once, so it keeps γⁿ.
n - 1 - i → n - 2 - i
    Your writes have one power of γ too few, γ^(n-2-j): the last token of a chunk writes with γ⁰.
    Look at the factor on k.
(qc @ kc.mT * D) @ vc + → 0 * vc +
    Your pairs inside a chunk are missing: y holds only the read from the state. Look for (Q Kᵀ ⊙ D)
    V.
since_start[:, -1:] * S → 0 * S
    Your state forgets all earlier chunks: S holds the writes of the last one only. Add them to γⁿ
    S.
+ since_start * (qc @ S.mT) →
    Your state is carried but never read: y holds only pairs of one chunk. Look for γ^(i+1) S q_i.
S = since_start[:, -1:] * S + vc.mT @ (to_end * kc) → last = since_start[:, -1:] * S + vc.mT @ (to_end * kc) ; return rearrange(torch.cat(ys, dim=2), "b h t v -> b t h v"), S → return rearrange(torch.cat(ys, dim=2), "b h t v -> b t h v"), last
    Each chunk starts from the given state again: what the chunks before it wrote is lost. Carry S
    on.
S = since_start[:, -1:] * S + vc.mT @ (to_end * kc) → before = S ⏎ S = since_start[:, -1:] * S + vc.mT @ (to_end * kc) ; return rearrange(torch.cat(ys, dim=2), "b h t v -> b t h v"), S → return rearrange(torch.cat(ys, dim=2), "b h t v -> b t h v"), before
    The S handed back is the one before the last chunk: return it after the last update.
* → full = q.shape[1] // chunk_size * chunk_size ⏎ return solution(q[:, :full], k[:, :full], v[:, :full], gamma, state, chunk_size)
    The tokens after the last full chunk are missing: range(T // chunk_size) leaves them out. Let
    the last chunk be shorter.
* → q, k, v = (rearrange(x, "b t h d -> b h t d") for x in (q, k, v)) ⏎ S = q.new_zeros(*q.shape[:2], v.shape[-1], q.shape[-1]) if state is None else state ⏎ ys = [] ⏎ for qc, kc, vc in zip(*(x.split(chunk_size, 2) for x in (q, k, v)), strict=True): ⏎     power = gamma[:, None, None] ** (torch.arange(qc.shape[2])[:, None] + 1) ⏎     ys.append(((power * qc) @ (kc / power).mT).tril() @ vc + (power * qc) @ S.mT) ⏎     S = power[:, -1:] * (S + vc.mT @ (kc / power)) ⏎ return rearrange(torch.cat(ys, 2), "b h t d -> b t h d"), S
    The powers γ^(-j) on k overflow where γ is small, and y and S hold inf or nan. Take differences
    of exponents first: γ^(i-j) for the pairs, γ^(n-1-j) for the writes.
(qc @ kc.mT * D) → (qc @ kc.mT * (gamma[:, None, None] ** i[:, None] * gamma[:, None, None] ** -i).tril())
    The product γ^i · γ^(-j) overflows inside a chunk where γ is small, and y holds inf or nan. Take
    the difference i - j first, then the power.
since_start[:, -1:] * S → (chunk_size * log_gamma[..., None]).exp() * S
    Your state keeps γ^chunk_size over every chunk: the last may be shorter, and its own n tokens
    decay it n times.
n - 1 - i → chunk_size - 1 - i
    Your writes count to the end of a full chunk, γ^(chunk_size-1-j): where the chunk is shorter, its
    own n counts, γ^(n-1-j).
since_start * (qc → (0 * i * log_gamma + log_gamma).exp()[..., None] * (qc
    Every token reads the state with γ: token i stands i + 1 steps after it, so it needs γ^(i+1).
since_start * (qc → ((n - i) * log_gamma).exp()[..., None] * (qc
    Your powers on the read run the wrong way, γ^(n-i): token i stands i + 1 steps after the state.
n - 1 - i → i + 1
    Your powers on the writes run the wrong way, γ^(j+1), the oldest counts most: token j needs
    γ^(n-1-j).
"""

ALSO = (
    first_head(
        "gamma",
        says="All heads use the decay of the first: look at how gamma (H,) is lined up with (B, H, n, K).",
    ),
    scaled(
        "q",
        says="Your reads are scaled by K^-1/2: here the caller scales, so leave the factor out.",
    ),
)
