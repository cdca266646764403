"""Passes and backends of Acme for accelc."""
