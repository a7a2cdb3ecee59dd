"""The two ways in which a role ends badly; everything else is a defect of ours and shows its traceback.

The exit status is part of the contract: 1 = failed at run time, 2 = wrong usage or configuration.
"""


class Failure(Exception):
    """Something that a person must mend outside the configuration: a busy port, a full disk.

    The message is one line and says what failed and what to do. Exit status 1.
    """

    exit_status = 1


class ConfigurationError(Failure):
    """An option, a variable or a file that it names is wrong.

    The message is one line and names the option, the value and what is allowed. Exit status 2.
    """

    exit_status = 2
