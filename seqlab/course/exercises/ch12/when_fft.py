r"""How much does the FFT save?

*Count the products of both ways at a real length. · 6 minutes · ●○○ · 1 point*

One channel, one text of T = 32,768 tokens (StripedHyena's longest), and a filter as long as the text.

- **Direct**: one real product for each pair of a token and a token that is not later.
- **FFT**: zeros are appended up to $N = 2T$. A transform of N real numbers, in either direction, costs $N \log_2 N$ real products. There are three: the text, the filter, and back. Between them two spectra of $T + 1$ complex numbers are multiplied, and a complex product is four real ones.

How many **times** more products does the direct sum need? Compute it; do not round.
"""

import math

### BEGIN SOLUTION
T = 32768
direct = T * (T + 1) / 2
N = 2 * T
fft = 3 * N * math.log2(N) + 4 * (T + 1)
ratio = direct / fft
### END SOLUTION

WHY = r"""
**Solution.** Direct: $T (T + 1) / 2$, half a billion. FFT: $3 \cdot 65{,}536 \cdot 16$ for the transforms and 131,076 for the product, 3.3 million in all. The ratio is 164.

At T = 64 the same count says 2,080 against 2,948, so the direct sum wins, and at T = 128 the FFT does. The crossing that the chapter measures is not exactly there: a count knows nothing of memory, of calls, or of how well a library uses the machine. Between neighbouring texts of a batch the filter's transform is shared, which saves up to a third.

*Common mistakes:* no padding; all T² pairs, the future included; one or two transforms; a complex product counted once.
"""

HINTS = (
    "Count the pairs (t, s) with s at most t, for the direct sum. Then write down N before the FFT's cost.",
    "Direct: T (T + 1) / 2. FFT: three times N log2 N with N = 65,536, and 4 (T + 1) for the product.",
    "32768 * 32769 / 2 / (3 * 65536 * 16 + 4 * 32769).",
)

reference = 32768 * 32769 / 2 / (3 * 65536 * 16 + 4 * 32769)

TOLERANCE = 1e-9

OUTPUTS = ("ratio",)

ALTERNATIVES = (536887296 / 3276804, 16384 * 32769 / (48 * 65536 + 131076))

MISTAKES = """
direct = T * (T + 1) / 2 → direct = T * T
    All pairs are counted, the future included: a token needs only those that are not later.
N = 2 * T → N = T
    The zeros are missing: the transforms have N = 2T points, else the filter's end reaches round.
3 * N → N
    One transform is counted: there are three, the text, the filter, and back.
3 * N → 2 * N
    Two transforms are counted: there are three, the text, the filter, and back.
+ 4 * (T + 1) →
    The product of the spectra is missing: T + 1 complex products, four real ones each.
4 * (T + 1) → T + 1
    A complex product is counted once: it is four real products.
math.log2(N) → math.log(N)
    The logarithm is natural: it is to the base 2.
ratio = direct / fft → ratio = fft / direct
    The ratio is upside down: the direct sum needs more.
4 * (T + 1) → 4 * N
    The product of the spectra has N terms here: the spectrum of N real numbers has T + 1.
math.log2(N) → math.log2(T)
    The logarithm is that of T: the transforms have N = 2T points.
"""
