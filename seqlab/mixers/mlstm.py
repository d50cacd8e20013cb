from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import recurrence
from seqlab.core.exponential_gates import divide, stabilise
from seqlab.layers.base import Mixer, head_width


class MLSTMState(NamedTuple):
    """S is e^(-m) times the true table, with the normaliser n as its last row."""

    S: Float[Tensor, "B H V K"]
    m: Float[Tensor, "B H"]


class MLSTM(Mixer):
    """mLSTM (Beck et al. 2024, arXiv:2405.04517), as in the layer of xLSTM-7B (arXiv:2503.13427).

    S_t = f_t S_{t-1} + i_t v_t k_tᵀ        n_t = f_t n_{t-1} + i_t k_t
    y_t = S_t q_t / max(|n_t·q_t|, 1)
    f = σ(f̃),  i = exp(ĩ)        f̃ and ĩ: linear in x_t, one number per head

    The difference from gated retention: the write has a gate of its own, an exponential that no
    sigmoid bounds, so a late token can outweigh everything before it. The stabiliser of
    `seqlab.core.exponential_gates` keeps it in range; the rest is `seqlab.core.recurrence` with one
    decay per head. There is a normaliser, which most gated layers have dropped: n is one more row
    of S, written by a 1 appended to v.

    q is scaled by K^-1/2. d_key and d_value are widths per head, ½ d_model / n_heads and d_model /
    n_heads by default. eps is added to the denominator, norm_eps inside the norm. ĩ and f̃ are
    capped smoothly to ±15. They start at -10 and at 3 .. 6 over the heads, for every token (the
    code of 2024 starts ĩ near 0: see `MLSTMBlock`); the other maps start as `nn.Linear` does. Each
    head is layer-normalised with a weight; output W_o(σ(x W_g) · norm(y)). State: S (B, H, V + 1,
    K) and m (B, H).
    """

    FORMS = recurrence.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        d_key: int | None = None,
        d_value: int | None = None,
        soft_cap: float = 15.0,
        bias: bool = False,
        eps: float = 1e-6,
        norm_eps: float = 1e-6,
        form: str | Callable = "chunkwise",
        chunk_size: int = 64,
    ):
        super().__init__(d_model, form, chunk_size)
        d_key = head_width(d_model, n_heads, d_key, parts=2)
        d_value = head_width(d_model, n_heads, d_value)
        self.n_heads = n_heads
        self.soft_cap = soft_cap
        self.eps = eps
        self.norm_eps = norm_eps
        self.q, self.k = (nn.Linear(d_model, n_heads * d_key, bias=bias) for _ in range(2))
        self.v, self.g = (nn.Linear(d_model, n_heads * d_value, bias=bias) for _ in range(2))
        self.i, self.f = (nn.Linear(d_model, n_heads) for _ in range(2))
        self.norm = nn.Parameter(torch.ones(n_heads, d_value))
        self.norm_bias = nn.Parameter(torch.zeros_like(self.norm)) if bias else None
        self.out = nn.Linear(n_heads * d_value, d_model, bias=bias)
        nn.init.zeros_(self.i.weight)
        nn.init.zeros_(self.f.weight)
        nn.init.constant_(self.i.bias, -10.0)
        self.f.bias.data = torch.linspace(3, 6, n_heads)

    def project(
        self, x: Float[Tensor, "B T D"], state: MLSTMState | None = None
    ) -> dict[str, Tensor]:
        """The recurrence's inputs, stabilised: q, k times its gate, v with its 1, the log decay."""
        inputs, _ = self._inputs(x, None if state is None else state.m)
        return inputs

    def _inputs(self, x, m):
        """The recurrence's inputs, and m of every token."""
        qkv = self.q(x), self.k(x), self.v(x)
        q, k, v = (rearrange(u, "b t (h k) -> b t h k", h=self.n_heads) for u in qkv)
        log_a, log_i, m = stabilise(F.logsigmoid(self._gate(self.f, x)), self._gate(self.i, x), m)
        dtype = torch.promote_types(x.dtype, torch.float32)
        inputs = {
            "q": q * q.shape[-1] ** -0.5,
            "k": k * log_i.exp()[..., None].to(x.dtype),
            "v": F.pad(v, (0, 1), value=1.0),
            "log_a": log_a[..., None].to(dtype),
        }
        return inputs, m.to(dtype)

    def _gate(self, W, x):
        """f̃ or ĩ, capped smoothly; in float64, because `stabilise` sums them over time."""
        return self.soft_cap * torch.tanh(W(x).double() / self.soft_cap)

    def read(
        self, y: Float[Tensor, "B T H _"], m: Float[Tensor, "B T H"] | None = None
    ) -> Float[Tensor, "B T H V"]:
        """The heads' output: S_t q_t / max(|n·q|, e^-m), or / |n·q| without m; then layer norm."""
        y = F.layer_norm(divide(y, m, self.eps), self.norm.shape[1:], eps=self.norm_eps)
        y = y * self.norm
        return y if self.norm_bias is None else y + self.norm_bias

    def forward(
        self, x: Float[Tensor, "B T D"], state: MLSTMState | None = None
    ) -> tuple[Float[Tensor, "B T D"], MLSTMState]:
        S, m = (None, None) if state is None else state
        inputs, m = self._inputs(x, m)
        y, S = self.in_form(**inputs, state=S)
        y = rearrange(self.read(y, m), "b t h v -> b t (h v)").to(x.dtype)
        return self.out(torch.sigmoid(self.g(x)) * y), MLSTMState(S, m[:, -1])
