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

    S_t = e^{-s} S_{t-1} + v_t k_tᵀ        s = 2^(-8h/H) (1 - l/(L - 1)),  head h = 1 .. H of layer l = 0 .. L-1

    The difference from RetNet: the constant decay depends on the layer too, from ALiBi's slopes in
    the first to almost none in the last, and there are no positions: q, k and v pass silu and
    nothing turns. One RMS norm over all heads with a weight, then W_o(σ(x W_g) · norm(y)). MiniMax
    has seven of these to one softmax attention. In its code l/(L - 1) has 1e-5 added to L - 1 and
    to the factor; so it has here. State: S (B, H, V, K). A stack: [partial(LightningAttention,
    layer=l, n_layers=L) for l in range(L)].
    """

    FORMS = recurrence.FORMS

    def __init__(
        self,
        d_model,
        n_heads=4,
        *,
        d_head=None,
        layer=0,
        n_layers=1,
        eps=1e-6,
        form="chunkwise",
        chunk_size=64,
    ):
        super().__init__(d_model, form, chunk_size)
        check_layer(layer, n_layers)
        self.n_heads = n_heads
        width = n_heads * head_width(d_model, n_heads, d_head)
        self.q, self.k, self.v, self.g = (nn.Linear(d_model, width, bias=False) for _ in range(4))
        self.norm, self.out = RMSNorm(width, eps), nn.Linear(width, d_model, bias=False)
        # A plain tensor in float64, not a buffer: a model in bfloat16 must not round its decays.
        slopes = 2.0 ** (-8 / n_heads * torch.arange(1, n_heads + 1, dtype=torch.float64))
        self.log_decay = -slopes * (1 - layer / (n_layers - 1 + 1e-5) + 1e-5)

    def project(self, x: Float[Tensor, "B T D"], state=None) -> dict[str, Tensor]:
        """What the recurrence reads: q, k, v after silu, and the constant log decay of each
        head.
        """
        B, T, _ = x.shape
        q, k, v = (
            rearrange(F.silu(W(x)), "b t (h k) -> b t h k", h=self.n_heads)
            for W in (self.q, self.k, self.v)
        )
        log_decay = self.log_decay.to(torch.promote_types(x.dtype, torch.float32)).to(x.device)
        return {"q": q, "k": k, "v": v, "log_a": repeat(log_decay, "h -> b t h 1", b=B, t=T)}

    def read(self, y: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """From S_t q_t to the heads' output: the root mean square of all heads together is divided
        out.
        """
        return rearrange(
            self.norm(rearrange(y, "b t h v -> b t (h v)")), "b t (h v) -> b t h v", h=self.n_heads
        )

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], Tensor]:
        y, state = self.in_form(**self.project(x), state=state)
        return self.out(
            torch.sigmoid(self.g(x)) * rearrange(self.read(y), "b t h v -> b t (h v)")
        ), state
