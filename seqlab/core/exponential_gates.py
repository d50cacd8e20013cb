"""Exponential gates that do not overflow: the stabiliser of xLSTM (arXiv:2405.04517).

    S_t = f_t S_{t-1} + i_t v_t k_tᵀ        n_t = f_t n_{t-1} + i_t k_t        i = exp(ĩ)
    y_t = S_t q_t / max(|n_t·q_t|, 1)

Both tables are kept as e^(-m) times themselves, with m_t = max(log f_t + m_{t-1}, ĩ_t). The gates
become e^(log f + m_{t-1} - m_t) and e^(ĩ - m_t), both at most 1, and the 1 in the denominator
becomes e^(-m_t). y does not depend on m. The tables themselves are `seqlab.core.recurrence`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Logits = Float[Tensor, "B T H"]


def stabilise(
    log_f: Logits, i: Logits, m0: Float[Tensor, "B H"] | None = None
) -> tuple[Logits, Logits, Logits]:
    """Log of the scaled forget gate, log of the scaled input gate, and m.

    The recurrence of m unrolls to m_t = F_t + max(m_0, max_{s≤t} (ĩ_s - F_s)), F the sum of log f:
    a running sum plus a running maximum, so the dtype should be float64. m_0 is 0 by default. No
    gradient flows through m: y does not depend on it.
    """
    with torch.no_grad():
        F = log_f.cumsum(dim=1)
        m0 = torch.zeros_like(i[:, :1]) if m0 is None else m0[:, None].to(i.dtype)
        m = torch.maximum(F + torch.maximum(m0, (i - F).cummax(dim=1).values), i)
        shift = torch.cat([m0, m[:, :-1]], dim=1) - m
        shift = torch.minimum(shift, -log_f)  # rounding must not make a log decay of 0 positive
    return log_f + shift, i - m, m


def divide(
    y: Float[Tensor, "*B V1"], m: Float[Tensor, "*B"] | None = None, eps: float = 0.0
) -> Float[Tensor, "*B V"]:
    """y / max(|n·q|, e^-m), with n·q the last channel of y. Without m, y / |n·q|."""
    n = y[..., -1:].abs()
    n = n if m is None else torch.maximum(n, (-m)[..., None].exp())
    return (y[..., :-1] / (n + eps)).to(y.dtype)
