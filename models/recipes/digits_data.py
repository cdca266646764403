"""scikit-learn's handwritten digits, split once for every recipe that uses them."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

FACTS: dict[str, object] = {
    "task": "which digit, 0 to 9, an 8x8 greyscale image shows",
    "data": "scikit-learn digits (UCI Optical Recognition of Handwritten Digits), CC BY 4.0",
    "labels": [str(digit) for digit in range(10)],
}


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images and labels, held-out images and labels: 1,347 and 450.

    Images: float32 [n, 1, 8, 8] in 0..1. Labels: int64 [n].
    """
    data = load_digits()
    images = (data.images / 16).astype(np.float32)[:, None]
    train, held, train_labels, held_labels = train_test_split(
        images, data.target.astype(np.int64), test_size=450, stratify=data.target, random_state=0
    )
    return train, train_labels, held, held_labels


def shifted(images: torch.Tensor) -> torch.Tensor:
    """Each image [n, 1, 8, 8] moved by -1, 0 or 1 pixels along each axis, the gap filled with zeros."""
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    n, rows = len(images), torch.arange(8)
    dy, dx = torch.randint(0, 3, (2, n, 1))
    return padded[torch.arange(n)[:, None, None], 0, (dy + rows)[:, :, None], (dx + rows)[:, None, :]][:, None]
