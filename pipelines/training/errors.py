"""What can go wrong in training, importable without torch."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the pairs or the cause."""
