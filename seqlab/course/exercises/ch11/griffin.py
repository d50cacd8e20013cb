r"""Project: a Griffin that decodes

*Build a model of two recurrent layers to one window, and decode with a state that does not grow. · 25 minutes · ●●● · 3 points*

Write `griffin(x, n_layers, window)`. It runs a model of n_layers layers on x (T, D), **token by token**, and returns the outputs (T, D), which layers are windows, and how many numbers it keeps after each token. All layers add to the stream: $x ← x + \mathrm{layer}(x)$.

- Layers 2, 5, 8, … (counted from 0) are windows; the others are recurrent. `local` (n_layers,) is True for the windows.
- A recurrent layer is $h_t = a\, h_{t-1} + \sqrt{1 - a^2}\, x_t$ with $a = 0.9$ and $h = 0$ at first; its output is $h_t$. It keeps D numbers.
- A window is attention with q = k = v = x and scores $q · k / \sqrt D$, over the newest `window` tokens, itself included. It keeps 2 D numbers (key and value) for each token in its cache, and at most `window` tokens.

The requirements below are measured. Then change the ratio, or a, and explain to yourself what happens to the memory.
"""

import math

import torch

from seqlab.course.exercise import Case, Requirement
from seqlab.course.exercises.ch11.shared import randn


def griffin(x, n_layers, window):
    """x (T, D). Returns y (T, D), local (n_layers,), bool, and kept (T,), whole numbers."""
    ### BEGIN SOLUTION
    local = torch.tensor([n % 3 == 2 for n in range(n_layers)])
    memories = [[] if window_here else 0 * x[0] for window_here in local]
    a, D = 0.9, x.shape[-1]
    ys, kept = [], []
    for u in x:
        for n in range(n_layers):
            if not local[n]:
                memories[n] = a * memories[n] + math.sqrt(1 - a**2) * u
                u = u + memories[n]
            else:
                memories[n] = [*memories[n], u][-window:]
                cache = torch.stack(memories[n])
                u = u + torch.softmax(cache @ u / D**0.5, 0) @ cache
        ys.append(u)
        kept.append(sum(2 * D * len(m) if isinstance(m, list) else D for m in memories))
    return torch.stack(ys), local, torch.tensor(kept)
    ### END SOLUTION


WHY = r"""
**Solution.** One list of memories, one for each layer; each token goes through all layers before the next comes. Here q = k = v, so one copy would do; a real layer has a key and a value, and the count says so.

The memory grows until the window is full and stays there. The windows' part is $2 D W$ a layer, the recurrent part D: with W = 2,048 nearly everything that Griffin keeps is its windows. That is the price of exact recall.

*Common mistakes:* a window on every third layer from layer 0; W old tokens and the new one; a cache that is cut only when it is read.
"""

HINTS = (
    "Keep a list with one memory for each layer, and send each token through all layers.",
    "Layer n is a window if n % 3 == 2; local = torch.arange(n_layers) % 3 == 2. Its memory is a list, cut to the last `window` entries after the new one is added.",
    "memories[n] = [*memories[n], u][-window:]; cache = torch.stack(memories[n]); u = u + softmax(cache @ u / sqrt(D)) @ cache.",
)


def cases(rng):
    def case(name, T, D, n_layers, window):
        return Case(
            name, {"x": randn(rng, T, D), "n_layers": n_layers, "window": window}
        )

    return [
        case("one token", 1, 4, 3, 4),
        case("recurrent layers only", 7, 3, 2, 4),
        case("a window of 1", 6, 4, 3, 1),
        case("26 layers", 5, 4, 26, 3),
        case("longer than the window", 20, 6, 6, 5),
    ]


def by_layers(x, n_layers, window):
    """Layer by layer, each over the whole text, by matrices over time; in float64."""
    x = x.double()
    T, D = x.shape
    age = torch.arange(T)[:, None] - torch.arange(T)
    fade = torch.where(age >= 0, 0.9 ** age.clamp(min=0).double(), 0.0) * math.sqrt(
        0.19
    )
    outside = (age < 0) | (age >= window)
    for n in range(n_layers):
        scores = (x @ x.mT / math.sqrt(D)).masked_fill(outside, -torch.inf)
        x = x + (scores.softmax(-1) if n % 3 == 2 else fade) @ x
    return x


