import math
import warnings
from functools import partial

import pytest
import torch
from torch.distributions import Uniform
from torch.nn.functional import silu, softplus

from seqlab.core.recurrence import recurrent
from seqlab.mixers.mamba import Mamba

D, E, N = 24, 36, 6


def mamba(transformers, bias):
    from transformers.models.mamba.modeling_mamba import MambaMixer

    names = {"intermediate_size": E, "state_size": N, "conv_kernel": 3, "time_step_rank": 5}
    config = transformers.MambaConfig(
        hidden_size=D, use_bias=bias, use_conv_bias=bias, num_hidden_layers=1, **names
    )
    return MambaMixer, config, {}


def falcon(transformers, bias):
    from transformers.models.falcon_mamba.modeling_falcon_mamba import FalconMambaMixer

    names = {"intermediate_size": E, "state_size": N, "conv_kernel": 3, "time_step_rank": 5}
    biases = {"use_bias": bias, "use_conv_bias": bias}
    config = transformers.FalconMambaConfig(
        hidden_size=D, num_hidden_layers=1, mixer_rms_eps=1e-3, **names, **biases
    )
    # initialize_mixer_weights would use its norms before they exist.
    make = partial(FalconMambaMixer, initialize_mixer_weights=False)
    return make, config, {"norm_eps": 1e-3}


def jamba(transformers, bias):
    from transformers.models.jamba.modeling_jamba import JambaMambaMixer

    names = {"mamba_expand": 2, "mamba_d_state": N, "mamba_d_conv": 3, "mamba_dt_rank": 5}
    biases = {"mamba_proj_bias": bias, "mamba_conv_bias": bias}
    config = transformers.JambaConfig(hidden_size=D, rms_norm_eps=1e-3, **names, **biases)
    return JambaMambaMixer, config, {"norm_eps": 1e-3, "norm_weight": True, "d_inner": 2 * D}


def copy_into(ours, theirs):
    """The weights of a transformers Mamba layer, name by name."""
    for name in ("in_proj", "x_proj", "dt_proj"):
        getattr(ours, name).load_state_dict(getattr(theirs, name).state_dict())
    ours.out.load_state_dict(theirs.out_proj.state_dict())
    ours.conv.weight.data = theirs.conv1d.weight.data[:, 0]
    ours.A_log.data, ours.D.data = theirs.A_log.data, theirs.D.data
    if ours.conv.bias is not None:
        ours.conv.bias.data = theirs.conv1d.bias.data
    if isinstance(ours.norms, torch.nn.ModuleList):
        for norm, name in zip(ours.norms, ("dt", "b", "c"), strict=True):
            norm.load_state_dict(getattr(theirs, f"{name}_layernorm").state_dict())


@pytest.fixture
def transformers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        needed = "needs transformers: pip install -e '.[test]'"
        return pytest.importorskip("transformers", reason=needed)


