"""`python -m deepobs_func` is `deepobs`."""

from deepobs_func.cli import main

main()
