r"""Norm each head alone

*See what the paper's GroupNorm divides by. · 6 minutes · ●○○ · 1 point*

A head that forgets slowly adds up more pairs, so its y is larger. Before the heads are joined, RetNet brings each
to size 1. The paper calls it GroupNorm; what its code computes is a root-mean-square norm of each head, without
weights:

$$\frac{y}{\sqrt{\tfrac{1}{V} \sum_v y_v^2 + ε}} .$$
"""

import math

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch04.shared import _randn


def head_norm(y, eps):
    """Divide each head of each token by its root mean square: y / sqrt(mean(y²) + eps), the mean over the V channels.

    y (B, T, H, V), eps a float. Returns (B, T, H, V).
    """
    ### BEGIN SOLUTION
    return y * torch.rsqrt(y.square().mean(dim=-1, keepdim=True) + eps)
    ### END SOLUTION


WHY = r"""
**Solution.** One mean for each (sequence, token, head). Any positive factor on a head cancels (up to eps). So the
rescalings that the paper adds to the parallel form for the sake of numbers change nothing, and this course leaves
them out.

*Common mistakes:* One mean over all heads and channels lets the head with the longest memory drown the others: this
is the thing the norm is there to prevent. Subtracting the mean makes it a LayerNorm. Summing the squares makes y √V
times too small. eps belongs under the root, where it keeps a token of zeros at 0 instead of nan.
"""

HINTS = (
    "Heads that remember long add up more pairs, so their y is larger. Each is brought to size 1 on its own.",
    "Afterwards the squares of the V channels of one head of one token average to 1 (nearly: eps), whatever "
    "they were before. So there is one divisor for each (b, t, h), and nothing is subtracted.",
    "y.square().mean(-1, keepdim=True) is the mean square; add eps, take torch.rsqrt, multiply by y.",
)


def reference(y, eps):
    rows = [
        row / math.sqrt(sum(x * x for x in row.tolist()) / len(row) + eps)
        for row in y.flatten(0, 2)
    ]
    return torch.stack(rows).view_as(y)


def cases(rng):
    # Heads of different size: norming them together shows.
    sizes = torch.tensor([0.1, 1.0, 30.0, 4.0])

    def case(name, B, T, H, V, scale=1.0, eps=1e-6):
        return Case(
            name, {"y": scale * sizes[:H, None] * _randn(rng, B, T, H, V), "eps": eps}
        )

    zeros = case("a token of zeros", 1, 4, 2, 5)
    zeros.inputs["y"][:, 1] = 0
    return [
        case("one head, T = 2", 1, 2, 1, 4),
        case("T = 1", 2, 1, 2, 4),
        case("odd T", 2, 5, 3, 6),
        case("H = 4", 1, 6, 4, 3),
        case("one head", 2, 3, 1, 8),
        case("T = H = V", 2, 3, 3, 3),
        case("y as small as √eps", 1, 3, 2, 4, scale=1e-3),
        case("eps = 0.1", 1, 3, 2, 4, eps=0.1),
        zeros,
    ]


ALTERNATIVES = (
    lambda y, eps: torch.nn.functional.rms_norm(y, y.shape[-1:], eps=eps),
    lambda y, eps: (
        y
        * torch.rsqrt(torch.einsum("bthv, bthv -> bth", y, y) / y.shape[-1] + eps)[
            ..., None
        ]
    ),
)

MISTAKES = """
dim=-1 → dim=(-2, -1)
    Your mean runs over all heads together: a loud head then silences the quiet ones. Look at the
    axes of the mean.
dim=-1 → dim=-2
    Your mean runs over the heads, one channel at a time: it belongs over the V channels. Look at
    the axis.
dim=-1 → dim=1
    Your mean runs over time: token i would see the future. Look at the axis of the mean.
.mean( → .sum(
    Your squares are summed, not averaged: y comes out √V too small.
torch.rsqrt(y.square().mean(dim=-1, keepdim=True) + eps) → 1 / (y.square().mean(dim=-1, keepdim=True) + eps)
    The root is missing: y is divided by its mean square. Look for rsqrt or sqrt.
return → y = y - y.mean(-1, keepdim=True) ⏎ return
    Your mean is subtracted first, a LayerNorm: an RMS norm only divides.
torch.rsqrt(y.square().mean(dim=-1, keepdim=True) + eps) → 1 / (y.square().mean(dim=-1, keepdim=True).sqrt() + eps)
    The eps is added outside the root: it belongs under it, next to the mean square. Look at where
    eps stands.
+ eps → + 0
    The eps is left out: a token of zeros becomes nan. Look under the root.
rsqrt → sqrt
    Here y is multiplied by the root mean square, not divided by it: look at sqrt against rsqrt.
+ eps → + 1e-6
    The eps that is passed in is not used: look for a fixed number under the root.
y * torch.rsqrt(y.square().mean(dim=-1, keepdim=True) + eps) → torch.nn.functional.normalize(y, dim=-1)
    This divides by the length of y, an l2 norm: y comes out √V too small. Average the squares, and
    add eps.
y * torch.rsqrt(y.square().mean(dim=-1, keepdim=True) + eps) → y / (y.var(-1, keepdim=True) + eps).sqrt()
    This divides by the standard deviation: it leaves out the mean of y, which an RMS norm keeps.
    Average y².
y * torch.rsqrt(y.square().mean(dim=-1, keepdim=True) + eps) → y / (y.std(-1, keepdim=True) + eps)
    This divides by the standard deviation, with eps outside: an RMS norm averages y², and eps
    stands under the root.
y * torch.rsqrt(y.square().mean(dim=-1, keepdim=True) + eps) → y / (y.abs().mean(-1, keepdim=True) + eps)
    This divides by the mean of |y|: an RMS norm averages y² and takes the root.
y.square().mean(dim=-1, keepdim=True) → y.mean(dim=-1, keepdim=True).square()
    Your mean is squared, not the squares averaged: positive and negative channels cancel. Square
    first.
dim=-1 → dim=(1, 3)
    Your mean runs over time as well as over the channels: token i would see the future.
* → flat = rearrange(y, "b t h v -> b (h v) t") ⏎ flat = torch.nn.functional.group_norm(flat, y.shape[2], eps=eps) ⏎ return rearrange(flat, "b (h v) t -> b t h v", h=y.shape[2])
    This is F.group_norm over (B, channels, T): it averages over time too, and takes the mean away.
    Average y² over the V channels alone.
dim=-1 → dim=(0, 1, 2, 3)
    One mean is taken over everything, batch and time as well: each head of each token has its own.
dim=-1, keepdim=True → dim=-1
    The mean square has lost its last axis, so broadcasting lines up its heads with the channels of
    y. Keep the axis, with keepdim=True or [..., None].
"""
