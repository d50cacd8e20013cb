from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import recurrence
from seqlab.core.exponential_gates import divide, stabilise
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.short_conv import ShortConv


class MLSTMBlockState(NamedTuple):
    S: Float[
        Tensor, "B H V K"
    ]  # its last row is the normaliser n; all of it is e^(-m) times the true table
    m: Float[Tensor, "B H"]
    conv: Float[Tensor, "B past E"]


class MLSTMBlock(Mixer):
    """The block around mLSTM in the first xLSTM paper (Beck et al. 2024, arXiv:2405.04517): mLSTM
    inside a wide gate.

    u, z = x W_u, x W_z,   c = silu(conv(u)),   q, k from c, v from u,   y = W_o((norm(mLSTM(q, k, v)) + s c) silu(z))

    The difference from `MLSTM`: the layer works in a space twice as wide, q and k know their
    neighbours through a convolution of four taps that v does not pass, and a learned skip s leads
    around the memory. So there is no output gate σ and no MLP beside it. q, k and v come from
    blocks of 4 channels each; the gates ĩ and f̃ read q, k and v together and are not capped; ĩ
    starts near 0. K = V; k is scaled by K^-1/2. State: S, m and the convolution's past.
    """

    FORMS = recurrence.FORMS

    def __init__(
        self,
        d_model,
        n_heads=4,
        *,
        expand=2,
        d_conv=4,
        qkv_block=4,
        eps=1e-6,
        norm_eps=1e-5,
        form="chunkwise",
        chunk_size=64,
    ):
        super().__init__(d_model, form, chunk_size)
        width = expand * d_model
        d_head = head_width(width, n_heads, name="expand · d_model")
        if width % qkv_block:
            raise ValueError(f"expand · d_model is {width}: qkv_block = {qkv_block} must divide it")
        self.n_heads = n_heads
        self.eps = eps
        self.norm_eps = norm_eps
        self.u, self.z = (nn.Linear(d_model, width, bias=False) for _ in range(2))
        self.conv = ShortConv(width, d_conv, bias=True)
        self.qkv = nn.Parameter(
            torch.randn(3, width // qkv_block, qkv_block, qkv_block) * (2 / (5 * d_model)) ** 0.5
        )
        self.i, self.f = (nn.Linear(3 * width, n_heads) for _ in range(2))
        self.norm, self.skip = (
            nn.Parameter(torch.ones(n_heads, d_head)),
            nn.Parameter(torch.ones(width)),
        )
        self.out = nn.Linear(width, d_model, bias=False)
        for W in (self.u, self.z):
            nn.init.normal_(W.weight, std=(2 / (5 * d_model)) ** 0.5)
        for gate, start in (
            (self.i, 0.1 * torch.randn(n_heads)),
            (self.f, torch.linspace(3, 6, n_heads)),
        ):
            nn.init.zeros_(gate.weight)
            gate.bias.data = start

    def project(
        self, x: Float[Tensor, "B T D"], state: MLSTMBlockState | None = None
    ) -> dict[str, Tensor]:
        """What the recurrence reads, stabilised: q, k times its gate, v with its column of ones,
        the log decay.
        """
        return self._project(x, state)[0]

    def _project(self, x, state):
        u = self.u(x)
        c, past = self.conv(u, None if state is None else state.conv)
        blocks = rearrange(
            torch.stack([c, c, u]), "qkv b t (n i) -> qkv b t n i", n=self.qkv.shape[1]
        )
        qkv = rearrange(
            torch.einsum("xbtni, xnoi -> xbtno", blocks, self.qkv), "qkv b t n o -> qkv b t (n o)"
        )
        i, f = (W(rearrange(qkv, "qkv b t e -> b t (qkv e)")).double() for W in (self.i, self.f))
        log_a, log_i, m = stabilise(F.logsigmoid(f), i, None if state is None else state.m)
        q, k, v = rearrange(qkv, "qkv b t (h k) -> qkv b t h k", h=self.n_heads)
        wide = torch.promote_types(x.dtype, torch.float32)
        k = k * (log_i.exp() * k.shape[-1] ** -0.5)[..., None].to(x.dtype)
        inputs = {
            "q": q,
            "k": k,
            "v": F.pad(v, (0, 1), value=1.0),
            "log_a": log_a[..., None].to(wide),
        }
        return inputs, m.to(wide), c, past

    def read(
        self, y: Float[Tensor, "B T H _"], m: Float[Tensor, "B T H"] | None = None
    ) -> Float[Tensor, "B T H V"]:
        """From S_t q_t to the head's output: divide by max(|n·q|, e^-m), or by |n·q| alone without
        m; layer norm.
        """
        return (
            F.layer_norm(divide(y, m, self.eps), self.norm.shape[1:], eps=self.norm_eps) * self.norm
        )

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], MLSTMBlockState]:
        inputs, m, c, past = self._project(x, state)
        y, S = self.in_form(**inputs, state=None if state is None else state.S)
        y = rearrange(self.read(y, m), "b t h v -> b t (h v)") + self.skip * c
        return self.out(y * F.silu(self.z(x))), MLSTMBlockState(S, m[:, -1], past)
