"""Chapter 04, RetNet: one constant decay per head, in three forms.

References are brute force (a loop over tokens or pairs, an einsum): they share no code with the solutions notebook.
"""

import math
from functools import partial

import torch
from einops import rearrange

import seqlab.core.recurrence as core
from seqlab.course.exercise import Case, Exercise, Property
from seqlab.course.exercises.shared import LONG, chunks_are_asked


def _randn(rng, *shape):
    return torch.randn(*shape, generator=rng)


def _qkv(rng, B, T, H, K, V):
    return {
        "q": _randn(rng, B, T, H, K),
        "k": _randn(rng, B, T, H, K),
        "v": _randn(rng, B, T, H, V),
    }


def _gammas(rng, H, low=0.6, high=0.95):
    """One decay a head, apart from each other, so that a mixed-up head shows."""
    return torch.linspace(low, high, H) + 0.02 * torch.rand(H, generator=rng)


def _retnet_gammas(H):
    return torch.tensor([1 - 2.0 ** (-5 - h) for h in range(H)])


def _changed_after(t, inputs, names, axis=1):
    """The same inputs with everything after token t replaced."""
    changed = dict(inputs)
    for name in names:
        x = changed[name].clone()
        x.narrow(axis, t + 1, x.shape[axis] - t - 1).mul_(-2).add_(1)
        changed[name] = x
    return changed


def _middle(inputs):
    return (inputs["q"].shape[1] - 1) // 2


def _close(a, b, tolerance=1e-3):
    return a.shape == b.shape and torch.allclose(a, b, atol=tolerance, rtol=tolerance)


def _first(output):
    return output[0] if isinstance(output, tuple) else output


CAUSAL = Property(
    "causal",
    variants=lambda inputs: [_changed_after(_middle(inputs), inputs, ("q", "k", "v"))],
    holds=lambda inputs, outputs: _close(
        _first(outputs[0])[:, : _middle(inputs) + 1], _first(outputs[1])[:, : _middle(inputs) + 1]
    ),
    message="Changing later tokens changed earlier outputs: token i may read token j only where j ≤ i.",
)


# 04.1  The decays of H heads


def decays_reference(n_heads):
    return torch.tensor([1 - 1 / (32 * 2**h) for h in range(n_heads)])


def _decays(n_heads, exponent=lambda h: -5 - h, base=2.0):
    return 1 - base ** exponent(torch.arange(n_heads, dtype=torch.float32))


DECAYS = Exercise(
    id="04.1",
    title="The decays of H heads",
    objective="Give each head its own memory span.",
    name="decays",
    points=1,
    minutes=4,
    difficulty=1,
    hints=(
        "Each next head forgets half as much per token as the one before it.",
        "What the heads forget per token is 1/32, 1/64, 1/128, …: powers of ½, from the fifth on. γ is the rest.",
        "Make h = torch.arange(n_heads), then raise 2.0 to the power -5 - h, and take it away from 1.",
    ),
    reference=decays_reference,
    cases=lambda rng: [Case(f"H = {H}", {"n_heads": H}) for H in (1, 3, 4, 8)],
    mistakes={
        "Your heads are counted from 1: the first must get 1 - 2⁻⁵ = 0.96875. Look at where the range starts.": partial(
            _decays, exponent=lambda h: -6 - h
        ),
        "This is the share that is forgotten, 2^(-5-h): γ is what is kept, so look for the missing 1 -.": (
            lambda n_heads: 1 - _decays(n_heads)
        ),
        "The exponent has lost its minus: a γ below 0 flips the state at each token. Look at 5 + h.": partial(
            _decays, exponent=lambda h: 5 + h
        ),
        "The sign of h is wrong: later heads must forget more slowly, so look at -5 + h and make it -5 - h.": partial(
            _decays, exponent=lambda h: -5 + h
        ),
        "The base is e, not 2: look for exp where a power of 2 is wanted.": partial(
            _decays, base=math.e
        ),
        "This is log γ: the exercise asks for γ itself, so look for a log at the end.": (
            lambda n_heads: _decays(n_heads).log()
        ),
        "The heads are spread between 1/32 and 1/512 whatever H is, as some code does: "
        "in the paper each head halves 1 - γ of the one before it, so look at the spacing.": (
            lambda n_heads: 1 - torch.linspace(math.log(1 / 32), math.log(1 / 512), n_heads).exp()
        ),
        "All heads have the decay of the first: look for h in the exponent.": partial(
            _decays, exponent=lambda h: -5 - 0 * h
        ),
        "2 and -5 - h are whole numbers in your power, so torch rounds 2⁻⁵ to 0 and γ is 1: write 2.0.": (
            lambda n_heads: 1 - 2 ** (-5 - torch.arange(n_heads))
        ),
        "The brackets around your exponent are missing: 2**-5 - h takes h away from 1/32. Write 2.0 ** (-5 - h).": (
            lambda n_heads: 1 - 2**-5 - torch.arange(n_heads)
        ),
        "The brackets stand around your whole power, (2**-5 - h): they belong around the exponent, 2.0 ** (-5 - h).": (
            lambda n_heads: 1 - (2**-5 - torch.arange(n_heads))
        ),
    },
    alternatives=(
        _decays,
        lambda n_heads: -torch.expm1(-math.log(2) * torch.arange(5, 5 + n_heads)),
        lambda n_heads: 1 - torch.full((n_heads,), 0.5).cumprod(0) / 16,
    ),
    outputs=("γ",),
    time_axis=None,
)


# 04.2  Half-life

HALF_LIFE = Exercise(
    id="04.2",
    title="The half-life of a memory",
    objective="Turn a decay into a length in tokens.",
    name="half_life",
    points=1,
    minutes=5,
    difficulty=1,
    hints=(
        "After n tokens a pair weighs γⁿ. For which n is that ½?",
        "γⁿ = ½, so n · ln γ = ln ½. Both logarithms must have the same base.",
        "half_life = math.log(0.5) / math.log(gamma), with gamma = 1 - 2 ** (-5 - 2).",
    ),
    reference=math.log(0.5) / math.log(1 - 2**-7),
    mistakes={
        "This is 1 / (1 - γ), the time constant: there a pair still weighs 1/e, about 0.37. Look at γⁿ = ½.": 128.0,
        "This is 0.5 / (1 - γ), as if each token took away the same amount: "
        "each takes the same share of what is left. Look at γⁿ = ½.": 64.0,
        "This is ln 2 / (1 - γ), which uses ln γ ≈ γ - 1: close, but not within 0.1 token; use ln γ itself.": (
            math.log(2) * 128
        ),
        "You have ln 2 over ln γ, which is below 0: it must be ln ½ over ln γ.": math.log(2)
        / math.log(1 - 2**-7),
        "This is -1 over ln γ: either the time after which a pair weighs 1/e (half_life asks for ½), or log₂ ½ over "
        "ln γ (the two need one base). It must be ln ½ over ln γ.": -1 / math.log(1 - 2**-7),
        "Two bases are mixed, ln ½ over log₂ γ: look at the logarithm in the denominator.": (
            math.log(0.5) / math.log2(1 - 2**-7)
        ),
        "The head is taken one too high, γ = 1 - 2⁻⁸: that is the head h = 3; h = 2 has 5 + 2 in the exponent.": (
            math.log(0.5) / math.log(1 - 2**-8)
        ),
        "The head is taken one too low, γ = 1 - 2⁻⁶: that is the head h = 1; h counts from 0, look at 5 + h.": (
            math.log(0.5) / math.log(1 - 2**-6)
        ),
        "This is the half-life of the head h = 0, γ = 1 - 2⁻⁵: the question is about h = 2, γ = 1 - 2⁻⁷.": (
            math.log(0.5) / math.log(1 - 2**-5)
        ),
        "This is rounded down to a whole token: the answer is asked for to within 0.1, so do not round.": 88.0,
        "This is rounded up to a whole token: the answer is asked for to within 0.1, so do not round.": 89.0,
        "This is γ itself: it is the weight after one token. Look for the n with γⁿ = ½.": 1
        - 2**-7,
    },
    alternatives=(-1 / math.log2(1 - 2**-7), math.log(2) / -math.log1p(-(2**-7)), 88.4),
    tolerance=0.1 / 88.376,  # the text promises ±0.1 token
)


# 04.3  One token


def step_reference(S, q, k, v, gamma):
    S = torch.einsum("h, bhvk -> bhvk", gamma, S) + torch.einsum("bhv, bhk -> bhvk", v, k)
    return torch.einsum("bhvk, bhk -> bhv", S, q), S


