"""Edges between architectures: change one thing in the first, and it is the second.

Each claim builds both from random weights, makes the change, and returns (ours, theirs), which
agree to 1e-9 in float64. `tests/test_identities.py` tries all of them; chapter 05 runs them and
draws the graph. x is (B, T, WIDTH), float64.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqlab.core import two_sided
from seqlab.core.attention import attend_sdpa
from seqlab.core.recurrence import recurrent
from seqlab.mixers import (
    ABC,
    DFW,
    GLA,
    GSA,
    HGRN2,
    MLSTM,
    GatedRetention,
    GatedRFA,
    GateLoop,
    LightningAttention,
    LinearAttention,
    RetNet,
)

WIDTH, H = 32, 4
K = WIDTH // H
OPEN = 1e4  # a gate's input so large that the gate is exactly 1

Claim = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Identity:
    """`general` with this `change` is `special`; claim(x) returns what both compute."""

    general: str
    change: str
    special: str
    claim: Claim


IDENTITIES: list[Identity] = []


def _identity(general: str, change: str, special: str) -> Callable[[Claim], Claim]:
    def listed(claim: Claim) -> Claim:
        IDENTITIES.append(Identity(general, change, special, claim))
        return claim

    return listed


def heads(mixer, x: Tensor) -> Tensor:
    """The recurrence alone: S_t q_t of every head."""
    return recurrent(**mixer.project(x))[0]


def alike(ours: Any, theirs: Any) -> tuple[Any, Any]:
    """Both in float64, `ours` with every weight of `theirs` that it has by name and shape."""
    ours, theirs = ours.double(), theirs.double()
    mine = ours.state_dict()
    shared = {
        n: w for n, w in theirs.state_dict().items() if n in mine and mine[n].shape == w.shape
    }
    if not shared:
        raise ValueError(f"{type(ours).__name__} and {type(theirs).__name__} share no weight")
    ours.load_state_dict(shared, strict=False)
    return ours, theirs


@_identity("GLA", "every gate is 1", "linear attention")
def gla_with_unit_gate_is_linear_attention(x):
    gla, linear = alike(
        GLA(WIDTH, H, expand_k=1), LinearAttention(WIDTH, H, feature_map="identity")
    )
    gla.decay[1].bias.data.fill_(OPEN)
    return heads(gla, x), heads(linear, x) * K**-0.5


@_identity("GLA", "one gate for all channels", "gated retention")
def gla_with_one_gate_per_head_is_gated_retention(x):
    """GLA has no positions: gated retention without its rotation."""
    gla, retention = alike(GLA(WIDTH, H, expand_k=1, gate_rank=H), GatedRetention(WIDTH, H))
    gla.decay[0].weight.data = retention.decay.weight.data
    gla.decay[1].weight.data = torch.eye(H, dtype=torch.float64).repeat_interleave(K, dim=0)
    gla.decay[1].bias.data.zero_()
    retention.theta.zero_()
    return heads(gla, x), heads(retention, x)


@_identity("gated retention", "the gate ignores the token", "RetNet")
def gated_retention_with_a_gate_that_ignores_the_token_is_retnet(x):
    gated, retnet = alike(GatedRetention(WIDTH, H), RetNet(WIDTH, H, expand_v=1))
    gated.decay.weight.data.zero_()
    retnet.log_gamma.fill_(0.5).log_().div_(16)
    return gated(x)[0], retnet(x)[0]


@_identity("RetNet", "no decay, no rotation", "linear attention")
def retnet_without_decay_and_rotation_is_linear_attention(x):
    retnet, linear = alike(
        RetNet(WIDTH, H, expand_v=1), LinearAttention(WIDTH, H, feature_map="identity")
    )
    retnet.theta.zero_()
    retnet.log_gamma.zero_()
    return heads(retnet, x), heads(linear, x) * K**-0.5


@_identity("RetNet", "silu, no rotation", "lightning attention")
def retnet_without_rotation_on_activated_inputs_is_lightning_attention(x):
    lightning = LightningAttention(WIDTH, H).double()
    q, k, v, log_a = lightning.project(x).values()
    retnet = RetNet(WIDTH, H, expand_v=1).double()
    retnet.theta.zero_()
    for W in (retnet.q, retnet.k, retnet.v):
        W.weight.data = torch.eye(WIDTH, dtype=torch.float64)
    activated = {"q": q.flatten(-2), "k": k.flatten(-2), "v": v.flatten(-2)}
    theirs = {name: retnet.project(u)[name] for name, u in activated.items()}
    return recurrent(**theirs, log_a=log_a)[0], heads(lightning, x) * K**-0.5


@_identity("GLA", "the key is 1 - the gate", "HGRN-2")
def gla_with_the_key_one_minus_the_gate_is_hgrn2(x):
    hgrn, gla = HGRN2(WIDTH, H).double(), GLA(WIDTH, H, expand_k=1, tau=1.0).double()
    gla.decay = nn.Sequential(hgrn.f, nn.Identity())
    gates = gla.project(x)["log_a"]
    q, _, v, _ = hgrn.project(x).values()
    return recurrent(q, 1 - gates.exp(), v, log_a=gates)[0], heads(hgrn, x)


@_identity("GateLoop", "it never turns", "GLA")
def gateloop_that_never_turns_is_gla(x):
    loop, gla = alike(GateLoop(WIDTH, H), GLA(WIDTH, H, expand_k=1, tau=1.0))
    loop.turn.weight.data.zero_()
    loop.turn.bias.data.zero_()
    gla.decay = loop.fade
    return heads(loop, x), heads(gla, x) * K**0.5


@_identity("GateLoop", "constant turn, no fading", "linear attention")
def gateloop_that_turns_at_a_constant_rate_is_linear_attention_with_rotary_positions(x):
    loop = GateLoop(WIDTH, H).double()
    loop.fade.weight.data.zero_()
    loop.fade.bias.data.fill_(OPEN)
    loop.turn.weight.data.zero_()
    angles = torch.rand(K // 2, dtype=torch.float64)
    # A complex channel for each real one: both channels of a rotary pair turn alike.
    loop.turn.bias.data = torch.cat([angles, angles]).repeat(H)
    q, k, v = (W(x).unflatten(-1, (H, K)) for W in (loop.q, loop.k, loop.v))
    n = torch.arange(x.shape[1], dtype=torch.float64)
    turn = (n[:, None] - n)[..., None] * angles.repeat(2)
    weights = torch.einsum("bihk, bjhk, ijk -> bhij", q, k, turn.cos()).tril()
    return heads(loop, x), torch.einsum("bhij, bjhv -> bihv", weights, v)


@_identity("DFW", "rows keep everything", "GLA")
def decaying_fast_weights_whose_rows_keep_everything_are_gla(x):
    dfw, gla = alike(DFW(WIDTH, H), GLA(WIDTH, H, expand_k=1, tau=1.0))
    dfw.b.weight.data.zero_()
    dfw.b.bias.data.fill_(OPEN)
    gla.decay = dfw.a
    return two_sided.chunkwise(**dfw.project(x))[0], heads(gla, x) * K**0.5


@_identity("mLSTM", "write gates of 1", "gated retention")
def mlstm_whose_write_gate_is_one_is_gated_retention(x):
    """ĩ = 0: the stabiliser m stays 0, and all that is left is a scalar gate and a normaliser."""
    mlstm = MLSTM(WIDTH, H, d_key=K).double()
    mlstm.i.bias.data.zero_()
    mlstm.f.weight.data.normal_()
    q, k, v, _ = mlstm.project(x).values()
    gate = F.logsigmoid(15 * torch.tanh(mlstm.f(x) / 15))
    return heads(mlstm, x), recurrent(q, k, v, log_a=gate[..., None])[0]


@_identity("Gated RFA", "the gate of a running mean", "linear attention")
def gated_rfa_with_the_gate_of_a_running_mean_is_linear_attention(x):
    """g_t = t / (t + 1), t from 0: every token has the same share, and the quotient drops it."""
    rfa = GatedRFA(WIDTH, H, n_features=16).double()
    inputs = rfa.project(x)
    q, v = inputs["q"], inputs["v"]
    key = rfa.phi(rfa.k(x).unflatten(-1, (H, K)))
    t = torch.arange(x.shape[1], dtype=torch.float64)[:, None, None]
    gate = (t / (t + 1)).clamp(min=1e-30)
    log_a = gate.log().expand(len(x), -1, H, 1)
    y, _ = recurrent(q, key * (1 - gate), v, log_a=log_a)
    plain, _ = recurrent(q, key, v)
    return y[..., :-1] / y[..., -1:], plain[..., :-1] / plain[..., -1:]


@_identity("ABC", "a slot for each token", "attention")
def abc_with_a_slot_for_each_token_is_softmax_attention(x):
    """Control that writes token t to slot t alone. A slot still empty must be left out: its key is
    0, not absent.
    """
    B, T, _ = x.shape
    inputs = ABC(WIDTH, H, n_slots=T).double().project(x)
    share = torch.eye(T, dtype=torch.float64)[None, :, None].expand(B, T, H, T)
    scores, _ = two_sided.chunkwise(inputs["q"], inputs["k"], share)  # (B, T, H, slots)
    empty = torch.ones(T, T, dtype=torch.bool).triu(1)[:, None]
    weights = scores.masked_fill(empty, -torch.inf).softmax(-1)
    y, _ = two_sided.chunkwise(weights, share, inputs["v"])
    return y, attend_sdpa(inputs["q"], inputs["k"], inputs["v"], causal=True, scale=1.0)


@_identity("GSA", "the gate of a running mean", "ABC")
def gsa_with_the_gate_of_a_running_mean_is_abc(x):
    """Both write 1 - a. ABC's first token finds empty slots, which its gate cannot show: write it
    by hand. ABC has no silu, and divides q by √K.
    """
    gsa, abc = alike(GSA(WIDTH, H, n_slots=6), ABC(WIDTH, H, n_slots=6))
    u = abc.project(x)
    gate = u["log_gate"].exp()
    share = torch.cat([u["share"][:, :1], 1 - gate[:, 1:]], dim=1)
    maps = (gsa.q, gsa.k, gsa.v)
    q, k, v = (W(x).unflatten(-1, (H, K)) for W in maps)
    scores, _ = two_sided.chunkwise(q / math.sqrt(K), k, share, log_b=u["log_gate"])
    y, _ = two_sided.chunkwise(scores.softmax(-1), share, v, log_a=u["log_gate"])
    return abc.out(y.flatten(-2)), abc(x)[0]
