r"""The recurrent form

*Walk over time with one carried state: write, then read, at each token. · 12 minutes · ●●○ · 2 points*

Now walk over a whole sequence with one state. At each token write first, then read:

$$S_t = S_{t-1} + v_t\,k_t^\top, \qquad y_t = S_t\,q_t .$$

Start from `state` if it is given, else from zeros. Your `write` and `read` may be used. There is no
normaliser yet.
"""

import torch

import seqlab.core.recurrence as core
from seqlab.course.exercise import Case
from seqlab.course.exercises.ch03.read import read
from seqlab.course.exercises.ch03.shared import (
    CAUSAL,
    HALVES,
    SIZES,
    _pair_by_pair,
    _tokens,
    _with_state,
)
from seqlab.course.exercises.ch03.write import write
from seqlab.course.exercises.vocabulary import scaled, state_ignored, swapped


def fold(q, k, v, state=None):
    """The recurrent form: S_t = S_{t-1} + v_t k_tᵀ, then y_t = S_t q_t.

    q, k: (B, T, H, K), v: (B, T, H, V), state: S_0 (B, H, V, K), or None for zeros.
    Returns y (B, T, H, V) and the last state S_T (B, H, V, K).
    """
    ### BEGIN SOLUTION
    B, T, H, K = q.shape
    S = q.new_zeros(B, H, v.shape[-1], K) if state is None else state
    ys = []
    for t in range(T):
        S = write(S, k[:, t], v[:, t])
        ys.append(read(S, q[:, t]))
    return torch.stack(ys, dim=1), S
    ### END SOLUTION


WHY = r"""
**Solution.** The loop carries S from token to token. Memory is constant, work is proportional to T, and stopping
anywhere loses nothing: S is all that the future needs to know of the past. So `fold` on a second half, started from
the state after the first half, goes on as if there had been no cut. This is how a model decodes.

The order matters. The token is written before it is read, so y_t contains v_t itself, with weight q_t·k_t. Causal
softmax attention does the same on its diagonal.

*Common mistakes:* reading before writing; forgetting the given state or adding it only at the end; stacking along
the first axis; leaving a factor K^-1/2.
"""

HINTS = (
    "Start from the given state, or from zeros. At each token you need your 03.2 and 03.3: in which order?",
    "S_t = S_{t-1} + v_t k_tᵀ comes first, then y_t = S_t q_t: a token can read what it has just written.",
    "S = zeros (B, H, V, K) or state; for t in range(T): S = write(S, k[:, t], v[:, t]); "
    "ys.append(read(S, q[:, t])). At the end torch.stack(ys, dim=1).",
)


def cases(rng):
    """Without and with a given state, K = V and K ≠ V in both."""
    cases = [Case(name, _tokens(rng, *sizes)) for name, *sizes in SIZES]
    return cases + [_with_state(rng, name, *sizes) for name, *sizes in SIZES[::-1]]


def _where_the_fold_parts(t, inputs):
    if t == 0:
        start = "the given state" if "state" in inputs else "zeros"
        return f"does S start from {start}, is v_0 k_0ᵀ added, and is S q_0 read, with nothing scaled or mapped?"
    if t == inputs["q"].shape[1] - 1:
        return "only the last token is wrong: does the loop reach it, and is it written before it is read?"
    return "does S go from one token to the next as it is, in float32, with one write added?"


reference = _pair_by_pair


parts_hint = _where_the_fold_parts

PROPERTIES = (CAUSAL, HALVES)

OUTPUTS = ("y", "S")

TIME_AXIS = {"y": 1, "S": None}

ALTERNATIVES = (
    core.recurrent,
    lambda q, k, v, state=None: core.parallel(q, k, v, state=state),
)

