"""The models in models/ are what models.json and README.md say: size, operators, dimensions, data, accuracy."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

MODELS = Path(__file__).resolve().parents[2] / "models"
INDEX = json.loads((MODELS / "models.json").read_text())["models"]
NAMES = sorted(INDEX)
BYTES_LIMIT = 2_000_000

# Operators that a user's exporter leaves for a compiler to fold or fuse, with the least number of each.
UNFUSED: dict[str, dict[str, int]] = {
    "digits_cnn": {"Conv": 10, "BatchNormalization": 10, "Add": 4, "Relu": 9},
    "digits_mlp": {"Gemm": 3, "Relu": 3},
    "text_encoder": {"MatMul": 18, "Softmax": 3, "Erf": 3, "LayerNormalization": 6, "Cast": 1, "Shape": 1, "Gather": 2},
}
INPUTS: dict[str, dict[str, tuple[int, list[str | int]]]] = {
    "digits_cnn": {"image": (onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])},
    "digits_mlp": {"image": (onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])},
    "text_encoder": {
        "input_ids": (onnx.TensorProto.INT64, ["batch", "sequence"]),
        "attention_mask": (onnx.TensorProto.INT64, ["batch", "sequence"]),
    },
}


def load_arrays(name: str, kind: str) -> dict[str, np.ndarray]:
    with np.load(MODELS / f"{name}.{kind}.npz", allow_pickle=False) as data:
        return {key: data[key] for key in data.files}


def session(name: str) -> ort.InferenceSession:
    return ort.InferenceSession(MODELS / f"{name}.onnx", providers=["CPUExecutionProvider"])


def dimensions(value: onnx.ValueInfoProto) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def rows(data: dict[str, np.ndarray]) -> set[bytes]:
    """Each sample of `data` as the bytes of all its inputs."""
    arrays = [value for key, value in sorted(data.items()) if key != "labels"]
    return {b"".join(part.tobytes() for part in sample) for sample in zip(*arrays, strict=True)}


def test_index_names_the_models_that_are_there() -> None:
    # A further dot is in the names that `accelc optimize` gives its results.
    there = sorted(path.stem for path in MODELS.glob("*.onnx") if "." not in path.stem)
    assert NAMES == there == sorted(UNFUSED) == sorted(INPUTS)


@pytest.mark.parametrize("name", NAMES)
def test_files_match_the_index(name: str) -> None:
    files = INDEX[name]["files"]
    assert {f"{name}.onnx", f"{name}.calibration.npz", f"{name}.eval.npz"} <= set(files)
    for file, facts in files.items():
        content = (MODELS / file).read_bytes()
        assert len(content) == facts["bytes"], file
        assert hashlib.sha256(content).hexdigest() == facts["sha256"], file
    assert files[f"{name}.onnx"]["bytes"] <= BYTES_LIMIT
    assert (MODELS / INDEX[name]["recipe"]).is_file()


@pytest.mark.parametrize("name", NAMES)
def test_model_is_valid_and_unfused(name: str) -> None:
    model = onnx.load(MODELS / f"{name}.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", 17)}
    counts = Counter(node.op_type for node in model.graph.node)
    short = {kind: counts[kind] for kind, least in UNFUSED[name].items() if counts[kind] < least}
    assert not short
    training = [a.i for node in model.graph.node for a in node.attribute if a.name == "training_mode"]
    assert not any(training), "exported for inference"
    assert not model.metadata_props
    assert not any(node.doc_string for node in model.graph.node)


@pytest.mark.parametrize("name", NAMES)
def test_signature_has_named_dynamic_dimensions(name: str) -> None:
    graph = onnx.load(MODELS / f"{name}.onnx").graph
    found = {value.name: (value.type.tensor_type.elem_type, dimensions(value)) for value in graph.input}
    assert found == INPUTS[name]
    assert list(found) == INDEX[name]["inputs"]
    assert [(value.name, dimensions(value)) for value in graph.output] == [
        ("logits", ["batch", len(INDEX[name]["labels"])])
    ]


@pytest.mark.parametrize("name", NAMES)
def test_data_fits_the_model_and_does_not_overlap(name: str) -> None:
    calibration, evaluation = load_arrays(name, "calibration"), load_arrays(name, "eval")
    assert set(calibration) == set(INPUTS[name])
    assert set(evaluation) == {*INPUTS[name], "labels"}
    for key, (kind, dims) in INPUTS[name].items():
        for data in (calibration, evaluation):
            assert data[key].dtype == onnx.helper.tensor_dtype_to_np_dtype(kind)
            assert all(want in ("batch", "sequence", got) for want, got in zip(dims, data[key].shape, strict=True))
    assert {len(value) for value in calibration.values()} == {INDEX[name]["calibration_samples"]}
    assert {len(value) for value in evaluation.values()} == {INDEX[name]["eval_samples"]}
    assert INDEX[name]["calibration_samples"] >= 128
    assert INDEX[name]["eval_samples"] >= 300
    assert set(evaluation["labels"]) == set(range(len(INDEX[name]["labels"])))
    assert not rows(calibration) & rows(evaluation)


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_is_the_recorded_one(name: str) -> None:
    data = load_arrays(name, "eval")
    labels = data.pop("labels")
    (logits,) = session(name).run(["logits"], data)
    correct = int((logits.argmax(axis=1) == labels).sum())
    facts = INDEX[name]
    assert abs(correct - facts["correct"]) <= 1
    assert facts["accuracy"] == pytest.approx(facts["correct"] / len(labels), abs=5e-5)
    assert facts["majority_baseline"] == pytest.approx(np.bincount(labels).max() / len(labels), abs=5e-5)
    assert facts["accuracy"] > 3 * facts["majority_baseline"]


@pytest.mark.parametrize("name", NAMES)
def test_readme_states_the_recorded_numbers(name: str) -> None:
    facts = INDEX[name]
    lines = [line for line in (MODELS / "README.md").read_text().splitlines() if line.startswith(f"| `{name}` |")]
    assert len(lines) == 1
    assert f"{100 * facts['accuracy']:.1f} % ({facts['correct']} of {facts['eval_samples']})" in lines[0]
    assert f"{facts['files'][f'{name}.onnx']['bytes']:,}" in lines[0]
    assert f"{facts['parameters']:,}" in lines[0]
    for key in ("majority_baseline", "linear_baseline"):
        if key in facts:
            assert f"{100 * facts[key]:.1f} %" in (MODELS / "README.md").read_text()


def test_mask_hides_padding() -> None:
    """A passage gives the same logits alone without padding, and whatever tokens stand where the mask is 0."""
    data = load_arrays("text_encoder", "eval")
    ids, mask = data["input_ids"], data["attention_mask"]
    lengths = mask.sum(axis=1)
    row = int(lengths.argmin())
    assert 8 < lengths[row] < ids.shape[1]
    assert len(set(lengths)) > 10
    model = session("text_encoder")
    (padded,) = model.run(None, {"input_ids": ids[row : row + 1], "attention_mask": mask[row : row + 1]})
    trimmed = {key: data[key][row : row + 1, : lengths[row]] for key in ("input_ids", "attention_mask")}
    (alone,) = model.run(None, trimmed)
    garbage = np.where(mask == 1, ids, 7)[row : row + 1]
    (hidden,) = model.run(None, {"input_ids": garbage, "attention_mask": mask[row : row + 1]})
    (seen,) = model.run(None, {"input_ids": garbage, "attention_mask": np.ones_like(garbage)})
    np.testing.assert_allclose(alone, padded, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(hidden, padded, rtol=1e-4, atol=1e-5)
    assert np.abs(seen - padded).max() > 1e-2


def test_vocabulary_covers_the_token_ids() -> None:
    assert "text_encoder.vocabulary.txt" in INDEX["text_encoder"]["files"]
    words = (MODELS / "text_encoder.vocabulary.txt").read_text().splitlines()
    assert words[:3] == ["[PAD]", "[UNK]", "[CLS]"]
    assert len(words) == len(set(words))
    for kind in ("calibration", "eval"):
        data = load_arrays("text_encoder", kind)
        assert data["input_ids"].min() == 0
        assert data["input_ids"].max() < len(words)
        np.testing.assert_array_equal(data["input_ids"] != 0, data["attention_mask"] == 1)