def _step(S, q, k, v, gamma, *, decay=True, write=1.0, decay_write=False, read="after"):
    g = gamma[:, None, None]
    kept = g * S if decay else S
    new = kept + write * (g if decay_write else 1) * v[..., None] * k[..., None, :]
    return ({"after": new, "before": S, "kept": kept}[read] @ q[..., None]).squeeze(-1), new


def _state_then_read(kept, q, k, v):
    S = kept + v[..., None] * k[..., None, :]
    return (S @ q[..., None]).squeeze(-1), S


def _step_cases(rng):
    shapes = {
        "one head": (2, 1, 4, 4),
        "K ≠ V": (2, 3, 5, 2),
        "H = K = V": (3, 4, 4, 4),
        "B = 1": (1, 2, 3, 7),
    }
    names = {"K ≠ V": _gammas, "B = 1": lambda rng, H: _gammas(rng, H, 0.01, 0.1)}

    def case(name, B, H, K, V):
        S = torch.zeros(B, H, V, K) if name == "one head" else _randn(rng, B, H, V, K)
        one = {n: x[:, 0] for n, x in _qkv(rng, B, 1, H, K, V).items()}
        return Case(
            name,
            {"S": S, **one, "gamma": names.get(name, lambda rng, H: _retnet_gammas(H))(rng, H)},
        )

    return [case(name, *shape) for name, shape in shapes.items()]


STEP = Exercise(
    id="04.3",
    title="One token with decay",
    objective="Add forgetting to the linear-attention step.",
    name="step",
    points=1,
    minutes=8,
    difficulty=1,
    hints=(
        "Three things happen, in this order: decay the old state, write the new pair, read.",
        "A pair written m tokens ago must have met γ exactly m times. So this token's own pair has met it 0 times, "
        "and the read sees it, whole.",
        "gamma[:, None, None] lines H up with S (B, H, V, K); v[..., :, None] * k[..., None, :] is the write; "
        "torch.einsum('bhvk,bhk->bhv', S, q) is the read.",
    ),
    reference=step_reference,
    cases=_step_cases,
    mistakes={
        "Your state is not decayed: this is linear attention. Look for γ S.": partial(
            _step, decay=False
        ),
        "The new pair is decayed too: γ multiplies S after the write. Decay first, then write.": partial(
            _step, decay_write=True
        ),
        "Your read meets the old state: a token reads its own pair too. Look at which S meets q.": partial(
            _step, read="before"
        ),
        "Your read comes after the decay but before the write: a token reads its own pair too. "
        "Look at which S meets q.": partial(_step, read="kept"),
        "Your write is scaled by 1 - γ, a moving average: retention adds v kᵀ whole. Look at what multiplies it.": (
            lambda S, q, k, v, gamma: _step(S, q, k, v, gamma, write=(1 - gamma)[:, None, None])
        ),
        "Your write replaces the state instead of adding to it: look for γ S in the sum.": (
            lambda S, q, k, v, gamma: _step(0 * S, q, k, v, gamma)
        ),
        "Only the write is decayed and the old state is kept whole: look at what γ multiplies.": partial(
            _step, decay=False, decay_write=True
        ),
        "All heads use the decay of the first: look at how gamma (H,) is lined up with S (B, H, V, K).": (
            lambda S, q, k, v, gamma: _step(S, q, k, v, gamma[:1])
        ),
        "Here gamma is used as if it were log γ: it is the factor itself, between 0 and 1. Look for an exp.": (
            lambda S, q, k, v, gamma: _step(S, q, k, v, gamma.exp())
        ),
        "Here 1 - γ is kept and γ forgotten: γ is the share that stays. Look for 1 - gamma.": (
            lambda S, q, k, v, gamma: _step(S, q, k, v, 1 - gamma)
        ),
        "The decay is applied twice, γ²: look for a second product with gamma.": (
            lambda S, q, k, v, gamma: _step(S, q, k, v, gamma**2)
        ),
        "Your read is decayed instead of the state: γ is in y but not in the S handed over. Look at what γ "
        "multiplies.": (
            lambda S, q, k, v, gamma: (
                gamma[:, None] * _step(S, q, k, v, gamma, decay=False)[0],
                _step(S, q, k, v, gamma, decay=False)[1],
            )
        ),
        "The S handed back is the old one, although y is right: return the new S.": (
            lambda S, q, k, v, gamma: (_step(S, q, k, v, gamma)[0], S)
        ),
        "The outputs have changed places: return (y, S), not (S, y).": (
            lambda S, q, k, v, gamma: _step(S, q, k, v, gamma)[::-1]
        ),
        "Your read is scaled by K^-1/2: here the caller scales, so y is S q and nothing else.": (
            lambda S, q, k, v, gamma: (
                _step(S, q / q.shape[-1] ** 0.5, k, v, gamma)[0],
                _step(S, q, k, v, gamma)[1],
            )
        ),
        "What the key held before is taken away first, v - S k: that is the delta rule of a later chapter. "
        "Write v kᵀ.": (
            lambda S, q, k, v, gamma: _step(
                S, q, k, v - torch.einsum("h, bhvk, bhk -> bhv", gamma, S, k), gamma
            )
        ),
        "Your write is k vᵀ, which fits only where K = V: S is (B, H, V, K), so v belongs to the rows, "
        "k to the columns.": (
            lambda S, q, k, v, gamma: (
                torch.einsum(
                    "bhvk, bhk -> bhv", gamma[:, None, None] * S + k[..., None] * v[..., None, :], q
                ),
                gamma[:, None, None] * S + k[..., None] * v[..., None, :],
            )
        ),
        "Your read is Sᵀ q, which fits only where K = V: q has width K, so it meets the columns, the last axis of S.": (
            lambda S, q, k, v, gamma: (
                torch.einsum("bhvk, bhv -> bhk", _step(S, q, k, v, gamma)[1], q),
                _step(S, q, k, v, gamma)[1],
            )
        ),
        "Your y has one axis too many: S @ q[..., None] is (B, H, V, 1). Take the last axis away with [..., 0].": (
            lambda S, q, k, v, gamma: (
                _step(S, q, k, v, gamma)[0][..., None],
                _step(S, q, k, v, gamma)[1],
            )
        ),
        "Your decays line up with the key channels, the last axis of S, not with the heads: "
        "gamma (H,) needs two new axes after H, gamma[:, None, None].": lambda S, q, k, v, gamma: (
            _state_then_read(gamma * S, q, k, v)
        ),
        "Your decays line up with the rows of S, not with the heads: "
        "gamma (H,) needs two new axes after H, gamma[:, None, None].": lambda S, q, k, v, gamma: (
            _state_then_read(gamma[:, None] * S, q, k, v)
        ),
    },
    alternatives=(
        _step,
        lambda S, q, k, v, gamma: (
            gamma[:, None] * (S @ q[..., None])[..., 0] + (k * q).sum(-1, keepdim=True) * v,
            gamma.view(1, -1, 1, 1) * S + v.unsqueeze(-1) @ k.unsqueeze(-2),
        ),
    ),
    outputs=("y", "S"),
    time_axis=None,
    keeps_inputs=True,
)


# 04.4  The decay mask


def decay_mask_reference(gamma, T):
    D = torch.zeros(len(gamma), T, T)
    for i in range(T):
        for j in range(i + 1):
            D[:, i, j] = gamma ** (i - j)
    return D


def _mask(gamma, T, shift=0, keep=torch.tril):
    n = torch.arange(T)
    return keep(gamma[:, None, None] ** (n[:, None] - n + shift).clamp(min=0))


def _distances(T):
    return (torch.arange(T)[:, None] - torch.arange(T)).float()


def _factored_mask(gamma, T):
    n = torch.arange(T)
    return torch.tril((gamma[:, None] ** n)[:, :, None] * (gamma[:, None] ** -n)[:, None, :])


def _mask_cases(rng):
    cases = [
        Case("one head, T = 3", {"gamma": torch.tensor([0.5]), "T": 3}),
        Case("T = 1", {"gamma": _gammas(rng, 2), "T": 1}),
        Case("odd T", {"gamma": _gammas(rng, 3), "T": 7}),
        Case("the decays of the paper", {"gamma": _retnet_gammas(4), "T": 40}),
        Case("γ = 1", {"gamma": torch.tensor([1.0, 0.8]), "T": 6}),
        Case("γ near 0", {"gamma": torch.tensor([1e-3, 0.02]), "T": 60}),
    ]
    for case in cases:
        case.inputs["gamma"].requires_grad_()  # a decay that is learned: see `_gradient_is_asked`
    return cases


