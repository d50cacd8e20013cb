"""Causal loop bounds, with a window

*Say which tiles a program visits, and which of them need a mask. · 15 minutes · ●●○ · 2 points*

The last of T_q queries stands at the last of T_k keys (T_q ≤ T_k), and each query sees the `window` newest keys up to its own: query i sees the keys

    i + T_k - T_q - window < j ≤ i + T_k - T_q.

A program has BT queries, from `program · BT` on; the last program has fewer if T_q is not a multiple. Keys come in tiles of BS; tile n holds the keys from n · BS on. `loop_bounds(T_q, T_k, window, BT, BS)` returns three whole numbers for each program, as a tensor (programs, 3) of float32:

- begin, the first tile in which one of its queries sees a key;
- end, one past the last such tile;
- whole, the number of tiles that need no mask, because *each* of its queries sees all BS keys. Rows behind the last query do not count.

Write the kernel, with whole numbers only (a store converts them); the launch is given.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "loop_bounds"


@triton.jit
def loop_bounds_kernel(p_bounds, T_q, T_k, window, BT: tl.constexpr, BS: tl.constexpr):
    """Store begin, end and whole of this program at p_bounds + 3 · program."""
    ### BEGIN SOLUTION
    first = tl.program_id(0) * BT
    last = tl.minimum(first + BT, T_q) - 1
    own_first, own_last = first + T_k - T_q, last + T_k - T_q
    # the own keys of the first and the last query
    begin = tl.maximum(own_first - window + 1, 0) // BS
    end = tl.cdiv(own_last + 1, BS)
    from_tile = tl.cdiv(tl.maximum(own_last - window + 1, 0), BS)
    to_tile = (own_first + 1) // BS
    p_bounds += 3 * tl.program_id(0)
    tl.store(p_bounds, begin)
    tl.store(p_bounds + 1, end)
    tl.store(p_bounds + 2, tl.maximum(to_tile - from_tile, 0))
    ### END SOLUTION


def loop_bounds(T_q, T_k, window, BT, BS):
    """(begin, end, whole) of each program: (programs, 3) of float32."""
    programs = triton.cdiv(T_q, BT)
    bounds = torch.empty(programs, 3, dtype=torch.float32)
    loop_bounds_kernel[(programs,)](bounds, T_q, T_k, window, BT=BT, BS=BS)
    return bounds


WHY = """
**Solution.** *Some* query sees a key between the oldest key of the first query and the newest key of the last one: that gives begin and end. *Every* query sees the keys from the oldest of the **last** query up to the newest of the **first**. Tiles that lie wholly between those two need no mask: round the
lower end up, the upper end down, and never below 0.

A window shorter than BT + BS - 1 or so leaves no whole tile: then every tile is masked, and a smaller tile wastes less.

