"""The state microscope's eye: what a mixer holds, writes, reads and still knows after each token of
one short sequence.

`observe` works on any mixer. One that offers `project` is seen exactly, through the equation of
`seqlab.core.recurrence` or through the softmax; any other module with forward(x, state) -> (y,
state) is run token by token and differentiated. The pictures are in `seqlab.figures.microscope`.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.attention import attend, causal_mask, repeat_heads
from seqlab.core.inputs import wide
from seqlab.core.recurrence import parallel, step

COMES_BACK = 0.9
"""A stored value comes back when what its key returns has at least this cosine with it."""


@dataclass(frozen=True)
class Trace:
    """One head of one mixer, token by token.

    kind: "state" (a recurrence: a table with a column per key channel), "cache" (softmax attention:
    a column per kept token, its k above its v) or "any" (every tensor of the state, flattened and
    wrapped into a table). `normalised`: the last row of the table is the normaliser z, not a value.
    NaN marks cells that do not exist: a column not yet in the cache, a key not yet stored.
    """

    mixer: str
    kind: str
    head: int | None
    n_heads: int
    normalised: bool
    labels: tuple[str, ...]
    states: Float[Tensor, "T R C"]  # after each token
    written: Float[
        Tensor, "T R C"
    ]  # the part of it that this token wrote: S_t minus the decayed S_{t-1}
    weights: Float[Tensor, "T T"]  # how much of token s (column) is in the read of token t (row)
    recall: (
        Float[Tensor, "T T"] | None
    )  # cosine of what key j (column) returns after token t (row) with its value
    half_lives: Float[Tensor, "T n"] | None  # in tokens, ∞ where nothing decays
    half_life_of: str | None = None  # what the n columns are: "head" or "key channel"

    def comes_back(self, t: int) -> int:
        """How many of the t + 1 values stored so far their keys still return."""
        return int((self.recall[t, : t + 1] >= COMES_BACK).sum())


@torch.no_grad()
def observe(
    mixer: nn.Module, x: Tensor, labels: Any = None, *, head: int = 0, row: int = 0
) -> Trace:
    """Run `mixer` over one row of x (B, T, D); record what one head holds after each token. labels:
    a name for each.
    """
    labels = _checked_labels(x, labels, row)
    x = x[row : row + 1].detach()
    inputs = mixer.project(x) if hasattr(mixer, "project") else {}
    if "q" not in inputs or not set(inputs) <= {"q", "k", "v", "log_a", "beta"}:
        return Trace(type(mixer).__name__, "any", None, 1, False, labels, *_watch_forward(mixer, x))
    inputs = {name: wide(u) for name, u in inputs.items()}
    n_heads = inputs["q"].shape[2]
    if not 0 <= head < n_heads:
        raise ValueError(f"head is {head}: {type(mixer).__name__} has heads 0 to {n_heads - 1}")
    # Mixers say how they read the state; softmax attention has no state to read, it keeps
    # everything.
    kind, watch = ("state", _watch_state) if hasattr(mixer, "read") else ("cache", _watch_cache)
    return Trace(
        type(mixer).__name__,
        kind,
        head,
        n_heads,
        _normalised(mixer),
        labels,
        *watch(mixer, inputs, head),
    )


def _watch_state(mixer, inputs, head):
    """states, written, weights, recall, half-lives of a recurrence."""
    q, k, v, log_a = (inputs.get(name) for name in ("q", "k", "v", "log_a"))
    S = q.new_zeros(1, q.shape[2], v.shape[-1], q.shape[-1])
    states, written = [], []
    for t in range(q.shape[1]):
        decayed = S if log_a is None else S * log_a[:, t].exp()[..., None, :]
        _, S = step(S, **{name: u[:, t] for name, u in inputs.items()})
        states.append(S)
        written.append(S - decayed)
    states, written = (torch.cat(S) for S in (states, written))  # (T, H, V, K)
    returned = mixer.read(torch.einsum("thvk, jhk -> tjhv", states, k[0]))
    recall = _recall(returned[:, :, head], mixer.read(v)[0, :, head])
    half_lives = (None,) if log_a is None else _half_lives(log_a[0], head)
    return (
        states[:, head],
        written[:, head],
        _state_weights(mixer, inputs)[0, :, head],
        recall,
        *half_lives,
    )


def _normalised(mixer) -> bool:
    """Does a column of ones ride along with v, so that the last row of the state is a
    normaliser?
    """
    return getattr(mixer, "normalize", False)


def _state_weights(mixer, inputs):
    """The attention matrix a recurrence implies (B, T, H, T): y is linear in v, so v = identity
    lists the weight of every token. Where the mixer divides by a normaliser, so do the weights.
    """
    B, T, H, _ = inputs["q"].shape
    eye = torch.eye(T, dtype=inputs["q"].dtype, device=inputs["q"].device)[None, :, None].expand(
        B, T, H, T
    )
    if not _normalised(mixer):
        return parallel(**inputs | {"v": eye})[0]
    return mixer.read(parallel(**inputs | {"v": F.pad(eye, (0, 1), value=1.0)})[0])


def _watch_cache(mixer, inputs, head):
    """The same for softmax attention: the table is the cache, a column per kept token."""
    q, k, v = (
        inputs["q"],
        *(repeat_heads(inputs[name], inputs["q"].shape[2]) for name in ("k", "v")),
    )
    T, window = q.shape[1], getattr(mixer, "window", None)
    eye = torch.eye(T, dtype=q.dtype, device=q.device)[None, :, None].expand(1, T, q.shape[2], T)
    weights = attend(q, k, eye, causal=True, window=window)[0, :, head]
    k, v = k[0, :, head], v[0, :, head]
    kept = causal_mask(
        T, T, window=window, device=q.device
    )  # kept[t, s]: is token s in the cache after token t?
    columns = torch.cat([k, v], dim=-1).mT  # (K + V, T)
    states = torch.where(kept[:, None], columns, torch.nan)
    written = torch.where(
        torch.eye(T, dtype=torch.bool, device=q.device)[:, None], columns, torch.nan
    )
    scores = (k @ k.mT) * k.shape[-1] ** -0.5
    returned = (
        scores.expand(T, T, T).masked_fill(~kept[:, None], -torch.inf).softmax(-1) @ v
    )  # (T, T, V)
    return states, written, weights, _recall(returned, v), None


def _watch_forward(mixer, x):
    """The same for any module: its state after each token, and |∂y_t/∂x_s| for the weights."""
    state, flat = None, []
    for t in range(x.shape[1]):
        _, state = mixer(x[:, t : t + 1], state)
        flat.append(torch.cat([u.flatten().to(x) for u in _tensors(state)] or [x.new_zeros(1)]))
    n = max(len(u) for u in flat)
    width = math.ceil(math.sqrt(n))
    room = width * math.ceil(n / width)
    states = torch.stack([F.pad(u, (0, room - len(u)), value=torch.nan) for u in flat]).unflatten(
        -1, (-1, width)
    )
    before = torch.cat([torch.zeros_like(states[:1]), states[:-1].nan_to_num()])
    return states, states - before, _influence(mixer, x), None, None


def _tensors(state) -> list[Tensor]:
    """Every floating-point tensor in a state, whatever it is nested in; a complex number is two of
    its cells.
    """
    if isinstance(state, Tensor):
        state = torch.view_as_real(state.detach()) if state.is_complex() else state.detach()
        return [state] if state.is_floating_point() else []
    parts = (
        state.values()
        if isinstance(state, dict)
        else state
        if isinstance(state, tuple | list)
        else ()
    )
    return [u for part in parts for u in _tensors(part)]


@torch.enable_grad()
def _influence(mixer, x) -> Float[Tensor, "T T"]:
    """|∂y_t/∂x_s|, the size of the Jacobian of one forward over the whole sequence."""
    T, D = mixer(x)[0].shape[1:]
    # Row d of a batch of copies asks for channel d of y_t, so one backward gives the whole Jacobian
    # of y_t.
    x = x.expand(D, -1, -1).clone().requires_grad_()
    y = mixer(x)[0].diagonal(dim1=0, dim2=2)  # (T, D)
    if not y.requires_grad:
        return x.new_zeros(T, T)
    rows = [torch.autograd.grad(y_t.sum(), x, retain_graph=True)[0] for y_t in y]
    return torch.stack([jacobian.square().sum((0, 2)).sqrt() for jacobian in rows])


def _recall(returned: Float[Tensor, "T T V"], stored: Float[Tensor, "T V"]) -> Float[Tensor, "T T"]:
    """Cosine of returned[t, j] with stored[j], NaN for j > t."""
    future = ~causal_mask(len(stored), len(stored), device=stored.device)
    return F.cosine_similarity(returned, stored[None], dim=-1).masked_fill(future, torch.nan)


def _half_lives(log_a: Float[Tensor, "T H A"], head: int) -> tuple[Float[Tensor, "T n"], str]:
    """Tokens until half is left, ln ½ / log a: of every head, or of every key channel of this
    head.
    """
    decays, of = (
        (log_a[..., 0], "head") if log_a.shape[-1] == 1 else (log_a[:, head], "key channel")
    )
    return math.log(2) / decays.abs(), of


def _checked_labels(x, labels, row) -> tuple[str, ...]:
    if not isinstance(x, Tensor) or x.ndim != 3 or not x.is_floating_point():
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x is {got}: a floating-point tensor (B, T, D) is needed")
    if x.shape[1] == 0:
        raise ValueError("the sequence is empty: T must be at least 1")
    if not 0 <= row < len(x):
        raise ValueError(f"row is {row}: x has rows 0 to {len(x) - 1}")
    if labels is None:
        return tuple(str(t) for t in range(x.shape[1]))
    if len(labels) != x.shape[1]:
        raise ValueError(
            f"there are {len(labels)} labels for {x.shape[1]} tokens: give one for each"
        )
    return tuple(str(label) for label in labels)
