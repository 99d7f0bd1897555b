"""The one error type whose message is meant to be read by a person."""


class WorkshopError(Exception):
    """Bad input, a bad file or something missing: the message names it and says how to fix it.

    The command line prints the message alone, without a traceback.
    """
