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


class GateLoop(Mixer):
    """GateLoop (Katsch 2023, arXiv:2311.01927).

    S_t = S_{t-1} diag(a_t) + v_t k_tᵀ        y_t = Re(S_t q_t)
    a_t = σ(W_α x_t) e^{i W_β x_t}

    The difference from GLA: the decay of a key channel is complex, so the token chooses how far the
    channel turns as well as how much it fades. RoPE is the case of a constant turn.

    With q, k, v real, Re(Π a) = Π|a| cos(Θ_t - Θ_s), where Θ_t is the sum of the angles since the
    start of the call. So a complex channel is a pair of real ones that share a decay, with q and k
    rotated by Θ. At the end of the call S is rotated by Θ_T: the state is the paper's complex S
    (not its conjugate), real parts before imaginary ones, (B, H, V, 2K).

    The author's models have n_heads = d_model, each head one complex number. The norm of each head
    and the output gate, W_o(silu(W_g x) · norm(y)), are RetNet's. Angles are summed in float64.
    """

    FORMS = recurrence.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        eps: float = 1e-6,
        form: str | Callable = "chunkwise",
        chunk_size: int = 16,
    ):
        super().__init__(d_model, form, chunk_size)
        head_width(d_model, n_heads)
        self.n_heads = n_heads
        self.eps = eps
        self.q, self.k, self.v, self.g, self.out = (
            nn.Linear(d_model, d_model, bias=False) for _ in range(5)
        )
        self.fade, self.turn = (nn.Linear(d_model, d_model) for _ in range(2))

    def project(self, x: Float[Tensor, "B T D"], state=None) -> dict[str, Tensor]:
        """What the recurrence reads: q and k rotated, v, and log |a| for both halves of a pair."""
        return self._project(x)[0]

    def _project(self, x):
        """The same, and Θ_T."""
        q, k, v, fade, turn = (
            rearrange(W(x), "b t (h k) -> b t h k", h=self.n_heads)
            for W in (self.q, self.k, self.v, self.fade, self.turn)
        )
        angle = turn.double().cumsum(dim=1)  # Θ
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        # Re(e^{iΘ_t} e^{-iΘ_s}) = cos cos + sin sin, and a real k times e^{-iΘ} is k cos - i k sin.
        q, k = (torch.cat([u * cos, -u * sin], dim=-1) for u in (q, k))
        log_a = F.logsigmoid(wide(fade))
        if log_a.shape[-1] > 1:  # one decay serves any number of channels as it is
            log_a = torch.cat([log_a, log_a], dim=-1)
        return {"q": q, "k": k, "v": v, "log_a": log_a}, angle[:, -1]

    def read(self, y: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """From S_t q_t to the head's output: divide by its root mean square.

        A head of one number is left alone: only its sign would remain.
        """
        return rms_norm(y, eps=self.eps) if y.shape[-1] > 1 else y

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], Tensor]:
        inputs, angle = self._project(x)
        y, S = self.in_form(**inputs, state=state)
        cos, sin = (u[:, :, None].to(S.dtype) for u in (angle.cos(), angle.sin()))
        re, im = S.chunk(2, dim=-1)
        S = torch.cat([re * cos - im * sin, re * sin + im * cos], dim=-1)  # S e^{iΘ_T}
        return self.out(F.silu(self.g(x)) * rearrange(self.read(y), "b t h v -> b t (h v)")), S