**In `kernels/`** the same four numbers come from `visible` in `tiles.py`, once for queries along keys, once for keys along queries.
"""

HINTS = (
    "Which keys does the first query of the program see, and which the last one? Where do these two spans overlap, and what do they cover together?",
    "With s = T_k - T_q: together they cover first + s - window + 1 … last + s, and they share last + s - window + 1 … first + s. The last query is min(first + BT, T_q) - 1.",
    "begin = max(first + s - window + 1, 0) // BS; end = cdiv(last + s + 1, BS); whole = max((first + s + 1) // BS - cdiv(max(last + s - window + 1, 0), BS), 0).",
)


def reference(T_q, T_k, window, BT, BS):
    i, j = torch.arange(T_q)[:, None] + T_k - T_q, torch.arange(T_k)[None]
    sees = (j <= i) & (j > i - window)
    found = []
    for rows in sees.split(BT):
        tiles = list(rows.split(BS, 1))
        some = [n for n, tile in enumerate(tiles) if tile.any()]
        whole = sum(bool(tile.all()) and tile.shape[1] == BS for tile in tiles)
        found.append((some[0], some[-1] + 1, whole))
    return torch.tensor(found, dtype=torch.float32)


def cases(rng):
    sizes = {
        "one query": (1, 1, 1, 16, 16),
        "decoding": (1, 70, 40, 16, 16),
        "no window": (64, 64, 1000, 16, 16),
        "a window": (70, 70, 48, 16, 8),
        "more keys than queries": (50, 97, 32, 16, 16),
        "a narrow window": (50, 90, 5, 16, 16),
        "one key short of a tile": (20, 34, 1000, 16, 16),
        "tall tiles": (75, 83, 60, 32, 8),
    }
    names = ("T_q", "T_k", "window", "BT", "BS")
    return [
        Case(name, dict(zip(names, size, strict=True))) for name, size in sizes.items()
    ]


@triton.jit
def counting_kernel(p_bounds, T_q, T_k, window, BT: tl.constexpr, BS: tl.constexpr):
    o_t, o_s = tl.program_id(0) * BT + tl.arange(0, BT), tl.arange(0, BS)
    b_t = (o_t + T_k - T_q)[:, None]
    begin, end, whole = -1, 0, 0
    for tile in range(0, tl.cdiv(T_k, BS)):
        b_s = (tile * BS + o_s)[None, :]
        sees = (b_s <= b_t) & (b_s > b_t - window)
        row = (o_t < T_q)[:, None]
        some = tl.sum(tl.sum((sees & row).to(tl.int32), 1), 0) > 0
        blind = tl.sum(tl.sum(((~sees) & row).to(tl.int32), 1), 0)
        begin = tl.where(some & (begin < 0), tile, begin)
        end = tl.where(some, tile + 1, end)
        whole += (blind == 0).to(tl.int32)
    tl.store(p_bounds + 3 * tl.program_id(0), begin)
    tl.store(p_bounds + 3 * tl.program_id(0) + 1, end)
    tl.store(p_bounds + 3 * tl.program_id(0) + 2, whole)


def counting(T_q, T_k, window, BT, BS):
    programs = triton.cdiv(T_q, BT)
    bounds = torch.empty(programs, 3, dtype=torch.float32)
    counting_kernel[(programs,)](bounds, T_q, T_k, window, BT=BT, BS=BS)
    return bounds


ALTERNATIVES = (counting,)

OUTPUTS = ("bounds",)

MISTAKES = """
own_first, own_last = first + T_k - T_q, last + T_k - T_q → own_first, own_last = first, last
    The first query is put at the first key: the last query stands at the last key, so add T_k - T_q.
begin = tl.maximum(own_first - window + 1, 0) // BS → begin = tl.maximum(own_last - window + 1, 0) // BS
    begin is that of the last query: the first query of the program sees older keys.
begin = tl.maximum(own_first - window + 1, 0) // BS → begin = tl.maximum(own_first - window, 0) // BS
    begin reaches one key too far back: a window of w keys starts w - 1 before the query's own.
begin = tl.maximum(own_first - window + 1, 0) // BS → begin = 0
    begin is 0: the tiles before the window are visited for nothing.
end = tl.cdiv(own_last + 1, BS) → end = tl.cdiv(own_first + 1, BS)
    end is that of the first query: the last query of the program sees newer keys.
end = tl.cdiv(own_last + 1, BS) → end = tl.cdiv(own_last, BS)
    end stops one key too early: a query sees its own key, too.
end = tl.cdiv(own_last + 1, BS) → end = tl.cdiv(T_k, BS)
    end is that of all keys: the tiles in the future are visited for nothing.
tl.minimum(first + BT, T_q) - 1 → first + BT - 1
    The last program counts rows behind the last query.
from_tile = tl.cdiv(tl.maximum(own_last - window + 1, 0), BS) → from_tile = begin
    A tile on the left edge of the window is counted as whole: the last query no longer sees all of it.
to_tile = (own_first + 1) // BS → to_tile = (own_last + 1) // BS
    A tile on the diagonal is counted as whole: the first query does not see all of it yet.
to_tile = (own_first + 1) // BS → to_tile = own_first // BS
    The tile that ends with the first query's own key is whole, too.
tl.maximum(to_tile - from_tile, 0) → to_tile - from_tile
    If no tile is whole, the difference may be negative: then there are 0.
"""
