"""The contract of every channel mixer: shapes, tokens on their own, finite gradients, bfloat16."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from seqlab.ffn import (
    MLP,
    PEER,
    DeepSeekV3Router,
    ExpertChoiceRouter,
    MixtralRouter,
    MoE,
    NoisyTopKRouter,
    SoftRouter,
    SwiGLU,
    SwitchRouter,
)

B, T, D = 2, 13, 16
SMALL_V3 = partial(DeepSeekV3Router, top_k=3, n_groups=4, top_groups=2)
CROWDED = partial(SwitchRouter, capacity_factor=0.5)
FREE = partial(SwitchRouter, capacity_factor=None)
GATED = {"n_shared": 1, "d_shared": 24, "gate_shared": True}
FFNS = {
    "MLP": MLP,
    "MLP, ReLU, no biases": partial(MLP, bias=False, activation=torch.relu),
    "SwiGLU": SwiGLU,
    "SwiGLU with biases": partial(SwiGLU, bias=True),
    "soft mixture": partial(MoE, n_experts=4, router=SoftRouter),
    "noisy top-k": partial(MoE, n_experts=4, router=NoisyTopKRouter),
    "Switch": partial(MoE, n_experts=4, router=CROWDED, expert=MLP),
    "Switch without limit": partial(MoE, n_experts=4, router=FREE),
    "Mixtral": partial(MoE, n_experts=8, router=MixtralRouter),
    "DeepSeek-V3": partial(MoE, n_experts=8, router=SMALL_V3, d_ff=8, n_shared=2),
    "shared expert with a gate": partial(MoE, n_experts=4, d_ff=8, **GATED),
    "expert choice": partial(MoE, n_experts=4, router=ExpertChoiceRouter),
    "PEER": partial(PEER, n_experts=256, n_heads=2, top_k=4, d_key=8),
}
ffns = pytest.mark.parametrize("name", FFNS)
LIMITED = ("Switch", "expert choice")
per_token = pytest.mark.parametrize("name", [name for name in FFNS if name not in LIMITED])


def make(name, dtype=torch.float64):
    """In eval mode, so that routers add no noise; no weight is zero, so that no two experts tie."""
    torch.manual_seed(0)
    ffn = FFNS[name](D).to(dtype).eval()
    for module in ffn.modules():
        if isinstance(module, NoisyTopKRouter):
            nn.init.normal_(module.score.weight)
    return ffn


def draw(B=B, T=T):
    return torch.randn(B, T, D, dtype=torch.float64)


@per_token
def test_a_token_is_served_on_its_own(name):
    ffn, x = make(name), draw()
    alone = torch.stack([ffn(x[:, t : t + 1])[:, 0] for t in range(T)], dim=1)
    torch.testing.assert_close(ffn(x), alone, rtol=0, atol=1e-12)


@ffns
def test_a_row_of_a_batch_is_that_row_alone(name):
    ffn, x = make(name), draw(B=3)
    torch.testing.assert_close(ffn(x)[1:2], ffn(x[1:2]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LIMITED)
def test_limited_places_are_shared_within_a_sequence(name):
    ffn = make(name)
    assert not ffn.router.per_token
    x = draw(B=1, T=40)
    alone = torch.cat([ffn(x[:, t : t + 1]) for t in range(40)], dim=1)
    assert not torch.allclose(ffn(x), alone)  # alone, a token never finds its expert full


@pytest.mark.parametrize(("name", "causal"), [("Switch", True), ("expert choice", False)])
def test_places_depend_on_later_tokens_only_if_experts_choose(name, causal):
    ffn, x = make(name), draw(B=1, T=40)
    changed = x.clone()
    changed[:, 20:] += torch.randn_like(changed[:, 20:])
    same = torch.isclose(ffn(x), ffn(changed), atol=1e-9)[0, :20].all()
    assert same == causal == ffn.router.causal


@ffns
@pytest.mark.parametrize("learning", [False, True])
def test_a_batch_of_no_sequences(name, learning):
    """(0, T, D) is returned, every loss is 0, and no gradient is missing."""
    ffn, x = make(name).train(learning), draw(B=0)
    with torch.set_grad_enabled(learning):
        y = ffn(x)
    assert y.shape == x.shape and y.dtype == x.dtype
    routing = getattr(ffn, "routing", None)
    losses = [] if routing is None else list(routing.losses.values())
    assert all(loss == 0 for loss in losses)
    assert routing is None or routing.load.tolist() == [0] * len(ffn.experts)
    if learning:
        (y.sum() + sum(losses)).backward()
        served = [p for p in ffn.parameters() if p.grad is not None]
        assert served and not any(p.grad.any() for p in served)


@ffns
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e3])
@pytest.mark.parametrize("training", [False, True])
def test_outputs_and_gradients_are_finite_and_none_is_missing(name, scale, dtype, training):
    ffn = make(name, dtype).train(training)
    x = (draw() * scale).to(dtype).requires_grad_()
    y = ffn(x)
    assert y.shape == x.shape and y.dtype == dtype
    losses = getattr(getattr(ffn, "routing", None), "losses", {})
    (y.square().mean() + sum(losses.values())).backward()
    assert [name for name, p in ffn.named_parameters() if p.grad is None] == []
    for t in [y, x.grad, *losses.values(), *(p.grad for p in ffn.parameters())]:
        assert t.isfinite().all()


@ffns
def test_bf16_is_near_float64_with_the_same_rounded_weights(name):
    ffn, x = make(name, torch.bfloat16), draw().bfloat16()
    exact = copy.deepcopy(ffn).double()(x.double())
    y = ffn(x)
    assert y.dtype == torch.bfloat16
    assert (y - exact).abs().max() < 0.05 * exact.abs().max()


@ffns
def test_it_learns(name):
    ffn, x = make(name, torch.float32).train(), draw(T=64).float()
    target = torch.tanh(3 * x.flip(-1))
    optimizer = torch.optim.AdamW(ffn.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = (ffn(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
