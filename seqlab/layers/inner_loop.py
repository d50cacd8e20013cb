"""A layer whose state is a small model that learns as it reads: what TTT-Linear and TTT-MLP share.

Projections, step sizes, the inner loss, and the two orders in which its gradient steps can be
computed.
"""

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.inputs import at_least_one, full_precision, wide
from seqlab.core.position import rope_frequencies, rotate
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.short_conv import ShortConv


class InnerState(NamedTuple):
    """weights: W at the start of the mini-batch, (B, H, out, in + 1) for each layer of f.

    sums: Σ η_j ∇ℓ_j of the tokens since then. conv: the inputs the short convolutions still need.
    """

    weights: tuple[Tensor, ...]
    sums: tuple[Tensor, ...]
    conv: Float[Tensor, "B past D"] | None
    position: int


class InnerLoop(Mixer):
    """Test-time training around an inner model f(x; W) (Sun et al. 2024, arXiv:2407.04620).

    W_t = W_s - e_t Σ_{s<j≤t} η_j ∇ℓ(W_s; k_j, v_j)        y_t = q_t + LN(f(q_t; W_t))
    ℓ(W; k, v) = ½ ‖LN(f(k; W)) - (v - k)‖²
    η_j = base_lr σ(θ·x_j + b) / K        e_i = max(1/i + learned_i, 0)

    s is the last token of the mini-batch before, i the place of t in its own, 1 to C: all gradients
    of a mini-batch are taken at W_s, so they can be computed together. A layer of f is one matrix;
    its bias is a last column, multiplied by a 1.

    form: "dual" (a mini-batch at once; no W_t inside it is ever formed) or "primal" (the equation,
    token by token). Around it, as in the authors' Mamba backbone: q and k are short convolutions of
    one projection (d_conv=None: two projections, their Transformer backbone), both rotated by the
    place in the mini-batch; then LayerNorm, a gelu gate (gate=False: none) and W_out.
    inner_norm=False removes the LN from ℓ and y. State: InnerState.

    A subclass passes the widths of f and defines `model` and `errors`.
    """

    FORMS = ("dual", "primal")

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        widths: tuple[int, ...],
        *,
        base_lr: float,
        mini_batch: int = 16,
        d_conv: int | None = 4,
        gate: bool = True,
        inner_norm: bool = True,
        form: str = "dual",
    ):
        super().__init__(d_model, form)
        at_least_one(mini_batch=mini_batch)
        K = head_width(d_model, n_heads, even=True)
        linear = partial(nn.Linear, d_model, d_model, bias=False)
        self.n_heads = n_heads
        self.base_lr = base_lr
        self.mini_batch = mini_batch
        self.q, self.v, self.out = linear(), linear(), linear()
        self.k = None if d_conv else linear()
        conv = partial(ShortConv, d_model, d_conv or 0, bias=True, activation=None)
        self.conv_q = conv() if d_conv else None
        self.conv_k = conv() if d_conv else None
        self.eta = nn.Linear(d_model, n_heads)
        nn.init.normal_(self.eta.weight, std=0.02)
        nn.init.zeros_(self.eta.bias)
        self.learned_e = nn.Parameter(torch.zeros(mini_batch))
        weight, bias = torch.ones(n_heads, 1, K), torch.zeros(n_heads, 1, K)
        self.inner_norm = nn.ParameterList([weight, bias] if inner_norm else [])
        self.norm = nn.LayerNorm(d_model, eps=1e-6)
        self.g = linear() if gate else None
        first = [F.pad(0.02 * torch.randn(n_heads, b, a), (0, 1)) for a, b in pairwise(widths)]
        self.first = nn.ParameterList(first)
        self.theta = rope_frequencies(K)

    def model(self, x: Tensor, layers: list) -> Tensor:
        """f(x; W), where each of `layers` multiplies by the W of one layer."""
        raise NotImplementedError

    def errors(self, k: Tensor, target: Tensor, *weights: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each layer of f its input and the gradient of ℓ by its output: ∇ℓ = g xᵀ."""
        raise NotImplementedError

    def forward(
        self, x: Float[Tensor, "B T D"], state: InnerState | None = None
    ) -> tuple[Float[Tensor, "B T D"], InnerState]:
        T = x.shape[1]
        position = 0 if state is None else state.position
        place = torch.arange(position, position + T, device=x.device) % self.mini_batch
        q, k, v, conv = self.inputs(x, place, None if state is None else state.conv)
        q, k, v = (wide(rearrange(u, "b t h k -> b h t k")) for u in (q, k, v))
        eta = rearrange(wide(self.eta(x)).sigmoid(), "b t h -> b h t 1")
        eta = self.base_lr * eta / q.shape[-1]
        e = F.relu(
            1 / (place[:, None] + 1).to(q.dtype) + wide(self.learned_e)[place, None]
        )  # (T, 1)
        if state is None:
            weights = [wide(W).expand(len(x), *W.shape) for W in self.first]
            sums = [torch.zeros_like(W) for W in weights]
        else:
            weights, sums = state.weights, state.sums
        run = self.dual if self.form == "dual" else self.primal
        z, weights, sums = run(one(q), one(k), v - k, eta, e, weights, sums, position)
        y = rearrange(q + self.layer_norm(z), "b h t k -> b t (h k)").to(x.dtype)
        y = self.norm(y)
        if self.g is not None:
            y = y * F.gelu(self.g(x), approximate="tanh")
        return self.out(y), InnerState(tuple(weights), tuple(sums), conv, position + T)

    def inputs(self, x, place, past):
        """q, k and v (B, T, H, K), and the inputs that the convolutions still need."""
        q, v = self.q(x), self.v(x)
        if self.conv_q is not None and self.conv_k is not None:
            k, _ = self.conv_k(q, past)
            q, past = self.conv_q(q, past)
        else:
            assert self.k is not None
            k = self.k(x)
        q, k, v = (rearrange(u, "b t (h k) -> b t h k", h=self.n_heads) for u in (q, k, v))
        q, k = (rotate(u, place, self.theta, interleaved=True) for u in (q, k))
        return q, k, v, past

    @full_precision
    def primal(self, q, k, target, eta, e, weights, sums, position):
        """The equation: one gradient, one W_t and one read for each token."""
        zs = []
        for t in range(q.shape[2]):
            now = slice(t, t + 1)
            errors = self.errors(k[:, :, now], target[:, :, now], *weights)
            sums = [A + eta[:, :, now] * g.mT @ x for A, (x, g) in zip(sums, errors, strict=True)]
            W_t = [W - e[t] * A for W, A in zip(weights, sums, strict=True)]
            zs.append(self.model(q[:, :, now], [partial(times, W) for W in W_t]))
            if (position + t + 1) % self.mini_batch == 0:
                weights, sums = W_t, [torch.zeros_like(A) for A in sums]
        return torch.cat(zs, dim=2), weights, sums

    @full_precision
    def dual(self, q, k, target, eta, e, weights, sums, position):
        """A mini-batch at once. Each layer: W_t x = W_s x - e_t (A x + Σ_{j≤t} η_j (x_j·x) g_j).

        A is the sum over those tokens of the mini-batch that an earlier call has read, None if
        there are none.
        """
        C, T = self.mini_batch, q.shape[2]
        cuts = [0, *range(C - position % C, T, C), T]
        lengths = [b - a for a, b in pairwise(cuts)]
        sums = sums if position % C else [None] * len(sums)
        # Split once: the gradient of each slice `q[:, :, a:b]` would span all T steps.
        pieces = [u.split(lengths, dim=-2) for u in (q, k, target, eta, e)]
        zs = []
        for q, k, target, eta, e in zip(*pieces, strict=True):
            errors = self.errors(k, target, *weights)
            steps = (e * eta.mT).tril()  # (B, H, C, C)
            layers = [
                partial(read, W=W, A=A, seen=x, g=g, steps=steps, e=e)
                for W, A, (x, g) in zip(weights, sums, errors, strict=True)
            ]
            zs.append(self.model(q, layers))
            position += q.shape[2]
            new = [(eta * g).mT @ x for x, g in errors]
            sums = [b if a is None else a + b for a, b in zip(sums, new, strict=True)]
            if position % C == 0:
                weights = [W - e[-1] * A for W, A in zip(weights, sums, strict=True)]
                sums = [None] * len(sums)
        sums = [torch.zeros_like(W) if A is None else A for W, A in zip(weights, sums, strict=True)]
        return torch.cat(zs, dim=2), weights, sums

    def layer_norm(self, z: Float[Tensor, "*B H C K"]) -> Float[Tensor, "*B H C K"]:
        """LN with a weight and a bias per head."""
        if not self.inner_norm:
            return z
        weight, bias = self.inner_norm
        return F.layer_norm(z, z.shape[-1:], eps=1e-6) * weight + bias

    def loss_gradient(
        self, z: Float[Tensor, "B H C K"], target: Float[Tensor, "B H C K"]
    ) -> Float[Tensor, "B H C K"]:
        """dℓ/dz of ℓ = ½ ‖LN(z) - target‖²."""
        if not self.inner_norm:
            return z - target
        weight, bias = self.inner_norm
        z_hat = F.layer_norm(z, z.shape[-1:], eps=1e-6)
        g = weight * (weight * z_hat + bias - target)
        g = g - g.mean(-1, keepdim=True) - z_hat * (g * z_hat).mean(-1, keepdim=True)
        return g * (z.var(-1, correction=0, keepdim=True) + 1e-6).rsqrt()


def one(x: Tensor) -> Tensor:
    """x with a last channel of ones, which the bias multiplies."""
    return F.pad(x, (0, 1), value=1.0)


def times(W: Tensor, x: Tensor) -> Tensor:
    """W x for each row x."""
    return x @ W.mT


def read(x, *, W, A, seen, g, steps, e):
    """W_t x for all t of a mini-batch: W_s x, less what the gradients since s have taken away.

    seen and g: the layer's inputs and gradients; steps_tj = e_t η_j for j ≤ t.
    """
    z = times(W, x) - (x @ seen.mT * steps) @ g
    return z if A is None else z - e * times(A, x)
