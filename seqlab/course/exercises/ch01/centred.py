r"""Turn a LayerNorm into an RMSNorm

*Move the mean out of the norm, into the weights before it. · 15 minutes · ●●○ · 2 points*

LayerNorm subtracts the mean of the channels and divides by the standard deviation; RMSNorm divides by the root mean square alone. Without a weight and a bias, they are

$$\mathrm{LN}(u) = \frac{u - \bar u}{\sqrt{\tfrac1D \sum_i (u_i - \bar u)^2 + \varepsilon}} \qquad \mathrm{RMS}(u) = \frac{u}{\sqrt{\tfrac1D \sum_i u_i^2 + \varepsilon}}$$

On which inputs do they agree? Use your answer. A trained layer computes $\mathrm{LN}(W x + b)$. Find a matrix and a bias of the same shapes such that $\mathrm{RMS}(W' x + b')$ is the same for **every** x. So a trained model
can lose its means after training, for nothing.
"""

import torch
import torch.nn.functional as F

from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch01.shared import _close, _randn
from seqlab.course.exercises.vocabulary import swapped, transposed


def centred(W, b):
    """(W', b') with RMS(W' x + b') = LN(W x + b) for every x. W (D, E), b (D,), so W x + b has D channels."""
    ### BEGIN SOLUTION
    return W - W.mean(0), b - b.mean()
    ### END SOLUTION


WHY = r"""
**Solution.** The two norms agree where the mean of u is 0, and $\mathrm{LN}(u) = \mathrm{RMS}(u - \bar u)$ always. The mean over the channels of $W x + b$ is linear in x: it is $\bar w \cdot x + \bar b$, where $\bar w$ is the mean of the *rows*
of W. Subtract $\bar w$ from each row and $\bar b$ from b, and the layer's output has mean 0 for every x.

In a pre-norm transformer all that is added to the stream comes from such layers: from the embedding, the output maps of attention and the feed-forward layers. Centre them all, and every LayerNorm may become an RMSNorm. That LayerNorm's mean can be
dropped at so little cost is what RMSNorm's paper found by training.

*Common mistakes:* the mean over the other axis, which centres what goes *in*; one mean over all of W; b left as it is; dividing by the deviation of W, although the norm does that, for each x anew.
"""

HINTS = (
    "For which u is LN(u) = RMS(u)? How can you make every u such a one?",
    "LN(u) = RMS(u - mean of u). The mean over the channels of W x + b is (mean of the rows of W)·x + mean of b.",
    "W - W.mean(0), b - b.mean(): the mean over the D outputs, for each input channel.",
)


def reference(W, b):
    """By the matrix that takes the mean away, in float64."""
    D = len(b)
    away = torch.eye(D, dtype=torch.float64) - torch.ones(D, D, dtype=torch.float64) / D
    return (away @ W.double()).float(), (away @ b.double()).float()


def cases(rng):
    def case(name, D, E, scale=1.0, shift=0.0):
        inputs = {"W": scale * _randn(rng, D, E) + shift, "b": _randn(rng, D) + shift}
        return Case(name, inputs)

    return [
        case("one input channel", 3, 1),
        case("D = E", 4, 4),
        case("more outputs than inputs", 7, 3),
        case("fewer outputs than inputs", 2, 5),
        case("means far from 0", 5, 4, shift=3.0),
        case("large values", 6, 3, scale=100.0),
    ]


def _norms_agree(inputs, outputs):
    W, b = inputs["W"].double(), inputs["b"].double()
    (W2, b2) = (u.double() for u in outputs[0])
    x = torch.randn(W.shape[1], 8, generator=torch.Generator().manual_seed(0)).double()
    u, v = W @ x + b[:, None], W2 @ x + b2[:, None]
    left = F.layer_norm(u.mT, u.shape[:1], eps=1e-5).mT
    return _close(left, v / (v.square().mean(0) + 1e-5).sqrt(), 1e-4)


PROPERTIES = (
    Property(
        "the norms agree",
        variants=lambda inputs: [],
        holds=_norms_agree,
        message="RMS(W' x + b') is not LN(W x + b) for some random x.",
    ),
)

OUTPUTS = ("W", "b")

TIME_AXIS = None


def _row_by_row(W, b):
    mean = torch.stack(list(W)).sum(0) / W.shape[0]
    return torch.stack([row - mean for row in W]), b - b.sum() / len(b)


def _together(W, b):
    whole = torch.cat([W, b[:, None]], dim=1)
    whole = whole - whole.mean(dim=0, keepdim=True)
    return whole[:, :-1], whole[:, -1]


ALTERNATIVES = (
    _row_by_row,
    _together,
    lambda W, b: ((W.mT - W.mean(0)[:, None]).mT, b - torch.ones_like(b) * b.mean()),
)

MISTAKES = """
W - W.mean(0) → W - W.mean(1, keepdim=True)
    The mean of each row is subtracted: that is over the input channels. The norm takes its mean over the D outputs, so subtract the mean of the rows, one number for each input channel.
W - W.mean(0) → W - W.mean()
    One mean of all of W is subtracted. Each input channel has a mean of its own over the D outputs.
b - b.mean() → b
    b is left as it is: it is part of u, and its mean has to go too.
W - W.mean(0) → W
    W is left as it is: its share of u has a mean too, which depends on x.
b - b.mean() → 0 * b
    b' is 0: only the mean of b has to go.
W - W.mean(0), b - b.mean() → (W - W.mean(0)) / W.std(0, correction=0), (b - b.mean()) / b.std(correction=0)
    The columns are divided by their deviations. The norm divides, for each x anew: only the means have to go.
W - W.mean(0), b - b.mean() → W - W.mean(0) - b.mean(), b
    The mean of b is taken from W: it belongs to b, since it does not depend on x.
W - W.mean(0), b - b.mean() → W + W.mean(0), b + b.mean()
    The means are added: they have to be subtracted.
W - W.mean(0) → W - W.sum(0) / W.shape[1]
    The sum of the rows is divided by E, the number of inputs: the norm's mean is over the D outputs.
W - W.mean(0) → W - W.sum(0) / (len(b) - 1)
    The sum of the rows is divided by D - 1: the norm's mean divides by D.
b - b.mean() → b - W.mean()
    The mean of W is taken from b: subtract the mean of b.
W - W.mean(0) → W - W.sum(0)
    The sum of the rows is subtracted from each row: it is their mean.
W - W.mean(0), b - b.mean() → W.mean(0).expand_as(W), b.mean().expand_as(b)
    These are the means themselves, which have to be subtracted.
W - W.mean(0) → W - W.median(0).values
    The median of the rows is subtracted: the norm subtracts their mean.
"""

ALSO = (
    swapped("The outputs have changed places: return (W', b')."),
    transposed("W", says="Your W' is transposed: it must be (D, E), as W is."),
)
