"""text_encoder: a transformer that tells which scikit-learn module a passage documents.

Run: python models/recipes/text_encoder.py
"""

from __future__ import annotations

import math

import torch
from common import MODELS, prepare, publish, train_classifier
from docstrings import (
    LENGTH,
    MODULES,
    SPECIAL,
    build_vocabulary,
    encode,
    linear_accuracy,
    split_passages,
    without_near_copies,
)
from torch import nn

WORDS, WIDTH, HEADS, HIDDEN, LAYERS = 1600, 96, 4, 256, 3


class Attention(nn.Module):
    """Multi-head self-attention, Vaswani et al. 2017."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        """x: [batch, sequence, WIDTH] -> [batch, HEADS, sequence, WIDTH / HEADS]."""
        return x.view(x.size(0), x.size(1), HEADS, WIDTH // HEADS).transpose(1, 2)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """x: [batch, sequence, WIDTH]; bias: [batch, 1, 1, sequence], 0 or the lowest float at padding."""
        query, key, value = self.heads(self.query(x)), self.heads(self.key(x)), self.heads(self.value(x))
        scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(WIDTH // HEADS) + bias
        mixed = torch.matmul(torch.softmax(scores, dim=-1), value).transpose(1, 2).contiguous()
        return self.output(mixed.view(x.size(0), x.size(1), WIDTH))


class Layer(nn.Module):
    """Attention and a GELU feed-forward network, each with a residual connection and LayerNorm after it, as in BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """x: [batch, sequence, WIDTH] -> the same shape."""
        x = self.norm1(x + self.dropout(self.attention(x, bias)))
        return self.norm2(x + self.dropout(self.down(nn.functional.gelu(self.up(x)))))


class TextEncoder(nn.Module):
    """Token and position embeddings, LAYERS layers, the mean over real tokens, a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        nn.init.normal_(self.tokens.weight, std=0.1)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.register_buffer("position_ids", torch.arange(LENGTH)[None])
        self.norm, self.dropout = nn.LayerNorm(WIDTH), nn.Dropout(0.2)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.classifier = nn.Linear(WIDTH, len(MODULES))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """input_ids, attention_mask: int64 [batch, sequence], sequence at most LENGTH -> logits [batch, modules]."""
        positions = self.positions(self.position_ids[:, : input_ids.size(1)])
        x = self.dropout(self.norm(self.tokens(input_ids) + positions))
        mask = attention_mask.to(x.dtype)
        bias = (1.0 - mask[:, None, None, :]) * torch.finfo(x.dtype).min
        for layer in self.layers:
            x = layer(x, bias)
        weight = mask.unsqueeze(-1)
        pooled = (x * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1.0)
        return self.classifier(self.dropout(pooled))


def with_unknown_words(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One word in five becomes [UNK], so that no single word decides."""
    hidden = (torch.rand(ids.shape) < 0.2) & (ids >= len(SPECIAL))
    return ids.masked_fill(hidden, SPECIAL.index("[UNK]")), mask


def main() -> None:
    prepare(seed=3)
    train, held = split_passages()
    vocabulary = build_vocabulary(train, WORDS)
    ids, mask, labels = encode(train, vocabulary)
    held_ids, held_mask, held_labels = encode(held, vocabulary)
    kept = without_near_copies(held_ids, ids, WORDS)
    print(f"{len(ids)} training passages, {len(kept)} held-out passages of {len(held_ids)} are no near copies")
    model = TextEncoder()
    feeds = [torch.from_numpy(ids), torch.from_numpy(mask)]
    train_classifier(
        model, feeds, torch.from_numpy(labels), epochs=12, rate=1.5e-3, decay=0.05, augment=with_unknown_words
    )
    words = MODELS / "text_encoder.vocabulary.txt"
    words.write_text("\n".join(vocabulary) + "\n")
    publish(
        "text_encoder",
        model,
        {"input_ids": ids, "attention_mask": mask},
        {"input_ids": held_ids[kept], "attention_mask": held_mask[kept]},
        held_labels[kept],
        axes=("batch", "sequence"),
        facts={
            "task": "which scikit-learn module a passage of 32 to 63 words of documentation describes",
            "data": "documentation strings inside the scikit-learn package, BSD-3-Clause",
            "labels": list(MODULES),
            "linear_baseline": linear_accuracy(train, held, kept),
        },
        more_files=[words],
    )


if __name__ == "__main__":
    main()
