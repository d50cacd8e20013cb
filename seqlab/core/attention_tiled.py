"""Softmax attention tile by tile, in O(T) memory: FlashAttention's forward in two orders, and its
backward.

A tile is a block of queries against a block of keys. A row's softmax is put together from its
tiles: each is taken against the largest score so far, and when a larger one appears, what was
summed before shrinks by exp(old - new). The backward keeps no weights: from lse = log Σ
exp(scores), exp(scores - lse) gives any tile of them again.
"""

from itertools import groupby

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from seqlab.core.inputs import check_attention, wide
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
    """`attend` without the matrix: no tensor larger than the inputs or a tile, forward or backward.

    tile: queries and keys in a tile. order "fa1": keys in the outer loop, as in FlashAttention (Dao
    et al. 2022, arXiv:2205.14135); "fa2": queries in the outer loop (Dao 2023, arXiv:2307.08691).
    No second derivatives: RuntimeError.
    """
    check_attention(q, k, v, causal, window)
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}: choose one of {', '.join(ORDERS)}")
    seen = {"causal": causal, "window": window, "align": align, "tile": tile}
    y, lse = _Tiled.apply(q, k, v, order, q.shape[-1] ** -0.5 if scale is None else scale, seen)
    return (y, lse) if return_lse else y


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, order, scale, seen):
        group = q.shape[2] // k.shape[2]
        y, lse = ORDERS[order](_pack(q, group), _pack(k), _pack(v), _tiles(q, k, seen), scale)
        y, lse = _unpack(y, group).to(v.dtype), _unpack(lse[..., None], group)[..., 0]
        ctx.save_for_backward(q, k, v, y, lse)
        ctx.options = {"scale": scale, **seen}
        return y, lse

    @staticmethod
    def backward(ctx, dy, dlse):
        if torch.is_grad_enabled():  # create_graph=True: what follows would be taken for a constant
            raise RuntimeError(
                "attend_tiled has no second derivative: use attend where a gradient is differentiated"
            )
        return *attend_backward(dy, *ctx.saved_tensors, dlse=dlse, **ctx.options), None, None, None


def _fa2(q, k, v, tiles, scale):
    """Queries outside: a block of them meets its keys in turn, and is divided by its sum once, at
    the end.
    """
    y, lse = q.new_zeros(*q.shape[:3], v.shape[-1]), q.new_full(q.shape[:3], -torch.inf)
    for rows, row in groupby(tiles, key=lambda tile: tile.rows):
        top, total, read = lse[:, :, rows], 0, 0
        for tile in row:
            scores = _scores(q[:, :, tile.rows], k[:, :, tile.cols], tile.hidden, scale)
            new = torch.maximum(top, scores.amax(-1))
            fade, weights = (top - _finite(new)).exp(), (scores - _finite(new)[..., None]).exp_()
            total = fade * total + weights.sum(-1)
            read = fade[..., None] * read + weights @ v[:, :, tile.cols]
            top = new
        y[:, :, rows] = read / total.masked_fill(total == 0, 1)[..., None]
        lse[:, :, rows] = top + total.log()
    return y, lse


def _fa1(q, k, v, tiles, scale):
    """Keys outside: each block of them is loaded once, and y, normalised after every tile, comes
    and goes.

    The paper carries the largest score and the sum apart; lse = largest + log(sum) says the same in
    one number.
    """
    y, lse = q.new_zeros(*q.shape[:3], v.shape[-1]), q.new_full(q.shape[:3], -torch.inf)
    for tile in sorted(tiles, key=lambda tile: tile.cols.start):
        rows, scores = (
            tile.rows,
            _scores(q[:, :, tile.rows], k[:, :, tile.cols], tile.hidden, scale),
        )
        lse_tile = scores.logsumexp(-1)
        y_tile = (scores - _finite(lse_tile)[..., None]).exp_() @ v[:, :, tile.cols]
        y[:, :, rows], lse[:, :, rows] = merge(y[:, :, rows], lse[:, :, rows], y_tile, lse_tile)
    return y, lse


