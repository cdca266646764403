"""What BENCHMARKS.md and its chart are made with: `python -m benchmarks`, or `make bench`.

Models (the shipped ones, and architectures exported from PyTorch where that is installed) go through accelc's levels
and through the peers that are installed, each in a process of its own that is timed and whose memory is watched.
Everything that came out of one model is then measured side by side by `accelc.bench`.
"""
