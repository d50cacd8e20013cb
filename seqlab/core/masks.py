"""Which query may look at which key.

Boolean masks (T_q, T_k), True where it may, for `attend(..., mask=...)`; and the tiles that
`attend_tiled` visits.
"""

from functools import cache
from itertools import product
from typing import NamedTuple

import torch
from einops import repeat
from jaxtyping import Bool, Int
from torch import Tensor


def first_query(T_q: int, T_k: int, align: str = "end") -> int:
    """The position of the first query, where the first key is at 0.

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
    """True where query i may look at key j: j ≤ i, and i - j < window if there is one. align: see
    `first_query`.
    """
    check_window(window)
    distance = distances(T_q, T_k, align=align, device=device)
    mask = distance >= 0
    return mask if window is None else mask & (distance < window)


def sink_mask(
    T_q: int, T_k: int, *, window: int, n_sinks: int = 4, align: str = "end", device=None
) -> Bool[Tensor, "T_q T_k"]:
    """A causal window, and the first n_sinks tokens for ever (StreamingLLM, Xiao et al. 2023,
    arXiv:2309.17453).
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
    """A window around each token, and global tokens that see all and are seen by all (Beltagy et
    al. 2020, arXiv:2004.05150).

    The window holds window // 2 keys on each side, `dilation` apart. n_global: the first so many
    tokens, or a list of positions. causal: what lies in the future is cut off, as in the paper's
    language models.
    """
    check_window(window)
    steps, off_grid = (
        f(distances(T, T, device=device), dilation) for f in (torch.div, torch.remainder)
    )
    mask = (steps.abs() <= window // 2) & (off_grid == 0)
    chosen = list(range(n_global)) if isinstance(n_global, int) else n_global
    mask[chosen], mask[:, chosen] = True, True
    return mask & causal_mask(T, T, device=device) if causal else mask


def bigbird_mask(
    T: int,
    *,
    block: int = 64,
    window: int = 3,
    n_random: int = 3,
    global_blocks=(0, -1),
    seed: int = 0,
    device=None,
) -> Bool[Tensor, "T T"]:
    """Window, global and random blocks (BigBird, Zaheer et al. 2020, arXiv:2007.14062), in whole
    blocks of tokens.

    Each block of queries sees the `window` blocks around it, the global blocks (which also see
    all), and n_random blocks drawn from `seed` among those it does not see yet. A last block may be
    shorter. As in the authors' code the first and the last block are global.
    """
    n = -(-T // block)
    near = torch.arange(n)[:, None] - torch.arange(n)
    mask = near.abs() <= window // 2
    mask[list(global_blocks)], mask[:, list(global_blocks)] = True, True
    order = (
        torch.rand(n, n, generator=torch.Generator().manual_seed(seed))
        .masked_fill(mask, 2.0)
        .argsort(-1)
    )
    drawn = torch.zeros_like(mask).scatter_(1, order[:, :n_random], True)
    return repeat(mask | drawn, "i j -> (i a) (j b)", a=block, b=block)[:T, :T].to(device)


class Tile(NamedTuple):
    """A block of queries against a block of keys, and which of its pairs may not look (None: all
    may).
    """

    rows: slice
    cols: slice
    hidden: Bool[Tensor, "rows cols"] | None


def visible_tiles(
    T_q: int, T_k: int, *, causal=False, window=None, align="end", tile=(64, 64), device=None
) -> list[Tile]:
    """The tiles in which some query may see some key, row by row. Only those that need a mask carry
    one.
    """
    if min(tile) < 1:
        raise ValueError(f"tile is {tile}: both sides must be at least 1")
    check_window(window)
    start = first_query(T_q, T_k, align)
    nearest, farthest = 0 if causal else -torch.inf, torch.inf if window is None else window - 1

    @cache  # tiles on one diagonal share their mask
    def hidden(least, n_rows, n_cols):
        distance = least + torch.arange(n_rows)[:, None] + torch.arange(n_cols).flip(0)
        return ((distance < nearest) | (distance > farthest)).to(device)

    tiles = []
    for i, j in product(range(0, T_q, tile[0]), range(0, T_k, tile[1])):
        rows, cols = slice(i, min(i + tile[0], T_q)), slice(j, min(j + tile[1], T_k))
        least, most = (
            start + i - (cols.stop - 1),
            start + rows.stop - 1 - j,
        )  # distances from query to key
        if most >= nearest and least <= farthest:
            whole = nearest <= least and most <= farthest
            tiles.append(
                Tile(rows, cols, None if whole else hidden(least, rows.stop - i, cols.stop - j))
            )
    return tiles


def check_window(window: int | None) -> None:
    if window is not None and window < 1:
        raise ValueError(
            f"window is {window}: it must be at least 1 (1 = each token sees only itself)"
        )