ORDERS = {"fa2": _fa2, "fa1": _fa1}


def merge(
    y1: Float[Tensor, "*B V"],
    lse1: Float[Tensor, "*B"],
    y2: Float[Tensor, "*B V"],
    lse2: Float[Tensor, "*B"],
) -> tuple[Float[Tensor, "*B V"], Float[Tensor, "*B"]]:
    """Two reads of the same queries over different keys, as one: each weighs as much as its Σ
    exp(scores).

    Associative and commutative, so parts of the keys may be read in any order, on any device:
    split-K decoding, ring attention, and FlashAttention itself. A part that saw nothing (lse =
    -inf) changes nothing.
    """
    top = torch.maximum(lse1, lse2)
    empty = top == -torch.inf
    w1, w2 = (lse1 - _finite(top)).exp(), (lse2 - _finite(top)).exp()
    total = (
        w1 + w2 + empty
    )  # + 1 where both are 0, so that neither the division nor its gradient is NaN
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
    """dq, dk, dv of attention from dy (and dlse), its weights P computed again tile by tile.

    P = exp(scale q kᵀ - lse)    dS = P (dy vᵀ - D)    D = Σ_v dy y - dlse
    dv = Pᵀ dy                   dq = scale dS k       dk = scale dSᵀ q
    """
    group, scale = q.shape[2] // k.shape[2], q.shape[-1] ** -0.5 if scale is None else scale
    tiles = _tiles(q, k, {"causal": causal, "window": window, "align": align, "tile": tile})
    D = (dy.to(lse.dtype) * y).sum(-1) - (0 if dlse is None else dlse)
    packed = (
        [_pack(x, group) for x in (q, dy, D[..., None], _finite(lse)[..., None])],
        [_pack(x) for x in (k, v)],
    )
    dq, dk, dv = (torch.zeros_like(x) for x in (packed[0][0], *packed[1]))
    for tile in tiles:
        (q_i, dy_i, D_i, lse_i), (k_j, v_j) = (
            [x[:, :, part] for x in side] for side, part in zip(packed, tile[:2], strict=True)
        )
        P = (_scores(q_i, k_j, tile.hidden, scale) - lse_i).exp_()
        dS = P * (dy_i @ v_j.mT - D_i) * scale
        dq[:, :, tile.rows] += dS @ k_j
        dk[:, :, tile.cols] += dS.mT @ q_i
        dv[:, :, tile.cols] += P.mT @ dy_i
    return tuple(_unpack(d, g).to(x.dtype) for d, g, x in ((dq, group, q), (dk, 1, k), (dv, 1, v)))


def _scores(q_i, k_j, hidden, scale):
    """scale q kᵀ of one tile (B, h, rows, cols), -inf where a query may not look."""
    scores = (q_i @ k_j.mT).mul_(scale)
    return scores if hidden is None else scores.masked_fill_(hidden, -torch.inf)


def _finite(x):
    """-inf as 0: what a query that has seen nothing subtracts, so that exp(-inf - x) is 0 and not
    NaN.
    """
    return x.masked_fill(x == -torch.inf, 0)


def _tiles(q, k, seen):
    """The tiles as rows of packed queries: the queries of a group of heads stand one below the
    other.
    """
    group = q.shape[2] // k.shape[2]
    for rows, cols, hidden in visible_tiles(q.shape[1], k.shape[1], **seen, device=q.device):
        hidden = None if hidden is None else hidden.repeat_interleave(group, 0)
        yield Tile(slice(rows.start * group, rows.stop * group), cols, hidden)


def _pack(x, group=1):
    """Heads first, wide, and the `group` heads of q that share a head of k as further rows (B, h, T
    group, K).
    """
    x = wide(x)
    return rearrange(x, "b t (h g) k -> b h (t g) k", g=group).contiguous()


def _unpack(x, group=1):
    return rearrange(x, "b h (t g) k -> b t (h g) k", g=group)