def _gradient_is_asked(inputs, effort):
    """Masked after the exponential the values are right, and the gradient is inf · 0."""
    if effort.gradient_finite:
        return None
    return (
        "The values are right, but the gradient of γ is not finite, so no decay could be learned through your mask. "
        "Above the diagonal powers grow to inf before they are hidden, and backwards inf · 0 is nan. "
        "Close the future before the exponential: -inf where j > i, then exp, and nothing in place after it."
    )


DECAY_MASK = Exercise(
    id="04.4",
    title="The decay mask",
    objective="Write all decays between all pairs of tokens at once, without overflow.",
    name="decay_mask",
    points=2,
    minutes=12,
    difficulty=2,
    hints=(
        "Row i is the reader, column j what it reads. The entry depends on the distance i - j alone; "
        "above the diagonal it is 0.",
        "A power of γ is the exp of a multiple of ln γ, and exp gives 0 at one place only, -inf. So close the future "
        "while it is still an exponent: the exponents that are left are at most 0.",
        "n = torch.arange(T); distance = n[:, None] - n; logs = distance * gamma.log()[:, None, None]; "
        "fill logs with -inf where distance < 0; then exp.",
    ),
    reference=decay_mask_reference,
    cases=_mask_cases,
    mistakes={
        "The product γ^i · γ^(-j) overflows where γ is small: the answer holds inf or nan. "
        "Take the difference i - j first, then the power.": _factored_mask,
        "1 stands above the diagonal: 0 was filled in before the exp, and exp(0) = 1; fill in -inf.": (
            lambda gamma, T: _mask(gamma, T, keep=lambda D: D)
        ),
        "Your mask is symmetric, γ^|i-j|: token i would read the future. Look at j > i.": (
            lambda gamma, T: torch.maximum(_mask(gamma, T), _mask(gamma, T).mT)
        ),
        "Above the diagonal stands γ^(i-j), which is more than 1: the mask is missing. Look at j > i.": (
            lambda gamma, T: gamma[:, None, None] ** _distances(T)
        ),
        "Your D is transposed: row i is the reader, column j what it reads. Look at which arange stands in the rows.": (
            lambda gamma, T: _mask(gamma, T).mT
        ),
        "One power too many, γ^(i-j+1): a token reads its own pair undecayed. Look at the diagonal, i = j.": partial(
            _mask, shift=1
        ),
        "The diagonal is masked away: a token reads its own pair, D_ii = 1. Look at < against ≤.": (
            lambda gamma, T: _mask(gamma, T).tril(-1)
        ),
        "One power too few, γ^(i-j-1): look at i = j, where the power is 0, and at i = j + 1, where it is 1.": (
            lambda gamma, T: _mask(gamma, T) / gamma[:, None, None]
        ),
        "This is a plain causal mask without decay: look for γ^(i-j).": (
            lambda gamma, T: _mask(torch.ones_like(gamma), T)
        ),
        "This is log D, or D before the exp: look at the last step.": (
            lambda gamma, T: (_distances(T) * gamma.log()[:, None, None]).masked_fill(
                _distances(T) < 0, -torch.inf
            )
        ),
        "All heads have the decay of the first: look at how gamma (H,) is lined up with (T, T).": (
            lambda gamma, T: _mask(gamma[:1].expand_as(gamma), T)
        ),
        "Your rows are normalised to sum to 1: retention does not do this here. Look for a division or a softmax.": (
            lambda gamma, T: _mask(gamma, T) / _mask(gamma, T).sum(-1, keepdim=True)
        ),
        "Your rows are divided by the root of their sums, a rescaling of the paper that its norm cancels again: "
        "leave it out.": (
            lambda gamma, T: _mask(gamma, T) / _mask(gamma, T).sum(-1, keepdim=True).sqrt()
        ),
        "Your mask is multiplied in after the exp: above the diagonal exp overflows where γ is small, "
        "and inf · 0 is nan. Fill in -inf before the exp.": lambda gamma, T: (
            _distances(T).mul(gamma.log()[:, None, None]).exp() * (_distances(T) >= 0)
        ),
        "Here -inf went into the exponent of γ, and γ^(-inf) is inf: it belongs into (i - j) ln γ, after the "
        "product.": (
            lambda gamma, T: (
                gamma[:, None, None] ** _distances(T).masked_fill(_distances(T) < 0, -torch.inf)
            )
        ),
        "Your powers grow with the distance, γ^(j-i): look at the sign of i - j.": (
            lambda gamma, T: torch.tril(gamma[:, None, None] ** -_distances(T))
        ),
        "Your mask closes the past and leaves the future open: look at which side of the diagonal gets -inf.": (
            lambda gamma, T: torch.triu(gamma[:, None, None] ** _distances(T))
        ),
        "The logarithm of γ is missing: this is exp((i - j) γ). Look for gamma.log().": (
            lambda gamma, T: torch.tril((_distances(T) * gamma[:, None, None]).exp())
        ),
        "Two bases are mixed: exp undoes the natural logarithm, not log₂. Look at the logarithm of γ.": (
            lambda gamma, T: torch.tril((_distances(T) * gamma.log2()[:, None, None]).exp())
        ),
    },
    alternatives=(
        _mask,
        lambda gamma, T: sum(
            torch.diag_embed((gamma**n)[:, None].expand(-1, T - n), offset=-n) for n in range(T)
        ),
        lambda gamma, T: (
            torch.einsum("h, ij -> hij", gamma.log(), _distances(T))
            .masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf)
            .exp()
        ),
    ),
    outputs=("D",),
    parts_hint=lambda t, inputs: (
        f"print D[0, {t}]. It should rise to 1 on the diagonal, by a factor 1/γ from entry to entry, and then be 0."
    ),
    effort=_gradient_is_asked,
)


# 04.5  Retention, all pairs at once


def parallel_reference(q, k, v, D):
    y = torch.zeros_like(v)
    for i in range(q.shape[1]):
        for j in range(i + 1):
            y[:, i] += D[:, i, j, None] * (q[:, i] * k[:, j]).sum(-1, keepdim=True) * v[:, j]
    return y


def _scores(q, k):
    return torch.einsum("bihk, bjhk -> bhij", q, k)


def _mix(weights, v):
    return torch.einsum("bhij, bjhv -> bihv", weights, v)


def _parallel_cases(rng):
    def case(name, shape, gamma):
        return Case(name, {**_qkv(rng, *shape), "D": decay_mask_reference(gamma, shape[1])})

    return [
        case("one head, T = 3", (1, 3, 1, 4, 4), _gammas(rng, 1)),
        case("T = 1", (2, 1, 2, 4, 4), _gammas(rng, 2)),
        case("odd T", (2, 7, 2, 4, 4), _gammas(rng, 2)),
        case("K ≠ V", (1, 12, 3, 5, 2), _gammas(rng, 3)),
        case("T = H", (2, 3, 3, 4, 6), _gammas(rng, 3)),
        case("the decays of the paper", (2, 19, 4, 6, 3), _retnet_gammas(4)),
        case("γ near 0", (1, 30, 2, 4, 4), torch.tensor([1e-3, 0.05])),
    ]


def _softmax(q, k, v, D):
    logs = (_scores(q, k) * D).masked_fill(D.new_ones(D.shape[-2:]).triu(1).bool(), -torch.inf)
    return _mix(logs.softmax(-1), v)


def _reshaped(q, k, v, D):
    """The weights and v after a reshape that only renames the axes of time and heads."""
    q, k, v = (x.reshape(len(x), x.shape[2], x.shape[1], -1).transpose(1, 2) for x in (q, k, v))
    return _scores(q, k) * D, v


