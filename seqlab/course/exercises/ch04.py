"""Chapter 04, RetNet: one constant decay per head, in three forms.

References are brute force (a loop over tokens or pairs, an einsum): they share no code with the solutions notebook.
"""

import math
from functools import partial

import torch
from einops import rearrange

from seqlab.course.exercise import Case, Exercise, Property


def _randn(rng, *shape):
    return torch.randn(*shape, generator=rng)


def _qkv(rng, B, T, H, K, V):
    return {"q": _randn(rng, B, T, H, K), "k": _randn(rng, B, T, H, K), "v": _randn(rng, B, T, H, V)}


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
    message="changing later tokens changed earlier outputs: token i may read token j only where j ≤ i",
)


# 04.1  The decays of H heads


def decays_reference(n_heads):
    return torch.tensor([1 - 1 / (32 * 2**h) for h in range(n_heads)])


def _decays(n_heads, exponent=lambda h: -5 - h, base=2.0):
    return 1 - base ** exponent(torch.arange(n_heads, dtype=torch.float32))


DECAYS = Exercise(
    id="04.1",
    title="The decays of H heads",
    objective="give each head its own memory span",
    name="decays",
    points=1,
    minutes=4,
    difficulty=1,
    hints=(
        "Each next head forgets half as much per token as the one before it.",
        "γ_h = 1 - 2^(-5-h), and h counts from 0: the first head has γ = 1 - 1/32.",
        "Make h = torch.arange(n_heads), then raise 2.0 to the power -5 - h, and take it away from 1.",
    ),
    reference=decays_reference,
    cases=lambda rng: [Case(f"H = {H}", {"n_heads": H}) for H in (1, 3, 4, 8)],
    mistakes={
        "h is counted from 1: the first head must get 1 - 2⁻⁵ = 0.96875, so look at where the range starts": partial(
            _decays, exponent=lambda h: -6 - h
        ),
        "this is the share that is forgotten, 2^(-5-h): γ is what is kept, so look for the missing 1 -": (
            lambda n_heads: 1 - _decays(n_heads)
        ),
        "the exponent has lost its minus: a γ below 0 flips the state at every token; look at the sign of 5 + h": partial(
            _decays, exponent=lambda h: 5 + h
        ),
        "the sign of h is wrong: later heads must forget more slowly, so look at -5 + h and make it -5 - h": partial(
            _decays, exponent=lambda h: -5 + h
        ),
        "the base is e, not 2: look for exp where a power of 2 is wanted": partial(_decays, base=math.e),
        "this is log γ: the exercise asks for γ itself, so look for a log at the end": (
            lambda n_heads: _decays(n_heads).log()
        ),
        "the heads are spread between 1/32 and 1/512 whatever H is, as some code does: in the paper each head halves "
        "1 - γ of the one before it, so look at the spacing": (
            lambda n_heads: 1 - torch.linspace(math.log(1 / 32), math.log(1 / 512), n_heads).exp()
        ),
        "all heads have the decay of the first: look for h in the exponent": partial(
            _decays, exponent=lambda h: -5 - 0 * h
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
    objective="turn a decay into a length in tokens",
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
        "this is 1 / (1 - γ), the time constant: there a pair still weighs 1/e, about 0.37; look at γⁿ = ½": 128.0,
        "this is 0.5 / (1 - γ), as if each token took away the same amount: each takes the same *share* of what is left; "
        "look at γⁿ = ½": 64.0,
        "this is ln 2 / (1 - γ), which uses ln γ ≈ γ - 1: close, but not within 0.1 token; use ln γ itself": (
            math.log(2) * 128
        ),
        "the minus is missing: ln ½ and ln γ are both below 0 and their quotient is positive; look for ln 2 over ln γ": (
            math.log(2) / math.log(1 - 2**-7)
        ),
        "two bases are mixed, log₂ ½ over ln γ: look at the logarithm in the numerator": -1 / math.log(1 - 2**-7),
        "two bases are mixed, ln ½ over log₂ γ: look at the logarithm in the denominator": (
            math.log(0.5) / math.log2(1 - 2**-7)
        ),
        "h is taken one too high, γ = 1 - 2⁻⁸: that is the head h = 3; h = 2 has 5 + 2 in the exponent": (
            math.log(0.5) / math.log(1 - 2**-8)
        ),
        "h is taken one too low, γ = 1 - 2⁻⁶: that is the head h = 1; h counts from 0, look at 5 + h": (
            math.log(0.5) / math.log(1 - 2**-6)
        ),
        "this is rounded down to a whole token: the answer is asked for to within 0.1, so do not round": 88.0,
        "this is rounded up to a whole token: the answer is asked for to within 0.1, so do not round": 89.0,
        "this is γ itself: it is the weight after one token; look for the n with γⁿ = ½": 1 - 2**-7,
    },
    alternatives=(-1 / math.log2(1 - 2**-7), 7 * 0 + math.log(2) / -math.log1p(-(2**-7)), 88.4),
    tolerance=0.1,
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


def _step_cases(rng):
    shapes = {"one head": (2, 1, 4, 4), "K ≠ V": (2, 3, 5, 2), "H = K = V": (3, 4, 4, 4), "B = 1": (1, 2, 3, 7)}
    names = {"K ≠ V": _gammas, "B = 1": lambda rng, H: _gammas(rng, H, 0.01, 0.1)}

    def case(name, B, H, K, V):
        S = torch.zeros(B, H, V, K) if name == "one head" else _randn(rng, B, H, V, K)
        one = {n: x[:, 0] for n, x in _qkv(rng, B, 1, H, K, V).items()}
        return Case(name, {"S": S, **one, "gamma": names.get(name, lambda rng, H: _retnet_gammas(H))(rng, H)})

    return [case(name, *shape) for name, shape in shapes.items()]


STEP = Exercise(
    id="04.3",
    title="One token with decay",
    objective="add forgetting to the linear-attention step",
    name="step",
    points=1,
    minutes=8,
    difficulty=1,
    hints=(
        "Three things happen, in this order: decay the old state, write the new pair, read.",
        "S ← γ S + v kᵀ, then y = S q. The new pair is not decayed yet, and the read sees it.",
        "gamma[:, None, None] lines H up with S (B, H, V, K); v[..., :, None] * k[..., None, :] is the write; "
        "torch.einsum('bhvk,bhk->bhv', S, q) is the read.",
    ),
    reference=step_reference,
    cases=_step_cases,
    mistakes={
        "the state is not decayed: this is linear attention; look for γ S": partial(_step, decay=False),
        "the new pair is decayed too: γ multiplies S after the write; look at the order, decay first, then write": partial(
            _step, decay_write=True
        ),
        "y is read from the old state: a token reads its own pair too; look at which S meets q": partial(
            _step, read="before"
        ),
        "y is read after the decay but before the write: a token reads its own pair too; look at which S meets q": partial(
            _step, read="kept"
        ),
        "the write is scaled by 1 - γ, a moving average: retention adds v kᵀ whole; look at what multiplies it": (
            lambda S, q, k, v, gamma: _step(S, q, k, v, gamma, write=(1 - gamma)[:, None, None])
        ),
        "the write replaces the state instead of adding to it: look for γ S in the sum": (
            lambda S, q, k, v, gamma: _step(0 * S, q, k, v, gamma)
        ),
        "only the write is decayed and the old state is kept whole: look at what γ multiplies": partial(
            _step, decay=False, decay_write=True
        ),
        "all heads use the decay of the first: look at how gamma (H,) is lined up with S (B, H, V, K)": (
            lambda S, q, k, v, gamma: _step(S, q, k, v, gamma[:1])
        ),
        "gamma is used as if it were log γ: it is the factor itself, between 0 and 1; look for an exp": (
            lambda S, q, k, v, gamma: _step(S, q, k, v, gamma.exp())
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


def _factored_mask(gamma, T):
    n = torch.arange(T)
    return torch.tril((gamma[:, None] ** n)[:, :, None] * (gamma[:, None] ** -n)[:, None, :])


def _mask_cases(rng):
    return [
        Case("T = 1", {"gamma": _gammas(rng, 2), "T": 1}),
        Case("odd T", {"gamma": _gammas(rng, 3), "T": 7}),
        Case("the decays of the paper", {"gamma": _retnet_gammas(4), "T": 40}),
        Case("one head", {"gamma": torch.tensor([0.5]), "T": 12}),
        Case("γ = 1", {"gamma": torch.tensor([1.0, 0.8]), "T": 6}),
        Case("γ near 0", {"gamma": torch.tensor([1e-3, 0.02]), "T": 60}),
    ]


DECAY_MASK = Exercise(
    id="04.4",
    title="The decay mask",
    objective="write all decays between all pairs of tokens at once, without overflow",
    name="decay_mask",
    points=2,
    minutes=12,
    difficulty=2,
    hints=(
        "Row i is the reader, column j what it reads. The entry depends on the distance i - j alone; above the diagonal it is 0.",
        "γ^(i-j) = exp((i - j) ln γ). Put -inf where j > i before the exp: exp(-inf) = 0, and no exponent is positive.",
        "n = torch.arange(T); distance = n[:, None] - n; "
        "logs = distance * gamma.log()[:, None, None]; fill logs with -inf where distance < 0; then exp.",
    ),
    reference=decay_mask_reference,
    cases=_mask_cases,
    mistakes={
        "γ^i · γ^(-j) overflows where γ is small: the answer holds inf or nan; "
        "take the difference i - j first, then the power": _factored_mask,
        "nothing is masked to 0 above the diagonal: token i would read the future; look at j > i": (
            lambda gamma, T: _mask(gamma, T, keep=lambda D: D)
        ),
        "the mask is symmetric, γ^|i-j|: token i would read the future; look at j > i": (
            lambda gamma, T: torch.maximum(_mask(gamma, T), _mask(gamma, T).mT)
        ),
        "above the diagonal stands γ^(i-j), which is more than 1: the mask is missing; look at j > i": (
            lambda gamma, T: gamma[:, None, None] ** (torch.arange(T)[:, None] - torch.arange(T))
        ),
        "D is transposed: row i is the reader, column j what it reads; look at which arange stands in the rows": (
            lambda gamma, T: _mask(gamma, T).mT
        ),
        "one power too many, γ^(i-j+1): a token reads its own pair undecayed, so the diagonal is 1; look at i = j": partial(
            _mask, shift=1
        ),
        "the diagonal is masked away: a token reads its own pair, D_ii = 1; look at < against ≤": (
            lambda gamma, T: _mask(gamma, T).tril(-1)
        ),
        "one power too few, γ^(i-j-1): look at i = j, where the power is 0, and at i = j + 1, where it is 1": partial(
            _mask, shift=-1
        ),
        "this is a plain causal mask without decay: look for γ^(i-j)": (
            lambda gamma, T: _mask(torch.ones_like(gamma), T)
        ),
        "this is log D, or D before the exp: look at the last step": (lambda gamma, T: _mask(gamma, T).log()),
        "all heads have the decay of the first: look at how gamma (H,) is lined up with (T, T)": (
            lambda gamma, T: _mask(gamma[:1].expand_as(gamma), T)
        ),
        "rows are normalised to sum to 1: retention does not do this here; look for a division or a softmax": (
            lambda gamma, T: _mask(gamma, T) / _mask(gamma, T).sum(-1, keepdim=True)
        ),
    },
    alternatives=(
        _mask,
        lambda gamma, T: (
            torch.stack([torch.stack([g**n * torch.ones(T - n) for n in range(T)]) for g in gamma])
            if T == 1
            else sum(torch.diag_embed((gamma**n)[:, None].expand(-1, T - n), offset=-n) for n in range(T))
        ),
        lambda gamma, T: (
            torch.einsum("h, ij -> hij", gamma.log(), (torch.arange(T)[:, None] - torch.arange(T)).float())
            .masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf)
            .exp()
        ),
    ),
    outputs=("D",),
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


PARALLEL = Exercise(
    id="04.5",
    title="Retention, all pairs at once",
    objective="read retention as attention with D in the place of the softmax",
    name="parallel",
    points=1,
    minutes=8,
    difficulty=1,
    hints=(
        "It is attention: scores of all pairs, a weight for each, a mix of the values. Only the middle step is new.",
        "y = (Q Kᵀ ⊙ D) V for each head. ⊙ multiplies entry by entry. There is no softmax and no 1/√K.",
        "torch.einsum('bihk,bjhk->bhij', q, k) gives the scores, D (H, T, T) lines up with them as it is, "
        "and 'bhij,bjhv->bihv' mixes the values.",
    ),
    reference=parallel_reference,
    cases=_parallel_cases,
    mistakes={
        "D only cuts off the future, its decay is lost: look for scores masked instead of multiplied by D": (
            lambda q, k, v, D: _mix(_scores(q, k).tril(), v)
        ),
        "D is left out: every token reads the future too; look for the product of the scores with D": (
            lambda q, k, v, D: _mix(_scores(q, k), v)
        ),
        "D is added to the scores: it is a factor; look for + between the scores and D": (
            lambda q, k, v, D: _mix(_scores(q, k) + D, v)
        ),
        "D is transposed, or q and k have changed places in the scores: row i must be the reader; look at the einsum": (
            lambda q, k, v, D: _mix(_scores(q, k) * D.mT, v)
        ),
        "q and k have changed places: score ij is q_i · k_j; look at the order of i and j": (
            lambda q, k, v, D: _mix(_scores(k, q) * D, v)
        ),
        "a softmax is taken over the weighted scores: retention has none; look for softmax": _softmax,
        "the scores are divided by √K: here the caller scales, so look for a 1/√K": (
            lambda q, k, v, D: _mix(_scores(q, k) * D / q.shape[-1] ** 0.5, v)
        ),
        "the weights are divided by their row sums: retention has no normaliser; look for a division": (
            lambda q, k, v, D: _mix(_scores(q, k) * D / (_scores(q, k) * D).sum(-1, keepdim=True), v)
        ),
        "the decay is applied twice, D²: look for a second product with D": (
            lambda q, k, v, D: _mix(_scores(q, k) * D * D, v)
        ),
        "all heads use the mask of the first: look at how D (H, T, T) is lined up with the scores": (
            lambda q, k, v, D: _mix(_scores(q, k) * D[0], v)
        ),
    },
    alternatives=(
        lambda q, k, v, D: _mix(_scores(q, k) * D, v),
        lambda q, k, v, D: ((q.transpose(1, 2) @ k.permute(0, 2, 3, 1) * D) @ v.transpose(1, 2)).transpose(1, 2),
        lambda q, k, v, D: torch.einsum("bihk, bjhk, hij, bjhv -> bihv", q, k, D, v),
    ),
    properties=(CAUSAL,),
)


# 04.6  Each head is normed alone


def head_norm_reference(y, eps):
    out = torch.empty_like(y)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in y.shape[:3])).view(-1, 3).tolist():
        row = y[tuple(index)]
        out[tuple(index)] = row / math.sqrt(sum(x * x for x in row.tolist()) / len(row) + eps)
    return out


def _norm(y, eps, axes=(-1,), mean=True, root=True):
    size = y.square().mean(axes, keepdim=True) if mean else y.square().sum(axes, keepdim=True)
    return y / ((size + eps) ** 0.5 if root else size + eps)


def _norm_cases(rng):
    sizes = torch.tensor([0.1, 1.0, 30.0, 4.0])  # heads of different size: norming them together shows

    def case(name, B, T, H, V, scale=1.0, eps=1e-6):
        return Case(name, {"y": scale * sizes[:H, None] * _randn(rng, B, T, H, V), "eps": eps})

    zeros = case("a token of zeros", 1, 4, 2, 5)
    zeros.inputs["y"][:, 1] = 0
    return [
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
    objective="see what the paper's GroupNorm divides by",
    name="head_norm",
    points=1,
    minutes=6,
    difficulty=1,
    hints=(
        "Heads that remember long add up more pairs, so their y is larger. Each is brought to size 1 on its own.",
        "Divide by √(mean(y²) + eps), where the mean runs over the V channels of one head of one token. No mean is "
        "subtracted.",
        "y.square().mean(-1, keepdim=True) is the mean square; add eps, take torch.rsqrt, multiply by y.",
    ),
    reference=head_norm_reference,
    cases=_norm_cases,
    mistakes={
        "the mean runs over all heads together: a loud head then silences the quiet ones; look at the axes of the mean": (
            partial(_norm, axes=(-2, -1))
        ),
        "the mean runs over the heads, one channel at a time: it belongs over the V channels; look at the axis": partial(
            _norm, axes=(-2,)
        ),
        "the mean runs over time: token i would see the future; look at the axis of the mean": partial(
            _norm, axes=(1,)
        ),
        "the squares are summed, not averaged: y comes out √V too small; look for sum": partial(_norm, mean=False),
        "the root is missing: y is divided by its mean square; look for rsqrt or sqrt": partial(_norm, root=False),
        "the mean is subtracted first, a LayerNorm: an RMS norm only divides; look for y - y.mean(...)": (
            lambda y, eps: _norm(y - y.mean(-1, keepdim=True), eps)
        ),
        "eps is added outside the root: it belongs under it, next to the mean square; look at where eps stands": (
            lambda y, eps: y / (y.square().mean(-1, keepdim=True).sqrt() + eps)
        ),
        "eps is left out: a token of zeros becomes nan; look under the root": (lambda y, eps: _norm(y, 0)),
        "y is multiplied by the root mean square, not divided by it: look at sqrt against rsqrt": (
            lambda y, eps: y * (y.square().mean(-1, keepdim=True) + eps).sqrt()
        ),
    },
    alternatives=(
        _norm,
        lambda y, eps: torch.nn.functional.rms_norm(y, y.shape[-1:], eps=eps),
        lambda y, eps: y * torch.rsqrt(torch.einsum("bthv, bthv -> bth", y, y) / y.shape[-1] + eps)[..., None],
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


def _rotate(x, start, *, pairs="b t h (k two) -> two b t h k", join=None, theta=None, sign=1, stop="both"):
    T, K = x.shape[1], x.shape[-1]
    theta = 10000 ** -torch.linspace(0, 1, K // 2).double() if theta is None else theta(K)
    angle = (sign * torch.arange(start, start + T)[:, None] * theta)[:, None]
    cos, sin = angle.cos().float(), angle.sin().float()
    a, b = rearrange(x, pairs, two=2)
    first = a * cos - b * sin
    second = b * cos + (first if stop == "overwritten" else a) * sin
    return rearrange(torch.stack([first, second]), join or " -> ".join(reversed(pairs.split(" -> "))))


def _halves_of_joined(x):
    return rearrange(x, "b t h (two k) -> b t h (k two)", two=2)


def _rotate_cases(rng):
    def case(name, B, T, H, K, start):
        return Case(name, {"x": _randn(rng, B, T, H, K), "start": start})

    return [
        case("T = 1 at position 0", 2, 1, 2, 4, 0),
        case("T = 1 at position 5", 1, 1, 2, 8, 5),
        case("odd T", 2, 7, 3, 6, 0),
        case("K = 10, from position 3", 1, 9, 2, 10, 3),
        case("T = K", 2, 4, 1, 4, 0),
        case("far from the start", 1, 5, 2, 16, 1000),
    ]


def _gram(x):
    return torch.einsum("bihk, bjhk -> bhij", x, x)


RELATIVE = Property(
    "only distance counts",
    variants=lambda inputs: [{**inputs, "start": inputs["start"] + 11}],
    holds=lambda inputs, outputs: _close(_gram(outputs[0]), _gram(outputs[1]), 1e-2),
    message="moving all tokens by 11 positions changed their dot products: after a rotation these depend on i - j alone",
)

ROTATE = Exercise(
    id="04.7",
    title="Turn a query by its position",
    objective="make a dot product depend on distance, as RetNet does it",
    name="rotate",
    points=2,
    minutes=15,
    difficulty=2,
    hints=(
        "Take the channels two by two. Each pair is a point in the plane; token n turns it by the angle n θ_i.",
        "(a, b) becomes (a cos φ - b sin φ, b cos φ + a sin φ). θ runs from 1 down to 1/10000, both ends included: "
        "θ_i = 10000^(-i / (K/2 - 1)).",
        "theta = 10000 ** -torch.linspace(0, 1, K // 2); the angle is positions[:, None] * theta, with an axis for H put "
        "in; a = x[..., 0::2], b = x[..., 1::2]; torch.stack([new_a, new_b], dim=-1).flatten(-2) puts the pairs back.",
    ),
    reference=rotate_reference,
    cases=_rotate_cases,
    mistakes={
        "the pairs are channels (i, i + K/2), as in Llama: RetNet pairs (2i, 2i + 1); look at how x is split": partial(
            _rotate, pairs="b t h (two k) -> two b t h k"
        ),
        "the angles are those of RoPE, 10000^(-2i/K), which stop short of 1/10000: RetNet includes both ends; look at θ": (
            partial(_rotate, theta=lambda K: 10000 ** -(torch.arange(0, K, 2).double() / K))
        ),
        "the pairs turn the wrong way: look at the signs in front of sin": partial(_rotate, sign=-1),
        "start is left out: a token's angle comes from its position in the whole text; look at the positions": (
            lambda x, start: _rotate(x, 0)
        ),
        "the positions count from 1: the first token of a text has position 0; look at the arange": (
            lambda x, start: _rotate(x, start + 1)
        ),
        "the second of a pair is made from the first one already turned: keep both old values; look for overwriting": (
            partial(_rotate, stop="overwritten")
        ),
        "all pairs turn at the same speed: look for θ_i in the angle": partial(
            _rotate, theta=lambda K: torch.ones(K // 2).double()
        ),
        "the turned pairs are put back as two halves, all firsts and then all seconds: look at the last reshape": partial(
            _rotate, join="two b t h k -> b t h (two k)"
        ),
        "θ grows from 1/10000 up to 1: the first pair turns fastest; look at the order of θ": partial(
            _rotate, theta=lambda K: (10000 ** -torch.linspace(0, 1, K // 2).double()).flip(0)
        ),
        "θ_i uses i / (K/2), one step short of the end: the last θ must be 1/10000; look at K/2 - 1": partial(
            _rotate, theta=lambda K: 10000 ** -(torch.arange(K // 2).double() / (K // 2)) * (1 + 1e-300)
        ),
    },
    alternatives=(
        _rotate,
        lambda x, start: torch.stack(
            [
                x[..., 0::2] * _angle(x, start).cos() - x[..., 1::2] * _angle(x, start).sin(),
                x[..., 1::2] * _angle(x, start).cos() + x[..., 0::2] * _angle(x, start).sin(),
            ],
            dim=-1,
        ).flatten(-2),
    ),
    properties=(RELATIVE,),
)


def _angle(x, start):
    theta = 10000 ** -torch.linspace(0, 1, x.shape[-1] // 2)
    return torch.einsum("t, k -> tk", torch.arange(start, start + x.shape[1]).float(), theta)[:, None]
