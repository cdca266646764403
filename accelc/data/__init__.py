"""Feeds for verification, evaluation and calibration: made from a model's signature, or read from the user's files."""

from accelc.data.dataset import Dataset, check_preprocess, open_dataset
from accelc.data.feeds import (
    MAX_ELEMENTS,
    Feed,
    Generator,
    Run,
    Sample,
    Values,
    find_feeds,
    generate,
    typical_feed,
    typical_feeds,
)
from accelc.data.load import BATCH_SIZE, EvalData, load_data, load_feeds, top1_accuracy
from accelc.data.preprocessing import Preprocessing
from accelc.data.specs import Dim, Hints, InputSpec, Value, infer_hints, output_signature, signature, specialized

__all__ = [
    "BATCH_SIZE",
    "MAX_ELEMENTS",
    "Dataset",
    "Dim",
    "EvalData",
    "Feed",
    "Generator",
    "Hints",
    "InputSpec",
    "Preprocessing",
    "Run",
    "Sample",
    "Value",
    "Values",
    "check_preprocess",
    "find_feeds",
    "generate",
    "infer_hints",
    "load_data",
    "load_feeds",
    "open_dataset",
    "output_signature",
    "signature",
    "specialized",
    "top1_accuracy",
    "typical_feed",
    "typical_feeds",
]
