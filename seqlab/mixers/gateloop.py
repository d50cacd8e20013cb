import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import recurrence
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.norm import rms_norm


class GateLoop(Mixer):
    """GateLoop (Katsch 2023, arXiv:2311.01927).

    S_t = S_{t-1} diag(a_t) + v_t k_tᵀ,   y_t = Re(S_t q_t)        a_t = σ(x_t W_α) e^{i x_t W_β}

    The difference from GLA: the decay of a key channel is complex, so the token chooses how far the
    channel turns as well as how much it fades. RoPE is the case of a constant turn.

    With q, k, v real, Re(Π a) = Π|a| cos(Θ_t - Θ_s): a complex channel is a pair of real ones that
    share a decay, q and k turned by the angle Θ_t summed since the start of the call. At its end S
    is turned by Θ_T, so the state is the paper's complex S, real parts before imaginary ones: (B,
    H, V, 2K). The turning is that of S, not the conjugate. The author's models have n_heads =
    d_model, each head one complex number. The head norm and the output gate, W_o(silu(x W_g) ·
    norm(y)), are RetNet's. Angles are summed in float64.
    """

    FORMS = recurrence.FORMS

    def __init__(self, d_model, n_heads=4, *, eps=1e-6, form="chunkwise", chunk_size=16):
        super().__init__(d_model, form, chunk_size)
        head_width(d_model, n_heads)
        self.n_heads = n_heads
        self.eps = eps
        self.q, self.k, self.v, self.g, self.out = (
            nn.Linear(d_model, d_model, bias=False) for _ in range(5)
        )
        self.fade, self.turn = (nn.Linear(d_model, d_model) for _ in range(2))

    def project(self, x: Float[Tensor, "B T D"], state=None) -> dict[str, Tensor]:
        """What the recurrence reads: q and k turned, v, and log |a| for both halves of the
        pairs.
        """
        return self._project(x)[0]

    def _project(self, x):
        q, k, v, fade, turn = (
            rearrange(W(x), "b t (h k) -> b t h k", h=self.n_heads)
            for W in (self.q, self.k, self.v, self.fade, self.turn)
        )
        angle = turn.double().cumsum(dim=1)  # Θ
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        # Re(e^{iΘ_t} e^{-iΘ_s}) = cos cos + sin sin: a real k has, times e^{-iΘ}, the imaginary
        # part -k sin.
        q, k = (torch.cat([u * cos, -u * sin], dim=-1) for u in (q, k))
        log_a = F.logsigmoid(fade.to(torch.promote_types(x.dtype, torch.float32)))
        log_a = log_a if log_a.shape[-1] == 1 else torch.cat([log_a, log_a], dim=-1)
        return {"q": q, "k": k, "v": v, "log_a": log_a}, angle[:, -1]

    def read(self, y: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """From S_t q_t to the head's output: its root mean square is divided out."""
        return (
            rms_norm(y, eps=self.eps) if y.shape[-1] > 1 else y
        )  # of one number only the sign would be left

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], Tensor]:
        inputs, angle = self._project(x)
        y, S = self.in_form(**inputs, state=state)
        cos, sin = (u[:, :, None].to(S.dtype) for u in (angle.cos(), angle.sin()))
        re, im = S.chunk(2, dim=-1)
        S = torch.cat([re * cos - im * sin, re * sin + im * cos], dim=-1)  # S e^{iΘ_T}
        return self.out(F.silu(self.g(x)) * rearrange(self.read(y), "b t h v -> b t (h v)")), S
