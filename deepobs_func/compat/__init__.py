"""DeepOBS 1.1.2 beside this package: its weights in TensorFlow's layout, and equality with its figures."""
