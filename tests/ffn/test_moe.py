import copy
import inspect
import textwrap
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from seqlab.ffn import (
    MLP,
    DeepSeekV3Router,
    ExpertChoiceRouter,
    MixtralRouter,
    MoE,
    NoisyTopKRouter,
    SoftRouter,
    SwiGLU,
    SwitchRouter,
    auxiliary_loss,
)

B, T, D, E = 2, 24, 16, 8
ROUTERS = {
    "soft": SoftRouter,
    "noisy": partial(NoisyTopKRouter, top_k=3),
    "Switch": partial(SwitchRouter, capacity_factor=0.5),
    "Mixtral": MixtralRouter,
    "DeepSeek-V3": partial(DeepSeekV3Router, top_k=3, n_groups=4, top_groups=2),
    "expert choice": ExpertChoiceRouter,
}


def make(name, n_experts=E, **options):
    moe = MoE(D, n_experts, router=ROUTERS[name], d_ff=20, **options).double().eval()
    torch.nn.init.normal_(moe.router.score.weight, std=2 * D**-0.5)
    return moe


def draw(B=B, T=T):
    return torch.randn(B, T, D, dtype=torch.float64)


def loop(moe, x):
    """The definition: for each token, over the experts that serve it."""
    routing, y = moe.router(x), []
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            served = torch.zeros(D, dtype=x.dtype)
            for j, e in enumerate(routing.experts[b, t].tolist()):
                if routing.kept is None or routing.kept[b, t, j]:
                    served = served + routing.weights[b, t, j] * moe.experts[e](x[b, t])
            y.append(served)
    return torch.stack(y).view_as(x)


