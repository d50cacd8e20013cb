import inspect
import itertools
import math
from functools import partial

import pytest
import torch

from seqlab.ffn import (
    DeepSeekV3Router,
    ExpertChoiceRouter,
    MixtralRouter,
    NoisyTopKRouter,
    SoftRouter,
    SwitchRouter,
)

B, T, D, E = 2, 24, 16, 8


def make(router, *args, spread=1.0, **options):
    """A float64 router with scores of size `spread`: a fresh noisy router gives none at all."""
    router = router(D, *args, **options).double().eval()
    torch.nn.init.normal_(router.score.weight, std=spread * D**-0.5)
    return router


def draw(B=B, T=T):
    return torch.randn(B, T, D, dtype=torch.float64)


def dense(routing, n_experts=E):
    """(…, N, E): the weight of each expert, 0 where it does not serve."""
    weights = routing.weights if routing.kept is None else routing.weights * routing.kept
    table = torch.zeros(*weights.shape[:-1], n_experts, dtype=weights.dtype)
    return table.scatter_add(-1, routing.experts, weights)


ALL = {
    "soft": lambda: make(SoftRouter, E),
    "noisy": lambda: make(NoisyTopKRouter, E, 3),
    "Switch": lambda: make(SwitchRouter, E),
    "Mixtral": lambda: make(MixtralRouter, E),
    "DeepSeek-V3": lambda: make(DeepSeekV3Router, E, 3, n_groups=4, top_groups=2),
    "expert choice": lambda: make(ExpertChoiceRouter, E),
}


@pytest.mark.parametrize("name", ALL)
def test_the_load_counts_the_tokens_that_each_expert_serves(name):
    routing = ALL[name]()(draw())
    assert torch.equal(routing.load, (dense(routing) != 0).flatten(0, -2).sum(0))


DEFAULTS = {
    NoisyTopKRouter: {"top_k": 2},
    SwitchRouter: {"capacity_factor": 1.25, "jitter": 0.01},
    MixtralRouter: {"top_k": 2, "normalise": True},
    DeepSeekV3Router: {
        "n_experts": 256,
        "top_k": 8,
        "n_groups": 8,
        "top_groups": 4,
        "scale": 2.5,
        "normalise": True,
        "rate": 0.001,
    },
    ExpertChoiceRouter: {"capacity_factor": 2.0},
}


@pytest.mark.parametrize("router", DEFAULTS)
def test_the_defaults_are_the_papers(router):
    options = inspect.signature(router).parameters
    assert {name: options[name].default for name in DEFAULTS[router]} == DEFAULTS[router]


def test_the_losses_have_the_papers_factors():
    assert NoisyTopKRouter.coefficients == {"importance": 0.1, "load": 0.1}
    assert SwitchRouter.coefficients == {"balance": 0.01, "z": 0.001}
    assert MixtralRouter.coefficients == {"balance": 0.001}
    assert DeepSeekV3Router.coefficients == {"sequence": 1e-4}
    assert SoftRouter.coefficients == ExpertChoiceRouter.coefficients == {}


@pytest.mark.parametrize("name", ALL)
def test_a_router_says_how_it_decodes(name):
    router = ALL[name]()
    assert router.causal == (name != "expert choice")
    assert router.per_token == (name not in ("Switch", "expert choice"))
    assert SwitchRouter(D, E, capacity_factor=None).per_token


@pytest.mark.parametrize("name", ALL)
def test_a_bf16_router_scores_in_float32(name):
    router = ALL[name]().bfloat16()
    assert router(draw().bfloat16()).weights.dtype == torch.float32


def test_a_soft_mixture_is_a_softmax_over_all_experts():
    router, x = make(SoftRouter, E), draw()
    torch.testing.assert_close(dense(router(x)), router.score(x).softmax(-1), rtol=0, atol=1e-12)


# Noisy top-k


def test_the_noise_is_that_of_the_paper(monkeypatch):
    """h = W_g x + ε (softplus(W_n x) + 0.01), with ε given."""
    router, x = make(NoisyTopKRouter, E, E).train(), draw()
    torch.nn.init.normal_(router.noise.weight)
    epsilon = torch.randn(B, T, E, dtype=torch.float64)
    monkeypatch.setattr(torch, "randn_like", lambda clean: epsilon.to(clean))
    h = router.score(x) + epsilon * (torch.log(1 + torch.exp(router.noise(x))) + 0.01)
    torch.testing.assert_close(dense(router(x)), h.softmax(-1), rtol=0, atol=1e-12)


