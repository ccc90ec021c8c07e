"""Writes the golden loss curve anew: python -m tests.training.golden"""

import tempfile
from pathlib import Path

import torch

from tests.training.golden import CURVE, UPDATES, loss_curve, read_curve

torch.set_num_threads(1)
before = read_curve() if CURVE.exists() else []
with tempfile.TemporaryDirectory() as folder:
    curve = loss_curve(Path(folder))
lines = ",\n".join(f"    {losses}" for losses in curve)
CURVE.write_text(
    f'{{\n  "conf": "conf/debug.yaml",\n  "updates": {UPDATES},\n'
    f'  "loss_per_frame": [\n{lines}\n  ]\n}}\n'
)
pairs = [(a, b) for old, new in zip(before, curve) for a, b in zip(old, new)]
change = max((abs(a - b) / abs(a) for a, b in pairs), default=0.0)
print(f"{CURVE}: losses of {UPDATES} updates; the largest relative change is {change:.1e}")
