r"""Bug hunt: a filter that reaches round

*Mend a long convolution that is right in every short test. · 12 minutes · ●●○ · 2 points*

The function in the next cell convolves a text with one fading filter for each channel, $h_l = e^{-\mathrm{rate} \cdot l}$. The text comes in bfloat16, as in a model under training; the answer is float32. Its author tried it on a short text that ends in silence, and it was right. It has **two bugs**. Run the cell and read the symptoms. Then write the right version into `mended`:

- $y_t = \sum_{s \le t} h_{t-s}\, x_s$ for every T, with the filter at full float32 precision;
- x is taken as it comes (its numbers are exact), and y is float32.
"""

import torch

from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch12.shared import randn


def mended(x, rate):
    """x (T, D), bfloat16 or float32, rate (D,), float32. Returns y (T, D), float32."""
    ### BEGIN SOLUTION
    T = len(x)
    ages = torch.arange(T, dtype=torch.float32)
    h = torch.exp(-rate * ages[:, None])  # (T, D)
    size = 2 * T
    of_text = torch.fft.rfft(x.float(), n=size, dim=0)
    of_filter = torch.fft.rfft(h, n=size, dim=0)
    return torch.fft.irfft(of_text * of_filter, n=size, dim=0)[:T]
    ### END SOLUTION


WHY = r"""
**The first bug**: without zeros the FFT convolves on a circle. The end of the text is added to its beginning. If the text ends in silence, nothing reaches round, and the test passes. Zeros up to 2T - 1 or more keep the two ends apart.

**The second bug**: the ages are counted in the dtype of x. bfloat16 has 8 significant bits, so 257 is rounded to 256: from age 256 on, neighbouring taps are equal, from 512 on four, and so on, and the filter becomes stairs. Fast filters are over by then, so only slow ones suffer. Positions, ages and angles belong into float32, whatever the model computes in; `seqlab`'s implicit filter even takes float64.

*Common mistakes:* zeros appended to the text alone, with `size = T`; rounding the finished filter to the text's type; computing in bfloat16 and casting at the end.
"""

HINTS = (
    "One bug shows at the beginning of a text, the other only beyond 256 tokens.",
    "How long must the transform be, so that the end of one does not reach the beginning of the other? And what is torch.tensor(257.).bfloat16()?",
    "ages = torch.arange(T, dtype=torch.float32); size = 2 * T for both rfft and irfft; x.float().",
)


def reference(x, rate):
    """The recurrence, which has neither a circle nor ages; in float64."""
    a, h, ys = torch.exp(-rate.double()), 0.0, []
    for u in x.double():
        h = a * h + u
        ys.append(h)
    return torch.stack(ys).float()


def cases(rng):
    def case(name, T, low, high, D=2, dtype=torch.bfloat16, silent=0):
        x = randn(rng, T, D)
        x[T - silent :] = 0
        rate = torch.linspace(low, high, D).requires_grad_()
        return Case(name, {"x": x.to(dtype), "rate": rate})

    return [
        case("one token", 1, 0.5, 1.0),
        case("a short text that ends in silence", 40, 0.5, 1.0, silent=20),
        case("a loud end", 9, 0.05, 0.2),
        case("a float32 text", 33, 0.02, 0.1, 3, torch.float32),
        case("600 tokens, fast and slow filters", 600, 0.002, 0.5),
        case("600 tokens that end in silence", 600, 0.002, 0.003, silent=599),
    ]


OUTPUTS = ("y",)

TIME_AXIS = {"y": 0}

TOLERANCE = 1e-5

PROPERTIES = (
    Property(
        "y is float32",
        lambda inputs: [],
        lambda inputs, values: values[0].dtype == torch.float32,
        "The numbers are right, but y is not float32, as it should be whatever type x has.",
    ),
)


def _by_matrix(x, rate):
    T = len(x)
    age = torch.arange(T)[:, None] - torch.arange(T)
    h = torch.exp(-rate[:, None, None] * age.clamp(min=0)) * (age >= 0)
    return torch.einsum("dts, sd -> td", h, x.float())


ALTERNATIVES = (_by_matrix,)

MISTAKES = """
size = 2 * T → size = T
    The end of the text still reaches round to its beginning: append zeros up to 2T.
ages = torch.arange(T, dtype=torch.float32) → ages = torch.arange(T, dtype=x.dtype).float()
    The ages are still counted in the dtype of x: bfloat16 has no 257.
h = torch.exp(-rate * ages[:, None])  # (T, D) → h = torch.exp(-rate * ages[:, None]).to(x.dtype).float()
    The finished filter is rounded to the dtype of x: keep it in float32.
return torch.fft.irfft(of_text * of_filter, n=size, dim=0)[:T] → return torch.fft.irfft(of_text * of_filter, n=size, dim=0)[:T].to(x.dtype).float()
    The answer is rounded to the dtype of x on its way: return the float32 numbers.
ages[:, None] → ages.flip(0)[:, None]
    The filter is turned round: h_0 belongs to the newest token.
ages[:, None] → (ages[:, None] + 1)
    The filter starts at age 1: the newest token has the weight 1.
of_text * of_filter → of_text * of_filter.conj()
    The filter looks into the future: a conjugate spectrum turns it round in time.
[:T] → [T - 1 : 2 * T - 1]
    The outputs are those after the text: the first T are asked for.
"""
