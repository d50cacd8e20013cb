"""Draw docs/microscope.png, the README's picture: `python docs/picture.py` (needs Chromium).

Linear attention with the identity map, its weights set by hand so that each letter is its own key:
12 pairs letter → value are written, and two letters are written twice.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from seqlab.figures import microscope
from seqlab.microscope import observe
from seqlab.mixers import LinearAttention

WIDTH, SCALE = 700, 1.45


def picture():
    letters = "abcdefcghijb"
    rng = torch.Generator().manual_seed(3)
    keys = F.one_hot(torch.tensor([ord(letter) - ord("a") for letter in letters]), 16).float()
    values = torch.randn(len(letters), 16, generator=rng)
    mixer = LinearAttention(32, n_heads=2, feature_map="identity")
    mixer.q.weight.data = mixer.k.weight.data = torch.eye(32)
    # Head 0 takes its keys from the first half of x, its values from the second.
    mixer.v.weight.data = torch.eye(32).roll(16, 0)
    return microscope(observe(mixer, torch.cat([keys, values], -1)[None], letters))


def photograph(fig, path: Path):
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        html = fig.to_html(default_width=f"{WIDTH}px", config={"displayModeBar": False})
        page.write_text(html.replace("<head>", "<head><style>body {margin: 0}</style>"))
        chromium = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += [f"--user-data-dir={folder}/profile", f"--force-device-scale-factor={SCALE}"]
        options += [f"--window-size={WIDTH},{fig.layout.height}", "--virtual-time-budget=4000"]
        options += [f"--screenshot={path}", page.as_uri()]
        subprocess.run([chromium, *options], check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    photograph(picture(), Path(__file__).resolve().parent / "microscope.png")
