"""A mixture of experts by kernels against `seqlab.ffn`. Its parts: test_moe_parts.py and
test_grouped_matmul.py.
"""

import copy
from functools import partial
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip("triton", reason="needs Triton (Linux only)")

from seqlab.ffn import (
    MLP,
    DeepSeekV3Router,
    ExpertChoiceRouter,
    MixtralRouter,
    MoE,
    Routing,
    SwiGLU,
    SwitchRouter,
)
from seqlab.ffn.moe import mix_sorted
from seqlab.ffn.routers import top_k_gate as reference_gate
from seqlab.gpu.compile import compile_report
from seqlab.gpu.sanitize import sanitize
from seqlab.gpu.trace import trace
from seqlab.kernels.launch import recorded
from seqlab.kernels.moe import mix, mix_stacked
from seqlab.kernels.moe_gate import top_k_gate

E, D, D_FF = 4, 12, 8


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    small = ({"BM": 16, "BN": 16, "BK": 16, "GROUP": 2},)
    for name in ("CONFIGS", "CONFIGS_W"):
        monkeypatch.setattr(import_module("seqlab.kernels.grouped_matmul"), name, small)
    monkeypatch.setattr(import_module("seqlab.kernels.moe_permute"), "BP", 16)


# The experts' sum.


def routing(N, k, *, experts=None, dropping=False):
    experts = torch.rand(N, E).argsort(-1)[:, :k] if experts is None else experts
    kept = torch.rand(N, k) < 0.6 if dropping else None
    load = torch.bincount(experts.flatten() if kept is None else experts[kept], minlength=E)
    return Routing(experts, torch.rand(N, k), load, {}, kept)


def dense(gate_up, down):
    """The experts as functions of the stacked matrices, for the reference."""
    return [
        lambda x, gu=gu, d=d: F.linear(
            F.silu(F.linear(x, gu.chunk(2)[0])) * F.linear(x, gu.chunk(2)[1]), d
        )
        for gu, d in zip(gate_up, down, strict=True)
    ]


def both(given):
    """Functions of x, the pairs' weights and the experts' matrices."""
    return (
        lambda x, w, gu, d: mix_stacked(x, given._replace(weights=w), gu, d),
        lambda x, w, gu, d: mix_sorted(x, given._replace(weights=w), dense(gu, d)),
    )


def tensors(N, k, dtype=torch.float32):
    shapes = (N, D), (N, k), (E, 2 * D_FF, D), (E, D, D_FF)
    return [torch.randn(s).to(dtype) for s in shapes]


