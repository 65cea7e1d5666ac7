"""Test problems for optimizers as pure functions: DeepOBS on `torch.func`."""

__version__ = "0.1.0"
