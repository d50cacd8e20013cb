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
    S: Float[
        Tensor, "B H V K"
    ]  # its last row is the normaliser n; all of it is e^(-m) times the true table
    m: Float[Tensor, "B H"]


class MLSTM(Mixer):
    """mLSTM (Beck et al. 2024, arXiv:2405.04517), as in the layer of xLSTM-7B (arXiv:2503.13427).

    S_t = f_t S_{t-1} + i_t v_t k_tᵀ,   n_t = f_t n_{t-1} + i_t k_t        f = σ(f̃),  i = exp(ĩ)
    y_t = S_t q_t / max(|n_t·q_t|, 1)        f̃ and ĩ: linear in x_t, one number per head

    The difference from gated retention: the write has a gate of its own, an exponential that no
    sigmoid holds down, so a late token can outweigh all before it. `seqlab.core.exponential_gates`
    keeps it in range; beyond that, the decay is one number per head and `seqlab.core.recurrence`
    does the rest. n is one more row of S, written by a 1 appended to v.

    q is scaled by K^-1/2. d_key and d_value are per head, ½ d_model / n_heads and d_model / n_heads
    by default. eps is added to the denominator, norm_eps stands in the norm. ĩ and f̃ are capped
    smoothly to ±15 and start at -10 and at 3 .. 6 over the heads, whatever the token (the code of
    2024 starts ĩ near 0: see `MLSTMBlock`). Each head is layer-normalised with a weight; output
    W_o(σ(x W_g) · norm(y)). State: S (B, H, V + 1, K) and m (B, H).
    """

    FORMS = recurrence.FORMS

    def __init__(
        self,
        d_model,
        n_heads=4,
        *,
        d_key=None,
        d_value=None,
        soft_cap=15.0,
        bias=False,
        eps=1e-6,
        norm_eps=1e-6,
        form="chunkwise",
        chunk_size=64,
    ):
        super().__init__(d_model, form, chunk_size)
        d_key = head_width(d_model, n_heads, d_key, parts=2)
        d_value = head_width(d_model, n_heads, d_value)
        self.n_heads = n_heads
        self.soft_cap = soft_cap
        self.eps, self.norm_eps = eps, norm_eps
        self.q, self.k = (nn.Linear(d_model, n_heads * d_key, bias=bias) for _ in range(2))
        self.v, self.g = (nn.Linear(d_model, n_heads * d_value, bias=bias) for _ in range(2))
        self.i, self.f = (nn.Linear(d_model, n_heads) for _ in range(2))
        self.norm = nn.Parameter(torch.ones(n_heads, d_value))
        self.norm_bias = nn.Parameter(torch.zeros_like(self.norm)) if bias else None
        self.out = nn.Linear(n_heads * d_value, d_model, bias=bias)
        for gate, start in (
            (self.i, torch.full((n_heads,), -10.0)),
            (self.f, torch.linspace(3, 6, n_heads)),
        ):
            nn.init.zeros_(gate.weight)
            gate.bias.data = start

    def project(
        self, x: Float[Tensor, "B T D"], state: MLSTMState | None = None
    ) -> dict[str, Tensor]:
        """What the recurrence reads, stabilised: q, k times its gate, v with its column of ones,
        the log decay.
        """
        return self._project(x, state)[0]

    def _project(self, x, state):
        q, k, v = (
            rearrange(W(x), "b t (h k) -> b t h k", h=self.n_heads)
            for W in (self.q, self.k, self.v)
        )
        i, f = (self.soft_cap * torch.tanh(W(x).double() / self.soft_cap) for W in (self.i, self.f))
        log_a, log_i, m = stabilise(F.logsigmoid(f), i, None if state is None else state.m)
        wide = torch.promote_types(x.dtype, torch.float32)
        k, v = k * log_i.exp()[..., None].to(x.dtype), F.pad(v, (0, 1), value=1.0)
        return {
            "q": q * q.shape[-1] ** -0.5,
            "k": k,
            "v": v,
            "log_a": log_a[..., None].to(wide),
        }, m.to(wide)

    def read(
        self, y: Float[Tensor, "B T H _"], m: Float[Tensor, "B T H"] | None = None
    ) -> Float[Tensor, "B T H V"]:
        """From S_t q_t to the head's output: divide by max(|n·q|, e^-m), or by |n·q| alone without
        m; layer norm.
        """
        y = F.layer_norm(divide(y, m, self.eps), self.norm.shape[1:], eps=self.norm_eps) * self.norm
        return y if self.norm_bias is None else y + self.norm_bias

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], MLSTMState]:
        inputs, m = self._project(x, state)
        y, S = self.in_form(**inputs, state=None if state is None else state.S)
        y = rearrange(self.read(y, m), "b t h v -> b t (h v)")
        return self.out(torch.sigmoid(self.g(x)) * y), MLSTMState(S, m[:, -1])