CASES = {
    "three experts a token": (7, 3, {}),
    "one expert a token": (7, 1, {}),
    "one token": (1, 2, {}),
    "dropped pairs": (9, 2, {"dropping": True}),
    "experts without tokens": (7, 2, {"experts": torch.tensor([[1, 3]] * 7)}),
    "all tokens to one expert": (18, 1, {"experts": torch.full((18, 1), 2)}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_layer_is_its_definition_with_the_gradients_of_tokens_weights_and_experts(
    case, agree, poisoned
):
    N, k, options = CASES[case]
    agree(*both(routing(N, k, **options)), *tensors(N, k))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_layer_in_half_precision(dtype, agree):
    agree(*both(routing(5, 2)), *tensors(5, 2, dtype))


def test_when_every_pair_is_dropped_the_layer_gives_zero(poisoned):
    given = routing(5, 2)._replace(
        kept=torch.zeros(5, 2, dtype=torch.bool), load=torch.zeros(E, dtype=torch.int64)
    )
    inputs = [x.requires_grad_() for x in tensors(5, 2)]
    y = both(given)[0](*inputs)
    assert (y == 0).all()
    assert all((g == 0).all() for g in torch.autograd.grad(y.sum(), inputs))


# In the layer itself.

ROUTERS = {
    "Mixtral": partial(MixtralRouter, form=top_k_gate),
    "Mixtral, not normalised": partial(MixtralRouter, top_k=3, normalise=False, form=top_k_gate),
    "Switch, dropping": partial(SwitchRouter, capacity_factor=0.7, jitter=0, form=top_k_gate),
    "DeepSeek-V3": partial(DeepSeekV3Router, top_k=2, n_groups=2, top_groups=1),
    "expert choice": ExpertChoiceRouter,
}


def layers(name, **options):
    """A layer by kernels, and one with the same weights as the course writes it."""
    layer = MoE(D, E, router=ROUTERS[name], d_ff=D_FF, form=mix, **options)
    nn.init.normal_(layer.router.score.weight)
    plain = copy.deepcopy(layer)
    plain.form = mix_sorted
    if hasattr(plain.router, "form"):
        plain.router.form = reference_gate
    return layer, plain


def test_under_autocast_tokens_and_weights_may_have_two_types():
    layer, plain = layers("Mixtral")
    x = torch.randn(3, 3, D, dtype=torch.bfloat16)  # as a layer before it gives them
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = layer(x), plain(x)
    assert y.dtype == expected.dtype
    # Two experts whose scores are equal in bfloat16 may be chosen either way: about 1 token in 200.
    same = (layer.routing.experts == plain.routing.experts).flatten(0, -2).all(-1)
    assert same.sum() >= 6
    y, expected = (u.flatten(0, 1)[same] for u in (y, expected))
    torch.testing.assert_close(y, expected, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("name", ROUTERS)
def test_it_is_a_form_of_the_layer_with_every_gradient(name):
    layer, plain = layers(name, n_shared=1)
    xs = [torch.randn(3, 3, D).requires_grad_()]
    xs.append(xs[0].detach().clone().requires_grad_())
    ys = [m(x) for m, x in zip((layer, plain), xs, strict=True)]
    assert torch.equal(layer.routing.experts, plain.routing.experts)
    assert torch.equal(layer.routing.load, plain.routing.load)
    torch.testing.assert_close(*ys)
    dy = torch.randn_like(ys[0])
    for y, m in zip(ys, (layer, plain), strict=True):
        (y * dy).sum().add(sum(m.routing.losses.values())).backward()
    torch.testing.assert_close(xs[0].grad, xs[1].grad)
    for (name, ours), theirs in zip(layer.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(
            ours.grad, theirs.grad, msg=lambda says, name=name: f"{name}: {says}"
        )
    with torch.no_grad():  # token by token, as in decoding
        steps = torch.cat([layer(xs[0][:, t : t + 1]) for t in range(3)], 1)
    if layer.router.per_token:
        torch.testing.assert_close(steps, ys[0].detach())


def test_the_host_never_waits_for_the_device():
    """Tensors without numbers go through the whole layer; sorting by counts on the host cannot."""
    layer, plain = (m.to("meta") for m in layers("Switch, dropping"))
    x = torch.empty(2, 16, D, device="meta", requires_grad=True)
    layer(x).sum().backward()
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        plain(x)


# As a GPU would see it.


def launches(N, k, n_experts, d_model, d_ff, dtype, device):
    """Every launch of the layer and its gradients, by kernel, with a dropped pair."""
    make = partial(torch.randn if device == "cpu" else torch.empty, device=device)
    sizes = (N, d_model), (n_experts, 2 * d_ff, d_model), (n_experts, d_model, d_ff)
    x, gate_up, down = (make(*s).to(dtype).requires_grad_() for s in sizes)
    experts, kept = (
        torch.arange(N * k, device=device).view(N, k) % n_experts,
        torch.ones(N, k, device=device).bool(),
    )
    kept[:1, :1] = False
    with recorded() as runs:
        weights = make(N, k, requires_grad=True)
        y = mix_stacked(x, Routing(experts, weights, None, {}, kept), gate_up, down)
        y.backward(torch.randn_like(y))
    return runs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_stands_between_the_products_is_clean(dtype):
    """The other kernels of the layer: test_moe_parts.py and test_grouped_matmul.py."""
    runs = launches(5, 2, 3, 18, 20, dtype, "cpu")
    assert len(runs) == 3 + 4 + 7  # the sort, the forward, the backward
    for run in runs:
        if "swiglu" in run.kernel.fn.__name__:
            assert sanitize(run.kernel, run.grid, *run.args, **run.named) == []


def test_between_the_products_every_number_is_read_and_written_once():
    runs = {run.kernel.fn.__name__: run for run in launches(5, 2, 3, 18, 20, torch.float32, "cpu")}
    forward, backward = (
        trace(run.kernel, run.grid, *run.args, **run.named)
        for run in (runs["swiglu_forward"], runs["swiglu_backward"])
    )
    once = 4 * 10 * 20
    assert (forward.bytes_in, forward.bytes_out) == (2 * once, once)
    assert (backward.bytes_in, backward.bytes_out) == (3 * once, 2 * once)


def test_it_is_compiled_for_four_targets_without_spills():
    """64 experts of 1408, six a token; the other kernels: test_moe_parts.py and
    test_grouped_matmul.py.
    """
    runs = launches(4096, 6, 64, 2048, 1408, torch.bfloat16, "meta")
    for run in {run.kernel: run for run in runs if "swiglu" in run.kernel.fn.__name__}.values():
        report = compile_report(run.kernel, *run.args, **run.named)
        assert all(c.spills == 0 and c.occupancy.blocks for c in report.targets.values()), report


def test_two_runs_give_the_same_bits():
    given, inputs = routing(7, 2, dropping=True), [x.requires_grad_() for x in tensors(7, 2)]
    runs = [torch.autograd.grad(both(given)[0](*inputs).square().sum(), inputs) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_nothing_is_kept_that_grows_faster_than_the_pairs():
    kept, N, k = [], 64, 3
    given = Routing(torch.empty(N, k, dtype=torch.int64, device="meta"), None, None, {})
    inputs = [x.to("meta").requires_grad_() for x in tensors(N, k)]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        both(given)[0](*inputs)
    assert max(x.numel() for x in kept if x.shape[0] != E) == N * k * 2 * D_FF


def test_wrong_arguments_get_a_sentence():
    x, given = torch.randn(5, D), routing(5, 2)
    with pytest.raises(
        TypeError, match="an expert is a MLP: this kernel knows SwiGLU with silu and without biases"
    ):
        mix(x, given, nn.ModuleList(MLP(D, D_FF) for _ in range(E)))
    with pytest.raises(TypeError, match="SwiGLU with silu and without biases"):
        mix(x, given, nn.ModuleList(SwiGLU(D, D_FF, activation=torch.relu) for _ in range(E)))
    with pytest.raises(
        ValueError, match=r"x has width 12, gate_up has shape \(4, 40, 12\), down \(4, 12, 21\)"
    ):
        mix_stacked(x, given, torch.randn(E, 40, D), torch.randn(E, D, 21))


def test_no_tokens_at_all():
    given = Routing(
        torch.empty(0, 2, dtype=torch.int64),
        torch.empty(0, 2),
        torch.zeros(E, dtype=torch.int64),
        {},
    )
    assert both(given)[0](*tensors(0, 2)).shape == (0, D)
