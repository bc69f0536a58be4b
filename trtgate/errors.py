"""The one exception that is the user's to fix."""


class UserError(Exception):
    """A mistake in what the user gave: one sentence that names the file or option, and the fix.

    The command line and the pytest plugin print the sentence without a traceback.
    """
