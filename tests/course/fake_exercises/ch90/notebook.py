# %% [markdown]
# # Exercises
#
# {count} exercises, {points} points, about {minutes} minutes.

# %%
import sys

sys.path.insert(0, "TESTS")
import fake_course

fake_course.install(folder="FOLDER")
from seqlab.course import check

# %% [markdown] tags=["exercise"]
# write

# %% [markdown] tags=["exercise"]
# running_sum

# %% [markdown] tags=["exercise"]
# n_bytes
