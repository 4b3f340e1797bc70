"""A program of its own: waits until it is watched, becomes the user's command, and is nothing else.

Run by `command.py` as `python -I -S launcher.py GO_FD STATUS_FD USER ARGV...`. Writes one byte to STATUS_FD when it is
ready, waits for one byte on GO_FD (end of file: culpa is gone, so is the command), takes on USER's identity unless that
is empty, and executes ARGV. If that fails, the error number goes to STATUS_FD; success closes it.
"""

from __future__ import annotations

import os
import pwd
import signal
import sys
import warnings  # noqa: F401  # os.execvp imports it, and the new user may not read the library

GIVE_UP = 125


def become(user: str) -> None:
    """Take on the user's groups, ids and the environment variables that name a user; cannot be undone."""
    entry = pwd.getpwnam(user)
    os.initgroups(entry.pw_name, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    os.environ.update(HOME=entry.pw_dir, USER=entry.pw_name, LOGNAME=entry.pw_name)


def main(arguments: list[str]) -> int:
    """Wait, then execute; returns only if that was not possible."""
    go, status, user, argv = int(arguments[0]), int(arguments[1]), arguments[2], arguments[3:]
    os.set_inheritable(go, False)
    os.set_inheritable(status, False)
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python's own dispositions must not reach the command
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.write(status, b".")
    if not os.read(go, 1):
        return GIVE_UP
    try:
        if user:
            become(user)
        os.execvp(argv[0], argv)  # noqa: S606  # the command is the user's own argument list, no shell
    except OSError as error:
        os.write(status, str(error.errno).encode())
    return GIVE_UP


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
