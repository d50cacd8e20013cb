"""Which query may look at which key.

Boolean masks (T_q, T_k), True where it may look, for `attend(..., mask=...)`; and the tiles that
`attend_tiled` visits.
"""

import math
from functools import cache
from itertools import product
from typing import NamedTuple

import torch
from einops import repeat
from jaxtyping import Bool, Int
from torch import Tensor


def first_query(T_q: int, T_k: int, align: str = "end") -> int:
    """The position of the first query, counted from the first key.

    `align="end"`: the last query is at the last key (decoding with a cache; FlashAttention ≥ 2.1).
    `align="start"`: the first query is at the first key (`is_causal` of PyTorch's
    `scaled_dot_product_attention`).
    """
    if align not in ("start", "end"):
        raise ValueError(f"align is {align!r}: choose 'start' or 'end'")
    return T_k - T_q if align == "end" else 0


def distances(T_q: int, T_k: int, *, align: str = "end", device=None) -> Int[Tensor, "T_q T_k"]:
    """Position of query i minus position of key j. align: see `first_query`."""
    positions = torch.arange(T_q, device=device) + first_query(T_q, T_k, align)
    return positions[:, None] - torch.arange(T_k, device=device)


def causal_mask(
    T_q: int, T_k: int, *, window: int | None = None, align: str = "end", device=None
) -> Bool[Tensor, "T_q T_k"]:
    """True where query i may look at key j: j ≤ i, and i - j < window if there is a window.

    align: see `first_query`.
    """
    check_window(window)
    distance = distances(T_q, T_k, align=align, device=device)
    mask = distance >= 0
    return mask if window is None else mask & (distance < window)


def sink_mask(
    T_q: int, T_k: int, *, window: int, n_sinks: int = 4, align: str = "end", device=None
) -> Bool[Tensor, "T_q T_k"]:
    """A causal window, and the first n_sinks tokens at any distance.

    StreamingLLM (Xiao et al. 2023, arXiv:2309.17453).
    """
    sinks = torch.arange(T_k, device=device) < n_sinks
    windowed = causal_mask(T_q, T_k, window=window, align=align, device=device)
    return windowed | (sinks & causal_mask(T_q, T_k, align=align, device=device))


def longformer_mask(
    T: int,
    *,
    window: int,
    n_global: int | list[int] = 0,
    dilation: int = 1,
    causal: bool = False,
    device=None,
) -> Bool[Tensor, "T T"]:
    """A window around each token, and global tokens that see all and are seen by all.

    Longformer (Beltagy et al. 2020, arXiv:2004.05150). The window holds window // 2 keys on each
    side, `dilation` apart. n_global: the number of first tokens that are global, or a list of
    positions. causal: the future is cut off, as in the paper's language models.
    """
    check_window(window)
    distance = distances(T, T, device=device)
    steps = torch.div(distance, dilation)
    on_grid = torch.remainder(distance, dilation) == 0
    mask = (steps.abs() <= window // 2) & on_grid
    chosen = list(range(n_global)) if isinstance(n_global, int) else n_global
    mask[chosen] = True
    mask[:, chosen] = True
    return mask & causal_mask(T, T, device=device) if causal else mask


def bigbird_mask(
    T: int,
    *,
    block: int = 64,
    window: int = 3,
    n_random: int = 3,
    global_blocks: tuple[int, ...] = (0, -1),
    seed: int = 0,
    device=None,
) -> Bool[Tensor, "T T"]:
    """Window, global and random blocks, in whole blocks of tokens.

    BigBird (Zaheer et al. 2020, arXiv:2007.14062). Each block of queries sees the `window` blocks
    around it, the global blocks (which also see all), and n_random blocks drawn from `seed` among
    those it does not see yet. The last block may be shorter. As in the authors' code, the first and
    the last block are global.
    """
    n = -(-T // block)
    index = torch.arange(n)
    mask = (index[:, None] - index).abs() <= window // 2
    mask[list(global_blocks)] = True
    mask[:, list(global_blocks)] = True
    rng = torch.Generator().manual_seed(seed)
    order = torch.rand(n, n, generator=rng).masked_fill(mask, 2.0).argsort(-1)
    drawn = torch.zeros_like(mask).scatter_(1, order[:, :n_random], True)
    return repeat(mask | drawn, "i j -> (i a) (j b)", a=block, b=block)[:T, :T].to(device)


class Tile(NamedTuple):
    """A block of queries, a block of keys, and which of the pairs may not look (None: all may)."""

    rows: slice
    cols: slice
    hidden: Bool[Tensor, "rows cols"] | None


def visible_tiles(
    T_q: int,
    T_k: int,
    *,
    causal: bool = False,
    window: int | None = None,
    align: str = "end",
    tile: tuple[int, int] = (64, 64),
    device=None,
) -> list[Tile]:
    """The tiles in which some query sees some key, row by row, with masks where needed."""
    if min(tile) < 1:
        raise ValueError(f"tile is {tile}: both sides must be at least 1")
    check_window(window)
    start = first_query(T_q, T_k, align)
    nearest = 0 if causal else -math.inf
    farthest = math.inf if window is None else window - 1

    @cache  # tiles on one diagonal share their mask
    def hidden(least: int, n_rows: int, n_cols: int) -> Tensor:
        distance = least + torch.arange(n_rows)[:, None] + torch.arange(n_cols).flip(0)
        return ((distance < nearest) | (distance > farthest)).to(device)

    tiles = []
    for i, j in product(range(0, T_q, tile[0]), range(0, T_k, tile[1])):
        n_rows = min(tile[0], T_q - i)
        n_cols = min(tile[1], T_k - j)
        least = start + i - (j + n_cols - 1)  # distances from query to key
        most = start + (i + n_rows - 1) - j
        if most >= nearest and least <= farthest:
            whole = nearest <= least and most <= farthest
            rows, cols = slice(i, i + n_rows), slice(j, j + n_cols)
            tiles.append(Tile(rows, cols, None if whole else hidden(least, n_rows, n_cols)))
    return tiles


def check_window(window: int | None) -> None:
    """ValueError for a window below 1."""
    if window is not None and window < 1:
        raise ValueError(
            f"window is {window}: it must be at least 1 (1 = each token sees only itself)"
        )
