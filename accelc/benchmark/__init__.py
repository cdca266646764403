"""Latency that can be believed: models, providers, shapes and threads, measured in turn (`accelc bench`)."""
