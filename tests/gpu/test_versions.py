"""The lab with each Triton that can be installed here, one smoke test (smoke.py) a version:

    SEQLAB_TRITON=all python -m pytest tests/gpu/test_versions.py

This downloads about 200 MB a version into a temporary folder. Without the variable only the
installed version is tested. SEQLAB_TRITON="3.7.* 3.9.0" chooses versions.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="needs Triton (Linux only)")

import triton

from seqlab.gpu import triton_private
from seqlab.gpu.events import LabError

SMOKE = Path(__file__).parent / "smoke.py"
ALL = "3.6.* 3.7.* 3.8.* >=3.9"  # the last is the newest
CHOSEN = os.environ.get("SEQLAB_TRITON", "").replace("all", ALL).split()


def smoke(folder=None, **env):
    """The version and the path of the Triton that passed."""
    paths = [str(folder)] if folder else []
    paths += [str(SMOKE.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | env | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, SMOKE]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_installed_version_passes(tmp_path):
    assert smoke(TRITON_CACHE_DIR=str(tmp_path)) == [triton.__version__, triton.__file__]


@pytest.mark.slow
@pytest.mark.skipif(not CHOSEN, reason="downloads Triton: SEQLAB_TRITON=all")
@pytest.mark.parametrize("version", CHOSEN)
def test_a_version_passes(version):
    spec = "triton" + (version if version[0] in "<>=" else f"=={version}")
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        pip += ["--target", f"{folder}/site", spec]
        done = subprocess.run(pip, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        found, place = smoke(f"{folder}/site", TRITON_CACHE_DIR=f"{folder}/cache")
        assert place.startswith(folder), "another Triton was tested"
        print(f"Triton {found} passes")


@pytest.mark.parametrize(
    ("version", "known"),
    [("3.5.1", False), ("3.6.0", True), ("3.9.7+git1", True), ("3.10.0", False), ("4.0", False)],
)
def test_an_error_inside_a_kernel_mentions_a_version_that_was_never_tried(
    version, known, monkeypatch
):
    monkeypatch.setattr(triton, "__version__", version)
    said = f" (perhaps because of Triton {version}: the lab was made with 3.6 to 3.9)"
    assert triton_private.remark() == ("" if known else said)


@pytest.mark.parametrize(
    ("module", "part"), [("compiler", "ASTSource"), ("backends.compiler", "GPUTarget")]
)
def test_a_compiler_whose_parts_moved_gets_one_sentence(module, part, monkeypatch):
    monkeypatch.delattr(sys.modules[f"triton.{module}"], part)
    said = f"does not know the compiler of Triton {triton.__version__} .*: it was made"
    with pytest.raises(LabError, match=said):
        triton_private.compiled(None, "sm_90", {}, {}, {}, {})
