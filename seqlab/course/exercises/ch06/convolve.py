"""Bug hunt: a convolution that bites its tail

*Mend an FFT convolution that must go on from earlier inputs. · 12 minutes · ●●○ · 2 points*

This function convolves each channel with its kernel through the FFT. The inputs `past` came before x in an earlier call; they are
read, but only the outputs of x are returned. It runs, its shapes are right, and it has **two bugs**. Run the cell below to see two
symptoms. Then write the right version into `convolve`. You may copy the code and change a few lines.
"""

import torch

from seqlab.core.convolution import direct_conv, fft_conv
from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch06.shared import _close, _randn
from seqlab.course.exercises.vocabulary import input_, reversed_in_time


def convolve(x, kernel, past):
    """y_t = Σ_l kernel_l x_{t-l} for the tokens of x, each channel with its own kernel; past comes before x.

    x (B, T, D), kernel (D, L), L taps, kernel[:, 0] for the newest token; past (B, P, D). Returns y (B, T, D).
    """
    ### BEGIN SOLUTION
    inputs = torch.cat([past, x], dim=1)
    length = inputs.shape[1]
    size = length + kernel.shape[1]
    spectrum = torch.fft.rfft(inputs, size, dim=1)
    spectrum = spectrum * torch.fft.rfft(kernel.mT, size, dim=0)
    y = torch.fft.irfft(spectrum, size, dim=1)
    return y[:, past.shape[1] : length]
    ### END SOLUTION


WHY = r"""
**The first bug** is the size. A product of spectra is a convolution on a *circle* of `size` points. If the circle has only as many
points as there are inputs, what runs over the end comes in again at the beginning: the first outputs hold the last inputs, which
lie in their future. Zeros up to the length of inputs plus kernel keep the two ends apart.

**The second bug** is the cut. The outputs of `past` come first, those of x after them. With an empty past both cuts agree, so a
test on one whole text does not see it.

*Common mistakes:* padding to 2T is enough only if the kernel is no longer than the inputs; an `irfft` without its size returns an
even number of points, so an odd length loses one.
"""

HINTS = (
    "There are two bugs. One shows in the first outputs of any text, the other only if past is not empty.",
    "The FFT's circle must have room for the inputs and for the kernel's tail. And which of the outputs belong to x?",
    "size = length + kernel.shape[1] in all three transforms; then y[:, past.shape[1] : length].",
)

reference = direct_conv


def cases(rng):
    def case(name, B, T, D, L, P):
        return Case(
            name,
            {
                "x": _randn(rng, B, T, D),
                "kernel": _randn(rng, D, L),
                "past": _randn(rng, B, P, D),
            },
        )

    return [
        case("T = 1, no past", 2, 1, 3, 1, 0),
        case("no past", 2, 8, 3, 8, 0),
        case("odd T, no past", 1, 7, 2, 6, 0),
        case("a past", 2, 6, 3, 10, 4),
        case("T = 1 after a past: decoding", 2, 1, 3, 6, 5),
        case("a kernel shorter than T", 1, 9, 2, 4, 2),
        case("a kernel longer than the text", 2, 5, 4, 40, 3),
        case("large values", 1, 33, 2, 20, 9),
    ]


def _later_changed(inputs):
    x = inputs["x"].clone()
    x[:, (x.shape[1] + 1) // 2 :] += 3
    return [{**inputs, "x": x}]


PROPERTIES = (
    Property(
        "causal",
        variants=_later_changed,
        holds=lambda inputs, outputs: _close(
            *(y[:, : (inputs["x"].shape[1] + 1) // 2] for y in outputs), 1e-2
        ),
        message="Changing later tokens changed earlier outputs: the end of the text reaches round to its beginning, or the "
        "outputs are cut out at another place.",
    ),
)


def _by_taps(x, kernel, past):
    inputs = torch.cat([past, x], dim=1)
    y = torch.zeros_like(x)
    for lag in range(min(kernel.shape[1], inputs.shape[1])):
        moved = torch.nn.functional.pad(inputs, (0, 0, lag, 0))[:, : inputs.shape[1]]
        y = y + kernel[:, lag] * moved[:, past.shape[1] :]
    return y


def _by_conv1d(x, kernel, past):
    D, L = kernel.shape
    inputs = torch.nn.functional.pad(torch.cat([past, x], dim=1), (0, 0, L - 1, 0))
    y = torch.nn.functional.conv1d(inputs.mT, kernel.flip(1)[:, None], groups=D).mT
    return y[:, past.shape[1] :]


ALTERNATIVES = (fft_conv, _by_taps, _by_conv1d)

OUTPUTS = ("y",)

MISTAKES = """
length + kernel.shape[1] → length ; past.shape[1] : length → : length - past.shape[1]
    Both bugs are still there: the end of the text reaches round to its beginning, and the outputs returned are those of
    past first.
length + kernel.shape[1] → length
    The cut is mended, the circle is not: it has as many points as there are inputs, so the end reaches round to the
    beginning. Look at the size of the transforms.
past.shape[1] : length → : length - past.shape[1]
    The circle is mended, the cut is not: the first outputs belong to past. Return those of x, which come after them.
inputs = torch.cat([past, x], dim=1) → inputs = torch.cat([0 * past, x], dim=1)
    The past is not read: its inputs must reach the outputs of x.
inputs = torch.cat([past, x], dim=1) → inputs = torch.cat([x, past], dim=1)
    The past is put behind x: it came before.
rfft(kernel.mT, size, dim=0) → rfft(kernel.mT, size, dim=0).conj()
    The kernel runs backwards in time: this is a correlation, in which a token reads those after it. Look for a conj, or a
    flip.
length + kernel.shape[1] → 2 * x.shape[1] + past.shape[1]
    The circle leaves room for T more tokens, which is not enough for a kernel that is longer: room for all its taps is
    needed.
rfft(kernel.mT, size, dim=0) → rfft(kernel.flip(1).mT, size, dim=0)
    The kernel is flipped, as conv1d wants it: here kernel[:, 0] is for the newest token, and the FFT takes it as it is.
y[:, past.shape[1] : length] → y[:, past.shape[1] + 1 : length + 1]
    Each output comes one token too early: the token itself is read with kernel[:, 0], at the same place.
rfft(kernel.mT, size, dim=0) → rfft(kernel.softmax(1).mT, size, dim=0)
    The kernel goes through a softmax: use it as it is.
y[:, past.shape[1] : length] → y[:, -x.shape[1] :]
    The last points of the circle are returned: behind the outputs of x comes what the kernel would still say after the
    text. Those of x end at the length of past and x.
irfft(spectrum, size, dim=1) → irfft(spectrum, dim=1)
    irfft is not told the size, and without it returns an even number of points: where the size is odd, the circle has one
    point less.
rfft(kernel.mT, size, dim=0) → rfft(kernel[:, 1:].mT, size, dim=0)
    The kernel lacks its first tap: kernel[:, 0] reads the newest token.
"""

ALSO = (
    input_(
        "kernel",
        lambda k: k[:1].expand_as(k),
        "All channels use the kernel of the first: each has its own.",
    ),
    reversed_in_time("y"),
)
