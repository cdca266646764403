"""digits_mlp: a fully connected network on scikit-learn's handwritten digits.

Run: python models/recipes/digits_mlp.py
"""

from __future__ import annotations

import torch
from common import prepare, publish, train_classifier
from digits_data import FACTS, digits
from torch import nn


def digits_mlp() -> nn.Sequential:
    """image [batch, 1, 8, 8] in 0..1 -> logits [batch, 10], through hidden layers of 256 units."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 256),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def main() -> None:
    prepare(seed=2)
    train, train_labels, held, held_labels = digits()
    model = digits_mlp()
    train_classifier(model, [torch.from_numpy(train)], torch.from_numpy(train_labels), epochs=60, rate=3e-3, decay=0.05)
    publish("digits_mlp", model, {"image": train}, {"image": held}, held_labels, facts=FACTS)


if __name__ == "__main__":
    main()
