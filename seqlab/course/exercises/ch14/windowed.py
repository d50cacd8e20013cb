"""Bug hunt: a window over a cache

*Mend a loop over blocks that loses keys. · 15 minutes · ●●○ · 2 points*

Causal attention with a sliding window: a query sees the newest `window` keys, itself included. The **last query is at the last key**, because the earlier keys come from a cache (T_q ≤ T_k). The
function in the next cell goes over blocks of `tile` queries, loads only the keys that some query of the block needs, and masks the rest.

It runs, its shapes are right, and with as many queries as keys and tiles of 1 it is right. It has **two bugs**. Run it, read the symptoms, and write the right version into `windowed`.
"""

import torch

from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch14.shared import _close, _randn, may_see, pair_by_pair


def windowed(q, k, v, window, tile):
    """Causal attention in a window. q (T_q, K), k (T_k, K), v (T_k, V), T_q ≤ T_k; returns y (T_q, V)."""
    ### BEGIN SOLUTION
    ys = []
    for i in range(0, len(q), tile):
        q_i = q[i : i + tile]
        at = torch.arange(i, i + len(q_i)) + len(k) - len(q)  # positions
        begin, end = max(0, int(at[0]) - window + 1), int(at[-1]) + 1
        away = at[:, None] - torch.arange(begin, end)
        s = q_i @ k[begin:end].mT * q.shape[-1] ** -0.5
        s = s.masked_fill((away < 0) | (away >= window), -torch.inf)
        ys.append(s.softmax(-1) @ v[begin:end])
    return torch.cat(ys)
    ### END SOLUTION


WHY = r"""
**The first bug**: the position of query i was taken to be i, as if the first query were at the first key. With a cache the queries are the *last* T_q positions. PyTorch's `is_causal` has that other
alignment, and FlashAttention changed from one to the other in version 2.1, so ported code often carries the wrong one.

**The second bug**: the first key to be loaded was computed from the *last* query of the block. Its first queries still see older keys; these were never loaded, so no mask could bring them back. The
softmax is over what was loaded, so the weights add up to 1 and nothing looks wrong. With tiles of 1 first and last query are the same.

*Common mistakes:* mending only one; a window of one key too many (`away > window`).
"""

HINTS = (
    "Give one query a cache of ten keys: which key must it see last? Then compare tiles of 1 with tiles of 4.",
    "Query i is at position i + T_k - T_q. A block needs keys from (position of its first query) - window + 1 on.",
    "at = torch.arange(i, i + len(q_i)) + len(k) - len(q); begin = max(0, at[0] - window + 1); end = at[-1] + 1.",
)


def reference(q, k, v, window, tile):
    return pair_by_pair(q, k, v, may_see(len(q), len(k), window))[0]


def cases(rng):
    def case(name, T_q, T_k, K, V, window, tile, scale=1.0):
        inputs = {
            "q": scale * _randn(rng, T_q, K),
            "k": _randn(rng, T_k, K),
            "v": _randn(rng, T_k, V),
            "window": window,
            "tile": tile,
        }
        return Case(name, inputs)

    return [
        case("T = 1", 1, 1, 4, 4, 3, 2),
        case("as many queries as keys, tiles of 1", 7, 7, 4, 3, 3, 1),
        case("as many queries as keys, tiles of 4", 9, 9, 4, 3, 3, 4),
        case("one query, ten keys", 1, 10, 3, 5, 4, 4),
        case("five queries, twelve keys", 5, 12, 4, 4, 4, 2),
        case("a window of 1", 6, 8, 4, 3, 1, 3),
        case("a window over everything", 6, 9, 4, 3, 50, 4),
        case("a tile over everything", 7, 11, 2, 3, 5, 64),
        case("large scores", 6, 8, 4, 3, 4, 4, 200.0),
    ]


PROPERTIES = (
    Property(
        "the tile does not change the result",
        variants=lambda inputs: [{**inputs, "tile": 1}, {**inputs, "tile": 3}],
        holds=lambda inputs, outputs: (
            _close(outputs[0], outputs[1]) and _close(outputs[0], outputs[2])
        ),
        message="The result depends on the tile: does every block load all keys that its first query sees?",
    ),
)

OUTPUTS = ("y",)

TIME_AXIS = 0


def parts_hint(t, inputs):
    return "where is this query among the keys, and which keys does its block load?"


def _row_by_row(q, k, v, window, tile):
    ys = []
    for i in range(len(q)):
        end = i + len(k) - len(q) + 1
        j = slice(max(0, end - window), end)
        ys.append(torch.softmax(k[j] @ q[i] / q.shape[-1] ** 0.5, 0) @ v[j])
    return torch.stack(ys)


def _all_pairs(q, k, v, window, tile):
    seen = torch.ones(len(q), len(k)).bool()
    seen = seen.tril(len(k) - len(q)) & seen.triu(len(k) - len(q) - window + 1)
    s = q @ k.mT / q.shape[-1] ** 0.5
    return torch.where(seen, s, -torch.inf).softmax(-1) @ v


ALTERNATIVES = (_row_by_row, _all_pairs)

MISTAKES = """
+ len(k) - len(q) → ; int(at[0]) - window → int(at[-1]) - window
    Both bugs are still there. Try one query and ten keys; then compare tiles of 1 with tiles of 4.
int(at[0]) - window → int(at[-1]) - window
    The queries are in the right place now. The other bug: in tiles of more than one query some keys are
    missing that the first queries of the block still see.
torch.arange(i, i + len(q_i)) + len(k) - len(q) → torch.arange(i, i + len(q_i))
    Each block loads enough keys now. The other bug: query i is taken to be at position i. The last query
    must be at the last key.
(away >= window) → (away > window)
    The window has one key too many: the query's own key counts as one of the `window`.
(away >= window) → (away >= window - 1 + (window == 1))
    The window has one key too few: the query's own key counts as one of the `window`.
(away < 0) | (away >= window) → (away >= window)
    Within a block a query sees keys of its own future: mask those too.
(away < 0) | (away >= window) → (away < 0)
    Within a block the window is not masked: the last queries see keys that only the first ones may.
q.shape[-1] ** -0.5 → 1
    The scores are not divided by the square root of K.
"""
