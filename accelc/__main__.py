"""`python -m accelc` is the command `accelc`."""

from accelc.cli import main

if __name__ == "__main__":
    main()
