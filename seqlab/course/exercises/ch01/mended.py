"""Bug hunt: a cache that forgets where it is

*Find what is wrong in code that runs, from how its answers differ. · 20 minutes · ●●● · 3 points*

This is attention with a sliding window, as a decoder runs it. The cache holds the keys and values of the last tokens, at most `window` of them, keys already turned by their positions. A call adds T new tokens; `start` is the position of the first
of them. A token reads the last `window` tokens, itself included. The function returns y and the new cache.

It runs, its shapes are right, a text that is fed at once comes out right, and it has **two bugs**. Run the cell below: it shows three symptoms. Then write the right version into `mended`. You may copy the code and change a few
lines.
"""

import torch

from seqlab.core import position
from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch01.shared import _close, _randn


def mended(q, k, v, old_k, old_v, start, window):
    """Attention over the last `window` tokens, with a cache. q, k (B, T, H, K), not turned yet, v (B, T, H, V).

    old_k (B, S, H, K) and old_v (B, S, H, V) belong to the S tokens before `start`, with S = min(start, window); old_k is turned.
    Returns (y, k, v): y (B, T, H, V), and the turned keys and the values of the last min(start + T, window) tokens.
    """
    ### BEGIN SOLUTION
    S, T = old_k.shape[1], q.shape[1]
    theta = position.rope_frequencies(q.shape[-1])
    here = torch.arange(start, start + T)
    q, k = (position.rotate(x, here, theta) for x in (q, k))
    k, v = torch.cat([old_k, k], dim=1), torch.cat([old_v, v], dim=1)
    there = torch.arange(start - S, start + T)  # the positions of the keys
    age = here[:, None] - there  # (T, S + T)
    hidden = (age < 0) | (age >= window)
    scores = torch.einsum("bihk, bjhk -> bhij", q, k) * q.shape[-1] ** -0.5
    p = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    y = torch.einsum("bhij, bjhv -> bihv", p, v)
    return y, k[:, -window:], v[:, -window:]
    ### END SOLUTION


WHY = r"""
**The first bug** is the position. It was taken from the cache: `S` tokens are in it, so the next one is number S. That is right until the window is full. From then on S stays the same, each new token is turned like the one before it, and all distances to the keys of
earlier calls are too small. A short test does not show it.

**The second bug** is the mask. The ages were counted as if the first query belonged to the first key, but it belongs to the first *new* key, S places further. So a single new token saw the oldest key of the cache and nothing else. Fed at once, S is 0 and both are the same.

**How to find such bugs.** Feed a text at once, then in parts, with a cache that gets full in between, and compare. And make one part of the code idle: with all keys 0 the weights are equal, and y shows which values are read.

*Common mistakes:* mending the mask by `tril(S)`, which forgets the window; positions of the keys from `start` on, in place of `start - S`; a cache that keeps one token too many.
"""

HINTS = (
    "There are two bugs. One shows as soon as a text comes in two parts, the other only when more tokens were read than the window holds.",
    "At which position is the first new token, if 1,000 were read and the cache holds 8? And at which position is the oldest key of the cache?",
    "here = torch.arange(start, start + T), and the positions of the keys are torch.arange(start - S, start + T): age is their difference.",
)


def _past(rng, B, H, K, V, start, window):
    S = min(start, window)
    return _randn(rng, B, S, H, K), _randn(rng, B, S, H, V)


