"""Passes and a backend of Acme for accelc."""
