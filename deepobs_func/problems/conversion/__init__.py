"""A user's `nn.Module` as a pure function: what of it draws, remembers or couples, and what becomes of that."""
