"""A ledger of memory traffic: what an algorithm moves between a slow memory and a small fast one.

    ledger = Ledger(96 * 1024)  # bytes of fast memory
    y, lse = fa2(ledger, q, k, v, tile=(64, 64))
    ledger.read, ledger.written, ledger.largest

What an algorithm is given and what it returns is in slow memory. It computes only with tiles that
it has loaded or made on chip, and all of these count towards the size of the fast memory. The
numbers are those of one head of attention, computed for real: a ledger that is right about a wrong
algorithm would be of no use. Caches between the two memories are not modelled.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from seqlab.core.attention_tiled import merge

Queries = Float[Tensor, "T_q K"]
Keys = Float[Tensor, "T_k K"]
Values = Float[Tensor, "T_k V"]
Result = tuple[Float[Tensor, "T_q V"], Float[Tensor, " T_q"]]


class Move(NamedTuple):
    """One transfer. kind: "read" (slow to fast) or "write". tile: blocks of queries and of keys."""

    tile: tuple[int, int]
    kind: str
    name: str
    bytes: int


class Ledger:
    """Notes each transfer, and refuses to hold more than `size` bytes on chip.

    itemsize: bytes a number, the same for all (2: bf16), whatever the tensors' own type.
    """

    def __init__(self, size: int, itemsize: int = 2):
        self.size, self.itemsize = size, itemsize
        self.moves: list[Move] = []
        self.held: dict[str, int] = {}
        self.largest = 0
        self.tile: tuple[int, int] = (0, 0)

    @property
    def read(self) -> int:
        return sum(move.bytes for move in self.moves if move.kind == "read")

    @property
    def written(self) -> int:
        return sum(move.bytes for move in self.moves if move.kind == "write")

    @property
    def moved(self) -> int:
        return self.read + self.written

    def load(self, name: str, x: Tensor) -> Tensor:
        """Copy x from slow memory, over what was on chip under this name."""
        self._note("read", name, x)
        return self.keep(name, x.clone())

    def keep(self, name: str, x: Tensor) -> Tensor:
        """x was made on chip and stays there, in place of what had this name. Returns x."""
        held = self.held | {name: x.numel() * self.itemsize}
        if sum(held.values()) > self.size:
            parts = ", ".join(f"{name} {n:,}" for name, n in held.items())
            raise MemoryError(
                f"{parts} bytes do not fit into a fast memory of {self.size:,} bytes: "
                "use smaller tiles"
            )
        self.held, self.largest = held, max(self.largest, sum(held.values()))
        return x

    def store(self, name: str, place: Tensor, x: Tensor) -> None:
        """Copy x from the chip into `place`, a part of a tensor in slow memory."""
        place.copy_(x)
        self._note("write", name, x)

    def clear(self) -> None:
        """A kernel ends: nothing stays on chip."""
        self.held = {}

    def by_tensor(self) -> dict[str, dict[str, int]]:
        """name -> {"read": bytes, "write": bytes}."""
        table: dict[str, dict[str, int]] = {}
        for move in self.moves:
            table.setdefault(move.name, {"read": 0, "write": 0})[move.kind] += move.bytes
        return table

    def _note(self, kind: str, name: str, x: Tensor) -> None:
        self.moves.append(Move(self.tile, kind, name, x.numel() * self.itemsize))


def standard(
    ledger: Ledger,
    q: Queries,
    k: Keys,
    v: Values,
    *,
    tile: tuple[int, int] = (64, 64),
    causal: bool = False,
) -> Result:
    """Three kernels: S = q kᵀ, P = softmax(S), y = P v. S and P go through slow memory.

    causal only masks: every tile of S and P is moved, as a batched matrix product does.
    """
    S, P = (q.new_empty(len(q), len(k)) for _ in range(2))
    for i, rows in enumerate(blocks(len(q), tile[0])):
        q_i = ledger.load("q", q[rows])
        for j, cols in enumerate(blocks(len(k), tile[1])):
            ledger.tile = i, j
            s = _scores(q_i, ledger.load("k", k[cols]), rows, cols, q, k, causal)
            ledger.store("S", S[rows, cols], ledger.keep("S", s))
    ledger.clear()
    y, lse = q.new_empty(len(q), v.shape[-1]), q.new_empty(len(q))
    at_once = max(1, ledger.size // (ledger.itemsize * (len(k) + 1)))
    for rows in blocks(len(q), at_once):
        s = ledger.load("S", S[rows])
        ledger.store("lse", lse[rows], ledger.keep("lse", s.logsumexp(-1)))
        ledger.store("P", P[rows], s.softmax(-1))  # over S, on chip
    ledger.clear()
    for i, rows in enumerate(blocks(len(q), tile[0])):
        y_i = ledger.keep("y", torch.zeros_like(y[rows]))
        for j, cols in enumerate(blocks(len(k), tile[1])):
            ledger.tile = i, j
            y_i = y_i + ledger.load("P", P[rows, cols]) @ ledger.load("v", v[cols])
        ledger.store("y", y[rows], y_i)
    return y, lse


def fa1(
    ledger: Ledger,
    q: Queries,
    k: Keys,
    v: Values,
    *,
    tile: tuple[int, int] = (64, 64),
    causal: bool = False,
) -> Result:
    """Keys outside (FlashAttention, arXiv:2205.14135): k and v are read once, q and y often.

    The paper keeps the largest score and the sum of a row; their log-sum-exp is one number.
    """
    y, lse = q.new_zeros(len(q), v.shape[-1]), q.new_full((len(q),), -torch.inf)
    for j, cols in enumerate(blocks(len(k), tile[1])):
        k_j, v_j = ledger.load("k", k[cols]), ledger.load("v", v[cols])
        for i, rows in enumerate(blocks(len(q), tile[0])):
            if causal and _unseen(rows, cols, q, k):
                continue
            ledger.tile = i, j
            q_i, y_i = ledger.load("q", q[rows]), ledger.load("y", y[rows])
            lse_i = ledger.load("lse", lse[rows])
            s = ledger.keep("s", _scores(q_i, k_j, rows, cols, q, k, causal))
            lse_new = ledger.keep("lse of the tile", s.logsumexp(-1))
            y_new = (s - _finite(lse_new)[:, None]).exp() @ v_j
            y_i, lse_i = merge(y_i, lse_i, y_new, lse_new)
            ledger.store("y", y[rows], y_i)
            ledger.store("lse", lse[rows], lse_i)
    return y, lse


def fa2(
    ledger: Ledger,
    q: Queries,
    k: Keys,
    v: Values,
    *,
    tile: tuple[int, int] = (64, 64),
    causal: bool = False,
) -> Result:
    """Queries outside (FlashAttention-2, arXiv:2307.08691): q is read and y written once."""
    y, lse = q.new_empty(len(q), v.shape[-1]), q.new_empty(len(q))
    for i, rows in enumerate(blocks(len(q), tile[0])):
        q_i = ledger.load("q", q[rows])
        read = ledger.keep("y", torch.zeros_like(y[rows]))
        top = ledger.keep("top", torch.full_like(lse[rows], -torch.inf))
        total = ledger.keep("total", torch.zeros_like(top))
        for j, cols in enumerate(blocks(len(k), tile[1])):
            if causal and _unseen(rows, cols, q, k):
                continue
            ledger.tile = i, j
            k_j, v_j = ledger.load("k", k[cols]), ledger.load("v", v[cols])
            s = ledger.keep("s", _scores(q_i, k_j, rows, cols, q, k, causal))
            new = torch.maximum(top, s.amax(-1))
            fade = (top - _finite(new)).exp()
            p = (s - _finite(new)[:, None]).exp()
            total = fade * total + p.sum(-1)
            read = fade[:, None] * read + p @ v_j
            top = new
        ledger.store("y", y[rows], read / total.masked_fill(total == 0, 1)[:, None])
        ledger.store("lse", lse[rows], top + total.log())
    return y, lse


def rises(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    tile: int,
    *,
    newest_first: bool = False,
) -> Float[Tensor, " n"]:
    """The share of rows whose maximum rises at each tile but the first: each asks for a rescaling.

    Causal. The last `tile` queries of each head read all T keys in tiles, from the first key on or
    from the newest back; T is a multiple of `tile`.
    """
    T = k.shape[1]
    s = torch.einsum("bihk, bjhk -> bhij", q[:, T - tile :], k)
    s = s.masked_fill(torch.ones(tile, T).triu(T - tile + 1).bool(), -torch.inf)
    best = s.unflatten(-1, (-1, tile)).amax(-1)  # of each tile
    so_far = (best.flip(-1) if newest_first else best).cummax(-1).values
    return (so_far.diff() > 0).double().mean((0, 1, 2))


ALGORITHMS: dict[str, Callable[..., Result]] = {"standard": standard, "fa1": fa1, "fa2": fa2}


def largest_tile(size: int, K: int, V: int | None = None, itemsize: int = 2) -> int:
    """The side of the largest square tile with which each of the algorithms fits.

    A tile of B x B needs q, k, v and y (B rows each), the scores, and two more numbers a row. B
    is a multiple of 8, or less than 8. ValueError if not even 1 fits.
    """
    V = K if V is None else V
    room = size // itemsize
    width = 2 * K + 2 * V + 2
    side = int(((width**2 + 4 * room) ** 0.5 - width) / 2)
    if side < 1:
        raise ValueError(f"a fast memory of {size:,} bytes holds no tile with K = {K}, V = {V}")
    return side - side % 8 if side >= 8 else side


def paper_bound(size: int, T: int, K: int, itemsize: int = 2) -> float:
    """T² K² / M numbers, in bytes: the order of FlashAttention's traffic for a fast memory of M.

    The paper proves Θ(T² K² / M) for K ≤ M ≤ T K, and that no exact algorithm does better for all
    such M. Θ has no constant: a slope to compare with, not a floor.
    """
    return T**2 * K**2 / (size / itemsize) * itemsize


def blocks(length: int, step: int) -> Iterator[slice]:
    """Slices of `step` that cover `length`; the last may be shorter."""
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _unseen(rows, cols, q, k) -> bool:
    """Whether no query of the block sees a key of the block. The last query is at the last key."""
    return cols.start > rows.stop - 1 + len(k) - len(q)


def _scores(q_i, k_j, rows, cols, q, k, causal) -> Tensor:
    s = q_i @ k_j.mT * q_i.shape[-1] ** -0.5
    if not causal:
        return s
    at = torch.arange(rows.start, rows.stop)[:, None] + len(k) - len(q)
    return s.masked_fill(torch.arange(cols.start, cols.stop) > at, -torch.inf)


def _finite(x):
    return x.masked_fill(x == -torch.inf, 0)