def test_the_noise_is_normal():
    """With ε drawn, not given: h - W_g x over its spread has mean 0 and variance 1."""
    router = make(NoisyTopKRouter, 2, 2).train()
    x = draw(1, 1).expand(1, 100_000, D)
    clean, weights = router.score(x[0, 0]), dense(router(x), 2)[0]
    noise = weights.log().diff()[:, 0] - clean.diff()  # ε_1 spread_1 - ε_0 spread_0
    spread = math.log(2) + 0.01  # W_n starts at zero
    # 100,000 draws: the mean is off by 0.003 and the spread by 0.2 % (a standard error).
    assert abs(noise.mean()) < 0.02 and noise.std().item() == pytest.approx(2**0.5 * spread, 0.02)


def test_both_maps_of_the_noisy_router_start_at_zero():
    router = NoisyTopKRouter(D, E)
    assert not router.score.weight.any() and not router.noise.weight.any()


def test_the_losses_of_2017_are_the_squared_coefficients_of_variation():
    router, x = make(NoisyTopKRouter, E, 3), draw()
    p, clean = dense(router(x)), router.score(x)
    spread = torch.full_like(clean, math.log(2) + 0.01)
    chance = router.chance(clean, clean, spread)
    for name, table in (("importance", p), ("load", chance)):
        total = table.sum((0, 1))
        expected = ((total - total.mean()) ** 2).mean() / total.mean() ** 2
        torch.testing.assert_close(router(x).losses[name], expected, rtol=1e-9, atol=0)


def test_noisy_top_k_without_noise_is_mixtral():
    noisy, mixtral, x = make(NoisyTopKRouter, E, 3), make(MixtralRouter, E, 3), draw()
    mixtral.score.load_state_dict(noisy.score.state_dict())
    torch.testing.assert_close(dense(noisy(x)), dense(mixtral(x)), rtol=0, atol=1e-12)


def test_noisy_top_k_of_all_experts_is_the_soft_mixture():
    noisy, soft, x = make(NoisyTopKRouter, E, E), make(SoftRouter, E), draw()
    soft.score.load_state_dict(noisy.score.state_dict())
    torch.testing.assert_close(dense(noisy(x)), dense(soft(x)), rtol=0, atol=1e-12)
    assert noisy(x).losses["load"] == 0  # everyone is chosen for certain


def test_the_load_loss_reads_how_often_fresh_noise_would_choose_each_expert():
    """Monte Carlo: draw the noise of one expert again and again, the others' kept, and count."""
    router, x = make(NoisyTopKRouter, E, 3), draw(1, 1)[0]
    clean, spread = router.logits(x), torch.rand(1, E, dtype=torch.float64) + 0.5
    noisy = clean + spread * torch.randn_like(clean)
    chance = router.chance(clean, noisy, spread)[0]
    for e in range(E):
        again = noisy.repeat(20_000, 1)
        again[:, e] = clean[0, e] + spread[0, e] * torch.randn(20_000, dtype=torch.float64)
        often = (again.topk(3).indices == e).any(-1).double().mean()
        assert abs(often - chance[e]) < 0.02  # five standard deviations of the count


def test_noise_is_for_training_alone():
    router, x = make(NoisyTopKRouter, E, 3), draw()
    assert torch.equal(dense(router(x)), dense(router(x)))
    router.train()
    assert not torch.equal(dense(router(x)), dense(router(x)))


def test_the_losses_of_2017_vanish_when_all_experts_are_alike_and_grow_when_one_takes_all():
    router = make(NoisyTopKRouter, E, 2)
    x = draw(1, 4 * E)
    torch.nn.init.zeros_(router.score.weight)
    load = router.train()(x).losses["load"]
    torch.testing.assert_close(load, torch.tensor(0.0).double(), rtol=0, atol=0.1)
    # Ties: the same 2 of E serve everyone.
    one_for_all = torch.zeros(1, 5, D, dtype=torch.float64)
    importance = router.eval()(one_for_all).losses["importance"]
    assert importance.item() == pytest.approx(E / 2 - 1)  # mean 1/E, square mean (1/4) 2/E


# Switch