PARALLEL = Exercise(
    id="04.5",
    title="Retention, all pairs at once",
    objective="Read retention as attention with D in the place of the softmax.",
    name="parallel",
    points=1,
    minutes=8,
    difficulty=1,
    hints=(
        "It is attention: scores of all pairs, a weight for each, a mix of the values. Only the middle step is new.",
        "Take softmax(Q Kᵀ / √K) V, leave out the softmax and the root, and let each score meet its own entry of D: "
        "score (i, j) and D_ij are about the same reader i and the same written token j.",
        "torch.einsum('bihk,bjhk->bhij', q, k) gives the scores, D (H, T, T) lines up with them as it is, "
        "and 'bhij,bjhv->bihv' mixes the values.",
    ),
    reference=parallel_reference,
    cases=_parallel_cases,
    mistakes={
        "D only cuts off the future, its decay is lost: look for scores masked instead of multiplied by D.": (
            lambda q, k, v, D: _mix(_scores(q, k).tril(), v)
        ),
        "D is left out: every token reads the future too. Look for the product of the scores with D.": (
            lambda q, k, v, D: _mix(_scores(q, k), v)
        ),
        "D is added to the scores: it is a factor. Look for + between the scores and D.": (
            lambda q, k, v, D: _mix(_scores(q, k) + D, v)
        ),
        "Your D is transposed: row i of the scores and of D must be the reader. Look at the einsum.": (
            lambda q, k, v, D: _mix(_scores(q, k) * D.mT, v)
        ),
        "Here q and k have changed places: score ij is q_i · k_j. Look at the order of i and j.": (
            lambda q, k, v, D: _mix(_scores(k, q) * D, v)
        ),
        "A softmax is taken over the weighted scores: retention has none. Look for softmax.": _softmax,
        "Your scores are divided by √K: here the caller scales, so look for a 1/√K.": (
            lambda q, k, v, D: _mix(_scores(q, k) * D / q.shape[-1] ** 0.5, v)
        ),
        "Your weights are divided by their row sums: retention has no normaliser. Look for a division.": (
            lambda q, k, v, D: _mix(
                _scores(q, k) * D / (_scores(q, k) * D).sum(-1, keepdim=True), v
            )
        ),
        "The decay is applied twice, D²: look for a second product with D.": (
            lambda q, k, v, D: _mix(_scores(q, k) * D * D, v)
        ),
        "All heads use the mask of the first: look at how D (H, T, T) is lined up with the scores.": (
            lambda q, k, v, D: _mix(_scores(q, k) * D[0], v)
        ),
        "A softmax is taken before D is multiplied in: retention weighs with the scores themselves. Look for "
        "softmax.": (lambda q, k, v, D: _mix(_scores(q, k).softmax(-1) * D, v)),
        "This is softmax attention with log D as a bias: retention has no softmax. D is a factor on the scores.": (
            lambda q, k, v, D: _mix((_scores(q, k) + D.log()).softmax(-1), v)
        ),
        "Your weights are divided by their row sums, at least 1: "
        "a rescaling of the paper that its norm cancels again. Leave it out.": lambda q, k, v, D: (
            _mix(
                _scores(q, k) * D / (_scores(q, k) * D).sum(-1, keepdim=True).abs().clamp(min=1), v
            )
        ),
        "The values are mixed with D alone: q and k are not used. Look for the scores Q Kᵀ.": (
            lambda q, k, v, D: torch.einsum("hij, bjhv -> bihv", D, v)
        ),
        "D is multiplied into v, and the scores are cut off at the diagonal: the pairs are then mixed twice. "
        "Multiply D into the scores, entry by entry.": lambda q, k, v, D: _mix(
            _scores(q, k).tril(), torch.einsum("hij, bjhv -> bihv", D, v)
        ),
        "Your scores of all heads are summed: every head uses the same ones. Keep the axis h in the scores.": (
            lambda q, k, v, D: _mix(_scores(q, k).sum(1, keepdim=True) * D, v)
        ),
        "The heads read each other, not the tokens: @ multiplies the last two axes, which are H and K. "
        "Move time next to K first, to (B, H, T, K), and back at the end.": lambda q, k, v, D: (
            (q @ k.mT * D) @ v
        ),
        "Your D is matrix-multiplied with the scores: ⊙ multiplies entry by entry, so write * and not @.": (
            lambda q, k, v, D: _mix(_scores(q, k) @ D, v)
        ),
        "Your last step reshapes (B, H, T, V) into (B, T, H, V), which cuts the numbers up anew and mixes heads with "
        "tokens: transpose the two axes.": lambda q, k, v, D: (
            _mix(_scores(q, k) * D, v).transpose(1, 2).reshape(v.shape)
        ),
        "You reshape (B, T, H, K) into (B, H, T, K), which cuts the numbers up anew and mixes heads with tokens: "
        "transpose the two axes.": lambda q, k, v, D: (
            _mix(*_reshaped(q, k, v, D)).transpose(1, 2).reshape(v.shape)
        ),
    },
    alternatives=(
        lambda q, k, v, D: _mix(_scores(q, k) * D, v),
        lambda q, k, v, D: (
            (q.transpose(1, 2) @ k.permute(0, 2, 3, 1) * D) @ v.transpose(1, 2)
        ).transpose(1, 2),
        lambda q, k, v, D: torch.einsum("bihk, bjhk, hij, bjhv -> bihv", q, k, D, v),
    ),
    properties=(CAUSAL,),
)


# 04.6  Each head is normed alone


def head_norm_reference(y, eps):
    rows = [
        row / math.sqrt(sum(x * x for x in row.tolist()) / len(row) + eps)
        for row in y.flatten(0, 2)
    ]
    return torch.stack(rows).view_as(y)


def _norm(y, eps, axes=(-1,), mean=True, root=True):
    size = y.square().mean(axes, keepdim=True) if mean else y.square().sum(axes, keepdim=True)
    return y / ((size + eps) ** 0.5 if root else size + eps)


def _norm_cases(rng):
    sizes = torch.tensor(
        [0.1, 1.0, 30.0, 4.0]
    )  # heads of different size: norming them together shows

    def case(name, B, T, H, V, scale=1.0, eps=1e-6):
        return Case(name, {"y": scale * sizes[:H, None] * _randn(rng, B, T, H, V), "eps": eps})

    zeros = case("a token of zeros", 1, 4, 2, 5)
    zeros.inputs["y"][:, 1] = 0
    return [
        case("one head, T = 2", 1, 2, 1, 4),
        case("T = 1", 2, 1, 2, 4),
        case("odd T", 2, 5, 3, 6),
        case("H = 4", 1, 6, 4, 3),
        case("one head", 2, 3, 1, 8),
        case("T = H = V", 2, 3, 3, 3),
        case("y as small as √eps", 1, 3, 2, 4, scale=1e-3),
        case("eps = 0.1", 1, 3, 2, 4, eps=0.1),
        zeros,
    ]


HEAD_NORM = Exercise(
    id="04.6",
    title="Norm each head alone",
    objective="See what the paper's GroupNorm divides by.",
    name="head_norm",
    points=1,
    minutes=6,
    difficulty=1,
    hints=(
        "Heads that remember long add up more pairs, so their y is larger. Each is brought to size 1 on its own.",
        "Afterwards the squares of the V channels of one head of one token average to 1 (nearly: eps), whatever "
        "they were before. So there is one divisor for each (b, t, h), and nothing is subtracted.",
        "y.square().mean(-1, keepdim=True) is the mean square; add eps, take torch.rsqrt, multiply by y.",
    ),
    reference=head_norm_reference,
    cases=_norm_cases,
    mistakes={
        "Your mean runs over all heads together: a loud head then silences the quiet ones. "
        "Look at the axes of the mean.": (partial(_norm, axes=(-2, -1))),
        "Your mean runs over the heads, one channel at a time: it belongs "
        "over the V channels. Look at the axis.": partial(_norm, axes=(-2,)),
        "Your mean runs over time: token i would see the future. Look at the axis of the mean.": partial(
            _norm, axes=(1,)
        ),
        "Your squares are summed, not averaged: y comes out √V too small. Look for sum.": partial(
            _norm, mean=False
        ),
        "The root is missing: y is divided by its mean square. Look for rsqrt or sqrt.": partial(
            _norm, root=False
        ),
        "Your mean is subtracted first, a LayerNorm: an RMS norm only divides. Look for y - y.mean(...).": (
            lambda y, eps: _norm(y - y.mean(-1, keepdim=True), eps)
        ),
        "The eps is added outside the root: it belongs under it, next to the mean square. Look at where eps stands.": (
            lambda y, eps: y / (y.square().mean(-1, keepdim=True).sqrt() + eps)
        ),
        "The eps is left out: a token of zeros becomes nan. Look under the root.": (
            lambda y, eps: _norm(y, 0)
        ),
        "Here y is multiplied by the root mean square, not divided by it: look at sqrt against rsqrt.": (
            lambda y, eps: y * (y.square().mean(-1, keepdim=True) + eps).sqrt()
        ),
        "The eps that is passed in is not used: look for a fixed number under the root.": lambda y, eps: (
            _norm(y, 1e-6)
        ),
        "This divides by the length of y, an l2 norm: y comes out √V too small. Average the squares, and add eps.": (
            lambda y, eps: torch.nn.functional.normalize(y, dim=-1)
        ),
        "This divides by the standard deviation: it leaves out the mean of y, which an RMS norm keeps. Average y².": (
            lambda y, eps: y / (y.var(-1, keepdim=True) + eps).sqrt()
        ),
        "This divides by the standard deviation, with eps outside: "
        "an RMS norm averages y², and eps stands under the root.": lambda y, eps: (
            y / (y.std(-1, keepdim=True) + eps)
        ),
        "This divides by the mean of |y|: an RMS norm averages y² and takes the root.": (
            lambda y, eps: y / (y.abs().mean(-1, keepdim=True) + eps)
        ),
        "Your mean is squared, not the squares averaged: positive and negative channels cancel. Square first.": (
            lambda y, eps: y / (y.mean(-1, keepdim=True).square() + eps).sqrt()
        ),
        "Your mean runs over time as well as over the channels: token i would see the future.": partial(
            _norm, axes=(1, 3)
        ),
        "This is F.group_norm over (B, channels, T): it averages over time too, and takes the mean away. "
        "Average y² over the V channels alone.": lambda y, eps: rearrange(
            torch.nn.functional.group_norm(
                rearrange(y, "b t h v -> b (h v) t"), y.shape[2], eps=eps
            ),
            "b (h v) t -> b t h v",
            h=y.shape[2],
        ),
        "One mean is taken over everything, batch and time as well: each head of each token has its own.": partial(
            _norm, axes=(0, 1, 2, 3)
        ),
    },
    alternatives=(
        _norm,
        lambda y, eps: torch.nn.functional.rms_norm(y, y.shape[-1:], eps=eps),
        lambda y, eps: (
            y * torch.rsqrt(torch.einsum("bthv, bthv -> bth", y, y) / y.shape[-1] + eps)[..., None]
        ),
    ),
)


