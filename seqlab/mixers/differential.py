import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import attention
from seqlab.core.inputs import wide
from seqlab.core.position import rope_frequencies, rotate
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.norm import RMSNorm


class DifferentialCache(NamedTuple):
    """Two keys, and one value of double width, per head and token."""

    k: Float[Tensor, "B T h2 K"]
    v: Float[Tensor, "B T h V"]
    position: int


class Differential(Mixer):
    """Differential attention (Ye et al. 2024, arXiv:2410.05258): the difference of two softmaxes.

    y_t = Σ_{s≤t} (softmax_s(q¹_t·k¹_s / √K) - λ softmax_s(q²_t·k²_s / √K)) v_s,   V = 2 K
    λ = exp(λ_q¹·λ_k¹) - exp(λ_q²·λ_k²) + λ_init,   λ_init = 0.8 - 0.6 exp(-0.3 depth)

    The difference from attention: weights may be negative, and what both maps attend to alike, the
    noise, cancels. Each head is then normed on its own and scaled by 1 - λ_init, so that gradients
    are as large as without the subtraction. λ_q and λ_k start as N(0, 0.1²), so λ starts near
    λ_init. Both reads are subtracted in float32 at least: where they nearly cancel, rounding would
    be most of the result.

    depth: the number of the layer, from 0 (the paper counts from 1), so a stack is
    [partial(Differential, depth=l) for l in range(L)]. n_heads counts pairs of maps. In q and k all
    first maps precede all second ones; the authors interleave them, which is the same model with
    its rows in another order. d_head is K, d_model / (2 n_heads) by default. form: as in
    `Attention`. State: DifferentialCache, as large as attention's.

    ValueError: n_kv_heads does not divide n_heads.
    """

    FORMS = attention.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        n_kv_heads: int | None = None,
        d_head: int | None = None,
        depth: int = 0,
        rope_base: float | None = 10000.0,
        theta: Float[Tensor, " half"] | None = None,
        magnitude: float = 1.0,
        bias: bool = False,
        eps: float = 1e-5,
        form: str | Callable = "sdpa",
    ):
        super().__init__(d_model, form)
        even = theta is None and rope_base is not None
        d_head = head_width(d_model, n_heads, d_head, parts=2, even=even)
        n_kv_heads = n_kv_heads or n_heads
        if n_heads % n_kv_heads:
            raise ValueError(
                f"n_heads is {n_heads}, n_kv_heads is {n_kv_heads}: "
                "the first must be a multiple of the second"
            )
        self.d_head = d_head
        self.magnitude = magnitude
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * depth)
        self.q = nn.Linear(d_model, 2 * n_heads * d_head, bias=bias)
        self.k, self.v = (nn.Linear(d_model, 2 * n_kv_heads * d_head, bias=bias) for _ in range(2))
        self.out = nn.Linear(2 * n_heads * d_head, d_model, bias=bias)
        self.lambda_q, self.lambda_k = (
            nn.Parameter(0.1 * torch.randn(2, d_head)) for _ in range(2)
        )
        self.norm = RMSNorm(2 * d_head, eps)
        if theta is None and rope_base is not None:
            theta = rope_frequencies(d_head, rope_base)
        self.theta = theta

    def strength(self) -> Float[Tensor, ""]:
        """λ, how much of the second softmax is subtracted."""
        first, second = (wide(self.lambda_q) * wide(self.lambda_k)).sum(-1).exp()
        return first - second + self.lambda_init

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], DifferentialCache]:
        start = 0 if state is None else state.position
        positions = torch.arange(start, start + x.shape[1], device=x.device)
        q, k = (rearrange(W(x), "b t (h k) -> b t h k", k=self.d_head) for W in (self.q, self.k))
        v = rearrange(self.v(x), "b t (h v) -> b t h v", v=2 * self.d_head)
        if self.theta is not None:
            q, k = (rotate(u, positions, self.theta, magnitude=self.magnitude) for u in (q, k))
        if state is not None:
            k, v = torch.cat([state.k, k], dim=1), torch.cat([state.v, v], dim=1)
        # Both maps read the same values.
        y = self.in_form(q, k, torch.cat([v, v], dim=2), causal=True)
        first, second = wide(y).chunk(2, dim=2)
        y = (1 - self.lambda_init) * self.norm(first - self.strength() * second)
        y = self.out(rearrange(y.to(v.dtype), "b t h v -> b t (h v)"))
        return y, DifferentialCache(k, v, start + x.shape[1])