MISTAKES = """
S = write(S, k[:, t], v[:, t]) ⏎ ys.append(read(S, q[:, t])) → ys.append(read(S, q[:, t])) ⏎ S = write(S, k[:, t], v[:, t])
    Each token is read before it is written: y_t uses S_{t-1}. Write first, so that y_t = S_t q_t.
write(S, → write(0 * S,
    Each token replaces the state: S holds only v_t k_tᵀ of the last token. Add the write to the S
    before it.
q.new_zeros(B, H, v.shape[-1], K) if state is None else state → q.new_zeros(B, H, v.shape[-1], K) ; return torch.stack(ys, dim=1), S → return torch.stack(ys, dim=1), S if state is None else S + state
    The state is added to the result at the end, but the reads never see it. Put it into S before
    the loop.
return torch.stack(ys, dim=1), S → return torch.stack(ys, dim=1), q.new_zeros(B, H, v.shape[-1], K) if state is None else state
    The given state is returned unchanged, although y is right. Return the S that the loop ends
    with.
return torch.stack(ys, dim=1), S → return torch.stack(ys, dim=1), write(S, k[:, -1], -v[:, -1])
    The last token is missing from the returned state: S_{T-1} comes back instead of S_T. Return S
    after the last write.
write(S, k[:, t], v[:, t]) → S + einsum("bhk,bhv->bhkv", k[:, t], v[:, t]) ; read(S, q[:, t]) → einsum("bhkv,bhk->bhv", S, q[:, t]) ; q.new_zeros(B, H, v.shape[-1], K) → q.new_zeros(B, H, K, v.shape[-1])
    The state is transposed: k vᵀ is written and Sᵀ q is read. y is right where no state is given,
    but S must be (B, H, V, K), a row for each entry of v.
write(S, k[:, t], v[:, t]) → S + einsum("bhk,bhv->bhkv", k[:, t], v[:, t])
    k vᵀ is written where v kᵀ belongs, and S q is read: writing and reading disagree about which
    axis is k's.
return torch.stack(ys, dim=1), S → return torch.stack([read(S, q[:, t]) for t in range(T)], dim=1), S
    Every y is read from the last state: token t sees the tokens after it. Read inside the loop,
    right after the write.
q[:, t] → k[:, t]
    The memory is read with the key, not with the query: y_t = S_t q_t.
* → return solution(k, q, v, state)
    q and k are swapped: values are stored under the key k_t and read with the query q_t.
write(S, k[:, t], v[:, t]) → S + einsum("bhv,bhk->vk", v[:, t], k[:, t])
    All heads and sequences share one table. Each has its own: keep the axes b and h in the write.
return torch.stack(ys, dim=1), S → weights = (q * k.cumsum(1)).sum(-1, keepdim=True) ⏎ return torch.stack(ys, dim=1) / weights, S
    y is divided by the sum of the weights. The normaliser comes in 03.8; here y_t = S_t q_t.
* → return solution(F.elu(q) + 1, F.elu(k) + 1, v, state)
    The feature map is applied here, although q and k come with it already. Use q and k as they are.
S = q.new_zeros(B, H, v.shape[-1], K) if state is None else state → S = state or q.new_zeros(B, H, v.shape[-1], K)
    A tensor has no truth value: `if state:` and `state or …` fail when a state is given. Write `if
    state is not None`.
q.new_zeros(B, H, v.shape[-1], K) → q.new_zeros(B, H, K, K)
    The empty memory has the shape (B, H, K, K). It needs a row for each entry of v: (B, H, V, K).
q.new_zeros(B, H, v.shape[-1], K) → q.new_zeros(B, H, K, v.shape[-1])
    The empty memory has the shape (B, H, K, V). Its rows belong to v and its columns to k: (B, H,
    V, K).
torch.stack(ys, dim=1) → torch.cat(ys, dim=1)
    The reads are joined along the heads: torch.cat adds no axis. torch.stack(ys, dim=1) gives (B,
    T, H, V).
dim=1 → dim=0
    The reads are stacked along the first axis: y is (T, B, H, V). Use torch.stack(ys, dim=1).
torch.stack(ys, dim=1) → torch.stack(ys, dim=1).cumsum(1)
    The reads are summed over time: y_t is a running sum. The past is already in S_t; read it once.
"""

ALSO = (
    state_ignored(
        says="The given state is ignored: the fold always starts from zeros. Start from `state` when it is not None."
    ),
    scaled(
        "q",
        says="The scores are scaled by K^-1/2. Linear attention here uses q·k as it is: remove the factor.",
    ),
    swapped(says="The outputs are swapped: return y first, then the last state."),
)
