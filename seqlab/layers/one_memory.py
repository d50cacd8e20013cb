"""One head of memory, with the rule as the only difference: for fair comparisons."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.attention import attend
from seqlab.core.inputs import wide
from seqlab.core.recurrence import chunkwise
from seqlab.layers.base import Mixer
from seqlab.layers.norm import l2norm, rms_norm

START = 4.6  # σ(4.6) = 0.99: where decays start
RULES = ("softmax", "window", "linear", "decay", "gate", "delta", "gated delta")


def one_memory(
    d_model: int,
    rule: str,
    *,
    d_key: int = 8,
    d_value: int = 8,
    window: int = 4,
    signed: bool = False,
) -> Mixer:
    """One head with keys of width d_key and values of width d_value, under one of seven rules.

    softmax      y = Σ_j softmax_j(q·k_j) v_j over all tokens: the cache grows
    window       the same over the newest `window` tokens
    linear       S ← S + v kᵀ
    decay        S ← γ S + v kᵀ, γ one learned number
    gate         S ← S diag(a_t) + v kᵀ, a_t chosen by the token, one number per key channel
    delta        S ← S + β_t (v - S k) kᵀ, β_t chosen by the token
    gated delta  S ← a_t S first, one a_t chosen by the token

    The last five have a state S (V, K) and read y = S q. signed: β between 0 and 2, not 0 and 1.
    """
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}: choose {', '.join(RULES)}")
    if rule in ("softmax", "window"):
        return OneCache(d_model, d_key, d_value, window if rule == "window" else None)
    return OneState(d_model, rule, d_key, d_value, signed)


class _OneHead(Mixer):
    """q, k and v of one head, and the way out: what all rules share."""

    def __init__(self, d_model: int, d_key: int, d_value: int):
        super().__init__(d_model)
        self.q, self.k = (nn.Linear(d_model, d_key, bias=False) for _ in range(2))
        self.v = nn.Linear(d_model, d_value, bias=False)
        self.out = nn.Linear(d_value, d_model, bias=False)

    def qkv(self, x: Float[Tensor, "B T D"]) -> dict[str, Tensor]:
        return {name: getattr(self, name)(x)[:, :, None] for name in ("q", "k", "v")}


class Cache(NamedTuple):
    k: Float[Tensor, "B T 1 K"]
    v: Float[Tensor, "B T 1 V"]


class OneCache(_OneHead):
    """Softmax attention over all tokens, or over the newest `window`. No positions."""

    def __init__(self, d_model: int, d_key: int, d_value: int, window: int | None = None):
        super().__init__(d_model, d_key, d_value)
        self.window = window

    def project(self, x: Float[Tensor, "B T D"], state=None) -> dict[str, Tensor]:
        """q, k and v of the new tokens."""
        return self.qkv(x)

    def forward(
        self, x: Float[Tensor, "B T D"], state: Cache | None = None
    ) -> tuple[Float[Tensor, "B T D"], Cache]:
        q, k, v = self.project(x).values()
        if state is not None:
            k, v = torch.cat([state.k, k], dim=1), torch.cat([state.v, v], dim=1)
        y = attend(q, k, v, causal=True, window=self.window)
        if self.window is not None:
            k, v = k[:, -self.window :], v[:, -self.window :]
        return self.out(rearrange(y, "b t h v -> b t (h v)")), Cache(k, v)


class OneState(_OneHead):
    """A state S (V, K) under one of the five rules that `one_memory` lists.

    q and k have length 1, and what is read is divided by its root mean square, as in real layers.
    There is no convolution, no position and no output gate.
    """

    def __init__(self, d_model: int, rule: str, d_key: int, d_value: int, signed: bool = False):
        super().__init__(d_model, d_key, d_value)
        self.strongest = 2 if signed else 1
        # Decays of each channel make an array of (C, C, K): shorter chunks.
        self.chunk_size = 16 if rule == "gate" else 64
        n_decays = {"gate": d_key, "gated delta": 1}.get(rule, 0)
        self.decay = nn.Linear(d_model, n_decays) if n_decays else None
        if self.decay is not None:
            nn.init.constant_(self.decay.bias, START)
        self.gamma = nn.Parameter(torch.tensor(START)) if rule == "decay" else None
        self.beta = nn.Linear(d_model, 1) if "delta" in rule else None

    def project(self, x: Float[Tensor, "B T D"], state=None) -> dict[str, Tensor]:
        """What the recurrence reads: q, k, v, and what the rule adds to them."""
        inputs = self.qkv(x)
        inputs |= {"q": l2norm(inputs["q"]), "k": l2norm(inputs["k"])}
        if self.gamma is not None:
            inputs["log_a"] = F.logsigmoid(wide(self.gamma)).expand(*x.shape[:2], 1, 1)
        if self.decay is not None:
            inputs["log_a"] = F.logsigmoid(wide(self.decay(x)))[:, :, None]
        if self.beta is not None:
            inputs["beta"] = self.strongest * self.beta(x).sigmoid()
        return inputs

    def read(self, y: Float[Tensor, "B T 1 V"]) -> Float[Tensor, "B T 1 V"]:
        """From S q to the head's output: divide by its root mean square."""
        return rms_norm(y)

    def forward(
        self, x: Float[Tensor, "B T D"], state: Float[Tensor, "B 1 V K"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B 1 V K"]]:
        y, state = chunkwise(**self.project(x), state=state, chunk_size=self.chunk_size)
        return self.out(rearrange(self.read(y), "b t h v -> b t (h v)")), state
