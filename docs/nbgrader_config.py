"""nbgrader for this course: copy this file to your nbgrader folder, solutions to source/NN/.

The file for chapter NN is solutions/NN_name.ipynb. With SEQLAB_STRICT=1, set below, `check` raises
if an answer is not right, so its cell scores 0.
"""

import os

from nbconvert.preprocessors import TagRemovePreprocessor
from nbgrader.converters import GenerateAssignment

c = get_config()  # nbgrader defines it
os.environ["SEQLAB_STRICT"] = "1"

c.CourseDirectory.course_id = "seqlab"
c.Execute.timeout = 30  # seconds a cell may take
c.Execute.interrupt_on_timeout = True
c.Execute.raise_on_iopub_timeout = False

# The explained solutions stay with the instructor: cells tagged `explanation` are removed from the
# released notebook.
c.GenerateAssignment.preprocessors = [TagRemovePreprocessor, *GenerateAssignment().preprocessors]
c.TagRemovePreprocessor.enabled = True
c.TagRemovePreprocessor.remove_cell_tags = {"explanation"}
