import itertools
import math

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
    return torch.zeros(*weights.shape[:-1], n_experts, dtype=weights.dtype).scatter_add(
        -1, routing.experts, weights
    )


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


@pytest.mark.parametrize("name", ALL)
def test_a_bf16_router_scores_in_float32(name):
    router = ALL[name]().bfloat16()
    assert router(draw().bfloat16()).weights.dtype == torch.float32


def test_a_soft_mixture_is_a_softmax_over_all_experts():
    router, x = make(SoftRouter, E), draw()
    torch.testing.assert_close(dense(router(x)), router.score(x).softmax(-1), rtol=0, atol=1e-12)


# Noisy top-k


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
    torch.testing.assert_close(
        router.train()(x).losses["load"], torch.tensor(0.0).double(), rtol=0, atol=0.1
    )
    one_for_all = torch.zeros(1, 5, D, dtype=torch.float64)
    importance = router.eval()(one_for_all).losses[
        "importance"
    ]  # ties: the same 2 of E serve everyone
    assert importance.item() == pytest.approx(E / 2 - 1)  # mean 1/E, square mean (1/4) 2/E


# Switch


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
    theirs = (
        switch.modeling_switch_transformers.SwitchTransformersTop1Router(config).double().eval()
    )
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
    mixtral, switch = (
        make(MixtralRouter, E, 1, normalise=False),
        make(SwitchRouter, E, capacity_factor=None),
    )
    switch.score.load_state_dict(mixtral.score.state_dict())
    x = draw()
    ours, theirs = mixtral(x), switch(x)
    assert (
        torch.equal(dense(ours), dense(theirs))
        and ours.losses["balance"] == theirs.losses["balance"]
    )


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("module", "router", "config", "options", "normalise"),
    [
        ("mixtral", "MixtralTopKRouter", "MixtralConfig", {"num_local_experts": E}, True),
        ("minimax", "MiniMaxTopKRouter", "MiniMaxConfig", {"num_local_experts": E}, True),
        ("jamba", "JambaTopKRouter", "JambaConfig", {"num_experts": E}, False),
        (
            "qwen3_next",
            "Qwen3NextTopKRouter",
            "Qwen3NextConfig",
            {"num_experts": E, "norm_topk_prob": True},
            True,
        ),
        (
            "qwen3_next",
            "Qwen3NextTopKRouter",
            "Qwen3NextConfig",
            {"num_experts": E, "norm_topk_prob": False},
            False,
        ),
    ],
)
def test_softmax_routers_against_transformers(module, router, config, options, normalise):
    """Theirs takes the softmax in float32 whatever the input: equal to 1e-6, with the same
    experts.
    """
    modeling = pytest.importorskip(f"transformers.models.{module}.modeling_{module}")
    configuration = pytest.importorskip(f"transformers.models.{module}.configuration_{module}")
    config = getattr(configuration, config)(hidden_size=D, num_experts_per_tok=3, **options)
    theirs, ours, x = (
        getattr(modeling, router)(config).double(),
        make(MixtralRouter, E, 3, normalise=normalise),
        draw(),
    )
    theirs.weight.data = ours.score.weight.data
    _, weights, experts = theirs(x.flatten(0, 1))
    routing = ours(x.flatten(0, 1))
    assert torch.equal(routing.experts, experts)
    torch.testing.assert_close(routing.weights, weights.double(), rtol=0, atol=1e-6)


@pytest.mark.oracle
def test_the_balance_loss_against_transformers():
    mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    router, x = make(MixtralRouter, E, 3), draw()
    theirs = mixtral.load_balancing_loss_func((router.score(x.flatten(0, 1)),), E, 3)
    torch.testing.assert_close(
        router(x).losses["balance"].float(), theirs, rtol=1e-6, atol=0
    )  # theirs is float32


# DeepSeek-V3


def test_deepseek_takes_the_best_experts_of_the_best_groups():
    """Brute force: of all pairs of groups the one with the largest score, in it of all triples the
    largest sum.
    """
    router, x = make(DeepSeekV3Router, E, 3, n_groups=4, top_groups=2, scale=1.7), draw(1, 10)[0]
    router.bias.uniform_(-1, 1)
    routing = router(x)
    for t in range(len(x)):
        s = torch.sigmoid(router.score(x[t]))
        groups = (s + router.bias).view(4, 2)
        pair = max(itertools.combinations(range(4), 2), key=lambda p: groups[list(p)].sum())
        open_ = [2 * g + i for g in pair for i in range(2)]
        triple = list(
            max(itertools.combinations(open_, 3), key=lambda p: (s + router.bias)[list(p)].sum())
        )
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
    torch.testing.assert_close(
        routing.weights, 2.5 * chosen / chosen.sum(-1, keepdim=True), rtol=0, atol=1e-12
    )
    assert "bias" not in dict(router.named_parameters()) and "bias" in router.state_dict()