def test_the_switch_starts_as_a_short_normal_cut_at_two_deviations():
    """Variance 0.1 / D, cut off at 2σ: the spread of such a normal is 0.87963 of σ."""
    weight, std = SwitchRouter(256, 1024).score.weight, (0.1 / 256) ** 0.5
    assert 1.99 * std < weight.abs().max() <= 2 * std
    # 262,144 draws: the spread is off by 0.1 %, the mean by 0.002 σ (a standard error).
    assert weight.std().item() == pytest.approx(0.87963 * std, rel=0.01)
    assert abs(weight.mean()) < 0.01 * std


def test_the_jitter_is_a_uniform_factor():
    router = make(SwitchRouter, E, jitter=0.3).train()
    seen, x = [], draw(4, 200)
    scored = router.logits
    router.logits = lambda given: seen.append(given) or scored(given)
    router(x)
    factor = seen[0] / x
    # 12,800 draws from [0.7, 1.3]: a standard error of the mean is 0.0015.
    assert 0.7 <= factor.min() < 0.705 and 1.295 < factor.max() <= 1.3
    assert factor.mean().item() == pytest.approx(1, abs=0.01)
    assert factor.std().item() == pytest.approx(0.3 / 3**0.5, rel=0.03)


def test_a_switch_expert_serves_its_first_tokens_and_drops_the_rest():
    router, x = make(SwitchRouter, E, capacity_factor=0.7, spread=3.0), draw()
    routing, places = router(x), math.ceil(0.7 * T / E)
    for b in range(B):
        served = [0] * E
        for t in range(T):
            e = router.score(x[b, t]).argmax().item()
            assert routing.experts[b, t, 0] == e and routing.kept[b, t, 0] == (served[e] < places)
            served[e] += 1
    assert not routing.kept.all()


def test_enough_places_drop_nothing():
    limited, free = (make(SwitchRouter, E, capacity_factor=c) for c in (float(E), None))
    free.load_state_dict(limited.state_dict())
    x = draw()
    assert limited(x).kept.all() and free(x).kept is None
    assert torch.equal(dense(limited(x)), dense(free(x)))


def test_the_balance_loss_is_one_for_even_and_E_for_one_expert():
    router = SwitchRouter(E, E).double().eval()
    router.score.weight.data = torch.eye(E, dtype=torch.float64)
    even, single = 50 * torch.eye(E).double(), 50 * torch.eye(E)[:1].expand(E, E).double()
    assert router(even).losses["balance"].item() == pytest.approx(1)
    assert router(single).losses["balance"].item() == pytest.approx(E)
    assert router(even).losses["z"].item() == pytest.approx(2500)  # logsumexp is 50


def test_jitter_is_for_training_alone():
    router, x = make(SwitchRouter, E), draw()
    assert torch.equal(router(x).weights, router(x).weights)
    router.train()
    assert not torch.equal(router(x).weights, router(x).weights)


@pytest.mark.oracle
def test_switch_against_transformers():
    switch = pytest.importorskip("transformers.models.switch_transformers")
    places = math.ceil(0.7 * T / E)
    config = switch.SwitchTransformersConfig(d_model=D, num_experts=E, expert_capacity=places)
    theirs = switch.modeling_switch_transformers.SwitchTransformersTop1Router(config)
    theirs = theirs.double().eval()
    ours, x = make(SwitchRouter, E, capacity_factor=0.7, spread=3.0), draw()
    theirs.dtype = torch.float64  # its config knows no wider than float32
    theirs.classifier.load_state_dict(ours.score.state_dict())
    routing, (chosen, weights, _) = ours(x), theirs(x)
    torch.testing.assert_close(dense(routing), chosen * weights, rtol=0, atol=1e-12)
    assert not routing.kept.all()


# Mixtral


def test_mixtral_is_a_softmax_over_the_k_largest_logits():
    router, x = make(MixtralRouter, E, 3), draw()
    top, experts = router.score(x).topk(3)
    torch.testing.assert_close(router(x).weights, top.softmax(-1), rtol=0, atol=1e-12)
    assert torch.equal(router(x).experts, experts)


