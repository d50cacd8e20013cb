"""The microscope sees what the mixer does: its state, its reads, and, for any module, its
derivatives.
"""

import json
import math

import pytest
import torch
from torch import nn

from seqlab.core.recurrence import recurrent
from seqlab.figures import microscope, microscope_frames, state_surface
from seqlab.figures.microscope import finding
from seqlab.microscope import observe
from seqlab.mixers import Attention, LinearAttention, RetNet

D, T = 16, 9

MIXERS = {
    "elu": lambda: LinearAttention(D, 2),
    "elu, no normaliser": lambda: LinearAttention(D, 2, normalize=False),
    "identity": lambda: LinearAttention(D, 2, feature_map="identity"),
    "taylor": lambda: LinearAttention(D, 2, feature_map="taylor"),
    "taylor, no normaliser": lambda: LinearAttention(D, 2, feature_map="taylor", normalize=False),
    "random": lambda: LinearAttention(D, 2, feature_map="random", n_features=12),
    "random, no normaliser": lambda: LinearAttention(
        D, 2, feature_map="random", n_features=12, normalize=False
    ),
    "RetNet": lambda: RetNet(D, 2),
    "attention": lambda: Attention(D, 2),
    "grouped queries": lambda: Attention(D, 4, n_kv_heads=2),
    "window": lambda: Attention(D, 2, window=3),
}
RECURRENT = [
    name for name in MIXERS if "attention" not in name and name not in ("grouped queries", "window")
]
EXACT = {"atol": 1e-9, "rtol": 1e-9}


class Elman(nn.Module):
    """h_t = tanh(W x_t + U h_{t-1}), y_t = h_t: a mixer that says nothing about itself."""

    def __init__(self):
        super().__init__()
        self.W, self.U = nn.Linear(D, 7), nn.Linear(7, 7)

    def forward(self, x, state=None):
        h, ys = x.new_zeros(len(x), 7) if state is None else state["h"], []
        for x_t in x.unbind(1):
            h = torch.tanh(self.W(x_t) + self.U(h))
            ys.append(h)
        return torch.stack(ys, 1), {"h": h, "steps": x.shape[1]}


class Delta(nn.Module):
    """The delta rule with a decay per key channel: gates the course's first mixers do not have."""

    def __init__(self):
        super().__init__()
        self.W = nn.Linear(D, 2 * (4 + 4 + 3 + 4 + 1))

    def project(self, x, state=None):
        q, k, v, a, beta = self.W(x).unflatten(-1, (2, -1)).split([4, 4, 3, 4, 1], dim=-1)
        k = nn.functional.normalize(k, dim=-1)
        return {
            "q": q,
            "k": k,
            "v": v,
            "log_a": nn.functional.logsigmoid(a),
            "beta": beta[..., 0].sigmoid(),
        }

    def read(self, y):
        return y

    def forward(self, x, state=None):
        y, S = recurrent(**self.project(x), state=state)
        return y.flatten(2), S


def made(name):
    torch.manual_seed(0)
    return (Delta if name == "delta" else MIXERS[name])().double()


