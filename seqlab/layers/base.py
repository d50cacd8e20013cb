"""What all mixers share: the checks of their input and of the sizes they are made with."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from seqlab.core.inputs import at_least_one, autocasts, choose


class Mixer(nn.Module):
    """(x, state) -> (y, state) with x (B, T, d_model): a subclass writes `forward`.

    A call checks x and the state first, so that a wrong one is a TypeError or ValueError of one
    sentence, not a message from deep inside `forward`. Compiled code is not checked.

    FORMS lists what `form` may be. A dict, such as `seqlab.core.recurrence.FORMS`, names functions,
    and any function with their signature (a kernel) is a form too; `self.in_form` is the chosen
    one. A tuple names forms that the subclass tells apart itself. It is empty in a mixer without
    forms.

    torch.func: `functional_call`, `grad` and gradients per sample, `vmap(grad(...))`, work in every
    form of every mixer. These do not:

    - `vmap` with no gradient inside it, in the form "fused" of Elman, LSTM and GRU: PyTorch's RNN
      kernels have no batching rule. Use "recurrent".
    - `jvp` (hence `jacfwd` and `hessian`) and second derivatives in the forms "scan", "tiled" and
      "sdpa", and in MLA and Titans MAG, which are built on them: their backward is written by hand,
      here or in PyTorch.
    - any of them with a Triton kernel as the form.
    """

    FORMS: dict[str, Callable] | tuple[str, ...] = ()

    def __init__(
        self, d_model: int, form: str | Callable | None = None, chunk_size: int | None = None
    ):
        super().__init__()
        at_least_one(d_model=d_model)
        self.d_model = d_model
        self.form = form
        self.chunk_size = chunk_size
        self._check_form()

    def _check_form(self) -> None:
        """An unknown form fails here, not at the first call."""
        if isinstance(self.FORMS, dict):
            choose(self.form, self.FORMS, chunk_size=self.chunk_size)
        elif self.FORMS and self.form not in self.FORMS:
            names = " or ".join(map(repr, self.FORMS))
            raise ValueError(f"form is {self.form!r}: choose {names}")
        if self.chunk_size is not None:
            at_least_one(chunk_size=self.chunk_size)

    @property
    def in_form(self) -> Callable:
        """The function behind `form`, with `chunk_size` bound to it where it works in chunks."""
        forms = self.FORMS if isinstance(self.FORMS, dict) else {}
        return choose(self.form, forms, chunk_size=self.chunk_size)

    def __call__(self, x, state=None, *args, **options):
        if torch.compiler.is_compiling():
            return super().__call__(x, state, *args, **options)
        self.check(x, state)
        if len(x) == 0:
            return self._of_no_sequences(x, state, *args, **options)
        y, state = super().__call__(x, state, *args, **options)
        return y, tree_map_only(Tensor, own, state)

    def _of_no_sequences(self, x, state, *args, **options):
        """y (0, T, D) and a state of 0 rows, from one sequence of zeros that is then cut off.

        So no mixer has to handle B = 0, for which some of PyTorch's functions raise.
        """
        state = tree_map_only(Tensor, lambda part: part.new_zeros(1, *part.shape[1:]), state)
        y, state = super().__call__(x.new_zeros(1, *x.shape[1:]), state, *args, **options)
        return y[:0], tree_map_only(Tensor, lambda part: own(part[:0]), state)

    def check(self, x: Tensor, state=None) -> None:
        """Raise unless x is (B, T, d_model) in the weights' dtype and the state has B rows."""
        name = type(self).__name__
        if not isinstance(x, Tensor):
            raise TypeError(
                f"{name}: x is a {type(x).__name__}: "
                f"a torch.Tensor (B, T, {self.d_model}) is needed"
            )
        if x.ndim != 3 or x.shape[1] < 1 or x.shape[2] != self.d_model:
            raise ValueError(
                f"{name}: x has shape {tuple(x.shape)}: "
                f"(B, T, {self.d_model}) with T at least 1 is needed"
            )
        if not x.is_floating_point():
            raise TypeError(
                f"{name}: x has dtype {x.dtype}: "
                "floating-point vectors are needed (tokens are embedded first)"
            )
        self._check_dtype(x, name)
        for part in tensors_in(state):
            if part.ndim and part.shape[0] != len(x):
                raise ValueError(
                    f"{name}: the state holds a tensor of shape {tuple(part.shape)}, "
                    f"x has {len(x)} sequences: a state belongs to the batch it came from"
                )

    def _check_dtype(self, x, name):
        """TypeError unless one of the weights has the dtype of x.

        Autocast casts all but float64, so there any dtypes without float64 go together.
        """
        cast = x.dtype != torch.float64 and autocasts(x.device.type)
        weights = None
        for p in self.parameters():
            if p.dtype == x.dtype or (cast and p.dtype != torch.float64):
                return
            weights = weights or p.dtype
        if weights is not None:
            raise TypeError(
                f"{name}: x is {x.dtype}, the weights are {weights}: "
                f"use one dtype, as x.to({weights})"
            )


def own(part: Tensor) -> Tensor:
    """part, copied if it is a view of memory more than twice its size.

    A state is often the end of a longer tensor, and a view of its last token would keep the whole
    prompt alive. The tensors of torch.func have no memory to ask about and are returned unchanged.
    """
    try:
        held = part.untyped_storage().nbytes()
    except NotImplementedError:
        return part
    return part.clone() if held > 2 * part.numel() * part.element_size() else part


def tensors_in(state: Any) -> Iterator[Tensor]:
    """Every tensor of a state, which may be a tensor, or tuples, lists and dicts of states."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        yield from tensors_in(list(state.values()))
    elif isinstance(state, tuple | list):
        for part in state:
            yield from tensors_in(part)


def head_width(
    d_model: int,
    n_heads: int,
    d_head: int | None = None,
    *,
    parts: int = 1,
    even: bool = False,
    name: str = "d_model",
) -> int:
    """d_head, or d_model / (parts · n_heads), which must be whole.

    even: the width must be even, because a rotation turns pairs of channels. name: what the message
    calls d_model if it is a multiple of the model's. A width that does not fit raises a ValueError.
    """
    at_least_one(n_heads=n_heads)
    heads = parts * n_heads
    sizes = f"{name} is {d_model}, {'n_heads' if parts == 1 else f'{parts} n_heads'} is {heads}"
    if d_head is not None:
        at_least_one(**{"a head's width": d_head})
        sizes = f"d_head is {d_head}"
    elif d_model % heads:
        raise ValueError(f"{sizes}: the first must be a multiple of the second")
    width = d_head or d_model // heads
    if even and width % 2:
        raise ValueError(
            f"{sizes}: each head needs an even width, as a rotation turns pairs of channels"
        )
    return width


def check_layer(layer: int, n_layers: int) -> None:
    """ValueError unless layer is one of 0 .. n_layers - 1."""
    if not 0 <= layer < n_layers:
        raise ValueError(
            f"layer is {layer}, n_layers is {n_layers}: "
            "layers are numbered from 0, so pass n_layers too"
        )


def check_shape(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """ValueError for another shape, in front of code that would not notice.

    PyTorch's fused LSTM reads past the end of a state that is too small.
    """
    if x.shape != shape:
        raise ValueError(f"{name} has shape {tuple(x.shape)}: {shape} is needed")