def test_mixtral_of_one_expert_unnormalised_is_switch_without_limit():
    mixtral = make(MixtralRouter, E, 1, normalise=False)
    switch = make(SwitchRouter, E, capacity_factor=None)
    switch.score.load_state_dict(mixtral.score.state_dict())
    x = draw()
    ours, theirs = mixtral(x), switch(x)
    assert torch.equal(dense(ours), dense(theirs))
    assert ours.losses["balance"] == theirs.losses["balance"]


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("module", "name", "options", "normalise"),
    [
        ("mixtral", "Mixtral", {"num_local_experts": E}, True),
        ("minimax", "MiniMax", {"num_local_experts": E}, True),
        ("jamba", "Jamba", {"num_experts": E}, False),
        ("qwen3_next", "Qwen3Next", {"num_experts": E, "norm_topk_prob": True}, True),
        ("qwen3_next", "Qwen3Next", {"num_experts": E, "norm_topk_prob": False}, False),
    ],
)
def test_softmax_routers_against_transformers(
    module, name, options, normalise, float64_for_float32
):
    """Theirs asks for a softmax in float32 whatever the input: here it gets float64, as ours."""
    modeling = pytest.importorskip(f"transformers.models.{module}.modeling_{module}")
    configuration = pytest.importorskip(f"transformers.models.{module}.configuration_{module}")
    make_config = getattr(configuration, f"{name}Config")
    config = make_config(hidden_size=D, num_experts_per_tok=3, **options)
    theirs = getattr(modeling, f"{name}TopKRouter")(config).double()
    ours, x = make(MixtralRouter, E, 3, normalise=normalise), draw()
    theirs.weight.data = ours.score.weight.data
    float64_for_float32()
    _, weights, experts = theirs(x.flatten(0, 1))
    routing = ours(x.flatten(0, 1))
    assert torch.equal(routing.experts, experts)
    torch.testing.assert_close(routing.weights, weights, rtol=0, atol=1e-12)


@pytest.mark.oracle
def test_the_balance_loss_against_transformers(float64_for_float32):
    mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    router, x = make(MixtralRouter, E, 3), draw()
    float64_for_float32()
    theirs = mixtral.load_balancing_loss_func((router.score(x.flatten(0, 1)),), E, 3)
    torch.testing.assert_close(router(x).losses["balance"], theirs, rtol=1e-12, atol=0)


# DeepSeek-V3


def test_deepseek_takes_the_best_experts_of_the_best_groups():
    """Brute force: of all pairs of groups the best one, and of all triples in it the best one."""
    router, x = make(DeepSeekV3Router, E, 3, n_groups=4, top_groups=2, scale=1.7), draw(1, 10)[0]
    router.bias.uniform_(-1, 1)
    routing = router(x)
    for t in range(len(x)):
        s = torch.sigmoid(router.score(x[t]))
        groups = (s + router.bias).view(4, 2)
        pair = max(itertools.combinations(range(4), 2), key=lambda p: groups[list(p)].sum())
        open_ = [2 * g + i for g in pair for i in range(2)]
        triples = itertools.combinations(open_, 3)
        triple = list(max(triples, key=lambda p: (s + router.bias)[list(p)].sum()))
        expected = torch.zeros(E, dtype=torch.float64)
        expected[triple] = 1.7 * s[triple] / s[triple].sum()
        torch.testing.assert_close(dense(routing)[t], expected, rtol=0, atol=1e-12)


def test_a_closed_group_does_not_beat_a_negative_bias():
    """With every s + b below 0, a mask of 0 instead of -inf would choose the closed groups."""
    router, x = make(DeepSeekV3Router, E, 3, n_groups=4, top_groups=2), draw()
    before = dense(router(x))
    router.bias -= 5
    torch.testing.assert_close(dense(router(x)), before, rtol=0, atol=1e-12)


def test_the_bias_chooses_but_neither_weighs_nor_learns():
    router, x = make(DeepSeekV3Router, E, 3, n_groups=1, top_groups=1), draw()
    router.bias[2] = 10
    routing, s = router(x), router.score(x).sigmoid()
    assert (routing.experts == 2).any(-1).all()
    chosen = s.gather(-1, routing.experts)
    expected = 2.5 * chosen / chosen.sum(-1, keepdim=True)
    torch.testing.assert_close(routing.weights, expected, rtol=0, atol=1e-12)
    assert "bias" not in dict(router.named_parameters()) and "bias" in router.state_dict()