def right_parts(inputs, values):
    for given, (y, local, kept) in zip(inputs, values, strict=True):
        if y.shape != given["x"].shape:
            return False, f"y is {tuple(y.shape)}"
        if len(local) != given["n_layers"] or len(kept) != len(given["x"]):
            return False, f"{len(local)} layers and {len(kept)} counts"
    return True, "they fit"


def right_order(inputs, values):
    for given, (_, local, _) in zip(inputs, values, strict=True):
        windows = [n for n, here in enumerate(local.tolist()) if here]
        if windows != list(range(2, given["n_layers"], 3)):
            return False, f"windows at {windows[:4]}"
    return True, "two to one"


def bounded(inputs, values):
    for given, (_, _, kept) in zip(inputs, values, strict=True):
        if (
            len(kept) > given["window"]
            and len({int(k) for k in kept[given["window"] - 1 :]}) > 1
        ):
            return False, f"it still grows after {given['window']} tokens"
    return True, "it stays"


def counted(inputs, values):
    for given, (_, _, kept) in zip(inputs, values, strict=True):
        T, D = given["x"].shape
        n_local = given["n_layers"] // 3
        per = [
            D * (given["n_layers"] - n_local)
            + 2 * D * n_local * min(t, given["window"])
            for t in range(1, T + 1)
        ]
        if [int(k) for k in kept] != per:
            return False, f"{int(kept[-1])} at the end; {per[-1]} are kept"
    return True, "every count is right"


def recurrent_alone(inputs, values):
    return _off(inputs, values, lambda given: given["n_layers"] < 3)


def windows_too(inputs, values):
    return _off(inputs, values, lambda given: True)


def _off(inputs, values, which):
    worst = 0.0
    for given, (y, *_) in zip(inputs, values, strict=True):
        if which(given):
            right = by_layers(**given)
            worst = max(
                worst, float((y.double() - right).abs().max() / right.abs().max())
            )
    return worst < 1e-4, f"off by {worst:.1e} of the largest output"


REQUIREMENTS = (
    Requirement(
        "y, local and kept",
        right_parts,
        "The parts do not fit: y is as large as x, local has an entry for each layer, and there is a count for each token.",
    ),
    Requirement(
        "two to one",
        right_order,
        "The order of the layers is not recurrent, recurrent, window, from layer 0 on.",
    ),
    Requirement(
        "a state that does not grow",
        bounded,
        "What is kept still grows after `window` tokens: the token itself is one of them.",
    ),
    Requirement(
        "right counts",
        counted,
        "Some count is wrong: D for a recurrent layer, 2 D for each cached token of a window, the new token included.",
    ),
    Requirement(
        "the recurrent layers",
        recurrent_alone,
        "A model of two recurrent layers differs from a matrix over all pairs: look at a, at √(1 - a²) and at the sum with the stream.",
    ),
    Requirement(
        "the whole model",
        windows_too,
        "A model with windows differs from layers run over the whole text: which tokens does a window see, and are the scores divided by √D?",
    ),
)


def _by_layers(x, n_layers, window):
    T, D = x.shape
    local = torch.arange(n_layers) % 3 == 2
    seen = torch.arange(1, T + 1).clamp(max=window)
    n_local = int(local.sum())
    kept = D * (n_layers - n_local) + 2 * D * n_local * seen
    return by_layers(x, n_layers, window).float(), local, kept


ALTERNATIVES = (_by_layers,)

OUTPUTS = ("y", "local", "kept")

MISTAKES = """
torch.stack(ys), local, torch.tensor(kept) → torch.stack(ys), local, torch.tensor(kept[:-1])
    The parts do not fit: y is as large as x, local has an entry for each layer, and there is a count for each token.
n % 3 == 2 → n % 3 == 0
    The order of the layers is not recurrent, recurrent, window, from layer 0 on.
[*memories[n], u][-window:] → [*memories[n], u]
    What is kept still grows after `window` tokens: the token itself is one of them.
2 * D * len(m) if → D * len(m) if
    Some count is wrong: D for a recurrent layer, 2 D for each cached token of a window, the new token included.
math.sqrt(1 - a**2) → (1 - a)
    A model of two recurrent layers differs from a matrix over all pairs: look at a, at √(1 - a²) and at the sum with the stream.
cache @ u / D**0.5 → cache @ u
    A model with windows differs from layers run over the whole text: which tokens does a window see, and are the scores divided by √D?
"""
