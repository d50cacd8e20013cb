"""Softmax attention tile by tile, in O(T) memory: FlashAttention's two forwards and its backward.

A tile is a block of queries against a block of keys. A row's softmax is put together from its
tiles: each is taken against the largest score so far, and when a larger one appears, what was
summed before shrinks by exp(old - new). The backward stores no weights: from lse = log Σ
exp(scores), exp(scores - lse) gives any tile of them again.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from seqlab.core.inputs import check_attention, full_precision, wide
from seqlab.core.masks import Tile, visible_tiles

Queries = Float[Tensor, "B T_q H K"]
Keys = Float[Tensor, "B T_k h K"]
Values = Float[Tensor, "B T_k h V"]
Read = Float[Tensor, "B T_q H V"]
LogSumExp = Float[Tensor, "B T_q H"]


def attend_tiled(
    q: Queries,
    k: Keys,
    v: Values,
    *,
    causal: bool = False,
    window: int | None = None,
    align: str = "end",
    scale: float | None = None,
    return_lse: bool = False,
    tile: tuple[int, int] = (64, 64),
    order: str = "fa2",
) -> Read | tuple[Read, LogSumExp]:
    """`attend` without the matrix: no tensor is larger than the inputs or a tile, in either pass.

    tile: how many queries and keys a tile has. order "fa1": keys in the outer loop, as in
    FlashAttention (Dao et al. 2022, arXiv:2205.14135); "fa2": queries in the outer loop (Dao 2023,
    arXiv:2307.08691). A second derivative raises a RuntimeError.
    """
    check_attention(q, k, v, causal, window)
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}: choose one of {', '.join(ORDERS)}")
    seen = {"causal": causal, "window": window, "align": align, "tile": tile}
    y, lse = _Tiled.apply(q, k, v, order, score_scale(q, scale), seen)
    return (y, lse) if return_lse else y


class _Tiled(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(q, k, v, order, scale, seen):
        group = q.shape[2] // k.shape[2]
        y, lse = ORDERS[order](_pack(q, group), _pack(k), _pack(v), _tiles(q, k, seen), scale)
        return _unpack(y, group).to(v.dtype), _unpack(lse[..., None], group)[..., 0]

    @staticmethod
    def setup_context(ctx, inputs, output):
        q, k, v, _, scale, seen = inputs
        ctx.save_for_backward(q, k, v, *output)
        ctx.options = {"scale": scale, **seen}

    @staticmethod
    def backward(ctx, dy, dlse):
        dq, dk, dv = _TiledGradient.apply(dy, dlse, *ctx.saved_tensors, ctx.options)
        return dq, dk, dv, None, None, None


class _TiledGradient(torch.autograd.Function):
    """The backward as a function of its own, so that a second derivative is refused when taken."""

    generate_vmap_rule = True

    @staticmethod
    def forward(dy, dlse, q, k, v, y, lse, options):
        return attend_backward(dy, q, k, v, y, lse, dlse=dlse, **options)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *gradients):
        raise RuntimeError(
            "attend_tiled has no second derivative: use attend to differentiate a gradient"
        )


@full_precision
def _fa2(q: Tensor, k: Tensor, v: Tensor, tiles: Iterable[Tile], scale: float):
    """Queries in the outer loop: each block reads its keys in turn and divides by its sum once."""
    y = q.new_zeros(*q.shape[:3], v.shape[-1])
    lse = q.new_full(q.shape[:3], -torch.inf)
    for rows, row in groupby(tiles, key=lambda tile: tile.rows):
        top = lse[:, :, rows]
        total = torch.zeros_like(top)
        read = torch.zeros_like(y[:, :, rows])
        for _, cols, hidden in row:
            scores = _scores(q[:, :, rows], k[:, :, cols], hidden, scale)
            new = torch.maximum(top, scores.amax(-1))
            fade = (top - _finite(new)).exp()
            weights = (scores - _finite(new)[..., None]).exp_()
            total = fade * total + weights.sum(-1)
            read = fade[..., None] * read + weights @ v[:, :, cols]
            top = new
        y[:, :, rows] = read / total.masked_fill(total == 0, 1)[..., None]
        lse[:, :, rows] = top + total.log()
    return y, lse


@full_precision
def _fa1(q: Tensor, k: Tensor, v: Tensor, tiles: Iterable[Tile], scale: float):
    """Keys in the outer loop: each block of keys is loaded once; y is normalised after every tile.

    The paper carries the largest score and the sum separately; lse = largest + log(sum) holds both
    in one number.
    """
    y = q.new_zeros(*q.shape[:3], v.shape[-1])
    lse = q.new_full(q.shape[:3], -torch.inf)
    for rows, cols, hidden in sorted(tiles, key=lambda tile: tile.cols.start):
        scores = _scores(q[:, :, rows], k[:, :, cols], hidden, scale)
        lse_tile = scores.logsumexp(-1)
        y_tile = (scores - _finite(lse_tile)[..., None]).exp_() @ v[:, :, cols]
        y[:, :, rows], lse[:, :, rows] = merge(y[:, :, rows], lse[:, :, rows], y_tile, lse_tile)
    return y, lse


ORDERS = {"fa2": _fa2, "fa1": _fa1}


def merge(
    y1: Float[Tensor, "*B V"],
    lse1: Float[Tensor, "*B"],
    y2: Float[Tensor, "*B V"],
    lse2: Float[Tensor, "*B"],
) -> tuple[Float[Tensor, "*B V"], Float[Tensor, "*B"]]:
    """One read from two reads of the same queries over different keys, each weighted by its Σ exp.

    Associative and commutative, so parts of the keys may be read in any order, on any device:
    split-K decoding, ring attention, and FlashAttention itself. A part that saw nothing (lse =
    -inf) changes nothing.
    """
    top = torch.maximum(lse1, lse2)
    empty = top == -torch.inf
    w1 = (lse1 - _finite(top)).exp()
    w2 = (lse2 - _finite(top)).exp()
    # + 1 where both are 0, so that neither the division nor its gradient is NaN.
    total = w1 + w2 + empty
    y = (w1 / total)[..., None].to(y1) * y1 + (w2 / total)[..., None].to(y2) * y2
    return y, (_finite(top) + total.log()).masked_fill(empty, -torch.inf)


def attend_backward(
    dy: Read,
    q: Queries,
    k: Keys,
    v: Values,
    y: Read,
    lse: LogSumExp,
    *,
    dlse: LogSumExp | None = None,
    causal: bool = False,
    window: int | None = None,
    align: str = "end",
    scale: float | None = None,
    tile: tuple[int, int] = (64, 64),
) -> tuple[Queries, Keys, Values]:
    """dq, dk, dv of attention from dy (and dlse), its weights P recomputed tile by tile.

    P = exp(scale q kᵀ - lse)    dS = P (dy vᵀ - D)    D = Σ_v dy y - dlse
    dv = Pᵀ dy                   dq = scale dS k       dk = scale dSᵀ q
    """
    group = q.shape[2] // k.shape[2]
    tiles = _tiles(q, k, {"causal": causal, "window": window, "align": align, "tile": tile})
    D = (dy.to(lse.dtype) * y).sum(-1)
    if dlse is not None:
        D = D - dlse
    by_query = [_pack(x, group) for x in (q, dy, D[..., None], _finite(lse)[..., None])]
    dq, dk, dv = _gradients(by_query, _pack(k), _pack(v), tiles, score_scale(q, scale))
    return _unpack(dq, group).to(q.dtype), _unpack(dk).to(k.dtype), _unpack(dv).to(v.dtype)


@full_precision
def _gradients(by_query: list[Tensor], k: Tensor, v: Tensor, tiles: Iterable[Tile], scale: float):
    """`attend_backward` on packed tensors: each tile adds its part to dq, dk and dv."""
    q, dy, D, lse = by_query
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for rows, cols, hidden in tiles:
        q_i, dy_i, D_i, lse_i = (x[:, :, rows] for x in (q, dy, D, lse))
        k_j, v_j = k[:, :, cols], v[:, :, cols]
        P = (_scores(q_i, k_j, hidden, scale) - lse_i).exp_()
        dS = P * (dy_i @ v_j.mT - D_i) * scale
        dq[:, :, rows] += dS @ k_j
        dk[:, :, cols] += dS.mT @ q_i
        dv[:, :, cols] += P.mT @ dy_i
    return dq, dk, dv


def score_scale(q: Queries, scale: float | None) -> float:
    """What scores are multiplied by: `scale`, or K^-1/2 if it is None."""
    return q.shape[-1] ** -0.5 if scale is None else scale


def _scores(q_i, k_j, hidden, scale):
    """scale q kᵀ of one tile (B, h, rows, cols), -inf where a query may not look."""
    scores = (q_i @ k_j.mT).mul_(scale)
    return scores if hidden is None else scores.masked_fill_(hidden, -torch.inf)


def _finite(x):
    """x with 0 in place of -inf: exp(-inf - 0) is 0, where exp(-inf - -inf) would be NaN."""
    return x.masked_fill(x == -torch.inf, 0)


def _tiles(q, k, seen) -> Iterator[Tile]:
    """The tiles as rows of packed queries: each token has one row for each head of its group."""
    group = q.shape[2] // k.shape[2]
    for rows, cols, hidden in visible_tiles(q.shape[1], k.shape[1], **seen, device=q.device):
        hidden = None if hidden is None else hidden.repeat_interleave(group, 0)
        yield Tile(slice(rows.start * group, rows.stop * group), cols, hidden)


def _pack(x, group=1):
    """x wide, heads first (B, h, T group, K): the heads that share a head of k are further rows."""
    x = wide(x)
    return rearrange(x, "b t (h g) k -> b h (t g) k", g=group).contiguous()


def _unpack(x, group=1):
    return rearrange(x, "b h (t g) k -> b t (h g) k", g=group)
