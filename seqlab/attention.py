"""Softmax attention and its masks, in the dialect of `recurrence.py`: q (B, T, H, K), k and v with H or fewer heads."""

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor


def causal_mask(
    T_q: int, T_k: int, *, window: int | None = None, align: str = "end", device=None
) -> Bool[Tensor, "T_q T_k"]:
    """True where query i may look at key j: j ≤ i, and i - j < window if there is one.

    The two axes may differ in length. `align="end"`: the last query is at the last key (decoding with a cache;
    FlashAttention ≥ 2.1). `align="start"`: the first query is at the first key (`is_causal` of PyTorch's
    `scaled_dot_product_attention`).
    """
    if align not in ("start", "end"):
        raise ValueError(f"align is {align!r}: choose 'start' or 'end'")
    if window is not None and window < 1:
        raise ValueError(f"window is {window}: it must be at least 1 (1 = each token sees only itself)")
    offset = T_k - T_q if align == "end" else 0
    distance = torch.arange(T_q, device=device)[:, None] + offset - torch.arange(T_k, device=device)
    mask = distance >= 0
    return mask if window is None else mask & (distance < window)


def repeat_heads(x: Float[Tensor, "B T h K"], n_heads: int) -> Float[Tensor, "B T H K"]:
    """Grouped queries: head h of k or v serves n_heads / h neighbouring heads of q."""
    if n_heads % x.shape[2]:
        raise ValueError(
            f"k and v have {x.shape[2]} heads, q has {n_heads}: the second must be a multiple of the first"
        )
    return repeat(x, "b t h k -> b t (h g) k", g=n_heads // x.shape[2])


def attend(
    q: Float[Tensor, "B T_q H K"],
    k: Float[Tensor, "B T_k h K"],
    v: Float[Tensor, "B T_k h V"],
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    return_lse: bool = False,
) -> Float[Tensor, "B T_q H V"] | tuple[Float[Tensor, "B T_q H V"], Float[Tensor, "B T_q H"]]:
    """softmax(scale · q kᵀ + mask) v. Returns y (B, T, H, V); with `return_lse` also log Σ exp(scores) (B, T, H).

    scale defaults to K^-1/2. A window needs causal=True. A query that may see nothing gives y = 0 and lse = -inf.
    When k is longer than q, the last query stands at the last key.
    """
    if k.shape[-1] != q.shape[-1]:
        raise ValueError(f"k has width {k.shape[-1]}, q has {q.shape[-1]}: q and k must match")
    if k.shape[:3] != v.shape[:3]:
        raise ValueError(f"k has (B, T, H) = {tuple(k.shape[:3])}, v has {tuple(v.shape[:3])}: they must match")
    if window is not None and not causal:
        raise ValueError("window counts backwards from the query: pass causal=True with it")
    k, v = repeat_heads(k, q.shape[2]), repeat_heads(v, q.shape[2])
    scores = torch.einsum("bihk, bjhk -> bhij", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores.to(torch.promote_types(q.dtype, torch.float32))
    if causal:
        mask = causal_mask(q.shape[1], k.shape[1], window=window, device=q.device)
        scores = scores.masked_fill(~mask, -torch.inf)
    lse = scores.logsumexp(-1, keepdim=True)  # (B, H, T, 1)
    weights = (scores - lse.masked_fill(lse == -torch.inf, 0)).exp()
    y = torch.einsum("bhij, bjhv -> bihv", weights.to(v.dtype), v)
    return (y, rearrange(lse, "b h i 1 -> b i h")) if return_lse else y