def test_updating_the_bias_evens_the_load():
    router = make(DeepSeekV3Router, E, 2, n_groups=1, top_groups=1, rate=0.02).train()
    x = draw(4, 64)
    x[..., 0] += 3  # everyone likes the same experts
    first = router(x).load
    router.update_bias()
    assert torch.equal(router.bias.sign(), (first.double().mean() - first).sign())
    for _ in range(150):
        router(x)
        router.update_bias()
    assert spread(router(x).load) < 0.2 < 0.5 < spread(first)


def spread(load):
    return load.double().std() / load.double().mean()


def test_the_bias_waits_for_the_whole_step_and_is_still_in_evaluation():
    router, x = make(DeepSeekV3Router, E, 3, n_groups=4, top_groups=2).train(), draw()
    loads = router(x).load + router(2 - x).load  # two parts of one batch
    assert torch.equal(router.seen, loads) and (router.bias == 0).all()
    router.update_bias()
    expected = 0.001 * (loads.double().mean() - loads).sign()
    torch.testing.assert_close(router.bias, expected, rtol=0, atol=1e-15)
    router.eval()(x)
    router.update_bias()
    torch.testing.assert_close(router.bias, expected, rtol=0, atol=1e-15)


def test_the_bias_keeps_float32_in_a_bf16_model():
    router = DeepSeekV3Router(D, E, 3, n_groups=4, top_groups=2)
    router.bias.fill_(0.501)
    for narrow in (router.bfloat16(), router.half()):
        assert narrow.score.weight.dtype.itemsize == 2 and narrow.bias.dtype == torch.float32
        assert (narrow.bias == 0.501).all()
    assert router.double().bias.dtype == torch.float64


