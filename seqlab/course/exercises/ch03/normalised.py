r"""The normaliser is one more row of the state

*Append a 1 to every v, run the unchanged recurrence, and divide by what the 1 became. · 8 minutes · ●●○ · 1 point*

Softmax weights sum to 1. To get the same here, divide by the sum of the weights:

$$y_t = \frac{\sum_{j \le t} (q_t \cdot k_j)\, v_j}{\sum_{j \le t} q_t \cdot k_j} .$$

The sum below the line is what the recurrence would give for values that are all 1. So append a column of ones to v,
run the recurrence once, and divide. `core.recurrent(q, k, v, state=state)` is `seqlab`'s own `fold`; use it or yours.
It takes its state by name only. Features are positive here, however small: add nothing to the normaliser.
"""

import torch
import torch.nn.functional as F

import seqlab.core.recurrence as core
from seqlab.course.exercise import Case
from seqlab.course.exercises.ch03.shared import (
    CAUSAL,
    SIZES,
    _normalised,
    _numbers,
    _positive_tokens,
)
from seqlab.course.exercises.vocabulary import state_ignored


def normalised(q, k, v, state=None):
    """Linear attention with its normaliser: y_t = Σ_{j ≤ t} (q_t·k_j) v_j / Σ_{j ≤ t} q_t·k_j.

    v becomes [v, 1], with the 1 last, so the state has one row more; the last entry of each read is the normaliser.
    q, k: (B, T, H, K), positive, v: (B, T, H, V), state: (B, H, V + 1, K), or None for zeros.
    Returns y (B, T, H, V) and the last state (B, H, V + 1, K).
    """
    ### BEGIN SOLUTION
    ones = torch.ones_like(v[..., :1])
    y, S = core.recurrent(q, k, torch.cat([v, ones], dim=-1), state=state)
    return y[..., :-1] / y[..., -1:], S
    ### END SOLUTION


WHY = r"""
**Solution.** With v' = [v, 1] the last row of S_t is z_tᵀ = Σ_{j≤t} k_jᵀ, the sum of the keys, and the last entry
of the read is z_t·q_t, the sum of the weights. The recurrence needs no change: every later form (chunks, kernels)
gets the normaliser for nothing.

The state keeps its extra row: the next call needs the old keys below the line as much as the old values above it.
`y[..., -1:]` with the colon keeps the axis, so the division broadcasts.

*Common mistakes:* dividing every token by the last normaliser, which lets the future in (03.9); dividing by the
number of tokens; dropping the row from the returned state; forgetting to take the column away from y.
"""

HINTS = (
    "The recurrence sums weight times value. Which value must be stored for it to sum the weights alone?",
    "With v' = [v, 1] the last entry of S_t q_t is Σ_{j≤t} q_t·k_j, the normaliser of token t.",
    "y, S = core.recurrent(q, k, torch.cat([v, torch.ones_like(v[..., :1])], dim=-1), state=state); "
    "divide y[..., :-1] by y[..., -1:].",
)


def cases(rng):
    small = _positive_tokens(rng, 2, 5, 2, 3, 4)
    # First: where an answer parts is told of the last case that parts earliest.
    cases = [
        Case("small features", small | {"q": small["q"] / 4, "k": small["k"] / 4}),
        Case("tiny features", small | {"q": small["q"] * 1e-6, "k": small["k"] * 1e-6}),
    ]
    for given in (False, True):
        for name, B, T, H, K, V in SIZES:
            state = (
                {"state": F.pad(_numbers(rng, B, H, V, K), (0, 0, 0, 1), value=2.0)}
                if given
                else {}
            )
            inputs = _positive_tokens(rng, B, T, H, K, V) | state
            cases.append(Case(name + ", a state is given" * given, inputs))
    return cases


def _where_the_quotient_parts(t, inputs):
    if inputs["q"].max() < 1e-3:
        return (
            "here all features are tiny, so whatever is added to the normaliser, or bounds it from below, outweighs the "
            "sum of the weights. Is y divided by the sum itself?"
        )
    if t > 0:
        return "is y_t divided by the sum of the weights up to t, and no further?"
    if "state" in inputs:
        return "does the given state count both above and below the line, and is nothing added, scaled or mapped?"
    return (
        "with no state given y_0 is v_0 itself, since its one weight cancels. Is y_0 divided by its own last column, "
        "with nothing added, scaled or mapped?"
    )


reference = _normalised


parts_hint = _where_the_quotient_parts

PROPERTIES = (CAUSAL,)

OUTPUTS = ("y", "S")

TIME_AXIS = {"y": 1, "S": None}


def _by_pairs(q, k, v, state=None):
    y, S = core.parallel(q, k, F.pad(v, (0, 1), value=1.0), state=state)
    return y[..., :-1] / y[..., -1:], S


ALTERNATIVES = (_by_pairs,)