@pytest.mark.parametrize("name", ROUTERS)
def test_sorting_is_the_loop_over_tokens_with_its_gradients(name):
    moe, x, results = make(name), draw(), []
    for f in (moe, partial(loop, moe)):
        leaf = x.clone().requires_grad_()
        y = f(leaf)
        grads = torch.autograd.grad(y.square().sum(), [leaf, *moe.parameters()], allow_unused=True)
        results.append((y, grads))
    (y, grads), (expected, expected_grads) = results
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    for ours, theirs in zip(grads, expected_grads, strict=True):
        # None: an expert that the loop never called, or noise that evaluation does not add.
        if theirs is None:
            assert ours is None or not ours.any()
        else:
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_one_expert_is_the_dense_layer():
    moe, x = MoE(D, 1, router=partial(MixtralRouter, top_k=1)).double(), draw()
    torch.testing.assert_close(moe(x), moe.experts[0](x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["soft", "noisy", "Mixtral"])
def test_equal_experts_are_one_expert_where_weights_sum_to_one(name):
    moe, x = make(name), draw()
    for expert in moe.experts:
        expert.load_state_dict(moe.experts[0].state_dict())
    torch.testing.assert_close(moe(x), moe.experts[0](x), rtol=0, atol=1e-12)


def test_deepseeks_scale_is_the_size_of_equal_experts():
    moe, x = make("DeepSeek-V3"), draw()
    for expert in moe.experts:
        expert.load_state_dict(moe.experts[0].state_dict())
    torch.testing.assert_close(moe(x), 2.5 * moe.experts[0](x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["soft", "noisy", "Switch", "Mixtral", "expert choice"])
def test_the_names_of_the_experts_do_not_matter(name):
    """Permuting experts and the router's rows together changes nothing (it would tear groups)."""
    moe, x, order = make(name), draw(), torch.randperm(E)
    permuted = copy.deepcopy(moe)
    permuted.router.score.weight.data = moe.router.score.weight.data[order]
    for i, e in enumerate(order.tolist()):
        permuted.experts[i].load_state_dict(moe.experts[e].state_dict())
    torch.testing.assert_close(permuted(x), moe(x), rtol=0, atol=1e-12)
    assert torch.equal(permuted.routing.load, moe.routing.load[order])


def test_a_dropped_token_gets_nothing_and_passes_through_the_residual():
    moe, x = make("Switch"), draw()
    y, kept = moe(x), moe.routing.kept[..., 0]
    assert (y[~kept] == 0).all() and (y[kept] != 0).all() and not kept.all()


def test_without_a_limit_switch_drops_nothing():
    moe, x = make("Switch"), draw()
    moe.router.capacity_factor = None
    assert (moe(x) != 0).all() and moe.routing.load.sum() == B * T


def test_shared_experts_side_by_side_are_one_wide_expert():
    moe, x = make("Mixtral", n_shared=2), draw()
    halves = [SwiGLU(D, 20).double() for _ in range(2)]
    moe.shared.gate.weight.data = torch.cat([h.gate.weight.data for h in halves])
    moe.shared.up.weight.data = torch.cat([h.up.weight.data for h in halves])
    moe.shared.down.weight.data = torch.cat([h.down.weight.data for h in halves], dim=1)
    expected = loop(moe, x) + halves[0](x) + halves[1](x)
    torch.testing.assert_close(moe(x), expected, rtol=0, atol=1e-12)


def test_decoding_calls_only_the_experts_that_serve():
    moe, x, called = make("Mixtral"), draw(1, 1), []
    for e, expert in enumerate(moe.experts):
        expert.register_forward_hook(lambda *_, e=e: called.append(e))
    with torch.no_grad():
        y = moe(x)
    assert sorted(called) == sorted(moe.routing.experts.flatten().tolist())
    # In training the others too: their gradient is zero.
    assert torch.equal(moe(x), y) and len(called) == 2 + E


def test_the_auxiliary_loss_is_the_papers_sum_over_the_layers():
    model, x = torch.nn.Sequential(make("Switch"), torch.nn.Tanh(), make("Mixtral")), draw()
    assert auxiliary_loss(model) == 0  # no forward pass yet
    model(x)
    switch, mixtral = (model[i].routing.losses for i in (0, 2))
    expected = 0.01 * switch["balance"] + 0.001 * switch["z"] + 0.001 * mixtral["balance"]
    torch.testing.assert_close(auxiliary_loss(model), expected)
    auxiliary_loss(model).backward()
    assert model[0].router.score.weight.grad.any() and model[2].router.score.weight.grad.any()


def test_the_balance_loss_evens_the_load():
    """Its quotient to the spread before is 0.11 ± 0.15 (60 layers); now and then one expert stays
    without tokens. The mean of twelve is below a half with nine standard deviations to spare.
    """
    left = []
    for _ in range(12):
        moe, x = make("Mixtral").train(), draw(4, 64)
        x[..., 0] += 3  # everyone likes the same experts
        optimizer = torch.optim.SGD(moe.router.parameters(), lr=100)
        moe(x)
        before = spread(moe.routing.load)
        for _ in range(60):
            optimizer.zero_grad()
            auxiliary_loss(moe).backward()
            optimizer.step()
            moe(x)
        left.append(spread(moe.routing.load) / before)
    assert torch.stack(left).mean() < 0.5


def spread(load):
    return load.double().std() / load.double().mean()


def test_a_layer_can_be_copied_after_a_forward_pass():
    moe, x = make("Mixtral"), draw()
    y = moe(x)
    twin = copy.deepcopy(moe)
    assert twin.routing is None and torch.equal(twin(x), y)


def test_a_shared_expert_of_unknown_width_gets_one_clear_sentence():
    says = "n_shared is 1, but neither d_ff nor d_shared says how wide"
    with pytest.raises(ValueError, match=says):
        MoE(D, E, n_shared=1)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"gate_shared": True}, ValueError, "n_shared is 0: say n_shared=1"),
        ({"d_shared": 64}, ValueError, "n_shared is 0: say n_shared=1"),
        (
            {"top_k": 2},
            TypeError,
            r"no option top_k=2: a router's goes to it, as in router=partial\(MixtralRouter",
        ),
        (
            {"router": MixtralRouter(D, E)},
            TypeError,
            r"router is already a module: give its factory, MixtralRouter or partial\(MixtralRo",
        ),
        (
            {"expert": SwiGLU(D)},
            TypeError,
            r"expert is already a module: .* partial\(SwiGLU, ...\)",
        ),
        (
            {"router": DeepSeekV3Router},
            ValueError,
            r"for a few: partial\(DeepSeekV3Router, top_k=2, n_groups=1",
        ),
    ],
)
def test_an_option_that_would_be_passed_over_gets_one_clear_sentence(options, error, says):
    with pytest.raises(error, match=says):
        MoE(D, E, **options)


def test_the_docstrings_training_step_adds_the_losses_and_moves_the_biases():
    lines = inspect.getdoc(MoE).splitlines()
    step = textwrap.dedent("\n".join(line for line in lines if line.startswith("    ")))
    few = partial(DeepSeekV3Router, top_k=2, n_groups=1, top_groups=1)
    model = torch.nn.Sequential(MoE(D, E, router=few), MoE(D, E, router=MixtralRouter)).double()
    y, before = model(draw()), model[1].router.score.weight.clone()
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    names = {"model": model, "optimiser": optimiser, "auxiliary_loss": auxiliary_loss}
    exec(step, names | {"loss": 0 * y.sum()})
    assert model[0].router.bias.abs().sum() > 0
    assert not torch.equal(model[1].router.score.weight, before)


# Against transformers: the whole layer, weights copied. Its routers cast to float32 whatever the
# input (all of the scores in DeepSeek-V3's and Kimi's, the softmax in the others); ours stay in
# float64. Under `float64_for_float32` both do, so the bound is some roundings of float64.


def load(ours, theirs, shared=None):
    """Their stacked (E, 2 F, D) gate and up, and (E, D, F) down, as our experts."""
    gate = getattr(theirs, "gate", None) or theirs.router
    ours.router.score.weight.data = gate.weight.data
    for e, expert in enumerate(ours.experts):
        both = theirs.experts.gate_up_proj[e].data.chunk(2)
        expert.gate.weight.data, expert.up.weight.data = both
        expert.down.weight.data = theirs.experts.down_proj[e].data
    if shared is not None:
        for mine, other in (("gate", "gate_proj"), ("up", "up_proj"), ("down", "down_proj")):
            getattr(ours.shared, mine).load_state_dict(getattr(shared, other).state_dict())


