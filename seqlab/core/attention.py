"""Softmax attention, in the dialect of `recurrence.py`; k and v may have fewer heads than q.

`attend` is the definition, with the scores as a matrix; `attend_tiled` gives the same result
without ever holding that matrix; `attend_sdpa` is PyTorch's own. All three compute scores in
float32 at least: in float16 a score above 65504 is infinite, and in bfloat16 a score of 100 is off
by up to 0.25. `merge` joins two partial results by their log-sum-exp. Masks are in `masks.py`.
"""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from seqlab.core.attention_tiled import attend_backward, attend_tiled, merge, score_scale
from seqlab.core.inputs import check_attention, check_groups, full_precision, wide
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
    check_groups(x.shape[2], n_heads)
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
    """softmax(scale · q kᵀ + bias) v over what each query may see.

    causal, window and align: see `causal_mask`; a window needs causal=True. mask (True: may look)
    and bias (finite: ALiBi) are (T_q, T_k), with leading axes for H or for B and H if needed. scale
    is K^-1/2 by default. A query that may see nothing gives y = 0 and lse = -inf. With `return_lse`
    also returns log Σ exp(scores) (B, T, H). y has the dtype of v; scores and lse are float32 at
    least.
    """
    check_attention(q, k, v, causal, window)
    k, v = repeat_heads(k, q.shape[2]), repeat_heads(v, q.shape[2])
    scores = _scores(q, k, score_scale(q, scale))  # (B, H, T_q, T_k)
    if bias is not None:
        scores = scores + bias
    if causal:
        seen = causal_mask(q.shape[1], k.shape[1], window=window, align=align, device=q.device)
        mask = seen if mask is None else mask & seen
    blind = torch.zeros(1, dtype=torch.bool, device=q.device)  # queries that see nothing
    if mask is not None:
        blind = ~mask.any(-1, keepdim=True)
        # Such a query keeps its scores and loses its output: a softmax over -inf alone is NaN.
        scores = scores.masked_fill(~(mask | blind), -torch.inf)
    y = torch.einsum("bhij, bjhv -> bhiv", scores.softmax(-1).to(v.dtype), v)
    y = rearrange(y.masked_fill(blind, 0), "b h i v -> b i h v")
    if not return_lse:
        return y
    lse = scores.logsumexp(-1).masked_fill(blind[..., 0], -torch.inf)
    return y, rearrange(lse, "b h i -> b i h")


@full_precision
def _scores(q, k, scale):
    """scale · q kᵀ for every query and key (B, H, T_q, T_k), in float32 at least."""
    return torch.einsum("bihk, bjhk -> bhij", wide(q) * scale, wide(k))


def attend_sdpa(
    q: Queries,
    k: Keys,
    v: Values,
    *,
    causal: bool = False,
    window: int | None = None,
    align: str = "end",
    scale: float | None = None,
    return_lse: bool = False,
) -> Read:
    """`attend` by PyTorch's `scaled_dot_product_attention`, shaped so that its fused path runs.

    That path wants no mask where `is_causal` says the same, and K = V: the narrower of the two is
    padded with zeros. Its scores are float32 for half-precision inputs too.
    """
    if return_lse:
        raise ValueError(
            "PyTorch's attention does not return its log-sum-exp: use attend or attend_tiled"
        )
    check_attention(q, k, v, causal, window)
    scale = score_scale(q, scale)
    T_q, H, K = q.shape[1:]
    T_k, V = k.shape[1], v.shape[-1]
    no_window = window is None or window >= T_k
    square = causal and T_q == T_k and no_window
    sees_all = not causal or (T_q == 1 and align == "end" and no_window)
    mask = None
    if not (square or sees_all):
        mask = causal_mask(T_q, T_k, window=window, align=align, device=q.device)
    q, k, v = (F.pad(x, (0, max(K, V) - x.shape[-1])) if K != V else x for x in (q, k, v))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    y = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=square,
        scale=scale,
        enable_gqa=k.shape[1] != H,
    )
    return y.transpose(1, 2)[..., :V]


FORMS = {"parallel": attend, "tiled": attend_tiled, "sdpa": attend_sdpa}
