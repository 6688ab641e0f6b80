"""A data set of a few images, to benchmark everything except training."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from dh2l.data import prepare

NAME = "made-up"


def prepare_made_up(root: Path) -> None:
    """Prepare random 8×8 images of two classes: 20 each to train on, 4 each to test."""
    random = np.random.default_rng(0)
    with TemporaryDirectory() as folder:
        for part, n in (("train", 20), ("test", 4)):
            for label in ("a", "b"):
                images = Path(folder, part, label)
                images.mkdir(parents=True)
                for i in range(n):
                    Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(
                        images / f"{i}.png"
                    )
        prepare(NAME, root, source=Path(folder))
