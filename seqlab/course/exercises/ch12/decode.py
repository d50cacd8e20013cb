r"""Decode a filter without modes

*Continue a text token by token, with the prompt's part known beforehand. · 12 minutes · ●●○ · 2 points*

A filter h of any shape has no small state. A prompt $z_0, \dots, z_{P-1}$ is given, and n outputs are wanted. Each is read from everything so far, and makes the next token:

$$y_t = \sum_{s \le t} h_{t-s}\, z_s \qquad z_{t+1} = \tanh(y_t) \qquad t = P - 1, \dots, P + n - 2$$

Every sum has two parts: over the prompt, and over the tokens made since. The first part of *all* n outputs is one convolution, known before the first token is made. Return it as `prompt`, and the n outputs as y.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch12.shared import randn


def decode(z, h, n):
    """z (P, D), h (P + n, D), the newest token's weight first. Returns prompt and y, both (n, D)."""
    ### BEGIN SOLUTION
    P, size = len(z), len(z) + len(h)
    spectrum = torch.fft.rfft(z, n=size, dim=0) * torch.fft.rfft(h, n=size, dim=0)
    prompt = torch.fft.irfft(spectrum, n=size, dim=0)[P - 1 : P + n - 1]
    made, ys = z[:0], []
    for j in range(n):
        y = prompt[j] + (h[:j].flip(0) * made).sum(0)
        ys.append(y)
        made = torch.cat([made, torch.tanh(y)[None]])
    return prompt, torch.stack(ys)
    ### END SOLUTION


WHY = r"""
**Solution.** A convolution of the prompt with a filter that is longer than the prompt gives outputs *behind* the prompt as well: they are what the prompt still says to tokens that do not exist yet. The loop adds the sum over the tokens made so far. Output j needs j products for each channel, whatever the length of the prompt.

So n tokens cost one FFT and about n²/2 products, instead of n sums over P + n tokens. The square of n is still there. Published methods cut the made tokens into blocks, and send the part of each finished block ahead by an FFT, in $O(n \log^2 n)$ in all; but every input must still be kept. A filter of N modes needs N numbers.

*Common mistakes:* a convolution that ends with the prompt; the prompt's part one token late; tokens made in the wrong order.
"""

HINTS = (
    "Convolve the prompt with the filter, but do not cut the result at P: rows P - 1, P, … belong to the n outputs.",
    "prompt = conv(z, h)[P - 1 : P + n - 1], with room for P + len(h) points. Output j adds the j tokens made so far: which weights belong to the oldest and to the newest of them?",
    "The newest made token has age 0: (h[:j].flip(0) * made).sum(0). Then made = torch.cat([made, torch.tanh(y)[None]]).",
)


def reference(z, h, n):
    """Every sum in full, over zeros for the tokens that are not made yet."""
    P, ys, prompt = len(z), [], []
    for t in range(P - 1, P + n - 1):
        ages = t - torch.arange(len(z))
        ys.append((h[ages] * z).sum(0))
        prompt.append((h[ages[:P]] * z[:P]).sum(0))
        z = torch.cat([z, torch.tanh(ys[-1])[None]])
    return torch.stack(prompt), torch.stack(ys)


def cases(rng):
    def case(name, P, n, D, scale=1.0):
        h = scale * randn(rng, P + n, D) / (P + n) ** 0.5
        return Case(name, {"z": randn(rng, P, D), "h": h, "n": n})

    return [
        case("one output", 5, 1, 2),
        case("a prompt of one token", 1, 6, 3),
        case("odd P", 7, 4, 1),
        case("more is made than given", 3, 9, 2),
        case("a large filter", 6, 5, 2, 10.0),
    ]


OUTPUTS = ("prompt", "y")

TIME_AXIS = {"prompt": 0, "y": 0}


def _by_table(z, h, n):
    P = len(z)
    age = torch.arange(P - 1, P + n - 1)[:, None] - torch.arange(P)
    prompt = torch.einsum("npd, pd -> nd", h[age], z)
    y, ahead = prompt.clone(), []
    for j in range(n):
        ahead.append(y[j].clone())
        y[j + 1 :] += h[: n - 1 - j] * torch.tanh(
            y[j]
        )  # sent ahead as soon as it is known
    return prompt, torch.stack(ahead)


ALTERNATIVES = (_by_table,)

MISTAKES = """
[P - 1 : P + n - 1] → [P : P + n]
    The prompt's part is one token late: the first output is at t = P - 1, the prompt's last token.
h[:j].flip(0) → h[:j]
    The tokens made are weighed in the wrong order: the newest has age 0.
h[:j].flip(0) → h[1 : j + 1].flip(0)
    The tokens made are taken to be one token older than they are: the newest has age 0.
torch.tanh(y)[None] → y[None]
    The next token is y itself: it is tanh(y).
y = prompt[j] + (h[:j].flip(0) * made).sum(0) → y = prompt[j]
    Only the prompt is read: the tokens made since belong to the sum as well.
torch.cat([made, torch.tanh(y)[None]]) → torch.tanh(y)[None].expand(j + 1, -1)
    All tokens made are the newest one: keep each of them.
return prompt, torch.stack(ys) → return torch.stack(ys), torch.stack(ys)
    `prompt` holds the whole sums: it is the part of the prompt's tokens alone.
spectrum = torch.fft.rfft(z, n=size, dim=0) * torch.fft.rfft(h, n=size, dim=0) → spectrum = torch.fft.rfft(z, n=size, dim=0) * torch.fft.rfft(h[:P], n=size, dim=0)
    The filter is cut at the prompt's length: later outputs need its older weights.
return prompt, torch.stack(ys) → return torch.fft.irfft(spectrum, n=size, dim=0)[P : P + n], torch.stack(ys)
    y is right, but `prompt` is one token late: its first row is at t = P - 1, the prompt's last token.
[P - 1 : P + n - 1] → [P - 1 : P].expand(n, -1)
    The prompt adds the same to every output here: its tokens grow older, so each output weighs them anew.
torch.tanh(y)[None] → torch.tanh(prompt[j])[None]
    The tokens made come from the prompt's part alone: the next token is tanh of the whole y.
return prompt, torch.stack(ys) → return prompt, torch.tanh(torch.stack(ys))
    The next tokens are returned: y is asked for, before the tanh.
"""
