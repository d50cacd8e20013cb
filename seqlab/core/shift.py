"""What RWKV moves by one token: its inputs (the token shift), and its writes (it reads first)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def token_shift(
    x: Float[Tensor, "B T D"], last: Float[Tensor, "B D"] | None = None
) -> Float[Tensor, "B T D"]:
    """x_{t-1} in the place of each x_t, with `last` (or 0) before the first token.

    The next call's `last` is x[:, -1].
    """
    first = torch.zeros_like(x[:, :1]) if last is None else last[:, None].to(x.dtype)
    return torch.cat([first, x[:, :-1]], dim=1)


def read_before_write(
    form: Callable,
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    log_a: Float[Tensor, "B T H A"],
    bonus: Float[Tensor, "H K"],
    state: Float[Tensor, "B H V K"] | None = None,
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H V K"]]:
    """y_t = (S_{t-1} + v_t (u k_t)ᵀ) q_t,   S_t = S_{t-1} diag(a_t) + v_t k_tᵀ,   u the bonus.

    The read sees the table before this token's decay and write, and the token itself only through
    the bonus. `form`, a form of `seqlab.core.recurrence`, reads after its write. So decays and
    writes enter one step late: step t + 1 applies those of token t. The first step writes nothing,
    and one more step, whose read is dropped, makes the state S_T.
    """
    late = (0, 0, 0, 0, 1, 0)
    y, S = form(
        F.pad(q, (0, 0, 0, 0, 0, 1)),
        F.pad(k, late),
        F.pad(v, late),
        log_a=F.pad(log_a, late),
        state=state,
    )
    return y[:, :-1] + (q * bonus * k).sum(-1, keepdim=True).to(v.dtype) * v, S
