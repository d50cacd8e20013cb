"""Their weights into our modules, by a table of names.

The table maps their names to ours: `{"model.layers.*.self_attn.q_proj": "blocks.*.mixer.q"}`. Each
star is a number, and fills the star at the same place of our name; a name without its last part
(weight, bias) covers all of them. `qkv.weight[0:16]` is a slice of our `qkv.weight`. `into` is for
weights that are cut or changed. None drops what the model does not need (numbers that the config
determines, a second head), with everything under that name. Every other weight of theirs must have
a place, and every number of ours must be filled.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from seqlab.core.inputs import wide

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


@dataclass(frozen=True)
class Into:
    """Where a weight goes: see `into` and `same_as`."""

    names: tuple[str, ...]
    dim: int = 0
    by: Callable[[Tensor], Tensor] | None = None
    expected: Tensor | None = None


Names = dict[str, str | Into | None]  # from their names to ours


def into(*names: str, dim: int = 0, by: Callable[[Tensor], Tensor] | None = None) -> Into:
    """A weight that is changed by the function `by`, then cut along `dim` into `names` in order."""
    return Into(names, dim, by)


def plus_one(weight: Tensor) -> Tensor:
    """For norms that keep w - 1."""
    return weight + 1


def without_channel(weight: Tensor) -> Tensor:
    """`nn.Conv1d`'s depthwise weight (D, 1, W) as ours (D, W)."""
    return weight[:, 0]


def same_as(expected: Tensor) -> Into:
    """A constant that the config determines: it must be `expected`, up to its dtype's rounding."""
    return Into((), expected=expected)


def experts(
    theirs: str,
    ours: str,
    n: int,
    stored: str | None = None,
    parts: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
) -> Names:
    """The table of n gated experts, in both ways that `transformers` has.

    In memory they are stacked, gate and up in one tensor; in a checkpoint they are stored one by
    one, under the name `stored`, in three `parts`.
    """
    both = [f"{ours}.{e}.{part}.weight" for e in range(n) for part in ("gate", "up")]
    down = [f"{ours}.{e}.down.weight" for e in range(n)]
    table: Names = {
        f"{theirs}.gate_up_proj": into(*both, by=_unstack),
        f"{theirs}.down_proj": into(*down, by=_unstack),
    }
    for their_part, part in zip(parts, ("gate", "up", "down"), strict=True):
        table[f"{stored or theirs}.*.{their_part}"] = f"{ours}.*.{part}"
    return table


def _unstack(weight: Tensor) -> Tensor:
    return weight.flatten(0, 1)


@torch.no_grad()
def fill(model: nn.Module, weights: Iterable[tuple[str, Tensor]], table: Names):
    """Copy every weight to its place, in its own dtype and on its own device.

    Only a buffer (a router's bias) stays in float32 at least. ValueError if anything is left over.
    """
    ours = model.state_dict(keep_vars=True)
    # How much of each tensor of ours is filled, by slice; tied weights are one tensor.
    written: dict[int, dict[str, int]] = {}
    homeless = []
    for name, weight in weights:
        rule = _rule(table, name)
        if rule is None:
            homeless.append(name)
            continue
        for place, piece in _pieces(ours, rule, weight, name):
            _write(ours, place, piece, written, name)
    empty = [name for name, t in ours.items() if sum(written.get(id(t), {}).values()) != t.numel()]
    if homeless or empty:
        problems = [f"the weights {_some(homeless)} have no place in our model"] if homeless else []
        problems += [f"nothing fills our {_some(empty)}"] if empty else []
        raise ValueError("; ".join(problems))


def _rule(table, name) -> Into | None:
    """The table's entry for `name`: with its numbers or with stars, with or without its end."""
    if any(table.get(name[: dot.start()], "") is None for dot in re.finditer(r"\.", name)):
        return Into(())
    for key, numbers in ((name, ()), (_NUMBER.sub("*", name), _NUMBER.findall(name))):
        stem, _, last = key.rpartition(".")
        for entry, end in ((key, ""), (stem, f".{last}")):
            if entry in table:
                rule = _as_into(table[entry])
                names = tuple(_with_numbers(ours, numbers) + end for ours in rule.names)
                return replace(rule, names=names)
    return None


def _as_into(rule: str | Into | None) -> Into:
    if rule is None:
        return Into(())
    return into(rule) if isinstance(rule, str) else rule


def _with_numbers(name: str, numbers: Iterable[str]) -> str:
    for number in numbers:
        name = name.replace("*", number, 1)
    return name


def _pieces(ours, rule, weight, name):
    """The places of a weight, and the piece for each."""
    if rule.expected is not None:
        stored = weight.double().flatten()
        rounding = torch.finfo(weight.dtype).eps
        if not torch.allclose(stored, rule.expected.double().to(stored.device), rtol=4 * rounding):
            raise ValueError(f"{name} is a constant, but not the one that the config asks for")
    places = [_place(ours, target, name) for target in rule.names]
    weight = rule.by(weight) if rule.by else weight
    if len(places) < 2:
        return [(place, weight) for place in places]
    sizes = [ours[target][index].shape[rule.dim] for target, index in places]
    if sum(sizes) != weight.shape[rule.dim]:
        raise ValueError(
            f"{name} has size {weight.shape[rule.dim]} along {rule.dim}: {sizes} in parts is needed"
        )
    return zip(places, weight.split(sizes, rule.dim), strict=True)


def _place(ours, target, name):
    """A name and an index of ours: all of it, or the rows of its brackets."""
    target, _, rows = target.rstrip("]").partition("[")
    if target not in ours:
        raise ValueError(f"{name} belongs to our {target}, which the config leaves out")
    return target, slice(*map(int, rows.split(":"))) if rows else ...


def _write(ours, place, piece, written, name):
    target, index = place
    tensor = ours[target]
    if tensor[index].shape != piece.shape:
        raise ValueError(
            f"{name} has shape {tuple(piece.shape)}, our {target} has {tuple(tensor[index].shape)}"
        )
    slices = written.setdefault(id(tensor), {})
    if not slices:
        dtype = piece.dtype if isinstance(tensor, nn.Parameter) else wide(piece).dtype
        tensor.data = torch.empty_like(tensor, dtype=dtype, device=piece.device)
    if str(index) in slices and not torch.equal(tensor[index], piece):
        raise ValueError(f"{name} differs from the weight it should share with our {target}")
    tensor.data[index] = piece
    slices[str(index)] = piece.numel()


def _some(names):
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
