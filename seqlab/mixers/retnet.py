from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import recurrence
from seqlab.core.position import rope_frequencies, rotate
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.norm import rms_norm


class RetNetState(NamedTuple):
    S: Float[Tensor, "B H V K"]
    position: int


class RetNet(Mixer):
    """Multi-scale retention (Sun et al. 2023, arXiv:2307.08621).

    S_t = γ_h S_{t-1} + v_t k_tᵀ        y_t = S_t q_t        γ_h = 1 - 2^(-5-h),  h = 0 .. H-1

    The difference from linear attention: each head has one constant decay, and q and k are rotated
    by their position, so that a read depends only on the distance. k is scaled by K^-1/2, and
    V = 2 K as in the paper. Output: W_o(silu(x W_g) · norm(y)).

    The "GroupNorm" of the paper is, in the authors' code, an RMS norm of each head without weights.
    Any positive factor on y cancels in it, so the paper's rescalings of the parallel form change
    nothing; they are left out here. The matrices start as in the authors' code: Xavier uniform with
    gain 2^-2.5, and 2^-1 for W_o. State: S and the number of tokens seen.
    """

    FORMS = recurrence.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        expand_v: int = 2,
        form: str | Callable = "chunkwise",
        chunk_size: int = 64,
    ):
        super().__init__(d_model, form, chunk_size)
        d_head = head_width(d_model, n_heads, even=True)
        self.n_heads = n_heads
        self.q, self.k = (nn.Linear(d_model, d_model, bias=False) for _ in range(2))
        self.v, self.g = (nn.Linear(d_model, expand_v * d_model, bias=False) for _ in range(2))
        self.out = nn.Linear(expand_v * d_model, d_model, bias=False)
        for W in (self.q, self.k, self.v, self.g):
            nn.init.xavier_uniform_(W.weight, gain=2**-2.5)
        nn.init.xavier_uniform_(self.out.weight, gain=2**-1)
        # Not buffers but plain tensors in float64: `.bfloat16()` must not round decays and angles.
        self.log_gamma = torch.log1p(-(2.0 ** -(5 + torch.arange(n_heads, dtype=torch.float64))))
        self.theta = rope_frequencies(d_head, inclusive=True)

    def project(
        self, x: Float[Tensor, "B T D"], state: RetNetState | None = None
    ) -> dict[str, Tensor]:
        """What the recurrence reads: rotated q and k, v, and each head's constant log decay."""
        B, T, _ = x.shape
        start = 0 if state is None else state.position
        positions = torch.arange(start, start + T, device=x.device)
        maps = self.q, self.k, self.v
        q, k, v = (rearrange(W(x), "b t (h k) -> b t h k", h=self.n_heads) for W in maps)
        k = k * k.shape[-1] ** -0.5
        q, k = (rotate(u, positions, self.theta, interleaved=True) for u in (q, k))
        log_gamma = self.log_gamma.to(torch.promote_types(x.dtype, torch.float32)).to(x.device)
        return {"q": q, "k": k, "v": v, "log_a": repeat(log_gamma, "h -> b t h 1", b=B, t=T)}

    def read(self, y: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """From S_t q_t to the head's output: its root mean square is divided out."""
        return rms_norm(y)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], RetNetState]:
        S, position = (None, 0) if state is None else state
        y, S = self.in_form(**self.project(x, state), state=S)
        y = F.silu(self.g(x)) * rearrange(self.read(y), "b t h v -> b t (h v)")
        return self.out(y), RetNetState(S, position + x.shape[1])
