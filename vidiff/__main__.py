"""`python -m vidiff`, also what torchrun and `accelerate launch -m` start."""

from vidiff.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