@pytest.fixture
def x():
    return torch.randn(2, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", [*RECURRENT, "delta"])
@pytest.mark.parametrize("head, row", [(0, 0), (1, 1)])
def test_state_is_the_recurrences_state(name, x, head, row):
    mixer = made(name)
    trace = observe(mixer, x, head=head, row=row)
    for t in range(T):
        _, S = recurrent(**{u: each[:, : t + 1] for u, each in mixer.project(x).items()})
        torch.testing.assert_close(trace.states[t], S[row, head], **EXACT)


@pytest.mark.parametrize("name", [*RECURRENT, "delta"])
def test_state_is_decayed_state_plus_what_was_written(name, x):
    mixer = made(name)
    trace, log_a = observe(mixer, x, head=1), mixer.project(x).get("log_a")
    before = torch.cat([torch.zeros_like(trace.states[:1]), trace.states[:-1]])
    decay = 1 if log_a is None else log_a[0, :, 1, None].exp()
    torch.testing.assert_close(trace.states, before * decay + trace.written, **EXACT)


@pytest.mark.parametrize("name", [*RECURRENT, "delta"])
@pytest.mark.parametrize("head, row", [(0, 1), (1, 0)])
def test_implied_attention_times_values_is_the_mixers_read(name, x, head, row):
    mixer = made(name)
    inputs = mixer.project(x)
    y = mixer.read(recurrent(**inputs)[0])[row, :, head]
    mixed = observe(mixer, x, head=head, row=row).weights @ inputs["v"][row, :, head, : y.shape[-1]]
    # A normaliser is already in the weights; any other read (a norm) still has to be applied to the
    # mixed values.
    torch.testing.assert_close(
        mixed if getattr(mixer, "normalize", False) else mixer.read(mixed[None, :, None])[0, :, 0],
        y,
        **EXACT,
    )


@pytest.mark.parametrize("name", ["attention", "grouped queries", "window"])
def test_attention_weights_times_values_is_the_mixers_output(name, x):
    mixer = made(name)
    n_heads = mixer.q.out_features // mixer.d_head
    v = mixer.v(x).unflatten(-1, (-1, mixer.d_head))
    group = n_heads // v.shape[2]
    heads = [observe(mixer, x, head=h, row=1).weights @ v[1, :, h // group] for h in range(n_heads)]
    torch.testing.assert_close(mixer.out(torch.cat(heads, -1)), mixer(x)[0][1], **EXACT)


def test_cache_holds_the_window_and_nothing_else(x):
    trace = observe(made("window"), x)
    held = trace.states.isfinite().all(1)
    assert held.sum(1).tolist() == [min(t + 1, 3) for t in range(T)]
    assert (held == (trace.weights > 0)).all()
    assert (trace.written.isfinite().all(1) == torch.eye(T, dtype=torch.bool)).all()


def test_orthogonal_keys_return_their_values_and_an_overwritten_key_does_not():
    mixer = made("identity")
    mixer.k.weight.data = mixer.q.weight.data = torch.eye(D, dtype=torch.float64)
    mixer.v.weight.data = torch.eye(D, dtype=torch.float64).roll(8, 0)
    key = torch.tensor([0, 1, 2, 0])
    values = torch.eye(8, dtype=torch.float64)[torch.tensor([0, 1, 2, 3])]
    trace = observe(mixer, torch.cat([torch.eye(8, dtype=torch.float64)[key], values], -1)[None])
    assert [trace.comes_back(t) for t in range(4)] == [1, 2, 3, 2]
    half = math.sqrt(0.5)  # two values under one key: each is half of what comes back
    torch.testing.assert_close(
        trace.recall[3], torch.tensor([half, 1, 1, half], dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_recall_is_only_of_what_is_stored(x):
    recall = observe(made("RetNet"), x).recall
    assert (recall.isnan() == torch.ones(T, T).triu(1).bool()).all()


def test_half_lives_halve(x):
    trace = observe(made("RetNet"), x)
    gamma = torch.tensor([1 - 2**-5, 1 - 2**-6], dtype=torch.float64)
    torch.testing.assert_close(
        gamma ** trace.half_lives[0], torch.full((2,), 0.5, dtype=torch.float64), atol=1e-6, rtol=0
    )
    gated = observe(made("delta"), x)  # a decay per key channel, at each token
    assert gated.half_life_of == "key channel" and gated.half_lives.shape == (T, 4)
    assert observe(made("elu"), x).half_lives is None


def test_no_decay_is_an_infinite_half_life(x):
    mixer = made("RetNet")
    mixer.log_gamma.zero_()
    trace = observe(mixer, x)
    assert trace.half_lives.isinf().all() and (trace.half_lives > 0).all()
    assert microscope(trace).data[-1].text == ("∞", "∞")


def test_any_module_is_observed_by_its_derivatives(x):
    torch.manual_seed(0)
    mixer = Elman().double()
    trace = observe(mixer, x, row=1)
    assert trace.kind == "any" and trace.recall is None
    hs = mixer(x)[0][1]  # in this mixer the output is the state
    torch.testing.assert_close(trace.states.flatten(1)[:, :7], hs, **EXACT)
    assert trace.states.flatten(1)[:, 7:].isnan().all()
    # ∂h_{t+1}/∂x_s = diag(1 - h²) U ∂h_t/∂x_s, by hand.
    slope = torch.diag(1 - hs[0] ** 2) @ mixer.W.weight
    for t in range(4):
        torch.testing.assert_close(trace.weights[t, 0], slope.norm(), **EXACT)
        slope = torch.diag(1 - hs[t + 1] ** 2) @ mixer.U.weight @ slope


def test_influence_never_comes_from_the_future_unless_the_mixer_looks_there(x):
    assert observe(Elman().double(), x).weights.triu(1).abs().max() == 0

    class Cheat(Elman):
        def forward(self, x, state=None):
            return super().forward(x + x.mean(1, keepdim=True), state)

    assert observe(Cheat().double(), x).weights.triu(1).abs().max() > 1e-3


def test_a_module_without_a_state_is_observed_too(x):
    class Pointwise(nn.Module):
        def forward(self, x, state=None):
            return x**2, None

    trace = observe(Pointwise(), x)
    assert (trace.weights != 0).equal(torch.eye(T, dtype=torch.bool))
    microscope(trace)


@pytest.mark.parametrize("name", [*MIXERS, "delta"])
def test_every_mixer_has_its_picture(name, x):
    trace = observe(made(name), x, list("the cat !"))
    for t in (0, 4, None):
        fig = microscope(trace, t)
        assert fig.layout.title.text == finding(trace, T - 1 if t is None else t)
        assert "NaN" not in fig.to_json() and "Infinity" not in fig.to_json()
    assert state_surface(trace).data[0].type == "surface"


@pytest.mark.parametrize("name", ["RetNet", "taylor", "attention"])
def test_same_input_same_figure(name, x):
    mixer = made(name)
    for draw in (microscope, microscope_frames, state_surface):
        assert draw(observe(mixer, x)).to_json() == draw(observe(mixer, x)).to_json()


@pytest.mark.parametrize("n_tokens", [1, 2, 64])
def test_any_length_can_be_drawn(n_tokens):
    x = torch.randn(1, n_tokens, D, generator=torch.Generator().manual_seed(0))
    for mixer in (
        RetNet(D, 2),
        LinearAttention(D, D, feature_map="identity"),
        Attention(D, 2),
        Elman(),
    ):
        microscope(observe(mixer, x))
        fig = microscope_frames(observe(mixer, x))
        assert len(fig.frames) <= 25


def test_title_counts_what_comes_back(x):
    trace = observe(made("RetNet"), x)
    assert finding(trace, 0) == "After 1 token: 1 of 1 value still comes back (RetNet, head 0)"
    back = int((trace.recall[T - 1] >= 0.9).sum())
    assert (
        finding(trace, T - 1)
        == f"After {T} tokens: {back} of {T} values still come back (RetNet, head 0)"
    )
    assert "depends most on token" in finding(observe(Elman().double(), x), 3)


@pytest.mark.parametrize(
    "make", [lambda: RetNet(64, 4), lambda: LinearAttention(64, 4, feature_map="taylor")]
)
def test_frames_are_there_and_small(make):
    torch.manual_seed(0)
    trace = observe(make(), torch.randn(1, 16, 64))
    fig = microscope_frames(trace)
    assert [frame.name for frame in fig.frames] == [str(t) for t in range(16)]
    assert [step.args[0][0] for step in fig.layout.sliders[0].steps] == [
        frame.name for frame in fig.frames
    ]
    assert len(fig.to_json()) < 300_000


@pytest.mark.parametrize("name", ["RetNet", "elu", "window"])
def test_a_frame_is_the_still_of_its_token(name, x):
    trace = observe(made(name), x)
    fig = microscope_frames(trace)
    for t, frame in enumerate(fig.frames):
        still = microscope(trace, t)
        assert frame.layout.title.text == still.layout.title.text
        shown = json.loads(fig.to_json())["data"]
        for i, moved in zip(
            frame.traces, json.loads(fig.to_json())["frames"][t]["data"], strict=True
        ):
            shown[i] |= {key: value for key, value in moved.items() if key != "marker"}
        still = json.loads(still.to_json())["data"]
        for ours, theirs in zip(shown, still, strict=True):
            assert all(ours.get(key) == theirs.get(key) for key in ("x", "y", "z", "text"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"x": torch.randn(5, D)},
            r"x is \(5, 16\): a floating-point tensor \(B, T, D\) is needed",
        ),
        ({"x": torch.ones(1, 5, D).long()}, "floating-point"),
        ({"x": torch.randn(1, 0, D)}, "T must be at least 1"),
        ({"labels": ["a"]}, "there are 1 labels for 9 tokens"),
        ({"head": 2}, "RetNet has heads 0 to 1"),
        ({"row": 2}, "x has rows 0 to 1"),
    ],
)
def test_bad_input_gets_one_sentence(arguments, message, x):
    with pytest.raises(ValueError, match=message):
        observe(made("RetNet"), **({"x": x} | arguments))


def test_a_token_that_is_not_there_is_refused(x):
    with pytest.raises(ValueError, match="the trace has tokens 0 to 8"):
        microscope(observe(made("RetNet"), x), 9)