def reference(q, k, v, old_k, old_v, start, window):
    """Token by token, with a list of what is in the cache."""
    K = q.shape[-1]

    def turned(x, n):
        turn = torch.tensor(
            [n * 10000.0 ** (-2 * p / K) for p in range(K // 2)], dtype=torch.float64
        )
        z = torch.complex(*x.double().chunk(2, -1))
        z = z * torch.polar(torch.ones_like(turn), turn)
        return torch.cat([z.real, z.imag], -1)

    keys, values = list(old_k.double().unbind(1)), list(old_v.double().unbind(1))
    ys = []
    for t in range(q.shape[1]):
        keys = [*keys, turned(k[:, t], start + t)][-window:]
        values = [*values, v[:, t].double()][-window:]
        read = turned(q[:, t], start + t)
        scores = torch.stack([(read * key).sum(-1) for key in keys], -1) / K**0.5
        pairs = zip(scores.softmax(-1).unbind(-1), values, strict=True)
        ys.append(sum(p[..., None] * value for p, value in pairs))
    return tuple(torch.stack(u, 1).float() for u in (ys, keys, values))


def cases(rng):
    def case(name, B, T, H, K, V, start, window):
        old_k, old_v = _past(rng, B, H, K, V, start, window)
        inputs = {
            "q": _randn(rng, B, T, H, K),
            "k": _randn(rng, B, T, H, K),
            "v": _randn(rng, B, T, H, V),
            "old_k": old_k,
            "old_v": old_v,
            "start": start,
            "window": window,
        }
        return Case(name, inputs)

    return [
        case("T = 1, the first token", 1, 1, 2, 4, 4, 0, 3),
        case("odd T, from the start", 2, 7, 2, 4, 4, 0, 3),
        case("T = 1, the cache not full", 1, 1, 2, 4, 3, 3, 8),
        case("T = 1, the cache full", 2, 1, 2, 4, 3, 11, 4),
        case("K ≠ V, after 5 tokens", 2, 5, 3, 6, 2, 5, 4),
        case("a window of one token", 1, 3, 2, 4, 2, 2, 1),
        case("a window longer than the text", 1, 4, 1, 2, 3, 6, 99),
        case("after 1,000 tokens", 1, 9, 2, 8, 3, 1000, 5),
    ]


def _in_two(inputs):
    T, cut = inputs["q"].shape[1], inputs["q"].shape[1] // 2
    if cut == 0:
        return []
    first = {**inputs, **{n: inputs[n][:, :cut] for n in ("q", "k", "v")}}
    _, k, v = reference(**first)
    rest = {n: inputs[n][:, cut:T] for n in ("q", "k", "v")}
    return [
        {
            **rest,
            "old_k": k,
            "old_v": v,
            "start": inputs["start"] + cut,
            "window": inputs["window"],
        }
    ]


def _the_same(inputs, outputs):
    if len(outputs) == 1:
        return True
    (y, k, v), (y2, k2, v2) = outputs
    return _close(y[:, -y2.shape[1] :], y2) and _close(k, k2) and _close(v, v2)


PROPERTIES = (
    Property(
        "in two parts as at once",
        variants=_in_two,
        holds=_the_same,
        message="A text that is fed in two parts does not come out as one that is fed at once.",
    ),
)

OUTPUTS = ("y", "k", "v")

TIME_AXIS = {"y": 1, "k": None, "v": None}


def parts_hint(t, inputs):
    return (
        "at which position is this token, and which ages do the keys of the cache have?"
    )


def _with_attend(q, k, v, old_k, old_v, start, window):
    from seqlab.core.attention import attend

    theta = position.rope_frequencies(q.shape[-1])
    n = start + torch.arange(q.shape[1])
    q, k = position.rotate(q, n, theta), position.rotate(k, n, theta)
    k, v = torch.cat([old_k, k], 1), torch.cat([old_v, v], 1)
    y = attend(q, k, v, causal=True, window=window)
    return y, k[:, -window:], v[:, -window:]


def _by_tril(q, k, v, old_k, old_v, start, window):
    S, T = old_k.shape[1], q.shape[1]
    theta = position.rope_frequencies(q.shape[-1])
    q, k = (position.rotate(x, torch.arange(T) + start, theta) for x in (q, k))
    k, v = torch.cat((old_k, k), 1), torch.cat((old_v, v), 1)
    seen = torch.ones(T, S + T).tril(S).triu(S - window + 1).bool()
    q, keys, values = (u.transpose(1, 2) for u in (q, k, v))
    p = torch.where(seen, q @ keys.mT / q.shape[-1] ** 0.5, -1e30).softmax(-1)
    keep = max(S + T - window, 0)
    return (p @ values).transpose(1, 2), k[:, keep:], v[:, keep:]


def _token_by_token(q, k, v, old_k, old_v, start, window):
    ys = []
    for t in range(q.shape[1]):
        one = slice(t, t + 1)
        y, old_k, old_v = _by_tril(
            q[:, one], k[:, one], v[:, one], old_k, old_v, start + t, window
        )
        ys.append(y)
    return torch.cat(ys, 1), old_k, old_v


ALTERNATIVES = (_with_attend, _by_tril, _token_by_token)

MISTAKES = """
torch.arange(start, start + T) → torch.arange(S, S + T) ; here[:, None] - there → torch.arange(T)[:, None] - torch.arange(S + T)
    Both bugs are still there. Feed a text in two parts, the second one longer than the window, and compare with the text fed at once.
torch.arange(start, start + T) → torch.arange(S, S + T) ; torch.arange(start - S, start + T) → torch.arange(S + T)
    The mask is mended, the position is not: it comes from the length of the cache, which stays the same once the window is full.
here[:, None] - there → torch.arange(T)[:, None] - torch.arange(S + T)
    The position is mended, the mask is not: it counts ages as if the oldest key of the cache stood at start. It stands at start - S, before the new tokens.
torch.arange(start, start + T) → torch.arange(T) ; here[:, None] - there → torch.arange(S, S + T)[:, None] - torch.arange(S + T)
    The positions of the new tokens begin at 0 in each call: they go on at start.
position.rotate(x, here, theta) for x in (q, k) → position.rotate(x, n, theta) for x, n in ((q, here), (k, here - start + S))
    q is turned by start, but k is not: it is turned by its place in the cache.
position.rotate(x, here, theta) for x in (q, k) → position.rotate(x, n, theta) for x, n in ((q, here - start + S), (k, here))
    k is turned by start, but q is not: it is turned by its place in the cache.
here[:, None] - there → here[:, None] - torch.arange(S + T)
    The queries have their positions, but the keys are counted from 0: the oldest key of the cache stands at start - S.
position.rotate(x, here, theta) for x in (q, k) → position.rotate(x, n, theta) for x, n in ((q, here), (k, here + 1))
    The new keys are turned one position too far: the first new token is at start.
(age < 0) | (age >= window) → (age < 0)
    The window is gone: a call with several tokens lets the later ones read further back than `window` tokens.
(age < 0) | (age >= window) → (age < 0) | (age > window)
    The window is one token too long: `window` tokens are read, the token itself included, so ages up to window - 1.
(age < 0) | (age >= window) → (age >= window)
    A token of a call sees those after it: a negative age has to stay hidden.
(age < 0) | (age >= window) → (age <= 0) | (age >= window) & (age != 0) ; scores.masked_fill(hidden, -torch.inf).softmax(-1) → scores.masked_fill(hidden, -1e30).softmax(-1)
    A token does not see itself: age 0 is part of the window.
k[:, -window:], v[:, -window:] → k, v
    The cache keeps everything: it holds at most `window` tokens.
k[:, -window:], v[:, -window:] → k[:, :window], v[:, :window]
    The cache keeps the oldest tokens: it must keep the newest.
torch.cat([old_k, k], dim=1), torch.cat([old_v, v], dim=1) → torch.cat([old_k, k], dim=1), torch.cat([old_v, v], dim=1) ⏎ k = torch.cat([position.rotate(old_k, here[:1].expand(S), theta), k[:, S:]], dim=1)
    The keys of the cache are turned again: they were turned when they came in.
"""
