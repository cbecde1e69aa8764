# SPDX-License-Identifier: GPL-3.0-or-later
"""As a sitecustomize: hides from this project's modules, and from them alone, what Windows' Python lacks.

The standard library and other packages keep it, because on Linux they take their POSIX branch.
"""

import builtins
import importlib
import types

MODULES = set("fcntl resource pwd grp termios tty pty syslog posix readline curses crypt spwd nis".split())
NAMES = {
    "os": set(
        "chown chroot confstr ctermid fchmod fchown fdatasync fork forkpty fstatvfs getegid geteuid getgid getgroups "
        "getloadavg getpgid getpgrp getpriority getsid getuid killpg lchown mkfifo mknod nice openpty pipe2 "
        "posix_fadvise posix_fallocate posix_spawn posix_spawnp pread preadv pwrite pwritev readv register_at_fork "
        "sched_getaffinity sched_setaffinity sched_yield sendfile setegid seteuid setgid setpgid setpriority setsid "
        "setuid splice statvfs sync sysconf tcgetpgrp ttyname uname wait wait3 wait4 waitid writev memfd_create "
        "WNOHANG O_CLOEXEC O_DIRECTORY O_NOCTTY O_NOFOLLOW O_NONBLOCK O_SYNC".split()
    ),
    "signal": set(
        "SIGALRM SIGBUS SIGCHLD SIGCONT SIGHUP SIGIO SIGKILL SIGPIPE SIGPROF SIGQUIT SIGSTOP SIGSYS SIGTRAP SIGTSTP "
        "SIGTTIN SIGTTOU SIGUSR1 SIGUSR2 SIGVTALRM alarm getitimer pause pthread_kill pthread_sigmask setitimer "
        "siginterrupt sigpending sigtimedwait sigwait sigwaitinfo".split()
    ),
    "socket": {"AF_UNIX", "SO_REUSEPORT", "socketpair_unix"},
    "select": {"poll", "epoll"},
    "time": {"tzset"},
}
OURS = {"server", "msd_blender"}
_import = builtins.__import__
_copies: dict[str, types.ModuleType] = {}


def _copy(name: str) -> types.ModuleType:
    if name not in _copies:
        real = importlib.import_module(name)
        _copies[name] = types.ModuleType(name, real.__doc__)
        _copies[name].__dict__.update({key: value for key, value in vars(real).items() if key not in NAMES[name]})
        if name == "os":
            _copies[name].open = _open  # type: ignore[attr-defined]
    return _copies[name]


def _open(path, flags, *rest, **more):
    import os

    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", path)
    return os.open(path, flags, *rest, **more)


def _without_posix(name, globals=None, locals=None, fromlist=(), level=0):
    package = (globals or {}).get("__package__") or (globals or {}).get("__name__") or ""
    if level or package.partition(".")[0] not in OURS:
        return _import(name, globals, locals, fromlist, level)
    if name.partition(".")[0] in MODULES:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    found = _import(name, globals, locals, fromlist, level)
    return _copy(found.__name__) if found.__name__ in NAMES else found


builtins.__import__ = _without_posix