# 04.7  Turn q and k by their position


def rotate_reference(x, start):
    """A complex number a pair: multiplying by e^(iφ) turns it."""
    B, T, H, K = x.shape
    theta = torch.tensor([10000 ** (-i / (K // 2 - 1)) for i in range(K // 2)], dtype=torch.float64)
    angle = torch.arange(start, start + T, dtype=torch.float64)[:, None, None] * theta
    pairs = torch.view_as_complex(x.double().reshape(B, T, H, K // 2, 2))
    return torch.view_as_real(pairs * torch.exp(1j * angle)).reshape(B, T, H, K).to(x.dtype)


def _rotate(
    x,
    start,
    *,
    pairs="b t h (k two) -> two b t h k",
    join=None,
    theta=None,
    sign=1,
    overwritten=False,
):
    T, K = x.shape[1], x.shape[-1]
    theta = 10000 ** -torch.linspace(0, 1, K // 2).double() if theta is None else theta(K)
    angle = (sign * torch.arange(start, start + T)[:, None] * theta)[:, None]
    cos, sin = angle.cos().float(), angle.sin().float()
    a, b = rearrange(x, pairs, two=2)
    first = a * cos - b * sin
    second = b * cos + (first if overwritten else a) * sin
    return rearrange(
        torch.stack([first, second]), join or " -> ".join(reversed(pairs.split(" -> ")))
    )


def _angle(x, start):
    theta = 10000 ** -torch.linspace(0, 1, x.shape[-1] // 2)
    return torch.einsum("t, k -> tk", torch.arange(start, start + x.shape[1]).float(), theta)[
        :, None
    ]


def _turned(x, start, first, second):
    """A pair turned with the sines' signs as dials: -1 and 1 are right."""
    cos, sin, a, b = _angle(x, start).cos(), _angle(x, start).sin(), x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos + first * b * sin, b * cos + second * a * sin], dim=-1).flatten(-2)


def _rotate_cases(rng):
    def case(name, B, T, H, K, start):
        return Case(name, {"x": _randn(rng, B, T, H, K), "start": start})

    return [
        case("T = 1 at position 0", 2, 1, 2, 4, 0),
        case("T = 1 at position 5", 1, 1, 2, 8, 5),
        case("odd T", 2, 7, 3, 6, 0),
        case("K = 10, from position 3", 1, 9, 2, 10, 3),
        case("T = K", 2, 4, 1, 4, 0),
        case("far from the start", 1, 5, 2, 16, 300),
    ]


def _gram(x):
    return torch.einsum("bihk, bjhk -> bhij", x, x)


RELATIVE = Property(
    "only distance counts",
    # Small positions and a wide tolerance: angles of 10⁵, which a wrong θ may give, are rounded to 0.01 in float32.
    variants=lambda inputs: [{**inputs, "start": start} for start in (0, 3)],
    holds=lambda inputs, outputs: _close(_gram(outputs[1]), _gram(outputs[2]), 0.1),
    message="Moving all tokens by 3 positions changed their dot products: "
    "after a rotation these depend on i - j alone.",
)


def _grows(inputs, outputs):
    """Whether x was turned with θ from 1 up to 10000, at positions small enough for float32 to tell."""
    x, start = inputs["x"], inputs["start"]
    grown = _rotate(x, start, theta=lambda K: 10000 ** torch.linspace(0, 1, K // 2).double())
    return 0 < start < 20 and _close(outputs[0], grown, 0.05)


FALLS = Property(
    "θ falls from 1 to 1/10000",
    variants=lambda inputs: [],
    holds=lambda inputs, outputs: not _grows(inputs, outputs),
    message="Your θ grows from 1 to 10000: the exponent lacks its minus.",
)

ROTATE = Exercise(
    id="04.7",
    title="Turn a query by its position",
    objective="Make a dot product depend on distance, as RetNet does it.",
    name="rotate",
    points=2,
    minutes=15,
    difficulty=2,
    hints=(
        "Take the channels two by two. Each pair is a point in the plane; token n turns it by the angle n θ_p.",
        "A pair (a, b) is the complex number a + ib, and turning it is multiplying by cos φ + i sin φ. "
        "The exponents of 10000 go from 0 down to -1 in K/2 equal steps, both ends included: one for each pair p.",
        "theta = 10000 ** -torch.linspace(0, 1, K // 2); the angle is positions[:, None] * theta, "
        "with an axis for H put in; a = x[..., 0::2], b = x[..., 1::2]; "
        "torch.stack([new_a, new_b], dim=-1).flatten(-2) puts the pairs back.",
    ),
    reference=rotate_reference,
    cases=_rotate_cases,
    mistakes={
        "Your pairs are (p, p + K/2), as in Llama: RetNet pairs (2p, 2p + 1). Look at how x is split.": partial(
            _rotate, pairs="b t h (two k) -> two b t h k"
        ),
        "Your angles are those of RoPE, 10000^(-2p/K), which stop short of 1/10000: RetNet includes both ends. "
        "Look at θ.": (
            partial(_rotate, theta=lambda K: 10000 ** -(torch.arange(0, K, 2).double() / K))
        ),
        "Your pairs turn the wrong way: look at the signs in front of sin.": partial(
            _rotate, sign=-1
        ),
        "The start is left out: a token's angle comes from its position in the whole text. Look at the positions.": (
            lambda x, start: _rotate(x, 0)
        ),
        "Your positions count from 1: the first token of a text has position 0. Look at the arange.": (
            lambda x, start: _rotate(x, start + 1)
        ),
        "The second of your pair is made from the first already turned: keep both old values. Look for overwriting.": (
            partial(_rotate, overwritten=True)
        ),
        "All pairs turn at the same speed: look for θ_p in the angle.": partial(
            _rotate, theta=lambda K: torch.ones(K // 2).double()
        ),
        "Your turned pairs are put back as two halves, firsts then seconds: look at the last reshape.": partial(
            _rotate, join="two b t h k -> b t h (two k)"
        ),
        "Your θ grow from 1/10000 up to 1: the first pair should turn fastest. Turn their order round.": partial(
            _rotate, theta=lambda K: (10000 ** -torch.linspace(0, 1, K // 2).double()).flip(0)
        ),
        "Yours is Llama's rotation: pairs (p, p + K/2) and angles that stop short of 1/10000. "
        "RetNet pairs (2p, 2p + 1) and includes both ends.": partial(
            _rotate,
            pairs="b t h (two k) -> two b t h k",
            theta=lambda K: 10000 ** -(torch.arange(0, K, 2).double() / K),
        ),
        "Both sines have a plus: then pairs are not turned but stretched. The first of a pair is a cos φ - b sin φ.": (
            lambda x, start: _turned(x, start, 1, 1)
        ),
        "Both sines have a minus: then pairs are not turned but stretched. The second of a pair is b cos φ + a "
        "sin φ.": (lambda x, start: _turned(x, start, -1, -1)),
        "Your θ grows from 1 to 10000: the exponent lacks its minus.": partial(
            _rotate, theta=lambda K: 10000 ** torch.linspace(0, 1, K // 2)
        ),
        "Your θ falls as a power of e, not of 10000: look at the base.": partial(
            _rotate, theta=lambda K: torch.exp(-torch.linspace(0, 1, K // 2).double())
        ),
        "All tokens are turned by the same angle θ: multiply it by the position of the token.": (
            lambda x, start: _rotate_all(x, 1)
        ),
        "Your angle grows along the heads, not along time: positions (T, 1, 1) and θ (K/2,) line up with (B, T, H, "
        "K/2).": (lambda x, start: _rotate(x.transpose(1, 2), start).transpose(1, 2)),
    },
    alternatives=(
        _rotate,
        lambda x, start: _turned(x, start, -1, 1),
    ),
    properties=(FALLS, RELATIVE),
    parts_hint=lambda t, inputs: (
        "a token at position 0 is not turned at all. How are the pairs taken apart and put back?"
        if t + inputs["start"] == 0
        else f"this token is at position {t + inputs['start']}. Print its angles: the first is the position itself."
    ),
)


# 04.8  Bug hunt: decoding


def retention_by_pairs(q, k, v, gamma, S, rows=1):
    """y_i = γ^(i+1) S q_i + Σ_{j≤i} γ^(i-j) (q_i·k_j) v_j, some rows i at a time, and S_T in the same way."""
    n, ys = torch.arange(q.shape[1])[:, None], []
    for i in n.split(rows):
        age = (i - n.T)[..., None]  # (rows, T, 1)
        decay = gamma ** age.clamp(min=0) * (age >= 0)  # (rows, T, H)
        weights = decay * torch.einsum("bihk, bjhk -> bijh", q[:, i[:, 0]], k)
        from_start = (
            torch.einsum("bhvk, bihk -> bihv", S, q[:, i[:, 0]]) * (gamma ** (i + 1))[..., None]
        )
        ys.append(torch.einsum("bijh, bjhv -> bihv", weights, v) + from_start)
    left = (gamma ** n.flip(0))[..., None]  # (T, H, 1)
    return torch.cat(ys, 1), (gamma ** len(n))[:, None, None] * S + torch.einsum(
        "bthv, bthk -> bhvk", left * v, k
    )


def mended_reference(q, k, v, gamma, S, start):
    return retention_by_pairs(rotate_reference(q, start), rotate_reference(k, start), v, gamma, S)


def _decode(q, k, v, gamma, S, start, *, order="decay write read", q_start=1, k_start=1, later=0):
    """The function of the bug hunt with the order of its three lines, and its positions, as dials."""
    q, k = _rotate(q, q_start * start + later), _rotate(k, k_start * start + later)
    g, ys = gamma[:, None, None], []
    for t in range(q.shape[1]):
        for line in order.split():
            if line == "decay":
                S = g * S
            elif line == "write":
                S = S + v[:, t, :, :, None] * k[:, t, :, None, :]
            else:
                ys.append((S @ q[:, t, :, :, None])[..., 0])
    return torch.stack(ys, 1), S


def _rotate_all(x, position):
    """Every token of x turned by one position."""
    return torch.cat([_rotate(x_t, position) for x_t in x.split(1, dim=1)], dim=1)


def _decode_cases(rng):
    def case(name, B, T, H, K, V, start, gamma):
        S = torch.zeros(B, H, V, K) if start == 0 else _randn(rng, B, H, V, K)
        return Case(name, {**_qkv(rng, B, T, H, K, V), "gamma": gamma, "S": S, "start": start})

    return [
        case("T = 1, the first token", 1, 1, 2, 4, 4, 0, _gammas(rng, 2)),
        case("odd T, from the start", 2, 7, 2, 4, 4, 0, _gammas(rng, 2)),
        case("T = 1, after 6 tokens", 1, 1, 2, 4, 4, 6, _gammas(rng, 2)),
        case("K ≠ V, after 3 tokens", 2, 5, 3, 6, 2, 3, _gammas(rng, 3)),
        case("the decays of the paper, after 40 tokens", 1, 11, 4, 8, 3, 40, _retnet_gammas(4)),
        case("γ near 0, after 2 tokens", 1, 9, 2, 4, 5, 2, _gammas(rng, 2, 0.001, 0.05)),
    ]


def _halfway(inputs):
    return (inputs["q"].shape[1] + 1) // 2


def _second_half(inputs):
    """The second half of the tokens, from the true state after the first half."""
    t = _halfway(inputs)
    if t == inputs["q"].shape[1]:
        return []
    first, second = ({n: inputs[n][:, part] for n in "qkv"} for part in (slice(t), slice(t, None)))
    if "start" in inputs:
        _, S = mended_reference(**{**inputs, **first})
        return [{**inputs, **second, "S": S, "start": inputs["start"] + t}]
    _, S = chunkwise_reference(**{**inputs, **first})
    return [{**inputs, **second, "state": S}]


def _continues(inputs, outputs):
    if len(outputs) == 1:
        return True
    (y, S), (y_second, S_second) = outputs
    return _close(y[:, _halfway(inputs) :], y_second) and _close(S, S_second)


HALVES = Property(
    "two halves = the whole",
    variants=_second_half,
    holds=_continues,
    message="The second half of a text, started from the state after the first half, "
    "gives something else than the whole text at once: look at where the given state enters y and the returned S.",
)

MENDED = Exercise(
    id="04.8",
    title="Bug hunt: a decoder that drifts",
    objective="Find what is wrong in code that runs, from how its answers differ.",
    name="mended",
    points=2,
    minutes=15,
    difficulty=2,
    hints=(
        "There are two bugs. One shows with T = 1 and an empty state, the other only when a text is fed in two parts.",
        "What should y hold of γ after one token, and S? And the keys in S were turned by their places in the whole "
        "text: by which place is q turned in the second call?",
        "Swap the two lines that change S, so that γ comes first, and build the position from start + t.",
    ),
    reference=mended_reference,
    cases=_decode_cases,
    mistakes={
        "Both bugs are still there. Feed one token into an empty state and compare y with (k·q) v; "
        "then feed a text in two parts and compare with the whole.": partial(
            _decode, order="write decay read", q_start=0, k_start=0
        ),
        "The order is mended, the positions are not: the second part of a text turns q and k from angle 0 again, "
        "but the keys in S were turned further. Look at where start is used.": partial(
            _decode, q_start=0, k_start=0
        ),
        "Your positions are mended, the order is not: γ still multiplies the new pair, "
        "so y is γ times too small even for one token. Look at the two lines that change S.": partial(
            _decode, order="write decay read"
        ),
        "The start reaches q but not k: their distance is wrong by start. Look at the positions given to k.": partial(
            _decode, k_start=0
        ),
        "The start reaches k but not q: their distance is wrong by start. Look at the positions given to q.": partial(
            _decode, q_start=0
        ),
        "The decay is gone: this is linear attention with rotations. γ S must stay, before the write.": partial(
            _decode, order="write read"
        ),
        "Your read stands before the write: a token reads its own pair too. The order is decay, write, read.": partial(
            _decode, order="decay read write"
        ),
        "Your read stands between the write and the decay: y is right from an empty state, "
        "but the S handed over has been decayed once too often. Look at the order decay, write, read.": partial(
            _decode, order="write read decay"
        ),
        "Your state is decayed twice for each token. Look for a second product with γ.": partial(
            _decode, order="decay write decay read"
        ),
        "Your positions are one too high: start is the position of the first "
        "token of this call. Look for a + 1.": partial(_decode, later=1),
        "The start is subtracted. Token t of this call stands at start + t.": partial(
            _decode, q_start=-1, k_start=-1
        ),
        "Your positions are not mended, and the read stands between the write and the decay: "
        "the order is decay, write, read, and token t stands at start + t.": partial(
            _decode, order="write read decay", q_start=0, k_start=0
        ),
        "Your positions are not mended, and the read stands before the write: "
        "the order is decay, write, read, and token t stands at start + t.": partial(
            _decode, order="decay read write", q_start=0, k_start=0
        ),
        "Your read comes first of all, before the decay: y holds S of the token before. "
        "The order is decay, write, read.": (partial(_decode, order="read decay write")),
        "The decay is gone, and the positions still start at 0: put γ S back, before the write, and use start + t.": (
            partial(_decode, order="write read", q_start=0, k_start=0)
        ),
        "All tokens of a call are turned by start: t is left out. Token t stands at start + t.": (
            lambda q, k, v, gamma, S, start: retention_by_pairs(
                _rotate_all(q, start), _rotate_all(k, start), v, gamma, S
            )
        ),
        "The rotation is gone: q and k are still to be turned, by the position start + t.": (
            lambda q, k, v, gamma, S, start: retention_by_pairs(q, k, v, gamma, S)
        ),
        "Your write is scaled by 1 - γ, a moving average: retention adds v kᵀ whole.": (
            lambda q, k, v, gamma, S, start: mended_reference(
                q, k, (1 - gamma)[:, None] * v, gamma, S, start
            )
        ),
    },
    alternatives=(
        _decode,
        lambda q, k, v, gamma, S, start: _chunkwise(
            _rotate(q, start), _rotate(k, start), v, gamma, S, 3
        ),
    ),
    properties=(HALVES, CAUSAL),
    outputs=("y", "S"),
    time_axis={"y": 1, "S": None},
    parts_hint=lambda t, inputs: (
        "is the old state decayed, and the new pair not? Are q and k both turned by start?"
        if t == 0
        else "what happens to S, and to the position, from one token to the next?"
    ),
)


# 04.9  Chunkwise retention


def chunkwise_reference(q, k, v, gamma, state, chunk_size):
    B, _, H, K = q.shape
    empty = torch.zeros(B, H, v.shape[-1], K)
    return retention_by_pairs(q, k, v, gamma, empty if state is None else state, rows=chunk_size)


def _chunkwise(
    q,
    k,
    v,
    gamma,
    state,
    chunk_size,
    *,
    read=lambda i, n: i + 1,
    write=lambda j, n: n - 1 - j,
    keep=lambda n: n,
    inside=lambda gamma, n: _mask(gamma, n),
    padded=False,
    carried=True,
    given=True,
    updated=False,
    seen=1,
):
    """Chunkwise retention with the powers of γ, and what happens to the state, as dials."""
    q, k, v = (rearrange(x, "b t h d -> b h t d") for x in (q, k, v))
    fresh = torch.zeros(*q.shape[:2], v.shape[-1], q.shape[-1])
    S, ys = fresh if state is None or not given else state, []
    for t in range(0, q.shape[2], chunk_size):
        qc, kc, vc = (x[:, :, t : t + chunk_size] for x in (q, k, v))
        i, n = torch.arange(qc.shape[2]), chunk_size if padded else qc.shape[2]
        r, w = (
            (gamma[:, None] ** (0 * i + f(i, n)))[..., None] for f in (read, write)
        )  # (H, n, 1)
        after = (gamma ** keep(n))[:, None, None] * S + vc.mT @ (w * kc)
        ys.append(
            (qc @ kc.mT * inside(gamma, len(i))) @ vc
            + seen * (r * qc) @ (after if updated else S).mT
        )
        S = after if carried else fresh
    return rearrange(torch.cat(ys, 2), "b h t d -> b t h d"), after


def _all_chunks_at_once(q, k, v, gamma, state, chunk_size):
    """Padded with tokens that neither decay nor write: only the states are made one after the other."""
    T, C = q.shape[1], min(chunk_size, q.shape[1])
    q, k, v = (torch.nn.functional.pad(x, (0, 0, 0, 0, 0, -T % C)) for x in (q, k, v))
    q, k, v = (rearrange(x, "b (n c) h d -> b n h c d", c=C) for x in (q, k, v))
    real = rearrange(torch.arange(T + -T % C) < T, "(n c) -> n 1 c", c=C)
    G = (real * gamma.log()[:, None]).cumsum(-1)  # (N, H, C)
    D = (
        (G[..., None] - G[..., None, :])
        .masked_fill(torch.ones(C, C).triu(1).bool(), -torch.inf)
        .exp()
    )
    writes = v.mT @ ((G[..., -1:] - G).exp()[..., None] * k)  # (B, N, H, V, K)
    S, before = torch.zeros_like(writes[:, 0]) if state is None else state, []
    for n, write in enumerate(writes.unbind(1)):
        before.append(S)
        S = G[n, :, -1].exp()[:, None, None] * S + write
    y = (q @ k.mT * D) @ v + G.exp()[..., None] * (q @ torch.stack(before, 1).mT)
    return rearrange(y, "b n h c v -> b (n c) h v")[:, :T], S


def _global_reads(q, k, v, gamma, state, chunk_size):
    """The power on the read counts from the start of the text, not of the chunk."""
    t = iter(range(0, q.shape[1], chunk_size))
    return _chunkwise(q, k, v, gamma, state, chunk_size, read=lambda i, n: next(t) + i + 1)


def _factored_chunks(q, k, v, gamma, state, chunk_size):
    """γ^(i+1) on q and γ^-(j+1) on k, as if the two could not overflow."""
    n = torch.arange(chunk_size)[: q.shape[1]]
    S = torch.zeros(len(q), q.shape[2], v.shape[-1], q.shape[-1]) if state is None else state
    ys = []
    for qc, kc, vc in zip(
        *(x.transpose(1, 2).split(chunk_size, 2) for x in (q, k, v)), strict=True
    ):
        power = gamma[:, None, None] ** (n[: qc.shape[2], None] + 1)  # (H, n, 1)
        inverse = gamma[:, None, None] ** -(n[: qc.shape[2], None] + 1)
        ys.append(((power * qc) @ (inverse * kc).mT).tril() @ vc + (power * qc) @ S.mT)
        S = power[:, -1:] * (S + vc.mT @ (inverse * kc))
    return torch.cat(ys, 2).transpose(1, 2), S


def _always_given(q, k, v, gamma, state, chunk_size, *, carried=False, returned):
    """`_chunkwise` chunk by chunk, with the state carried or not, and the state that comes back as dials."""
    S, ys = state, []
    for t in range(0, q.shape[1], chunk_size):
        before = S if S is not None else q.new_zeros(len(q), q.shape[2], v.shape[-1], q.shape[-1])
        y, after = _chunkwise(
            *(x[:, t : t + chunk_size] for x in (q, k, v)), gamma, before, chunk_size
        )
        ys.append(y)
        S = after if carried else state
    return torch.cat(ys, 1), after if returned == "after" else before


def _chunk_cases(rng):
    def case(name, B, T, H, K, V, C, gamma, given):
        state = _randn(rng, B, H, V, K) if given else None
        return Case(
            name, {**_qkv(rng, B, T, H, K, V), "gamma": gamma, "state": state, "chunk_size": C}
        )

    return [
        case("T = 1, no state", 2, 1, 2, 4, 4, 4, _gammas(rng, 2), False),
        case("one chunk, no state", 1, 6, 2, 4, 4, 6, _gammas(rng, 2), False),
        case("two chunks, no state", 1, 8, 2, 4, 4, 4, _gammas(rng, 2), False),
        case("two chunks, a state given", 2, 8, 2, 3, 5, 4, _gammas(rng, 2), True),
        case("T = 13 in chunks of 5, a state given", 2, 13, 3, 4, 2, 5, _gammas(rng, 3), True),
        case("chunks of 1", 1, 5, 2, 4, 4, 1, _gammas(rng, 2), True),
        case("a chunk longer than T, a state given", 1, 7, 2, 4, 4, 64, _gammas(rng, 2), True),
        case("the decays of the paper", 2, 37, 4, 6, 3, 16, _retnet_gammas(4), True),
        case(f"long: T = {LONG}, chunks of 128", 1, LONG, 1, 3, 2, 128, torch.tensor([0.98]), True),
        case("γ near 0, long chunks", 1, 70, 2, 4, 4, 64, torch.tensor([1e-3, 0.02]), True),
    ]


CHUNK_SIZE = Property(
    "the chunk size does not matter",
    variants=lambda inputs: (
        [{**inputs, "chunk_size": C} for C in (1, 3, T)]
        if (T := inputs["q"].shape[1]) < LONG
        else []
    ),
    holds=lambda inputs, outputs: all(
        _close(a, b) for out in outputs[1:] for a, b in zip(outputs[0], out, strict=True)
    ),
    message="Another chunk_size gives another answer: it may change the speed, never y or S. "
    "Compare chunk_size = 1, the recurrent form, with chunk_size = T, the parallel form.",
)


def _chunk_hint(t, inputs):
    C = inputs["chunk_size"]
    if t >= C:
        return "is the state carried from chunk to chunk, decayed by γⁿ, and read with γ^(i+1), where i starts anew?"
    if inputs["state"] is not None:
        return "how is the given state read inside the first chunk? Token i of it needs γ^(i+1)."
    return "no state is at work yet: look at the pairs inside the chunk, (Q Kᵀ ⊙ D) V."


CHUNKWISE = Exercise(
    id="04.9",
    title="Chunkwise retention with a carried state",
    objective="Write the form that models are trained with: pairs inside a chunk, a state between chunks.",
    name="chunkwise",
    points=3,
    minutes=30,
    difficulty=3,
    hints=(
        "Each chunk does two things. Its y comes from pairs inside it and from the state before it. "
        "Then it makes the state that the next chunk needs. Count the decays between each write and its read.",
        "The powers of γ along a path add up to its length. Follow a write of token j to the end of its chunk, and "
        "from there to token i of the next: (n - 1 - j) + (i + 1). Inside a chunk the path is i - j, across it n.",
        "For each chunk, heads first: y = (qc @ kc.mT * D) @ vc + (gamma[:, None] ** (i + 1))[..., "
        "None] * (qc @ S.mT); then S = (gamma ** n)[:, None, None] * S + vc.mT @ ((gamma[:, "
        "None] ** (n - 1 - i))[..., None] * kc). n is the length of this chunk: the last one may be shorter.",
    ),
    reference=chunkwise_reference,
    cases=_chunk_cases,
    mistakes={
        "Your read from the state has one power of γ too few: "
        "token i = 0 already stands one step after the state, so it needs γ^(i+1), not γ^i. "
        "Look at the factor on q.": partial(_chunkwise, read=lambda i, n: i),
        "Your writes have one power of γ too many: the last token of a chunk writes undecayed, "
        "so token j needs γ^(n-1-j), not γ^(n-j). Look at the factor on k.": partial(
            _chunkwise, write=lambda j, n: n - j
        ),
        "Your state is decayed by γ once a chunk: a chunk of n tokens decays it n times. Look for γⁿ on S.": partial(
            _chunkwise, keep=lambda n: 1
        ),
        "Your state is not decayed between chunks: look for γⁿ on S before the writes are added.": partial(
            _chunkwise, keep=lambda n: 0
        ),
        "Your writes into the state are not decayed: token j is n-1-j steps old when its chunk ends. "
        "Look for γ^(n-1-j) on the writes.": partial(_chunkwise, write=lambda j, n: 0),
        "Your read from the state is not decayed: token i stands i+1 steps after it. Look for γ^(i+1) on q.": partial(
            _chunkwise, read=lambda i, n: 0
        ),
        "Your powers on the writes run the wrong way: token j has γ^j, the oldest counts most. It needs γ^(n-1-j).": (
            partial(_chunkwise, write=lambda j, n: j)
        ),
        "Your powers on read and writes have changed places: the read needs γ^(i+1), the writes γ^(n-1-j).": (
            partial(_chunkwise, read=lambda i, n: n - 1 - i, write=lambda j, n: j + 1)
        ),
        "Your read counts its power of γ from the start of the text: "
        "i starts anew in each chunk, because S has already been decayed up to the chunk's start.": _global_reads,
        "No state is carried: each chunk starts from an empty one. Keep S from one chunk to the next.": partial(
            _chunkwise, carried=False
        ),
        "The given state is ignored: the first chunk starts empty. Look at what S is before the loop.": partial(
            _chunkwise, given=False
        ),
        "The last chunk decays the state as if it were full: "
        "its own length n counts, not chunk_size (padding with zeros does the same). "
        "Look at the powers in a chunk that is cut short.": partial(_chunkwise, padded=True),
        "The chunk reads the state that already holds its own writes: its pairs are counted twice. "
        "Compute y before S.": (partial(_chunkwise, updated=True)),
        "Your pairs inside a chunk are not decayed, only cut off at the diagonal. Look for D on the scores.": partial(
            _chunkwise, inside=lambda gamma, n: torch.ones(n, n).tril()
        ),
        "Inside a chunk a token reads the future: D must be 0 above the diagonal.": partial(
            _chunkwise, inside=lambda gamma, n: torch.maximum(_mask(gamma, n), _mask(gamma, n).mT)
        ),
        "Inside a chunk a token does not read its own pair: the diagonal of D is 1. Look at < against ≤.": partial(
            _chunkwise, inside=lambda gamma, n: _mask(gamma, n).tril(-1)
        ),
        "Inside a chunk the pairs have one power of γ too many, γ^(i-j+1): the diagonal of D is 1.": partial(
            _chunkwise, inside=lambda gamma, n: _mask(gamma, n, shift=1).tril()
        ),
        "Every pair is decayed once too often: γ multiplies a write at its own token already. "
        "D needs γ^(i-j), the writes γ^(n-1-j).": partial(
            _chunkwise,
            inside=lambda gamma, n: _mask(gamma, n, shift=1).tril(),
            write=lambda j, n: n - j,
        ),
        "Your read and the writes are both off by one, γ^i and γ^(n-j): they need γ^(i+1) and γ^(n-1-j).": partial(
            _chunkwise, read=lambda i, n: i, write=lambda j, n: n - j
        ),
        "Your read from the state has one power of γ too many: token i needs γ^(i+1), not γ^(i+2). "
        "Look at the factor on q.": partial(_chunkwise, read=lambda i, n: i + 2),
        "Your state is decayed before it is read: γⁿ is in the read as well. Compute y first, then decay S.": partial(
            _chunkwise, read=lambda i, n: n + i + 1
        ),
        "All tokens of a chunk read the state with γⁿ: token i stands i+1 steps after it. Look for γ^(i+1) on "
        "q.": partial(_chunkwise, read=lambda i, n: n),
        "Your state keeps γ^(n-1) over a chunk: each of its n tokens decays it, so it keeps γⁿ.": partial(
            _chunkwise, keep=lambda n: n - 1
        ),
        "Your state keeps γ^(n+1) over a chunk: each of its n tokens decays it once, so it keeps γⁿ.": partial(
            _chunkwise, keep=lambda n: n + 1
        ),
        "Your writes have one power of γ too few, γ^(n-2-j): the last token of a chunk writes with γ⁰. "
        "Look at the factor on k.": partial(_chunkwise, write=lambda j, n: n - 2 - j),
        "Your pairs inside a chunk are missing: y holds only the read from the state. Look for (Q Kᵀ ⊙ D) V.": partial(
            _chunkwise, inside=lambda gamma, n: torch.zeros(n, n)
        ),
        "Your state forgets all earlier chunks: S holds the writes of the last one only. Add them to γⁿ S.": partial(
            _chunkwise, keep=lambda n: torch.inf
        ),
        "Your state is carried but never read: y holds only pairs of one chunk. Look for γ^(i+1) S q_i.": partial(
            _chunkwise, seen=0
        ),
        "Each chunk starts from the given state again: what the chunks before it wrote is lost. Carry S on.": partial(
            _always_given, returned="after"
        ),
        "The S handed back is the one before the last chunk: return it after the last update.": partial(
            _always_given, carried=True, returned="before"
        ),
        "The tokens after the last full chunk are missing: range(T // chunk_size) leaves them out. "
        "Let the last chunk be shorter.": lambda q, k, v, gamma, state, chunk_size: _chunkwise(
            *(x[:, : x.shape[1] // chunk_size * chunk_size] for x in (q, k, v)),
            gamma,
            state,
            chunk_size,
        ),
        "All heads use the decay of the first: look at how gamma (H,) is lined up with (B, H, n, K).": (
            lambda q, k, v, gamma, state, chunk_size: _chunkwise(
                q, k, v, gamma[:1].expand_as(gamma), state, chunk_size
            )
        ),
        "Your reads are scaled by K^-1/2: here the caller scales, so leave the factor out.": (
            lambda q, k, v, gamma, state, chunk_size: _chunkwise(
                q / q.shape[-1] ** 0.5, k, v, gamma, state, chunk_size
            )
        ),
        "The powers γ^(-j) on k overflow where γ is small, and y and S hold inf or nan. "
        "Take differences of exponents first: γ^(i-j) for the pairs, γ^(n-1-j) for the writes.": _factored_chunks,
        "The product γ^i · γ^(-j) overflows inside a chunk where γ is small, and y holds inf or nan. "
        "Take the difference i - j first, then the power.": partial(
            _chunkwise, inside=_factored_mask
        ),
    },
    alternatives=(
        _chunkwise,
        _all_chunks_at_once,
        lambda q, k, v, gamma, state, chunk_size: core.chunkwise(
            q,
            k,
            v,
            log_a=gamma.log()[:, None].expand(*q.shape[:3], 1),
            state=state,
            chunk_size=chunk_size,
        ),
    ),
    properties=(CAUSAL, CHUNK_SIZE, HALVES),
    outputs=("y", "S"),
    time_axis={"y": 1, "S": None},
    parts_hint=_chunk_hint,
    effort=chunks_are_asked,
)


EXERCISES = [DECAYS, HALF_LIFE, STEP, DECAY_MASK, PARALLEL, HEAD_NORM, ROTATE, MENDED, CHUNKWISE]