def test_updating_the_bias_evens_the_load():
    router, x = (
        make(DeepSeekV3Router, E, 2, n_groups=1, top_groups=1, rate=0.02).train(),
        draw(4, 64),
    )
    x[..., 0] += 3  # everyone likes the same experts
    first = router(x).load
    router.update_bias()
    assert torch.equal(router.bias.sign(), (first.double().mean() - first).sign())
    for _ in range(150):
        router(x)
        router.update_bias()
    spread = lambda load: load.double().std() / load.double().mean()  # noqa: E731
    assert spread(router(x).load) < 0.2 < 0.5 < spread(first)


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


def test_the_sequence_loss_is_the_mean_over_sequences_and_one_when_even():
    router, x = make(DeepSeekV3Router, E, 2, n_groups=1, top_groups=1), draw(3)
    alone = torch.stack([router(row).losses["sequence"] for row in x])
    torch.testing.assert_close(router(x).losses["sequence"], alone.mean(), rtol=0, atol=1e-12)
    torch.nn.init.zeros_(router.score.weight)
    assert router(x).losses["sequence"].item() == pytest.approx(1)


@pytest.mark.oracle
@pytest.mark.parametrize("module", ["deepseek_v3", "kimi_linear"])
@pytest.mark.parametrize("groups", [(1, 1), (4, 2)])
@pytest.mark.parametrize("normalise", [True, False])
def test_deepseek_against_transformers(module, groups, normalise):
    """Theirs scores in float32 whatever the input: equal to 1e-6, with the same experts."""
    modeling = pytest.importorskip(f"transformers.models.{module}.modeling_{module}")
    name = {"deepseek_v3": "DeepseekV3", "kimi_linear": "KimiLinear"}[module]
    config = getattr(modeling, f"{name}Config")(
        hidden_size=D, n_group=groups[0], topk_group=groups[1]
    )
    config.num_local_experts, config.num_experts_per_tok, config.norm_topk_prob = E, 3, normalise
    config.routed_scaling_factor = 2.446
    theirs = getattr(modeling, f"{name}TopkRouter")(config).double()
    options = {
        "n_groups": groups[0],
        "top_groups": groups[1],
        "scale": 2.446,
        "normalise": normalise,
    }
    ours, x = make(DeepSeekV3Router, E, 3, **options), draw().flatten(0, 1)
    ours.bias.uniform_(-0.5, 0.5)
    theirs.weight.data, theirs.e_score_correction_bias.data = (
        ours.score.weight.data,
        ours.bias.clone(),
    )
    _, weights, experts = theirs(x)
    expected = torch.zeros(len(x), E, dtype=torch.float64).scatter(-1, experts, weights.double())
    torch.testing.assert_close(dense(ours(x)), expected, rtol=0, atol=1e-6)


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
    assert (routing.kept.sum(-1) == 0).any() and (routing.kept.sum(-1) > 1).any()


def test_with_a_place_for_every_token_expert_choice_is_the_soft_mixture():
    choice, soft, x = (
        make(ExpertChoiceRouter, E, capacity_factor=float(E)),
        make(SoftRouter, E),
        draw(),
    )
    soft.score.load_state_dict(choice.score.state_dict())
    torch.testing.assert_close(dense(choice(x)), dense(soft(x)), rtol=0, atol=1e-12)


# Wrong arguments


def test_more_experts_a_token_than_there_are_gets_one_clear_sentence():
    with pytest.raises(
        ValueError, match="top_k is 9, n_experts is 8: a token takes 1 to n_experts experts"
    ):
        MixtralRouter(D, E, 9)


def test_groups_that_cannot_hold_top_k_get_one_clear_sentence():
    with pytest.raises(
        ValueError, match=r"n_groups 4, top_groups 1, top_k 3: .* chosen groups must hold top_k"
    ):
        DeepSeekV3Router(D, E, 3, n_groups=4, top_groups=1)
