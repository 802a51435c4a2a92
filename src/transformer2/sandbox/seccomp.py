"""The system calls that a program in a sandbox is refused, as a filter that the kernel runs before each call.

Namespaces and uids do not cover what is refused here: kernel keys, which belong to a uid or a session; events on files
of the host that are mounted read-only (inotify, fanotify, dnotify, leases); sockets of families that have no network
namespace (AF_VSOCK reaches the hypervisor); kernel memory that no limit counts (System V IPC, memfd); and interfaces
with a long record of kernel exploits that no right answer needs. New namespaces are refused because they would give
capabilities, and with them most of this, back.

A refused call fails with EPERM, so a program can catch it. Two exceptions: `clone3` fails with ENOSYS, because a
filter cannot look into its argument and the C library then uses `clone`; and a call by another instruction set than
the machine's own (32-bit calls, whose numbers differ) kills the program.
"""

import errno
import platform
import struct

# Numbers from the kernel's unistd_64.h (x86_64) and asm-generic/unistd.h (aarch64).
_AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_CALLS = 0x40000000
"""Calls of x86_64's 32-bit pointer mode have this bit in their numbers and the architecture of ordinary ones."""

NUMBERS = {
    "x86_64": {
        **{"keyctl": 250, "add_key": 248, "request_key": 249},
        **{"inotify_init": 253, "inotify_init1": 294, "fanotify_init": 300},
        **{"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427},
        **{"userfaultfd": 323, "perf_event_open": 298, "bpf": 321},
        **{"ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_getfd": 438},
        **{"shmget": 29, "semget": 64, "msgget": 68, "mq_open": 240, "memfd_create": 319, "memfd_secret": 447},
        **{"unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161},
        **{"open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433},
        **{"mount_setattr": 442, "sched_setaffinity": 203},
        **{"clone": 56, "clone3": 435, "socket": 41, "socketpair": 53, "fcntl": 72},
    },
    "aarch64": {
        **{"keyctl": 219, "add_key": 217, "request_key": 218},
        **{"inotify_init1": 26, "fanotify_init": 262},
        **{"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427},
        **{"userfaultfd": 282, "perf_event_open": 241, "bpf": 280},
        **{"ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "pidfd_getfd": 438},
        **{"shmget": 194, "semget": 190, "msgget": 186, "mq_open": 180, "memfd_create": 279, "memfd_secret": 447},
        **{"unshare": 97, "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51},
        **{"open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433},
        **{"mount_setattr": 442, "sched_setaffinity": 122},
        **{"clone": 220, "clone3": 435, "socket": 198, "socketpair": 199, "fcntl": 25},
    },
}
"""Every call that the filter looks at; those of `_BY_ARGUMENT` are refused for some values of one argument only."""

_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, -CGROUP, -UTS, -IPC, -USER, -PID and -NET."""
_SOCKET_FAMILIES = (1, 2, 10, 16)
"""AF_UNIX, AF_INET, AF_INET6, AF_NETLINK: all belong to the program's network namespace."""
_NOTIFICATIONS = (1024, 1026)
"""F_SETLEASE and F_NOTIFY."""

# Classic BPF: an instruction is a code, two jump distances (if true, if false) and a constant.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16  # in the kernel's struct seccomp_data

_Instruction = tuple[int, int, int, int]


def call_filter(machine: str | None = None) -> bytes:
    """The filter for a machine (`platform.machine()`), by default this one: an array of `struct sock_filter`.

    Raises:
        ValueError: the system calls of that machine are not known.
    """
    machine = machine or platform.machine()
    calls = _numbers(machine)
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE_OFFSET),
        *_unless((_EQUAL, _AUDIT_ARCHITECTURE[machine]), _KILL),
        (_LOAD, 0, 0, _NUMBER_OFFSET),
        *_when((_AT_LEAST, _X32_CALLS), [_return(_ERROR | errno.ENOSYS)]),
    ]
    for name, number in calls.items():
        program += _when((_EQUAL, number), _BY_ARGUMENT.get(name) or [_return(_ERROR | errno.EPERM)])
    program.append(_return(_ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def number(name: str) -> int:
    """The number of a system call that the filter looks at, on this machine.

    Raises:
        ValueError: the system calls of this machine are not known.
    """
    return _numbers(platform.machine())[name]


def _numbers(machine: str) -> dict[str, int]:
    if machine not in NUMBERS:
        raise ValueError(f"no filter of system calls is known for {machine}, only for {' and '.join(NUMBERS)}")
    return NUMBERS[machine]


def _return(value: int) -> _Instruction:
    return (_RETURN, 0, 0, value)


def _when(test: tuple[int, int], body: list[_Instruction]) -> list[_Instruction]:
    """Runs `body` if a test of the loaded value holds, else goes on behind it."""
    return [(test[0], 0, len(body), test[1]), *body]


def _unless(test: tuple[int, int], value: int) -> list[_Instruction]:
    return [(test[0], 1, 0, test[1]), _return(value)]


def _argument(index: int) -> _Instruction:
    """Loads the low half of an argument (on little-endian machines), all that the kernel reads of those used here."""
    return (_LOAD, 0, 0, _ARGUMENTS_OFFSET + 8 * index)


def _families() -> list[_Instruction]:
    allowed = [one for family in _SOCKET_FAMILIES for one in _when((_EQUAL, family), [_return(_ALLOW)])]
    return [_argument(0), *allowed, _return(_ERROR | errno.EAFNOSUPPORT)]


def _commands() -> list[_Instruction]:
    refused = [one for number in _NOTIFICATIONS for one in _when((_EQUAL, number), [_return(_ERROR | errno.EPERM)])]
    return [_argument(1), *refused, _return(_ALLOW)]


# Each list ends in a return: behind it the number of the call is no longer loaded.
_BY_ARGUMENT: dict[str, list[_Instruction]] = {
    "clone3": [_return(_ERROR | errno.ENOSYS)],
    "clone": [
        _argument(0),
        *_when((_ANY_BIT, _NEW_NAMESPACES), [_return(_ERROR | errno.EPERM)]),
        _return(_ALLOW),
    ],
    "socket": _families(),
    "socketpair": _families(),
    "fcntl": _commands(),
}
