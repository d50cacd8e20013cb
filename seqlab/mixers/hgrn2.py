import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import recurrence
from seqlab.core.inputs import wide
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.norm import rms_norm


class HGRN2(Mixer):
    """HGRN-2, a gated RNN whose state is an outer product (Qin et al. 2024, arXiv:2404.07904).

    S_t = S_{t-1} diag(a_t) + v_t (1 - a_t)ᵀ        y_t = S_t q_t
    a_t = γ + (1 - γ) σ(W_f x_t)

    The difference from GLA: there is no key. What a channel forgets is what it takes in: k = 1 - a.
    The input of the RNN is v, its output gate q = silu(W_q x).

    γ is a lower bound on the gate that rises with depth, so that low layers forget fast and high
    layers remember. The paper learns it as a running sum of a softmax over the layers, which starts
    as l / L for layer l of L, so 0 for the first. A mixer knows only its own layer, so γ is a
    constant here. A stack: [partial(HGRN2, lower_bound=l / L) for l in range(L)].

    Output: W_o norm(y), an RMS norm over all heads together, without weights, as in the authors'
    language models. The paper's heads are 128 wide. State: S (B, H, V, K).

    ValueError: lower_bound is not in [0, 1).
    """

    FORMS = recurrence.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        lower_bound: float = 0.0,
        eps: float = 1e-5,
        form: str | Callable = "chunkwise",
        chunk_size: int = 16,
    ):
        super().__init__(d_model, form, chunk_size)
        head_width(d_model, n_heads)
        if not 0 <= lower_bound < 1:
            raise ValueError(f"lower_bound is {lower_bound}: a gate's lower bound is in [0, 1)")
        self.n_heads = n_heads
        self.lower_bound = lower_bound
        self.eps = eps
        self.q, self.f, self.v, self.out = (
            nn.Linear(d_model, d_model, bias=False) for _ in range(4)
        )

    def project(self, x: Float[Tensor, "B T D"], state=None) -> dict[str, Tensor]:
        """What the recurrence reads: q, k = 1 - a, v and log a.

        Both 1 - a and log a are computed from the input of σ, so neither loses digits near 0.
        """
        f = wide(self.f(x))
        k = ((1 - self.lower_bound) * torch.sigmoid(-f)).to(x.dtype)
        log_a = F.logsigmoid(f)
        if self.lower_bound:
            bound = log_a.new_tensor(math.log(self.lower_bound))
            log_a = torch.logaddexp(bound, log_a + math.log1p(-self.lower_bound)).clamp(max=0)
        q, k, v, log_a = (
            rearrange(u, "b t (h k) -> b t h k", h=self.n_heads)
            for u in (F.silu(self.q(x)), k, self.v(x), log_a)
        )
        return {"q": q, "k": k, "v": v, "log_a": log_a}

    def read(self, y: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """From S_t q_t to the heads' output: divide by the root mean square of all heads."""
        together = rms_norm(rearrange(y, "b t h v -> b t (h v)"), eps=self.eps)
        return rearrange(together, "b t (h v) -> b t h v", h=self.n_heads)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], Tensor]:
        y, state = self.in_form(**self.project(x), state=state)
        return self.out(rearrange(self.read(y), "b t h v -> b t (h v)")), state
