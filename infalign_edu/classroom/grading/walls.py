"""What holds a learner's code in: limits of the system, a list of folders it may read, calls it may not make.

`worker.py` loads this file by its path, so it imports nothing of the course. Three walls, each where it exists:

- limits (any Unix): processor time, memory above what the imports took, open files, no written byte, no core dump;
- the kernel's (Linux): Landlock lets nothing be read but Python's own folders and nothing be written; on x86-64 a
  seccomp filter refuses new processes and threads, programs, sockets, signals and changed permissions;
- an audit hook (anywhere): the same rules once more with an error that says what was refused. It can't be taken off,
  but it is Python: it stops honest code and common tricks. Who corrupts memory through NumPy passes it, and then meets
  only the kernel's walls. Left out: containers. Where marks matter and the kernel has no walls, grade inside one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

FILES, READ = 64, (1 << 2) | (1 << 3)  # open files; Landlock's rights to read a file and to list a folder
DEVICES = ("/dev/null", "/dev/urandom", "/dev/zero")
MACHINE = ("/proc/cpuinfo", "/sys/devices/system/cpu")  # torch asks them how many cores there are
_X86_REFUSED = (
    *(41, 42, 49, 53),  # socket, connect, bind, socketpair
    *(56, 57, 58, 59, 322, 435),  # clone, fork, vfork, execve, execveat, clone3
    *(62, 129, 200, 234, 297, 424),  # kill, rt_sigqueueinfo, tkill, tgkill, rt_tgsigqueueinfo, pidfd_send_signal
    *(101, 310, 311, 434, 438),  # ptrace, process_vm_readv and writev, pidfd_open, pidfd_getfd
    *(160, 161, 165, 272, 302, 304, 308, 321, 425),  # limits, chroot, mount, namespaces, file handles, bpf, io_uring
    *(90, 91, 92, 93, 94, 132, 188, 235, 260, 261, 268, 280, 452),  # permissions, owners, attributes, times of files
)
REFUSED = (
    ("socket.", "subprocess.", "ctypes.", "os.exec", "os.fork", "os.kill", "os.posix_spawn", "os.spawn", "os.startfile")
    + ("os.system", "os.link", "os.symlink", "os.chdir", "os.chmod", "os.chown", "os.chflags", "os.lchmod", "os.lockf")
    + ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "os.utime", "os.setxattr", "os.removexattr")
    + ("shutil.", "tempfile.", "pty.", "resource.", "signal.", "syslog.", "sqlite3.", "code.__new__", "sys.set")
    + ("gc.get_objects", "gc.get_referrers", "gc.get_referents", "mmap.", "webbrowser.", "urllib.", "fcntl.")
)


def limit(cpu: int, memory: int | None) -> None:
    """Sets the limits for good; `memory` counts the bytes of address space above what is in use now."""
    bounds = {"CPU": cpu, "FSIZE": 0, "NOFILE": FILES, "CORE": 0, "NPROC": 0}
    with contextlib.suppress(OSError), open("/proc/self/statm", encoding="ascii") as handle:  # noqa: PTH123
        if memory:
            bounds["AS"] = int(handle.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") + memory
    for name, bound in bounds.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (bound, bound))


def kernel(readable: Iterable[str]) -> list[str]:
    """Raises the kernel's walls around this process; the names of those that stand."""
    if sys.platform != "linux":
        return []
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    libc.prctl(1, 9, 0, 0, 0)  # SIGKILL when the grader dies
    libc.prctl(4, 0, 0, 0, 0)  # not dumpable: nobody attaches to it
    if libc.prctl(38, 1, 0, 0, 0) != 0:  # no new privileges, which both walls ask for
        return []
    return [name for name, stands in (("landlock", _landlock(libc, readable)), ("seccomp", _seccomp(libc))) if stands]


