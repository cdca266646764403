"""What the recipes share: the training loop, the export, and the files that each model is published as."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import sklearn
import torch

MODELS = Path(__file__).resolve().parent.parent
OPSET = 17
Arrays = dict[str, np.ndarray]


def prepare(seed: int) -> None:
    """Fix every source of randomness, so that the same machine and versions give the same bytes."""
    torch.manual_seed(seed)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)


def train_classifier(
    model: torch.nn.Module,
    inputs: Sequence[torch.Tensor],
    labels: torch.Tensor,
    *,
    epochs: int,
    rate: float,
    decay: float,
    batch: int = 64,
    augment: Callable[..., Iterable[torch.Tensor]] | None = None,
) -> None:
    """AdamW with a one-cycle rate and label smoothing for a fixed number of epochs. The held-out data plays no part."""
    steps = -(-len(labels) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, epochs=epochs, steps_per_epoch=steps)
    model.train()
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(labels)).split(batch):
            feeds = [value[rows] for value in inputs]
            if augment is not None:
                feeds = list(augment(*feeds))
            loss = torch.nn.functional.cross_entropy(model(*feeds), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
        if epoch % 5 == 4 or epoch == epochs - 1:
            print(f"epoch {epoch + 1}: loss {total / len(labels):.4f}", flush=True)
    model.eval()


def export(model: torch.nn.Module, example: Arrays, path: Path, output: str, axes: Sequence[str]) -> None:
    """Write the model as torch.onnx.export does, with nothing fused or folded; `axes` names the leading dimensions."""
    dynamic = {name: dict(enumerate(axes)) for name in example}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns that it is the older of PyTorch's two
        torch.onnx.export(
            model,
            tuple(torch.from_numpy(value) for value in example.values()),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            input_names=list(example),
            output_names=[output],
            dynamic_axes={**dynamic, output: {0: axes[0]}},
        )
    proto = onnx.load(path)
    proto.doc_string = ""
    for node in proto.graph.node:
        node.doc_string = ""  # no folder of the machine that ran the recipe
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def publish(
    name: str,
    model: torch.nn.Module,
    train: Arrays,
    held: Arrays,
    held_labels: np.ndarray,
    *,
    axes: Sequence[str] = ("batch",),
    calibration: int = 256,
    facts: Mapping[str, object],
    more_files: Sequence[Path] = (),
) -> None:
    """Export the model, write calibration and evaluation data, record the accuracy that ONNX Runtime reaches."""
    path = MODELS / f"{name}.onnx"
    export(model, {key: value[:2] for key, value in held.items()}, path, "logits", axes)
    chosen = np.random.default_rng(0).permutation(len(next(iter(train.values()))))[:calibration]
    np.savez_compressed(MODELS / f"{name}.calibration.npz", **{key: value[chosen] for key, value in train.items()})
    np.savez_compressed(MODELS / f"{name}.eval.npz", **held, labels=held_labels)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    logits = np.asarray(session.run(["logits"], held)[0])
    with torch.no_grad():
        expected = model(*(torch.from_numpy(value) for value in held.values())).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
    correct = int((logits.argmax(axis=1) == held_labels).sum())
    files = [path, MODELS / f"{name}.calibration.npz", MODELS / f"{name}.eval.npz", *more_files]
    entry = {
        **facts,
        "recipe": f"recipes/{name}.py",
        "inputs": list(held),
        "output": "logits",
        "metric": "accuracy",
        "accuracy": round(correct / len(held_labels), 4),
        "correct": correct,
        "eval_samples": len(held_labels),
        "calibration_samples": len(chosen),
        "majority_baseline": round(float(np.bincount(held_labels).max() / len(held_labels)), 4),
        "parameters": sum(value.numel() for value in model.parameters()),
        "made_with": {
            "torch": torch.__version__.partition("+")[0],
            "scikit-learn": sklearn.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": ort.__version__,
        },
        "files": {
            file.name: {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
            for file in files
        },
    }
    index = MODELS / "models.json"
    entries = json.loads(index.read_text())["models"] if index.exists() else {}
    entries[name] = entry
    content = {"schema_version": 1, "models": dict(sorted(entries.items()))}
    index.write_text(json.dumps(content, indent=2) + "\n")
    print(f"{name}: accuracy {entry['accuracy']} ({correct} of {len(held_labels)}), {path.stat().st_size} bytes")
