"""A first file for a new exercise, with everything to fill in."""

from pathlib import Path

from seqlab.course import exercises, paths
from seqlab.course.records import write_whole

TEMPLATE = '''"""The heading

*What one learns by it. · 5 minutes · ●○○ · 1 point*

The text. The names of the parameters must stay.
"""

import torch

from seqlab.course.exercise import Case


def NAME(x):
    """What it returns. x (B, T, H); returns (B, T, H)."""
    ### BEGIN SOLUTION
    return x / 2
    ### END SOLUTION


WHY = """
**Solution.** The idea; another way; the common mistakes.
"""

HINTS = ("A direction.", "The key identity.", "Nearly the code.")


def reference(x):
    """By another idea than the solution's: brute force, say."""
    return x - 0.5 * x


def cases(rng):
    """T = 1, odd T, K ≠ V, gates of 0 and 1, large values."""
    return [
        Case(name, {"x": torch.randn(*shape, generator=rng)})
        for name, shape in {"T = 1": (1, 1, 2), "odd T": (2, 7, 3)}.items()
    ]


# Right answers, written differently.
ALTERNATIVES = (lambda x: 0.5 * x,)

# Edits of the solution, each with the sentence to say.
MISTAKES = """
x / 2 → x
    The division is missing: the result is half of x.
x / 2 → -x / 2
    The sign is wrong.
x / 2 → x * 2
    This multiplies by 2: divide.
x / 2 → x / 4
    This divides twice.
"""
'''


def new_exercise(chapter: str, name: str) -> list[Path]:
    """Write NAME.py for `chapter`, and its notebook.py if there is none. Never overwrites.

    Raises ValueError or FileExistsError, in one sentence.
    """
    if not name.isidentifier():
        raise ValueError(f"{name!r} is no name for a function: use letters, digits and underscores")
    page = paths.notebook_of(chapter, "chapters/src", ".py")
    folder = exercises.folders().get(chapter) or Path(exercises.__path__[0]) / f"ch{chapter}"
    file, notebook = folder / f"{name}.py", folder / "notebook.py"
    if file.exists():
        raise FileExistsError(f"{paths.shown(file)} exists already")
    written = {file: TEMPLATE.replace("NAME", name)}
    if not notebook.exists():
        written[folder / "__init__.py"] = f'"""Chapter {chapter}: an exercise a file."""\n'
        written[notebook] = _notebook(page.stem)
    place = f'# %% [markdown] tags=["exercise"]\n# {name}\n'
    before = written.get(notebook) or notebook.read_text(encoding="utf-8")
    written[notebook] = f"{before.rstrip()}\n\n{place}"
    for path, text in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    return list(written)


def _notebook(page: str) -> str:
    return (
        f"# %% [markdown]\n# # Exercises {page[:2]}\n#\n"
        "# {count} exercises, {points} points, about {minutes} minutes. They go with the chapter "
        f"`{page}`.\n#\n# {{how {page[:2]}.1}}\n\n"
        "# %%\nimport torch\n\n"
        "from seqlab.course import check, hint, progress, show_solution\n"
    )
