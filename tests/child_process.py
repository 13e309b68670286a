"""A process that may die or be refused something, for tests of what it leaves behind."""

import os


def in_child(work):
    """Return the exit status of a process that does `work`."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
