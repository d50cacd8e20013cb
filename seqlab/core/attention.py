"""Softmax attention, in the dialect of `recurrence.py`: q (B, T, H, K), k and v with H or fewer
heads.

`attend` is the definition, with the scores as a matrix; `attend_tiled` is the same without ever
holding the matrix; `attend_sdpa` is PyTorch's own. `merge` joins two partial results by their
log-sum-exp. Masks are in `masks.py`.
"""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from seqlab.core.attention_tiled import attend_backward, attend_tiled, merge
from seqlab.core.inputs import check_attention
from seqlab.core.masks import bigbird_mask, causal_mask, longformer_mask, sink_mask, visible_tiles

__all__ = [
    "attend",
    "attend_backward",
    "attend_sdpa",
    "attend_tiled",
    "bigbird_mask",
    "causal_mask",
    "longformer_mask",
    "merge",
    "repeat_heads",
    "sink_mask",
    "visible_tiles",
]

Queries = Float[Tensor, "B T_q H K"]
Keys = Float[Tensor, "B T_k h K"]
Values = Float[Tensor, "B T_k h V"]
Read = Float[Tensor, "B T_q H V"]
LogSumExp = Float[Tensor, "B T_q H"]


def repeat_heads(x: Float[Tensor, "B T h K"], n_heads: int) -> Float[Tensor, "B T H K"]:
    """Grouped queries: head h of k or v serves n_heads / h neighbouring heads of q."""
    if n_heads % x.shape[2]:
        raise ValueError(
            f"k and v have {x.shape[2]} heads, q has {n_heads}: the second must be a multiple of the first"
        )
    return repeat(x, "b t h k -> b t (h g) k", g=n_heads // x.shape[2])


def attend(
    q: Queries,
    k: Keys,
    v: Values,
    *,
    causal: bool = False,
    window: int | None = None,
    align: str = "end",
    mask: Bool[Tensor, "*#BH T_q T_k"] | None = None,
    bias: Float[Tensor, "*#BH T_q T_k"] | None = None,
    scale: float | None = None,
    return_lse: bool = False,
) -> Read | tuple[Read, LogSumExp]:
    """softmax(scale · q kᵀ + bias) v over what each query may see. With `return_lse` also log Σ
    exp(scores) (B, T, H).

    causal, window and align: see `causal_mask`; a window needs causal=True. mask (True: may look)
    and bias (finite: ALiBi) are (T_q, T_k), or lead with axes for H or B and H. scale defaults to
    K^-1/2. A query that may see nothing gives y = 0 and lse = -inf.
    """
    check_attention(q, k, v, causal, window)
    k, v = repeat_heads(k, q.shape[2]), repeat_heads(v, q.shape[2])
    scores = torch.einsum(
        "bihk, bjhk -> bhij", q * (q.shape[-1] ** -0.5 if scale is None else scale), k
    )
    scores = scores.to(torch.promote_types(q.dtype, torch.float32))
    if bias is not None:
        scores = scores + bias
    if causal:
        seen = causal_mask(q.shape[1], k.shape[1], window=window, align=align, device=q.device)
        mask = seen if mask is None else mask & seen
    blind = (
        torch.zeros(1, dtype=torch.bool, device=q.device)
        if mask is None
        else ~mask.any(-1, keepdim=True)
    )
    if (
        mask is not None
    ):  # a query that sees nothing keeps its scores and loses its output: no softmax of only -inf
        scores = scores.masked_fill(~(mask | blind), -torch.inf)
    y = torch.einsum("bhij, bjhv -> bhiv", scores.softmax(-1).to(v.dtype), v)
    y = rearrange(y.masked_fill(blind, 0), "b h i v -> b i h v")
    if not return_lse:
        return y
    return y, rearrange(
        scores.logsumexp(-1).masked_fill(blind[..., 0], -torch.inf), "b h i -> b i h"
    )


def attend_sdpa(
    q: Queries,
    k: Keys,
    v: Values,
    *,
    causal=False,
    window=None,
    align="end",
    scale=None,
    return_lse=False,
) -> Read:
    """`attend` by PyTorch's `scaled_dot_product_attention`, shaped so that its fused path runs.

    That path wants no mask where `is_causal` says the same, and K = V: the narrower is padded with
    zeros.
    """
    if return_lse:
        raise ValueError(
            "PyTorch's attention does not return its log-sum-exp: use attend or attend_tiled"
        )
    check_attention(q, k, v, causal, window)
    (T_q, H, K), (T_k, V) = q.shape[1:], (k.shape[1], v.shape[-1])
    square = causal and T_q == T_k and (window is None or window >= T_k)
    sees_all = not causal or (T_q == 1 and align == "end" and (window is None or window >= T_k))
    mask = (
        None
        if square or sees_all
        else causal_mask(T_q, T_k, window=window, align=align, device=q.device)
    )
    q, k, v = (F.pad(x, (0, max(K, V) - x.shape[-1])) if K != V else x for x in (q, k, v))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    y = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=square,
        scale=K**-0.5 if scale is None else scale,
        enable_gqa=k.shape[1] != H,
    )
    return y.transpose(1, 2)[..., :V]


FORMS = {"parallel": attend, "tiled": attend_tiled, "sdpa": attend_sdpa}