def test_thousands_of_small_steps_move_the_bias_of_a_bf16_model():
    """From 0.5 on, bfloat16 would round every step of 0.001 away."""
    router = DeepSeekV3Router(D, E, 2, n_groups=1, top_groups=1).to(torch.bfloat16)
    one_sided = torch.arange(E)
    for _ in range(3000):
        router.seen = one_sided
        router.update_bias()
    expected = 3 * (one_sided.double().mean() - one_sided).sign().float()
    torch.testing.assert_close(router.bias, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_the_bias_is_float32_after_a_checkpoint(tmp_path, stored, assign):
    """Saved in float32 it is loaded exactly; saved in bfloat16, it still moves afterwards."""
    make = partial(DeepSeekV3Router, D, E, 2, n_groups=1, top_groups=1)
    saved = make().to(torch.bfloat16)
    saved.bias.copy_(torch.linspace(0.5, 0.501, E))
    state = {name: w.to(stored) for name, w in saved.state_dict().items()}
    torch.save(state, tmp_path / "router.pt")
    router = make().bfloat16()
    router.load_state_dict(torch.load(tmp_path / "router.pt"), assign=assign)
    assert router.bias.dtype == torch.float32
    assert torch.equal(router.bias, saved.bias.to(stored).float())
    before = router.bias.clone()
    router.seen = torch.tensor([2] + [0] * (E - 1))
    router.update_bias()
    assert (router.bias != before).all()


def test_the_bias_moves_between_devices_and_widens():
    router = DeepSeekV3Router(D, E, 2, n_groups=1, top_groups=1)
    assert router.to("meta", torch.bfloat16).bias.device.type == "meta"
    assert router.bias.dtype == torch.float32 and router.double().bias.dtype == torch.float64


def test_the_sequence_loss_is_the_mean_over_sequences_and_one_when_even():
    router, x = make(DeepSeekV3Router, E, 2, n_groups=1, top_groups=1), draw(3)
    alone = torch.stack([router(row).losses["sequence"] for row in x])
    torch.testing.assert_close(router(x).losses["sequence"], alone.mean(), rtol=0, atol=1e-12)
    torch.nn.init.zeros_(router.score.weight)
    assert router(x).losses["sequence"].item() == pytest.approx(1)


def test_the_sequence_loss_is_the_papers_equations_17_to_20():
    """Σ_i f_i P_i, token by token: f_i = E / (k T) Σ_t [s_i,t among the k largest]."""
    router, x = make(DeepSeekV3Router, E, 3, n_groups=4, top_groups=2), draw(1)
    router.bias.uniform_(-1, 1)  # f knows neither the bias nor the groups
    f = torch.zeros(E, dtype=torch.float64)
    P = torch.zeros(E, dtype=torch.float64)
    for t in range(T):
        s = router.score(x[0, t]).sigmoid().detach()
        f[s.sort(descending=True).indices[:3]] += E / (3 * T)
        P += s / s.sum() / T
    torch.testing.assert_close(router(x).losses["sequence"], (f * P).sum(), rtol=0, atol=1e-12)


@pytest.mark.oracle
@pytest.mark.parametrize("module", ["deepseek_v3", "kimi_linear"])
@pytest.mark.parametrize("groups", [(1, 1), (4, 2)])
@pytest.mark.parametrize("normalise", [True, False])
def test_deepseek_against_transformers(module, groups, normalise, float64_for_float32):
    """Theirs asks for scores in float32 whatever the input: here it gets float64, as ours does."""
    modeling = pytest.importorskip(f"transformers.models.{module}.modeling_{module}")
    name = {"deepseek_v3": "DeepseekV3", "kimi_linear": "KimiLinear"}[module]
    make_config = getattr(modeling, f"{name}Config")
    config = make_config(hidden_size=D, n_group=groups[0], topk_group=groups[1])
    config.num_local_experts = E
    config.num_experts_per_tok = 3
    config.norm_topk_prob = normalise
    config.routed_scaling_factor = 2.446
    theirs = getattr(modeling, f"{name}TopkRouter")(config).double()
    sizes = {"n_groups": groups[0], "top_groups": groups[1]}
    ours = make(DeepSeekV3Router, E, 3, scale=2.446, normalise=normalise, **sizes)
    x = draw().flatten(0, 1)
    ours.bias.uniform_(-0.5, 0.5)
    theirs.weight.data = ours.score.weight.data
    theirs.e_score_correction_bias.data = ours.bias.clone()
    float64_for_float32()
    _, weights, experts = theirs(x)
    expected = torch.zeros(len(x), E, dtype=torch.float64).scatter(-1, experts, weights)
    torch.testing.assert_close(dense(ours(x)), expected, rtol=0, atol=1e-12)


# Expert choice


def test_each_expert_takes_its_favourite_tokens():
    router, x = make(ExpertChoiceRouter, E, capacity_factor=1.5), draw()
    routing, p = router(x), router.score(x).softmax(-1)
    places = math.ceil(1.5 * T / E)
    assert (routing.load == B * places).all()
    for b, e in itertools.product(range(B), range(E)):
        favourites = sorted(range(T), key=lambda t: -p[b, t, e])[:places]
        assert set(routing.kept[b, :, e].nonzero()[:, 0].tolist()) == set(favourites)
    torch.testing.assert_close(dense(routing), p * routing.kept, rtol=0, atol=1e-12)


def test_a_token_may_be_served_by_several_experts_or_by_none():
    """By construction: of 24 tokens the first 20 like two of eight experts each, and each expert is
    liked by five and has five places. So the last four tokens are left out.
    """
    router = make(ExpertChoiceRouter, E, capacity_factor=1.5)
    assert (T, E, math.ceil(1.5 * T / E)) == (24, 8, 5)
    liked = torch.zeros(T, E, dtype=torch.float64)
    for t, e in itertools.product(range(20), (0, 1)):
        liked[t, 2 * (t % 4) + e] = 1
    x = 10 * liked @ torch.linalg.pinv(router.score.weight).mT  # W has full rank: W x is 10 · liked
    assert torch.equal(router(x[None]).kept[0], liked.bool())


def test_with_a_place_for_every_token_expert_choice_is_the_soft_mixture():
    choice, soft = make(ExpertChoiceRouter, E, capacity_factor=float(E)), make(SoftRouter, E)
    x = draw()
    soft.score.load_state_dict(choice.score.state_dict())
    torch.testing.assert_close(dense(choice(x)), dense(soft(x)), rtol=0, atol=1e-12)


# Wrong arguments


def test_more_experts_a_token_than_there_are_gets_one_clear_sentence():
    says = "top_k is 9, n_experts is 8: a token takes 1 to n_experts experts"
    with pytest.raises(ValueError, match=says):
        MixtralRouter(D, E, 9)


def test_groups_that_cannot_hold_top_k_get_one_clear_sentence():
    says = r"n_groups 4, top_groups 1, top_k 3: .* chosen groups must hold top_k"
    with pytest.raises(ValueError, match=says):
        DeepSeekV3Router(D, E, 3, n_groups=4, top_groups=1)