def assert_same_layer(ours, theirs, x):
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    y, expected = ours(leaves[0]), theirs(leaves[1])
    expected = expected[0] if isinstance(expected, tuple) else expected
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    y.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=1e-12, atol=1e-12)
    alone = torch.cat([ours(x[:, t : t + 1]) for t in range(x.shape[1])], dim=1)  # token by token
    torch.testing.assert_close(alone, expected, rtol=0, atol=1e-12)


def theirs(module, block, **options):
    modeling = pytest.importorskip(f"transformers.models.{module}.modeling_{module}")
    name = {
        "deepseek_v3": "DeepseekV3",
        "minimax": "MiniMax",
        "qwen3_next": "Qwen3Next",
        "kimi_linear": "KimiLinear",
    }
    make_config = getattr(modeling, f"{name.get(module, module.title())}Config")
    layer = getattr(modeling, block)(make_config(hidden_size=D, **options)).double().eval()
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=D**-0.5)
    return layer


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("module", "block", "experts", "normalise"),
    [
        ("mixtral", "MixtralSparseMoeBlock", {"num_local_experts": E}, True),
        ("minimax", "MiniMaxSparseMoeBlock", {"num_local_experts": E}, True),
        ("jamba", "JambaSparseMoeBlock", {"num_experts": E}, False),
    ],
)
def test_mixtral_minimax_and_jamba(module, block, experts, normalise, float64_for_float32):
    layer = theirs(module, block, intermediate_size=20, num_experts_per_tok=3, **experts)
    ours = MoE(D, E, router=partial(MixtralRouter, top_k=3, normalise=normalise), d_ff=20).double()
    load(ours, layer)
    float64_for_float32()
    assert_same_layer(ours, layer, draw())


@pytest.mark.oracle
@pytest.mark.parametrize("normalise", [True, False])
def test_qwen3_next_with_its_gated_shared_expert(normalise, float64_for_float32):
    options = {"num_experts": E, "num_experts_per_tok": 3, "norm_topk_prob": normalise}
    options |= {"moe_intermediate_size": 20, "shared_expert_intermediate_size": 28}
    layer = theirs("qwen3_next", "Qwen3NextSparseMoeBlock", **options)
    router = partial(MixtralRouter, top_k=3, normalise=normalise)
    ours = MoE(D, E, router=router, d_ff=20, n_shared=1, d_shared=28, gate_shared=True).double()
    load(ours, layer, layer.shared_expert)
    ours.shared_gate.load_state_dict(layer.shared_expert_gate.state_dict())
    float64_for_float32()
    assert_same_layer(ours, layer, draw())


@pytest.mark.oracle
@pytest.mark.parametrize("module", ["deepseek_v3", "kimi_linear"])
def test_deepseek_v3_and_kimi_linear(module, float64_for_float32):
    options = {"n_group": 4, "topk_group": 2, "num_local_experts": E, "num_experts_per_tok": 3}
    block = {"deepseek_v3": "DeepseekV3MoE", "kimi_linear": "KimiLinearMoE"}[module]
    layer = theirs(module, block, moe_intermediate_size=20, n_shared_experts=2, **options)
    layer.gate.e_score_correction_bias.data.uniform_(-0.5, 0.5)
    scale = layer.gate.routed_scaling_factor
    router = partial(DeepSeekV3Router, top_k=3, n_groups=4, top_groups=2, scale=scale)
    ours = MoE(D, E, router=router, d_ff=20, n_shared=2).double()
    load(ours, layer, layer.shared_experts)
    ours.router.bias.copy_(layer.gate.e_score_correction_bias)
    float64_for_float32()
    assert_same_layer(ours, layer, draw())


@pytest.mark.oracle
def test_switch_with_dropped_tokens():
    switch = pytest.importorskip("transformers.models.switch_transformers")
    sizes = {"d_model": D, "d_ff": 20, "num_experts": E, "expert_capacity": 2}
    config = switch.SwitchTransformersConfig(**sizes, dropout_rate=0)
    layer = switch.modeling_switch_transformers.SwitchTransformersSparseMLP(config).double().eval()
    layer.router.dtype = torch.float64  # its config knows no wider than float32
    # Ours has ⌈0.5 · 24 / 8⌉ = 2 places too.
    ours = make("Switch", expert=partial(MLP, bias=False, activation=F.relu))
    layer.router.classifier.load_state_dict(ours.router.score.state_dict())
    for e, expert in enumerate(ours.experts):
        expert.up.load_state_dict(layer.experts[f"expert_{e}"].wi.state_dict())
        expert.down.load_state_dict(layer.experts[f"expert_{e}"].wo.state_dict())
    x = draw()
    torch.testing.assert_close(ours(x), layer(x), rtol=0, atol=1e-12)
    assert not ours.routing.kept.all()