MISTAKES = """
y[..., :-1] / y[..., -1:] → y[..., :-1]
    y is not divided: the last column of the read is dropped. Divide the other columns by it.
y[..., :-1] / y[..., -1:] → y[..., :-1] / einsum("bhk,bthk->bth", S[:, :, -1], q)[..., None]
    The normaliser of the last token divides every y: token t knows the keys that come after it.
    Divide each y_t by its own last entry.
y[..., :-1] / y[..., -1:] → y[..., :-1] / y[:, -1:, :, -1:]
    All y are divided by one number, the normaliser of the last token. Divide each y_t by its own
    last entry.
y[..., :-1] / y[..., -1:] → y[..., :-1] / torch.arange(1.0, 1 + q.shape[1])[:, None, None]
    y is divided by the number of tokens so far: that is a mean. Divide by the sum of the weights
    q_t·k_j.
y[..., :-1] / y[..., -1:] → y[..., :-1] / k.cumsum(1).sum(-1, keepdim=True)
    y is divided by the sum of the keys, without the query. The sum of the weights is q_t·(k_1 + … +
    k_t).
y[..., :-1] / y[..., -1:] → y[..., :-1] / y.sum(-1, keepdim=True)
    y is divided by the sum of all its columns. Only the last column, which the ones became, is the
    normaliser.
y[..., :-1] / y[..., -1:] → y[..., :-1] / (q * k).sum(-1, keepdim=True)
    y is divided by this token's own weight q_t·k_t. The normaliser sums the weights of all tokens
    up to t.
torch.cat([v, ones], dim=-1) → v ; y[..., :-1] / y[..., -1:] → y
    The column of ones is missing: v goes into the recurrence as it is, and y is not divided.
ones_like → zeros_like
    The appended column holds zeros, so you divide by 0. Append ones: torch.ones_like(v[..., :1]),
    or F.pad with value=1.0.
y[..., :-1] / y[..., -1:] → y[..., :-1] / (y[..., -1:] + 1e-6)
    Something small is added to the normaliser, or it is kept above something small: where all
    features are tiny, that outweighs the sum of the weights. They are positive: divide by the sum
    itself.
y[..., :-1] / y[..., -1:] → y[..., :-1] / y[..., -1:].clamp(min=1)
    The normaliser is kept at 1 or more: y is wrong where the weights sum to less. Divide by the sum
    itself.
y[..., :-1] / y[..., -1:] → y[..., :-1] / (y[..., -1:] + 1)
    1 is added to the normaliser: the weights no longer sum to 1. Divide by the sum itself.
* → return solution(F.elu(q) + 1, F.elu(k) + 1, v, state)
    The feature map is applied here, although q and k come with it already. Use q and k as they are.
y[..., :-1] / y[..., -1:], S → y[..., :-1] / y[..., -1:], S / S[:, :, -1:]
    The returned state is divided too. Divide y only: the state must go on as plain sums.
torch.cat([v, ones], dim=-1) → torch.cat([ones, v], dim=-1) ; y[..., :-1] / y[..., -1:] → y[..., 1:] / y[..., :1]
    The 1 stands before v, not after it: y is right without a given state, but the normaliser is the
    first row of S where the last is asked for.
torch.cat([v, ones], dim=-1) → torch.cat([ones, v], dim=-1)
    The 1 stands before v, but the last column divides, which is an entry of v. Put the ones behind
    v.
torch.cat([v, ones], dim=-1) → torch.cat([ones, v], dim=-1) ; y[..., :-1] / y[..., -1:] → y[..., 1:] / y[..., -1:]
    The 1 stands before v and its column is dropped, but the last column divides, an entry of v. Put
    the ones behind v.
y[..., :-1] / y[..., -1:] → y[..., :-1] / y[..., -1]
    The normaliser has lost its last axis, so broadcasting lines up its heads with the entries of v.
    Keep the axis: y[..., -1:].
y[..., :-1] / y[..., -1:] → y[..., :-1] / y[..., :1]
    y is divided by its first column, an entry of v. The ones were appended behind v: divide by
    y[..., -1:].
y[..., :-1] / y[..., -1:] → y[..., :-1] / y[..., :-1].sum(-1, keepdim=True)
    y is divided by the sum of its own entries. Only the last column, which the ones became, is the
    normaliser.
y[..., :-1] / y[..., -1:] → y[..., :-1] / (y[..., -1:] + 1e-3)
    1e-3 is added to the normaliser: too large where the features are small. Features are positive
    here, so leave it out.
y[..., :-1] / y[..., -1:] → y[..., :-1] / (y[..., -1:] + 1e-4)
    1e-4 is added to the normaliser: too large where the features are small. Features are positive
    here, so leave it out.
state=state → state
    The state of core.recurrent must be passed by name: core.recurrent(q, k, v, state=state).
y[..., :-1] / y[..., -1:] → y
    The column of ones is still in y: it has V + 1 columns. Return y[..., :-1] divided by y[...,
    -1:].
y[..., :-1] / y[..., -1:] → y / y[..., -1:]
    The last column of y is always 1: y was divided by it but it was not taken away. Return y[...,
    :-1] of it.
y[..., :-1] / y[..., -1:], S → y[..., :-1] / y[..., -1:], S[:, :, :-1]
    The row of the normaliser is cut off the returned state. Without it the next call cannot go on:
    return S as (B, H, V + 1, K).
y[..., :-1] / y[..., -1:] → y[..., :-1] / y[..., -1:].mean(1, keepdim=True)
    All y are divided by the mean of the normalisers over time. Divide each y_t by its own last
    entry.
"""

ALSO = (
    state_ignored(
        says="The given state is ignored: pass it on to the recurrence, it has the row of the normaliser already."
    ),
)