def _landlock(libc: Any, readable: Iterable[str]) -> bool:
    version = libc.syscall(444, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return False
    rights = (1 << min(13 + (version > 1) + (version > 2) + (version > 4), 16)) - 1
    rules = (ctypes.c_uint64 * 3)(rights, 3 if version > 3 else 0, 3 if version > 5 else 0)
    size = 8 * (1 + (version > 3) + (version > 5))
    ruleset = libc.syscall(444, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0))
    if ruleset < 0:
        return False
    for path in (*readable, *DEVICES, *MACHINE):
        with contextlib.suppress(OSError):
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
            allowed = READ if Path(path).is_dir() else READ & ~(1 << 3) | ((1 << 1) if path in DEVICES else 0)
            beneath = allowed.to_bytes(8, sys.byteorder) + opened.to_bytes(4, sys.byteorder)
            libc.syscall(445, ctypes.c_int(ruleset), ctypes.c_int(1), beneath, ctypes.c_uint32(0))
            os.close(opened)
    held = libc.syscall(446, ctypes.c_int(ruleset), ctypes.c_uint32(0)) == 0
    os.close(ruleset)
    return held


class _Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("first", ctypes.POINTER(_Instruction))]


def _seccomp(libc: Any) -> bool:
    if platform.machine() != "x86_64" or sys.maxsize < 2**32:
        return False
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    refuse, allow, numbers = 0x00050000 | errno.EPERM, 0x7FFF0000, _X86_REFUSED
    code = [(load, 0, 0, 4), (equal, 1, 0, 0xC000003E), (give, 0, 0, refuse)]  # another architecture's numbering
    code += [(load, 0, 0, 0), (at_least, len(numbers) + 1, 0, 0x40000000)]
    code += [(equal, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    code += [(give, 0, 0, allow), (give, 0, 0, refuse)]
    instructions = (_Instruction * len(code))(*(_Instruction(*line) for line in code))
    program = _Program(len(code), instructions)
    return libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0


def watch(readable: Iterable[str], hidden: Iterable[str], home: str, tell: Callable[[str], None]) -> None:
    """Adds the audit hook. What lies in `hidden` folders, among them the course's package, and notebooks can't be read.

    All that the hook uses is bound here and now, so that code which replaces built-ins or modules changes nothing.
    """
    roots = tuple(f"{path}/" for path in readable)
    shut = tuple(hidden)
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    starts, ends, find, decode = str.startswith, str.endswith, str.find, bytes.decode
    kind, text, raw, number, error = type, str, bytes, int, PermissionError
    prefixes, devices, package, own = REFUSED, DEVICES, "infalign_edu.", f"{home}/"

    def path_of(given: Any) -> str | None:
        given = decode(given, "utf-8", "surrogateescape") if kind(given) is raw else given
        if kind(given) is not text or find(given, "..") >= 0:
            return None
        return given if starts(given, "/") else own + given

    def readable_path(given: Any) -> bool:
        path = path_of(given)
        if path is None or ends(path, ".ipynb") or starts(path, shut):
            return False
        return path in devices or starts(path, roots) or starts(path + "/", roots)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        what = None
        if event == "open":
            path, mode, flags = arguments[0], arguments[1], arguments[2]
            if kind(path) is number:
                return
            changes = kind(flags) is number and flags & writing and path_of(path) not in devices
            if changes or (kind(mode) is text and find(mode, "w") >= 0 and path_of(path) not in devices):
                what = "open a file for writing"
            elif not readable_path(path):
                what = "open a file"
        elif event == "import":
            if starts(arguments[0] + ".", package):
                what = "import infalign_edu; write the mathematics yourself"
        elif event == "os.listdir" or event == "os.scandir":
            what = None if readable_path(arguments[0]) else "list a folder"
        elif starts(event, prefixes):
            what = event
        if what is not None:
            tell(event)
            raise error("a graded answer may not " + what if what != event else "a graded answer may not use " + event)

    sys.addaudithook(hook)
