# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 00  Start here
#
# This course builds the sequence models of today, one small step at a time.
# It asks one question again and again: **what should a memory forget?**
#
# *You will be able to* find your way, run a figure, read a check, and see your progress.
# *You need* PyTorch and the idea of attention, nothing else. *Time*: 10 minutes.
#
# Run a cell with Shift + Enter. Run this page from top to bottom.

# %%
import torch

from seqlab import figures
from seqlab.core.recurrence import chunkwise, parallel, recurrent
from seqlab.course import progress
from seqlab.course.checking import report_on
from seqlab.course.doctor import examine
from seqlab.course.exercises import find
from seqlab.course.syllabus import PARTS, SYLLABUS, written
from seqlab.figures.course_map import course_map
from seqlab.mixers import LinearAttention, RetNet
from seqlab.widgets import explore, microscope

# %% [markdown]
# ## Does it run here?
#
# The next cell looks at your machine. Each line says what works and, where something does not, what to do.
# A GPU is not needed. `seqlab doctor` in a terminal says the same.

# %% tags=["measured"]
for found in examine():
    print(
        f"{found.state:8} {found.what:16} {found.says}{found.advice and f'  →  {found.advice}'}"
    )

# %% [markdown]
# ## The map
#
# A filled tile is a chapter you can open now. An empty one is still to be written; its number will not change.
# Point at a tile to read the question it opens with.

# %% tags=["measured"]
here = written()
course_map(SYLLABUS, PARTS, here, title=f"Thirty chapters, {len(here)} of them written")

# %% [markdown]
# The order is an argument. Each chapter opens with a task on which the model before it fails.
# Then it makes one change that mends the failure, and shows the memory before and after.
#
# | from | what fails | what changes |
# |---|---|---|
# | RNN | step *t* must wait for step *t* − 1 | drop the nonlinearity: linear attention |
# | linear attention | never forgets | one constant decay: RetNet |
# | RetNet | forgets blindly | a decay chosen by the input: gates, Mamba |
# | Mamba-2 | cannot overwrite | the delta rule |
#
# ## One equation
#
# All of these are one equation with different choices in it:
#
# $$S_t = S_{t-1} A_t + v_t k_t^\top \qquad\qquad y_t = S_t\, q_t$$
#
# $S$ is the memory: a table of numbers. $A_t$ says what to keep of it.
# $v_t k_t^\top$ writes the value $v_t$ under the key $k_t$. $S_t q_t$ reads with the query $q_t$.
#
# The course computes it in three ways. Token by token, as when a model writes text.
# All pairs at once, as in attention. And in chunks, as in training. They must give one answer:

# %% tags=["nbval-check-output"]
torch.manual_seed(0)
q, k = torch.randn(2, 1, 100, 4, 8, dtype=torch.float64)  # (B, T, H, K) each
v = torch.randn(1, 100, 4, 16, dtype=torch.float64)  # (B, T, H, V)
# log of the decay, one number per head and token
log_a = -torch.rand(1, 100, 4, 1, dtype=torch.float64)

y, S = recurrent(q, k, v, log_a=log_a)
for form in (parallel, chunkwise):
    y_form, S_form = form(q, k, v, log_a=log_a)
    same = torch.allclose(y_form, y, rtol=0, atol=1e-9) and torch.allclose(
        S_form, S, rtol=0, atol=1e-9
    )
    print(f"{form.__name__:9} equals recurrent to 1e-9: {same}")

# %% [markdown]
# ## A dial to turn
#
# Many figures have a slider. This one shows how much of a token is left after some steps, for a decay you choose.
# *What to see*: the weight halves each time the dotted line is passed again. At half-life 1 almost nothing outlives ten
# tokens; at 64 almost everything does.
#
# On a static page you see the first frame only. In JupyterLab, move the slider.

# %%
steps = torch.arange(64)


def left_over(half_life=8):
    weight = 0.5 ** (steps / half_life)
    fig = figures.figure(
        {
            "type": "scatter",
            "x": steps.tolist(),
            "y": weight.tolist(),
            "line": {"color": figures.COLORS["decay"]},
        },
        title=f"After {half_life} token{'s' * (half_life > 1)}, half of what was written is left",
        x="tokens since the write",
        y="what is left",
        height=320,
    )
    fig.add_vline(half_life, line={"dash": "dot", "color": figures.COLORS["write"]})
    return fig.update_yaxes(range=[0, 1.05])


explore(left_over, half_life=(1, 64))

# %% [markdown]
# ## The state microscope
#
# This is the figure you will meet most often. It looks inside any model's memory while it reads a short sequence.
# Here: a RetNet with random weights and random input, so only the shapes matter.
#
# * *top left*: the memory $S$ after the token you chose; *top right*: the part this token wrote;
# * *bottom left*: how much each earlier token counts in each read;
# * *bottom right*: does each key still return the value stored under it? 1 means exactly that value.
#
# *What to see*: step back to the first token. One write, and its key returns it perfectly.
# Then go forward: the keys overlap, so every new write blurs the older ones.

# %%
torch.manual_seed(1)
x = torch.randn(1, 12, 32)
microscope(RetNet(32, n_heads=2), x, labels=list("abcdefghijkl"))

# %% [markdown]
# The same sequence in a linear attention. *What to see*: the strip at the bottom. RetNet's memory has a half-life;
# linear attention's has none. That difference is chapter 04.

# %%
microscope(LinearAttention(32, n_heads=2), x, labels=list("abcdefghijkl"))

# %% [markdown]
# ## An exercise that names your mistake
#
# Exercises come with a check. It does not only say *wrong*: it compares your answer with the mistakes people make and
# says which one it is. Here is exercise 03.2, write one token into the memory, answered wrongly on purpose:

# %%
exercise = find("03.2")


def write(S, k, v):
    return S + k[..., :, None] * v[..., None, :]  # k vᵀ, not v kᵀ


report_on(exercise, write)

# %% [markdown]
# In an exercise notebook you call `check("03.2", write)`; it does the same and records your points.
# If you are stuck, `hint("03.2")` opens one hint at a time, three in all.
# After an attempt, `show_solution("03.2")` explains the answer.
#
# Your answers live in your own copy. In a terminal:
#
# ```
# seqlab start 03      copy the exercises of chapter 03 into work/ (never overwrites)
# seqlab grade 03      grade your copy
# seqlab progress      your points
# seqlab update        get a newer course; your work is moved aside, never lost
# ```
#
# ## Your progress

# %% tags=["measured"]
progress()

# %% [markdown]
# ## Where to go
#
# Start with [03 Linear attention](03_linear_attention.ipynb), then [04 RetNet](04_retnet.ipynb).
# Read a chapter, then run `seqlab start 03` and answer its exercises in `work/`.
