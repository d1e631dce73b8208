"""The one exception a user is meant to read."""


class LrsmsError(Exception):
    """Something the user can put right.

    The message names the file, key and value concerned and what would be right. Every command prints it
    as one line and exits with status 1; a stack trace means a defect of ours.
    """
