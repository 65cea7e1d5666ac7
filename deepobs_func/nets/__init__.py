"""`nn.Module`s that describe shapes: layers, initial distributions, one file a family of nets."""
