from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import recurrence
from seqlab.layers.base import Mixer, check_layer, head_width
from seqlab.layers.norm import RMSNorm


class LightningAttention(Mixer):
    """Lightning attention (MiniMax-01, Li et al. 2025, arXiv:2501.08313).

    S_t = e^{-s} S_{t-1} + v_t k_tᵀ        y_t = S_t q_t
    s = 2^(-8h/H) (1 - l/(L - 1))        head h = 1 .. H of layer l = 0 .. L-1

    The difference from RetNet: the constant decay depends on the layer too, from ALiBi's slopes in
    the first layer to almost no decay in the last. There are no positions: q, k and v pass through
    silu and are not rotated. One RMS norm with a weight covers all heads together; the output is
    W_o(σ(x W_g) · norm(y)). MiniMax uses seven of these layers to one of softmax attention.

    As in MiniMax's code, 1e-5 is added to L - 1, so that L = 1 works, and to the factor, so that
    no decay is exactly 1. State: S (B, H, V, K). A stack of them:
    [partial(LightningAttention, layer=l, n_layers=L) for l in range(L)].
    """

    FORMS = recurrence.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        d_head: int | None = None,
        layer: int = 0,
        n_layers: int = 1,
        eps: float = 1e-6,
        form: str | Callable = "chunkwise",
        chunk_size: int = 64,
    ):
        super().__init__(d_model, form, chunk_size)
        check_layer(layer, n_layers)
        self.n_heads = n_heads
        width = n_heads * head_width(d_model, n_heads, d_head)
        self.q, self.k, self.v, self.g = (nn.Linear(d_model, width, bias=False) for _ in range(4))
        self.norm = RMSNorm(width, eps)
        self.out = nn.Linear(width, d_model, bias=False)
        # A plain tensor in float64, not a buffer: a model in bfloat16 must not round its decays.
        slopes = 2.0 ** (-8 / n_heads * torch.arange(1, n_heads + 1, dtype=torch.float64))
        self.log_decay = -slopes * (1 - layer / (n_layers - 1 + 1e-5) + 1e-5)

    def project(
        self, x: Float[Tensor, "B T D"], state: Float[Tensor, "B H V K"] | None = None
    ) -> dict[str, Tensor]:
        """The recurrence's inputs: q, k, v after silu, and each head's constant log decay."""
        B, T, _ = x.shape
        qkv = F.silu(self.q(x)), F.silu(self.k(x)), F.silu(self.v(x))
        q, k, v = (rearrange(u, "b t (h k) -> b t h k", h=self.n_heads) for u in qkv)
        log_a = self.log_decay.to(torch.promote_types(x.dtype, torch.float32)).to(x.device)
        return {"q": q, "k": k, "v": v, "log_a": repeat(log_a, "h -> b t h 1", b=B, t=T)}

    def read(self, y: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """The heads' output: S_t q_t divided by the root mean square over all heads together."""
        y = self.norm(rearrange(y, "b t h v -> b t (h v)"))
        return rearrange(y, "b t (h v) -> b t h v", h=self.n_heads)

    def forward(
        self, x: Float[Tensor, "B T D"], state: Float[Tensor, "B H V K"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B H V K"]]:
        y, S = self.in_form(**self.project(x), state=state)
        y = rearrange(self.read(y), "b t h v -> b t (h v)")
        return self.out(torch.sigmoid(self.g(x)) * y), S
