"""Passages of scikit-learn's own documentation strings, as token ids, labelled with the module they document.

The text is what the installed package ships (BSD-3-Clause); nothing is downloaded. Whole objects (functions, classes,
modules) go to the training or the held-out side, and held-out passages that share half their words with a training
passage are dropped, because scikit-learn repeats paragraphs between objects.
"""

from __future__ import annotations

import ast
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sklearn
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

MODULES = (
    "linear_model",
    "metrics",
    "ensemble",
    "model_selection",
    "cluster",
    "decomposition",
    "preprocessing",
    "datasets",
)
LENGTH = 64
SHORTEST = 32
SPECIAL = ("[PAD]", "[UNK]", "[CLS]")
Passages = dict[tuple[str, ...], int]


def documented_objects(module: str) -> Iterator[tuple[str, str]]:
    """Name and documentation string of each documented object in one subpackage of scikit-learn."""
    root = Path(sklearn.__file__).parent
    for path in sorted((root / module).rglob("*.py")):
        relative = path.relative_to(root)
        if "tests" in relative.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and (text := ast.get_docstring(node)):
                yield f"{relative.as_posix()}:{getattr(node, 'name', '')}", text


def passages(text: str, shortest: int) -> Iterator[tuple[str, ...]]:
    """The words of successive paragraphs, joined until a passage has `shortest` words, cut at LENGTH - 1 words."""
    words: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        words += re.findall(r"[a-z]+", paragraph.lower())
        if len(words) >= shortest:
            for start in range(0, len(words), LENGTH - 1):
                if len(piece := words[start : start + LENGTH - 1]) >= shortest:
                    yield tuple(piece)
            words = []


def split_passages() -> tuple[Passages, Passages]:
    """Training and held-out passages with their label; a passage found in two modules belongs to neither.

    Training also sees the same text cut into shorter passages, as augmentation.
    """
    labels_of: defaultdict[tuple[str, ...], set[int]] = defaultdict(set)
    train: Passages = {}
    held: Passages = {}
    for label, module in enumerate(MODULES):
        for name, text in documented_objects(module):
            is_held = zlib.crc32(name.encode()) % 5 == 0
            for shortest in (SHORTEST,) if is_held else (SHORTEST, SHORTEST // 2):
                for passage in passages(text, shortest):
                    labels_of[passage].add(label)
                    (held if is_held else train)[passage] = label
    clear = {passage for passage, labels in labels_of.items() if len(labels) == 1}
    return (
        {passage: label for passage, label in train.items() if passage in clear},
        {passage: label for passage, label in held.items() if passage in clear and passage not in train},
    )


def build_vocabulary(train: Passages, size: int) -> list[str]:
    """The special tokens, then the most frequent words of the training passages; ties in alphabetical order."""
    counts = Counter(word for passage in train for word in passage)
    return [*SPECIAL, *sorted(counts, key=lambda word: (-counts[word], word))[: size - len(SPECIAL)]]


def encode(some: Passages, vocabulary: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids and attention mask, int64 [n, LENGTH], and labels, int64 [n]. Each row: [CLS], words, padding."""
    index = {word: number for number, word in enumerate(vocabulary)}
    ids = np.zeros((len(some), LENGTH), np.int64)
    for row, passage in zip(ids, some, strict=True):
        row[: len(passage) + 1] = [index["[CLS]"], *(index.get(word, index["[UNK]"]) for word in passage)]
    return ids, (ids != 0).astype(np.int64), np.array(list(some.values()), np.int64)


def without_near_copies(held: np.ndarray, train: np.ndarray, size: int) -> np.ndarray:
    """Rows of `held` [n, LENGTH] whose Jaccard similarity, as sets of words, to each training row is under 1/2."""

    def sets(ids: np.ndarray) -> np.ndarray:
        present = np.zeros((len(ids), size), np.float32)
        np.put_along_axis(present, ids, 1, axis=1)
        present[:, : len(SPECIAL)] = 0
        return present

    one, other = sets(held), sets(train)
    common = one @ other.T
    union = one.sum(1)[:, None] + other.sum(1)[None] - common
    return np.flatnonzero((common / union).max(axis=1) < 0.5)


def linear_accuracy(train: Passages, held: Passages, kept: np.ndarray) -> float:
    """Accuracy on rows `kept` of the held-out passages of logistic regression on TF-IDF features, for comparison."""
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2)
    features = vectorizer.fit_transform(" ".join(passage) for passage in train)
    linear = LogisticRegression(C=10, max_iter=2000).fit(features, list(train.values()))
    right = linear.predict(vectorizer.transform(" ".join(passage) for passage in held)) == list(held.values())
    return round(float(right[kept].mean()), 4)
