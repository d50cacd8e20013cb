"""Turn a query by its position

*Make a dot product depend on distance, as RetNet does it. · 15 minutes · ●●○ · 2 points*

A decay depends on how old a pair is, but not on its key. RetNet also turns q and k by their
position, so that q_i · k_j depends on i - j. Channels (0, 1) are a pair, (2, 3) the next, and so on. Pair p turns
by θ_p per position.

The first token of x is at position `start`, which is more than 0 when a text arrives in parts.
"""

import torch
from einops import rearrange

from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch04.shared import (
    _close,
    _randn,
    _rotate,
    rotate_reference,
)


def rotate(x, start):
    """Turn channels (2p, 2p + 1) of the token at position n by the angle φ = n θ_p, with θ_p = 10000^(-p / (K/2 - 1)).

    (a, b) becomes (a cos φ - b sin φ, b cos φ + a sin φ), for p = 0 .. K/2 - 1. So θ runs from 1 to 1/10000, both included.
    x (B, T, H, K) with K even and at least 4; token t has position n = start + t. Returns (B, T, H, K).
    """
    ### BEGIN SOLUTION
    T, K = x.shape[1], x.shape[-1]
    theta = 10000 ** -torch.linspace(0, 1, K // 2)
    # (T, 1, K/2): one for all heads
    angle = (torch.arange(start, start + T)[:, None] * theta)[:, None]
    cos, sin = angle.cos(), angle.sin()
    a, b = x[..., 0::2], x[..., 1::2]
    return rearrange(
        [a * cos - b * sin, b * cos + a * sin], "two b t h p -> b t h (p two)"
    )
    ### END SOLUTION


WHY = r"""
**Solution.** A rotation keeps lengths, and the dot product of two turned pairs depends on the difference of their
angles alone: (i - j) θ. Each token is turned by its own absolute position, yet what is read is relative. Fast pairs
tell neighbours apart, slow ones tell far from near.

**Where RetNet differs.** Llama pairs channels (p, p + K/2) and takes θ_p = 10000^(-2p/K), which stops short of
1/10000. RetNet pairs neighbours and includes the end. Weights trained with one do not work with the other, and
nothing raises an error. xPos, on which the paper builds, also scales q and k by their positions, so that distant
pairs count less. In RetNet γ does this, and the scales are not applied again.

*Common mistakes:* Overwriting a before b has used it. Putting the pairs back as two halves. Leaving out `start`:
the text read in parts then differs from the text read at once.
"""

HINTS = (
    "Take the channels two by two. Each pair is a point in the plane; token n turns it by the angle n θ_p.",
    "A pair (a, b) is the complex number a + ib, and turning it is multiplying by cos φ + i sin φ. "
    "The exponents of 10000 go from 0 down to -1 in K/2 equal steps, both ends included: one for each pair p.",
    "theta = 10000 ** -torch.linspace(0, 1, K // 2); the angle is positions[:, None] * theta, "
    "with an axis for H put in; a = x[..., 0::2], b = x[..., 1::2]; "
    "torch.stack([new_a, new_b], dim=-1).flatten(-2) puts the pairs back.",
)


def _angle(x, start):
    theta = 10000 ** -torch.linspace(0, 1, x.shape[-1] // 2)
    return torch.einsum(
        "t, k -> tk", torch.arange(start, start + x.shape[1]).float(), theta
    )[:, None]


def _turned(x, start, first, second):
    """A pair turned with the sines' signs as dials: -1 and 1 are right."""
    cos, sin, a, b = (
        _angle(x, start).cos(),
        _angle(x, start).sin(),
        x[..., 0::2],
        x[..., 1::2],
    )
    return torch.stack(
        [a * cos + first * b * sin, b * cos + second * a * sin], dim=-1
    ).flatten(-2)


def cases(rng):
    def case(name, B, T, H, K, start):
        return Case(name, {"x": _randn(rng, B, T, H, K), "start": start})

    return [
        case("T = 1 at position 0", 2, 1, 2, 4, 0),
        case("T = 1 at position 5", 1, 1, 2, 8, 5),
        case("odd T", 2, 7, 3, 6, 0),
        case("K = 10, from position 3", 1, 9, 2, 10, 3),
        case("T = K", 2, 4, 1, 4, 0),
        case("far from the start", 1, 5, 2, 16, 300),
    ]


def _gram(x):
    return torch.einsum("bihk, bjhk -> bhij", x, x)


RELATIVE = Property(
    "only distance counts",
    # Small positions and a wide tolerance: angles of 10⁵, which a wrong θ may give, are rounded to 0.01 in float32.
    variants=lambda inputs: [{**inputs, "start": start} for start in (0, 3)],
    holds=lambda inputs, outputs: _close(_gram(outputs[1]), _gram(outputs[2]), 0.1),
    message="Moving all tokens by 3 positions changed their dot products: "
    "after a rotation these depend on i - j alone.",
)


def _grows(inputs, outputs):
    """Whether x was turned with θ from 1 up to 10000, at positions small enough for float32 to tell."""
    x, start = inputs["x"], inputs["start"]
    grown = _rotate(
        x, start, theta=lambda K: 10000 ** torch.linspace(0, 1, K // 2).double()
    )
    return 0 < start < 20 and _close(outputs[0], grown, 0.05)


FALLS = Property(
    "θ falls from 1 to 1/10000",
    variants=lambda inputs: [],
    holds=lambda inputs, outputs: not _grows(inputs, outputs),
    message="Your θ grows from 1 to 10000: the exponent lacks its minus.",
)


reference = rotate_reference


def parts_hint(t, inputs):
    return (
        "a token at position 0 is not turned at all. How are the pairs taken apart and put back?"
        if t + inputs["start"] == 0
        else f"this token is at position {t + inputs['start']}. Which channels are a pair, by which angle does it turn "
        "(the first pair by the position itself), and where is it put back?"
    )


PROPERTIES = (FALLS, RELATIVE)

ALTERNATIVES = (
    _rotate,
    lambda x, start: _turned(x, start, -1, 1),
)

MISTAKES = """
a, b = x[..., 0::2], x[..., 1::2] → a, b = x.chunk(2, dim=-1) ; (p two) → (two p)
    Your pairs are (p, p + K/2), as in Llama: RetNet pairs (2p, 2p + 1). Look at how x is split.
-torch.linspace(0, 1, K // 2) → -(torch.arange(0, K, 2) / K)
    Your angles are those of RoPE, 10000^(-2p/K), which stop short of 1/10000: RetNet includes both
    ends. Look at θ.
angle.sin() → -angle.sin()
    Your pairs turn the wrong way: look at the signs in front of sin.
start, start + T → T
    The start is left out: a token's angle comes from its position in the whole text. Look at the
    positions.
start, start + T → start + 1, start + T + 1
    Your positions count from 1: the first token of a text has position 0.
[a * cos - b * sin, b * cos + a * sin] → [a * cos - b * sin, b * cos + (a * cos - b * sin) * sin]
    The second of your pair is made from the first already turned: keep both old values. Look for
    overwriting.
theta = 10000 ** -torch.linspace(0, 1, K // 2) → theta = torch.ones(K // 2)
    All pairs turn at the same speed: look for θ_p in the angle.
(p two) → (two p)
    Your turned pairs are put back as two halves, firsts then seconds: channels 2p and
    2p + 1 must be neighbours again.
torch.linspace(0, 1 → torch.linspace(1, 0
    Your θ grow from 1/10000 up to 1: the first pair should turn fastest. Turn their order round.
a, b = x[..., 0::2], x[..., 1::2] → a, b = x.chunk(2, dim=-1) ; (p two) → (two p) ; -torch.linspace(0, 1, K // 2) → -(torch.arange(0, K, 2) / K)
    Yours is Llama's rotation: pairs (p, p + K/2) and angles that stop short of 1/10000. RetNet
    pairs (2p, 2p + 1) and includes both ends.
a * cos - → a * cos +
    Both sines have a plus: then pairs are not turned but stretched. The first of a pair is a cos φ
    - b sin φ.
+ a * sin → - a * sin
    Both sines have a minus: then pairs are not turned but stretched. The second of a pair is b cos
    φ + a sin φ.
-torch.linspace → torch.linspace
    Your θ grows from 1 to 10000: the exponent lacks its minus.
10000 → math.e
    Your θ falls as a power of e, not of 10000: look at the base.
torch.arange(start, start + T)[:, None] * theta → theta.expand(T, -1)
    All tokens are turned by the same angle θ: multiply it by the position of the token.
* → return solution(x.transpose(1, 2), start).transpose(1, 2)
    Your angle grows along the heads, not along time: positions (T, 1, 1) and θ (K/2,) line up with
    (B, T, H, K/2).
[a * cos - b * sin, b * cos + a * sin] → [b * cos + a * sin, a * cos - b * sin]
    The two of a turned pair have changed places: a cos φ - b sin φ comes first.
a, b = x[..., 0::2], x[..., 1::2] → a, b = x.chunk(2, dim=-1)
    The pairs are taken from two halves, (p, p + K/2), but put back as neighbours. RetNet pairs
    (2p, 2p + 1) at both ends.
-torch.linspace(0, 1, K // 2) → -(torch.arange(K // 2) / K)
    Your θ falls as 10000^(-p/K), half as fast as RoPE's. Over the K/2 pairs the exponent goes from
    0 to -1, both ends included.
start, start + T → 2 * start, 2 * start + T
    The start is added twice: the first token stands at start.
10000 ** → math.pi / 180 * 10000 **
    Your angles are taken as degrees. θ is in radians: the first pair turns by 1 per position.
* → theta = 10000 ** -torch.linspace(0, 1, x.shape[-1] // 2) ⏎ angle = (torch.arange(start, start + x.shape[1])[:, None] * theta)[:, None] ⏎ angle = torch.cat([angle, angle], -1) ⏎ turned = torch.stack([-x[..., 1::2], x[..., 0::2]], -1).flatten(-2) ⏎ return x * angle.cos() + turned * angle.sin()
    The angles are laid out as two halves, the channels as neighbours, so that the two of a pair
    turn by different angles. Channels 2p and 2p + 1 both need θ_p: repeat each angle, not the row.
"""
