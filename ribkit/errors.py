"""What a user reads when the input is wrong."""


class InputError(ValueError):
    """Bad input, told in one sentence that names the file, the value and the remedy."""
