from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import recurrence
from seqlab.core.exponential_gates import divide, stabilise
from seqlab.core.inputs import at_least_one
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.short_conv import ShortConv


class MLSTMBlockState(NamedTuple):
    """S is e^(-m) times the true table, with the normaliser n as its last row."""

    S: Float[Tensor, "B H V K"]
    m: Float[Tensor, "B H"]
    conv: Float[Tensor, "B past E"]


class MLSTMBlock(Mixer):
    """The block around mLSTM in the first xLSTM paper (Beck et al. 2024, arXiv:2405.04517).

    u = W_u x        z = W_z x        c = silu(conv(u))        q, k from c, v from u
    y = W_o((norm(mLSTM(q, k, v)) + s c) silu(z))

    The difference from `MLSTM`: the layer works in a space twice as wide, q and k see their
    neighbours through a convolution of four taps while v does not, and a learned skip s leads
    around the memory. So there is no output gate σ, and no MLP beside the block. q, k and v are
    block-diagonal maps, blocks of 4 channels; the gates ĩ and f̃ read q, k and v together and are
    not capped. K = V; k is scaled by K^-1/2.

    The start is that of the authors' code. f̃ is 3 .. 6 over the heads and ĩ near 0 (std 0.1), both
    for every token. W_u, W_z and the maps to q, k and v are normal with variance 2 / (5 d_model),
    W_o with std 2 / (n_layers √d_model): pass the number of blocks of the model as `n_layers`. s
    and the norm's weight are 1; the convolution's bias is 0 (in their code uniform, PyTorch's
    default). State: S (B, H, V + 1, K), m (B, H) and the convolution's last inputs.
    """

    FORMS = recurrence.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        expand: int = 2,
        d_conv: int = 4,
        qkv_block: int = 4,
        n_layers: int = 1,
        eps: float = 1e-6,
        norm_eps: float = 1e-5,
        form: str | Callable = "chunkwise",
        chunk_size: int = 64,
    ):
        super().__init__(d_model, form, chunk_size)
        at_least_one(n_layers=n_layers)
        width = expand * d_model
        d_head = head_width(width, n_heads, name="expand · d_model")
        if width % qkv_block:
            raise ValueError(f"expand · d_model is {width}: qkv_block = {qkv_block} must divide it")
        n_blocks = width // qkv_block
        small = (2 / (5 * d_model)) ** 0.5
        self.n_heads = n_heads
        self.eps = eps
        self.norm_eps = norm_eps
        self.u, self.z = (nn.Linear(d_model, width, bias=False) for _ in range(2))
        self.conv = ShortConv(width, d_conv, bias=True)
        self.qkv = nn.Parameter(small * torch.randn(3, n_blocks, qkv_block, qkv_block))
        self.i, self.f = (nn.Linear(3 * width, n_heads) for _ in range(2))
        self.norm = nn.Parameter(torch.ones(n_heads, d_head))
        self.skip = nn.Parameter(torch.ones(width))
        self.out = nn.Linear(width, d_model, bias=False)
        nn.init.normal_(self.u.weight, std=small)
        nn.init.normal_(self.z.weight, std=small)
        nn.init.zeros_(self.i.weight)
        nn.init.zeros_(self.f.weight)
        self.i.bias.data = 0.1 * torch.randn(n_heads)
        self.f.bias.data = torch.linspace(3, 6, n_heads)
        nn.init.normal_(self.out.weight, std=2 / n_layers * d_model**-0.5)

    def project(
        self, x: Float[Tensor, "B T D"], state: MLSTMBlockState | None = None
    ) -> dict[str, Tensor]:
        """The recurrence's inputs, stabilised: q, k times its gate, v with its 1, the log decay."""
        u = self.u(x)
        c, _ = self.conv(u, None if state is None else state.conv)
        inputs, _ = self._inputs(u, c, None if state is None else state.m)
        return inputs

    def _inputs(self, u, c, m):
        """The recurrence's inputs, and m of every token."""
        W_q, W_k, W_v = self.qkv
        qkv = in_blocks(W_q, c), in_blocks(W_k, c), in_blocks(W_v, u)
        gates = torch.cat(qkv, dim=-1)
        # In float64, because `stabilise` sums over time.
        i, f = self.i(gates).double(), self.f(gates).double()
        log_a, log_i, m = stabilise(F.logsigmoid(f), i, m)
        q, k, v = (rearrange(w, "b t (h k) -> b t h k", h=self.n_heads) for w in qkv)
        dtype = torch.promote_types(u.dtype, torch.float32)
        inputs = {
            "q": q,
            "k": k * (log_i.exp() * k.shape[-1] ** -0.5)[..., None].to(u.dtype),
            "v": F.pad(v, (0, 1), value=1.0),
            "log_a": log_a[..., None].to(dtype),
        }
        return inputs, m.to(dtype)

    def read(
        self, y: Float[Tensor, "B T H _"], m: Float[Tensor, "B T H"] | None = None
    ) -> Float[Tensor, "B T H V"]:
        """The heads' output: S_t q_t / max(|n·q|, e^-m), or / |n·q| without m; then layer norm."""
        y = F.layer_norm(divide(y, m, self.eps), self.norm.shape[1:], eps=self.norm_eps)
        return y * self.norm

    def forward(
        self, x: Float[Tensor, "B T D"], state: MLSTMBlockState | None = None
    ) -> tuple[Float[Tensor, "B T D"], MLSTMBlockState]:
        S, m, past = (None, None, None) if state is None else state
        u = self.u(x)
        c, past = self.conv(u, past)
        inputs, m = self._inputs(u, c, m)
        y, S = self.in_form(**inputs, state=S)
        y = rearrange(self.read(y, m), "b t h v -> b t (h v)") + self.skip * c
        y = y.to(x.dtype)
        return self.out(y * F.silu(self.z(x))), MLSTMBlockState(S, m[:, -1], past)


def in_blocks(W: Float[Tensor, "n o i"], x: Float[Tensor, "B T E"]) -> Float[Tensor, "B T E"]:
    """W x with a block-diagonal W: each block of channels has its own small matrix."""
    x = rearrange(x, "b t (n i) -> b t n i", n=len(W))
    return rearrange(torch.einsum("noi, btni -> btno", W, x), "b t n o -> b t (n o)")
