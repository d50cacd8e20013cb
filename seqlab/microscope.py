"""The state microscope: what a mixer holds, writes, reads and still knows after each token.

`observe` works on any mixer, over one short sequence. A mixer with a `project` method is seen
exactly, through the equation of `seqlab.core.recurrence` or through the softmax; any other module
with forward(x, state) -> (y, state) is run token by token and differentiated. The pictures are in
`seqlab.figures.microscope`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.attention import attend, causal_mask, repeat_heads
from seqlab.core.convolution import exponential_kernel
from seqlab.core.discretize import as_complex, bilinear
from seqlab.core.inputs import wide
from seqlab.core.rank_one import by_convolution
from seqlab.core.recurrence import parallel, step
from seqlab.layers.base import tensors_in

COMES_BACK = 0.9
"""A stored value comes back when what its key returns has at least this cosine with it."""
GATES = {"q", "k", "v", "log_a", "beta"}  # what `seqlab.core.recurrence` takes


@dataclass(frozen=True)
class Trace:
    """One head of one mixer, token by token.

    kind: "state" (a recurrence: a table with a column per key channel), "cache" (softmax attention:
    a column per kept token, its k above its v) or "any" (every tensor of the state, flattened and
    wrapped into a table). normalised: the last row of the table is the normaliser z, not a value.

    states: the table after each token. written: the part of it that this token wrote, S_t minus the
    decayed S_{t-1}. weights: how much of token s (column) is in the read of token t (row). recall:
    cosine of what key j (column) returns after token t (row) with its value. half_lives: in tokens,
    ∞ where nothing decays; half_life_of says what its n columns are, "head" or "key channel". NaN
    marks cells that do not exist: a column not yet in the cache, a key not yet stored.
    """

    mixer: str
    kind: str
    head: int | None
    n_heads: int
    normalised: bool
    labels: tuple[str, ...]
    states: Float[Tensor, "T R C"]
    written: Float[Tensor, "T R C"]
    weights: Float[Tensor, "T T"]
    recall: Float[Tensor, "T T"] | None = None
    half_lives: Float[Tensor, "T n"] | None = None
    half_life_of: str | None = None

    def comes_back(self, t: int) -> int:
        """How many of the t + 1 values stored so far their keys still return."""
        if self.recall is None:
            raise ValueError(f"{self.mixer} was seen from outside: what its keys return is unknown")
        return int((self.recall[t, : t + 1] >= COMES_BACK).sum())


@torch.no_grad()
def observe(
    mixer: nn.Module,
    x: Float[Tensor, "B T D"],
    labels: Iterable | None = None,
    *,
    head: int = 0,
    row: int = 0,
) -> Trace:
    """Run `mixer` over one row of x; record what one head holds after each token.

    labels: a name for each token.
    """
    labels = _checked_labels(x, labels, row)
    name = type(mixer).__name__
    x = x[row : row + 1].detach()
    project = getattr(mixer, "project", None)
    inputs = project(x) if project else {}
    if "q" not in inputs or not set(inputs) <= GATES:
        return Trace(name, "any", None, 1, False, labels, **_watch_forward(mixer, x))
    inputs = {gate: wide(u) for gate, u in inputs.items()}
    n_heads = inputs["q"].shape[2]
    if not 0 <= head < n_heads:
        raise ValueError(f"head is {head}: {name} has heads 0 to {n_heads - 1}")
    # A recurrence has a method that reads its state. Softmax attention has no state to read.
    kind, watch = ("state", _watch_state) if hasattr(mixer, "read") else ("cache", _watch_cache)
    seen = watch(mixer, inputs, head)
    return Trace(name, kind, head, n_heads, _normalised(mixer), labels, **seen)


def _watch_state(mixer, inputs, head) -> dict[str, Any]:
    """The fields of a Trace of a recurrence."""
    k = inputs["k"]
    v = inputs["v"]
    log_a = inputs.get("log_a")
    S = k.new_zeros(1, k.shape[2], v.shape[-1], k.shape[-1])
    states = []
    written = []
    for t in range(k.shape[1]):
        decayed = S if log_a is None else S * log_a[:, t].exp()[..., None, :]
        _, S = step(S, **{gate: u[:, t] for gate, u in inputs.items()})
        states.append(S)
        written.append(S - decayed)
    states = torch.cat(states)  # (T, H, V, K)
    written = torch.cat(written)
    returned = mixer.read(torch.einsum("thvk, jhk -> tjhv", states, k[0]))
    seen = {
        "states": states[:, head],
        "written": written[:, head],
        "weights": _state_weights(mixer, inputs)[0, :, head],
        "recall": _recall(returned[:, :, head], mixer.read(v)[0, :, head]),
    }
    return seen if log_a is None else seen | _half_lives(log_a[0], head)


def _normalised(mixer) -> bool:
    """True if v has a further column of ones, so that the last row of the state is a normaliser."""
    return getattr(mixer, "normalize", False)


def _state_weights(mixer, inputs) -> Float[Tensor, "B T H T"]:
    """The attention matrix that a recurrence implies.

    y is linear in v, so v = identity lists the weight of every token. If the mixer divides by a
    normaliser, so do the weights.
    """
    eye = _identity_values(inputs["q"])
    if not _normalised(mixer):
        return parallel(**inputs | {"v": eye})[0]
    return mixer.read(parallel(**inputs | {"v": F.pad(eye, (0, 1), value=1.0)})[0])


def _identity_values(q: Float[Tensor, "B T H K"]) -> Float[Tensor, "B T H T"]:
    """Values of which token s has 1 in channel s, and 0 elsewhere."""
    B, T, H, _ = q.shape
    return torch.eye(T, dtype=q.dtype, device=q.device)[None, :, None].expand(B, T, H, T)


def _watch_cache(mixer, inputs, head) -> dict[str, Any]:
    """The same for softmax attention: the table is the cache, a column per kept token."""
    q = inputs["q"]
    k, v = (repeat_heads(inputs[name], q.shape[2]) for name in ("k", "v"))
    T = q.shape[1]
    window = getattr(mixer, "window", None)
    weights, _ = attend(q, k, _identity_values(q), causal=True, window=window, return_lse=True)
    k = k[0, :, head]
    v = v[0, :, head]
    # kept[t, s]: token s is in the cache after token t
    kept = causal_mask(T, T, window=window, device=q.device)
    new = torch.eye(T, dtype=torch.bool, device=q.device)
    columns = torch.cat([k, v], dim=-1).mT  # (K + V, T)
    scores = (k @ k.mT) * k.shape[-1] ** -0.5
    scores = scores.expand(T, T, T).masked_fill(~kept[:, None], -torch.inf)
    return {
        "states": torch.where(kept[:, None], columns, torch.nan),
        "written": torch.where(new[:, None], columns, torch.nan),
        "weights": weights[0, :, head],
        "recall": _recall(scores.softmax(-1) @ v, v),
    }


def _watch_forward(mixer, x) -> dict[str, Any]:
    """The same for any module: its state after each token, and |∂y_t/∂x_s| for the weights."""
    state = None
    flat = []
    for t in range(x.shape[1]):
        _, state = mixer(x[:, t : t + 1], state)
        flat.append(torch.cat([u.flatten().to(x) for u in _real(state)] or [x.new_zeros(1)]))
    n = max(len(u) for u in flat)
    width = math.ceil(math.sqrt(n))
    room = width * math.ceil(n / width)
    padded = torch.stack([F.pad(u, (0, room - len(u)), value=torch.nan) for u in flat])
    states = padded.unflatten(-1, (-1, width))
    before = torch.cat([torch.zeros_like(states[:1]), states[:-1].nan_to_num()])
    return {"states": states, "written": states - before, "weights": _influence(mixer, x)}


def _real(state) -> list[Tensor]:
    """Every floating-point tensor in a nested state; a complex number is two of its cells."""
    parts = (x.detach() for x in tensors_in(state))
    cells = [torch.view_as_real(x) if x.is_complex() else x for x in parts]
    return [x for x in cells if x.is_floating_point()]


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
    past = causal_mask(len(stored), len(stored), device=stored.device)
    cosine = F.cosine_similarity(returned, stored[None], dim=-1)
    return cosine.masked_fill(~past, torch.nan)


def _half_lives(log_a: Float[Tensor, "T H A"], head: int) -> dict[str, Any]:
    """Tokens until half is left, ln ½ / log a: of every head, or of every channel of this head."""
    if log_a.shape[-1] == 1:
        decays = log_a[..., 0]
        of = "head"
    else:
        decays = log_a[:, head]
        of = "key channel"
    return {"half_lives": math.log(2) / decays.abs(), "half_life_of": of}


def _checked_labels(x, labels, row) -> tuple[str, ...]:
    if not isinstance(x, Tensor) or x.ndim != 3 or not x.is_floating_point():
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x is {got}: a floating-point tensor (B, T, D) is needed")
    if x.shape[1] == 0:
        raise ValueError("the sequence is empty: T must be at least 1")
    if not 0 <= row < len(x):
        raise ValueError(f"row is {row}: x has rows 0 to {len(x) - 1}")
    labels = range(x.shape[1]) if labels is None else list(labels)
    if len(labels) != x.shape[1]:
        raise ValueError(
            f"there are {len(labels)} labels for {x.shape[1]} tokens: give one for each"
        )
    return tuple(str(label) for label in labels)


def influence_by_age(mixer: nn.Module, x: Float[Tensor, "B T D"]) -> Float[Tensor, " T"]:
    """How far back the last output sees: |∂ sum(y_T) / ∂x_s| by age T - s, the mean over B."""
    x = x.detach().requires_grad_()
    y, _ = mixer(x)
    (gradient,) = torch.autograd.grad(y[:, -1].sum(), x)
    return gradient.norm(dim=-1).mean(0).flip(0)


@torch.no_grad()
def modes_of(mixer: Any, length: int) -> tuple[Tensor, Float[Tensor, "c L"]]:
    """The gates of a state space model (n,), complex, and kernels by age, some channels of it.

    For those of chapter 06. A kernel is what a single 1 leaves behind; for Mamba, which has none,
    it is what a channel's modes keep at an input of zero.
    """
    if hasattr(mixer, "system"):  # S4: its low rank mixes the modes
        s = mixer.system()
        one = F.pad(s.dt.new_ones(1, 1, len(s.dt)), (0, 0, 0, length - 1))
        rates, P = (torch.cat([u, u.conj()], dim=-1) for u in (s.rates, s.P))
        full = torch.diag_embed(rates) - P[..., :, None] * P[..., None, :].conj()
        gates, _ = bilinear(torch.linalg.eigvals(full.to(torch.complex128)), s.dt)
        return gates.flatten(), by_convolution(s, one)[0][0].mT
    if hasattr(mixer, "gates"):  # S5, LRU: from each channel to itself
        a, b = mixer.gates()
        c = b * as_complex(mixer.C) * as_complex(mixer.B).mT
        return a, exponential_kernel(c, a.log()[None], length)
    if hasattr(mixer, "dt_proj"):  # Mamba
        dt = F.softplus(mixer.dt_proj.bias)[:, None]
        log_a = dt * -mixer.A_log.exp()
        kernels = (log_a[0][:, None] * torch.arange(length)).exp()
        return log_a.exp().flatten().to(torch.complex64), kernels
    c, log_a = mixer.modes() if hasattr(mixer, "modes") else mixer.kernel()
    gates = log_a.exp().flatten()
    return gates.to(torch.complex64), exponential_kernel(c, log_a, length)
