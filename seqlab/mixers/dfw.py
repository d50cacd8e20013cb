import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import two_sided
from seqlab.layers.base import Mixer, head_width


class DFW(Mixer):
    """Decaying fast weights (Mao 2022, arXiv:2210.04243).

    S_t = (b_t a_tᵀ) ⊙ S_{t-1} + v_t k_tᵀ        a_t = σ(x_t W_a),  b_t = σ(x_t W_b)

    The difference from GLA: rows decay as well as columns, so the gate of a cell is the product of
    its row's and its column's, a matrix of rank one. No feature map, no normaliser, no norm after
    the read: y = S q goes to the output. The gates start at ½ here. A gate on the rows does not fit
    `seqlab.core.recurrence`: `seqlab.core.two_sided` carries it, and any function with its
    signature may stand for `form`. State: S (B, H, V, K).
    """

    FORMS = two_sided.FORMS

    def __init__(self, d_model, n_heads=4, *, form="chunkwise", chunk_size=16):
        super().__init__(d_model, form, chunk_size)
        head_width(d_model, n_heads)
        self.n_heads = n_heads
        self.q, self.k, self.v, self.out = (
            nn.Linear(d_model, d_model, bias=False) for _ in range(4)
        )
        self.a, self.b = (nn.Linear(d_model, d_model) for _ in range(2))
        for gate in (self.a, self.b):
            nn.init.zeros_(gate.bias)

    def project(self, x: Float[Tensor, "B T D"], state=None) -> dict[str, Tensor]:
        """What the recurrence reads: q, k, v, the log decays of the columns (log_a) and of the rows
        (log_b).
        """
        wide = torch.promote_types(x.dtype, torch.float32)
        q, k, v, a, b = (
            rearrange(W(x), "b t (h k) -> b t h k", h=self.n_heads)
            for W in (self.q, self.k, self.v, self.a, self.b)
        )
        return {
            "q": q,
            "k": k,
            "v": v,
            "log_a": F.logsigmoid(a.to(wide)),
            "log_b": F.logsigmoid(b.to(wide)),
        }

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], Tensor]:
        y, state = self.in_form(**self.project(x), state=state)
        return self.out(rearrange(y, "b t h v -> b t (h v)")), state
