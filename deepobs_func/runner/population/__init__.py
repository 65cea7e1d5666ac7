"""Many runs of one structure as one training: seeds x learning rates x hyperparameters."""
