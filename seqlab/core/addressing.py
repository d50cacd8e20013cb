"""How a head of a Neural Turing Machine finds its rows and changes them (arXiv:1410.5401)."""

import torch
from jaxtyping import Float
from torch import Tensor

EPS = 1e-8  # below a squared length: a row or a key of zeros has the cosine 0


def cosine(memory: Float[Tensor, "B N M"], k: Float[Tensor, "B H M"]) -> Float[Tensor, "B H N"]:
    """The cosine of each key with each row."""
    rows, keys = (u * (u.square().sum(-1, keepdim=True) + EPS).rsqrt() for u in (memory, k))
    return keys @ rows.mT


def shifted(w: Float[Tensor, "B H N"], s: Float[Tensor, "B H 3"]) -> Float[Tensor, "B H N"]:
    """Σ_j s_j w(n - j) for j = -1, 0, 1, around the end."""
    back, stay, on = s.split(1, dim=-1)
    return back * w.roll(-1, -1) + stay * w + on * w.roll(1, -1)


def sharpened(w: Float[Tensor, "B H N"], gamma: Float[Tensor, "B H 1"]) -> Float[Tensor, "B H N"]:
    """w^γ, divided by its sum. Through logarithms, so that a large γ cannot make all of them 0."""
    return (gamma * w.clamp(min=torch.finfo(w.dtype).tiny).log()).softmax(-1)


def address(
    memory: Float[Tensor, "B N M"],
    last: Float[Tensor, "B H N"],
    k: Float[Tensor, "B H M"],
    beta: Float[Tensor, "B H 1"],
    g: Float[Tensor, "B H 1"],
    s: Float[Tensor, "B H 3"],
    gamma: Float[Tensor, "B H 1"],
) -> Float[Tensor, "B H N"]:
    """The weights of each head over the rows: content, then interpolation, shift, sharpening.

    k is compared with each row and β sharpens the comparison; g takes it in place of the last
    weights; s moves the result by -1, 0 or 1 row; γ ≥ 1 undoes the blur of a soft shift.
    """
    content = (beta * cosine(memory, k)).softmax(-1)
    return sharpened(shifted(g * content + (1 - g) * last, s), gamma)


def erase_and_add(
    memory: Float[Tensor, "B N M"],
    w: Float[Tensor, "B N"],
    e: Float[Tensor, "B M"],
    a: Float[Tensor, "B M"],
) -> Float[Tensor, "B N M"]:
    """M(n) ← M(n) (1 - w_n e) + w_n a: first erase, then add."""
    w = w[..., None]
    return memory * (1 - w * e[:, None]) + w * a[:, None]
