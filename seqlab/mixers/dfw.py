from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import two_sided
from seqlab.core.inputs import wide
from seqlab.layers.base import Mixer, head_width


class DFW(Mixer):
    """Decaying fast weights (Mao 2022, arXiv:2210.04243).

    S_t = (b_t a_tᵀ) ⊙ S_{t-1} + v_t k_tᵀ        y_t = S_t q_t
    a_t = σ(W_a x_t + c_a),  b_t = σ(W_b x_t + c_b)

    The difference from GLA: rows decay as well as columns, so the gate of a cell is the gate of its
    row times that of its column, a matrix of rank one. There is no feature map, no normaliser, and
    no norm after the read.

    Both gates start as in the paper, by uniform gate initialisation (arXiv:1910.09890): σ of each
    bias is uniform in [1/D, 1 - 1/D], so some channels forget at once and some remember D tokens.

    `seqlab.core.recurrence` has no gate on the rows: `seqlab.core.two_sided` has, and a function
    passed as `form` must have its signature. State: S (B, H, V, K).
    """

    FORMS = two_sided.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        form: str | Callable = "chunkwise",
        chunk_size: int = 16,
    ):
        super().__init__(d_model, form, chunk_size)
        head_width(d_model, n_heads)
        self.n_heads = n_heads
        self.q, self.k, self.v, self.out = (
            nn.Linear(d_model, d_model, bias=False) for _ in range(4)
        )
        self.a, self.b = (nn.Linear(d_model, d_model) for _ in range(2))
        low = 1 / max(d_model, 2)
        for gate in (self.a, self.b):
            gate.bias.data = torch.empty(d_model).uniform_(low, 1 - low).logit()

    def project(self, x: Float[Tensor, "B T D"], state=None) -> dict[str, Tensor]:
        """q, k, v, and the log decays of the columns (log_a) and of the rows (log_b)."""
        q, k, v, a, b = (
            rearrange(W(x), "b t (h k) -> b t h k", h=self.n_heads)
            for W in (self.q, self.k, self.v, self.a, self.b)
        )
        log_a, log_b = F.logsigmoid(wide(a)), F.logsigmoid(wide(b))
        return {"q": q, "k": k, "v": v, "log_a": log_a, "log_b": log_b}

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], Tensor]:
        y, state = self.in_form(**self.project(x), state=state)
        return self.out(rearrange(y, "b t h v -> b t (h v)")), state