@pytest.fixture
def wide_floats(monkeypatch):
    """transformers drops to float32 whatever the model's dtype: make `float32` mean float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(torch, "float32", torch.float64)


@pytest.mark.oracle
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("family", [mamba, falcon, jamba])
def test_a_layer_of_transformers_loads(transformers, wide_floats, family, bias):
    """Prefill, then token by token, in float64; random A, D, norms and Δ, odd sizes."""
    make, config, options = family(transformers, bias)
    theirs = make(config, layer_idx=0)
    for p in theirs.parameters():
        p.data = 0.5 * torch.randn_like(p)
    theirs = theirs.double().eval()
    sizes = {"d_inner": E, "d_state": N, "d_conv": 3, "dt_rank": 5}
    ours = Mamba(D, **sizes | {"bias": bias, "conv_bias": bias} | options).double()
    copy_into(ours, theirs)
    x = torch.randn(2, 21, D, dtype=torch.float64)
    cache = transformers.DynamicCache(config=config)
    torch.testing.assert_close(ours(x)[0], theirs(x), rtol=0, atol=1e-9)
    y, state = ours(x[:, :13])
    torch.testing.assert_close(y, theirs(x[:, :13], cache_params=cache), rtol=0, atol=1e-9)
    for token in x[:, 13:].split(1, dim=1):
        y, state = ours(token, state)
        torch.testing.assert_close(y, theirs(token, cache_params=cache), rtol=0, atol=1e-9)


def test_every_channel_holds_its_own_state():
    """Algorithm 2 of the paper, channel by channel and token by token.

    h = exp(Δ A) h + Δ B x and y = C·h + D x.
    """
    mixer = Mamba(D, d_inner=E, d_state=N, d_conv=3).double()
    x = torch.randn(1, 9, D, dtype=torch.float64)
    u, z = mixer.in_proj(x)[0].chunk(2, dim=-1)
    padded = torch.cat([torch.zeros(2, E, dtype=torch.float64), u])
    u = silu(sum(padded[j : j + 9] * mixer.conv.weight[:, j] for j in range(3)) + mixer.conv.bias)
    dt, B, C = mixer.x_proj(u).split([2, N, N], dim=-1)  # dt_rank = ⌈24/16⌉
    dt = softplus(mixer.dt_proj(dt))
    y = torch.zeros(9, E, dtype=torch.float64)
    for e in range(E):
        h = torch.zeros(N, dtype=torch.float64)
        for t in range(9):
            h = torch.exp(-dt[t, e] * mixer.A_log[e].exp()) * h + dt[t, e] * B[t] * u[t, e]
            y[t, e] = C[t] @ h + mixer.D[e] * u[t, e]
    torch.testing.assert_close(mixer(x)[0][0], mixer.out(y * silu(z)), rtol=0, atol=1e-9)


def test_project_gives_what_the_recurrence_reads_with_and_without_a_state():
    mixer, x = Mamba(D, d_state=N).double(), torch.randn(2, 19, D, dtype=torch.float64)
    _, S = recurrent(**mixer.project(x))
    _, state = mixer(x[:, :5])
    _, continued = recurrent(**mixer.project(x[:, 5:], state), state=state.S)
    for ours in (S, continued):
        torch.testing.assert_close(ours, mixer(x)[1].S, rtol=0, atol=1e-9)


@pytest.mark.parametrize("chunk_size", [1, 3, 8, 100])
def test_the_chunk_of_the_scan_does_not_matter(chunk_size):
    x = torch.randn(2, 19, D, dtype=torch.float64)
    mixer = Mamba(D, d_state=N).double()
    y, state = mixer(x)
    mixer.chunk_size = chunk_size
    torch.testing.assert_close(mixer(x)[0], y, rtol=0, atol=1e-12)
    torch.testing.assert_close(mixer(x)[1].S, state.S, rtol=0, atol=1e-12)


def test_every_weight_starts_where_the_authors_start_it(drawn_from):
    """And with their defaults: expand 2, 16 states, four taps, dt_rank = ⌈D / 16⌉, one bias."""
    mixer = Mamba(1000)
    steps = softplus(mixer.dt_proj.bias).log()
    drawn_from(steps, Uniform(math.log(1e-3), math.log(0.1), validate_args=False))
    rank = 63
    drawn_from(mixer.dt_proj.weight, Uniform(-(rank**-0.5), rank**-0.5, validate_args=False))
    torch.testing.assert_close(mixer.A_log.exp(), torch.arange(1.0, 17).expand(2000, 16))
    assert mixer.x_proj.out_features == rank + 16 + 16 and (mixer.D == 1).all()
    assert mixer.conv.weight.shape == (2000, 4) and (mixer.conv.bias == 0).all()
    assert mixer.in_proj.bias is None and mixer.out.bias is None


@pytest.mark.parametrize("options", [{}, {"norm_eps": 1e-3}, {"norm_weight": True}])
def test_the_norms_of_step_and_keys(options):
    """None by default; with norm_eps alone they have no weight; with norm_weight eps is 1e-6."""
    mixer = Mamba(D, d_state=N, **options).double()
    u = torch.randn(1, 5, 2 * D, dtype=torch.float64) / 100  # small: eps matters
    dt, B, C = mixer.x_proj(u).split([2, N, N], dim=-1)
    if options:
        eps = options.get("norm_eps", 1e-6)
        dt, B, C = (w / (w.square().mean(-1, keepdim=True) + eps).sqrt() for w in (dt, B, C))
    ours_dt, A, ours_B, ours_C = mixer._select(u)
    for ours, theirs in ((ours_B, B), (ours_C, C), (ours_dt, softplus(mixer.dt_proj(dt)))):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    torch.testing.assert_close(A, -torch.arange(1.0, N + 1).double().expand(2 * D, N))
    assert len(list(mixer.parameters())) == 9 + (3 if "norm_weight" in options else 0)


def test_a_closed_step_keeps_the_state_and_an_open_one_forgets():
    """Δ → 0: the token is skipped. Δ → ∞: the past is gone."""
    mixer, x = Mamba(D, d_state=N, d_conv=3).double(), torch.randn(1, 7, D, dtype=torch.float64)
    _, state = mixer(x)
    mixer.dt_proj.bias.data.fill_(-40)
    torch.testing.assert_close(mixer(x, state)[1].S, state.S, rtol=0, atol=1e-9)
    mixer.dt_proj.bias.data.fill_(400)
    torch.testing.assert_close(mixer(x, state)[0][:, 2:], mixer(x)[0][:, 2:], rtol=0, atol=1e-9)


def test_an_unknown_form_gets_one_clear_sentence():
    with pytest.raises(ValueError, match="form is 'fast': choose one of recurrent"):
        Mamba(D, form="fast")(torch.randn(1, 2, D))
