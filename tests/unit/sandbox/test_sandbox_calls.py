"""System calls that a program is refused: the filter itself, on both machines, and attacks by them on this one."""

import ctypes
import errno
import os
import platform
import struct
from pathlib import Path

import pytest

from sandboxes import isolated_runs, run
from transformer2.sandbox import Isolation, Outcome, Program, run_programs, seccomp

ALLOW, KILL = 0x7FFF0000, 0x80000000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
I386 = 0x40000003
EXIT = {"x86_64": 60, "aarch64": 93}
BY_ARGUMENT = {"clone", "clone3", "socket", "socketpair", "fcntl"}


def verdict(machine: str, number: int, arguments: tuple[int, ...] = (), architecture: int | None = None) -> int:
    """What the kernel would return: a classic BPF machine with the five instructions that the filter has."""
    data = struct.pack(
        "=iIQ6Q", number, architecture or ARCHITECTURES[machine], 0, *arguments, *[0] * (6 - len(arguments))
    )
    program = list(struct.iter_unpack("=HBBI", seccomp.call_filter(machine)))
    position, loaded = 0, 0
    while True:
        code, if_true, if_false, constant = program[position]
        position += 1
        match code:
            case 0x06:
                return constant
            case 0x20:
                (loaded,) = struct.unpack_from("=I", data, constant)
                continue
            case 0x15:
                holds = loaded == constant
            case 0x35:
                holds = loaded >= constant
            case 0x45:
                holds = bool(loaded & constant)
            case _:
                raise AssertionError(f"instruction {code:#x}")
        position += if_true if holds else if_false


def refusal(number: int) -> int:
    return 0x00050000 | number


@pytest.mark.parametrize("machine", seccomp.NUMBERS)
def test_every_listed_call_is_refused_and_no_other(machine: str) -> None:
    numbers = seccomp.NUMBERS[machine]
    refused = {number for name, number in numbers.items() if name not in BY_ARGUMENT}
    looked_at = set(numbers.values())
    assert len(looked_at) == len(numbers)
    assert {number for number in range(600) if verdict(machine, number) == refusal(errno.EPERM)} == refused
    assert all(verdict(machine, number) == ALLOW for number in range(600) if number not in looked_at)
    assert verdict(machine, EXIT[machine]) == ALLOW


@pytest.mark.parametrize("machine", seccomp.NUMBERS)
def test_some_calls_are_refused_for_some_arguments(machine: str) -> None:
    numbers = seccomp.NUMBERS[machine]
    forking, threading = 0x01200011, 0x003D0F00  # what the C library passes for fork and pthread_create
    new_user, new_mounts = 0x10000000, 0x00020000
    assert verdict(machine, numbers["clone"], (forking,)) == ALLOW
    assert verdict(machine, numbers["clone"], (threading,)) == ALLOW
    assert verdict(machine, numbers["clone"], (forking | new_user,)) == refusal(errno.EPERM)
    assert verdict(machine, numbers["clone"], (forking | new_mounts,)) == refusal(errno.EPERM)
    assert verdict(machine, numbers["clone3"]) == refusal(errno.ENOSYS)
    for call in ("socket", "socketpair"):
        allowed = {family for family in range(64) if verdict(machine, numbers[call], (family,)) == ALLOW}
        assert allowed == {1, 2, 10, 16}
        assert verdict(machine, numbers[call], (40,)) == refusal(errno.EAFNOSUPPORT)  # AF_VSOCK
    commands = {command for command in range(1100) if verdict(machine, numbers["fcntl"], (3, command)) != ALLOW}
    assert commands == {1024, 1026}


@pytest.mark.parametrize("machine", seccomp.NUMBERS)
def test_calls_of_another_instruction_set_do_not_get_around_the_numbers(machine: str) -> None:
    assert verdict(machine, EXIT[machine], architecture=I386) == KILL
    assert verdict(machine, 0x40000000 | EXIT[machine]) == refusal(errno.ENOSYS)


def test_a_machine_with_other_numbers_is_no_machine_for_a_sandbox() -> None:
    with pytest.raises(ValueError, match="no filter of system calls is known for riscv64, only for x86_64 and aarch64"):
        seccomp.call_filter("riscv64")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads the kernel's header of x86_64")
def test_the_numbers_are_those_of_the_kernels_headers() -> None:
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    generic = Path("/usr/include/asm-generic/unistd.h")
    if not (header.exists() and generic.exists()):
        pytest.skip("the kernel's headers are not installed")
    for path, machine in ((header, "x86_64"), (generic, "aarch64")):
        lines = [line.split() for line in path.read_text().splitlines() if line.startswith("#define __NR")]
        known = {line[1].removeprefix("__NR_").removeprefix("__NR3264_"): line[2] for line in lines if len(line) > 2}
        numbers = {name: int(known[name]) for name in seccomp.NUMBERS[machine] if known.get(name, "").isdigit()}
        assert len(numbers) >= len(seccomp.NUMBERS[machine]) - 1
        assert numbers.items() <= seccomp.NUMBERS[machine].items()


# Each evaluates to the result of a call; all but the last few work on any host.
CALLS = {
    "inotify": "libc.inotify_init1(0)",
    "dnotify": "libc.fcntl(os.open('/usr/lib', os.O_RDONLY), 1026, 2)",
    "lease": "libc.fcntl(os.open('/tmp/own', os.O_RDONLY | os.O_CREAT, 0o600), 1024, 0)",
    "other shared memory": "libc.memfd_create(b'x', 0)",
    "System V shared memory": "libc.shmget(0, 4096, 0o1600)",
    "System V semaphores": "libc.semget(0, 1, 0o1600)",
    "System V messages": "libc.msgget(0, 0o1600)",
    "tracing": "libc.ptrace(0, 0, 0, 0)",
    "another CPU": "libc.sched_setaffinity(0, 128, b'\\xff' * 128)",
}
CALLS_OF_SOME_HOSTS = {
    "key": f"libc.syscall({seccomp.number('add_key')}, b'user', b'sandbox-test', b'x', 1, -3)",
    "keyring": f"libc.syscall({seccomp.number('keyctl')}, 0, -3, 1)",
    "request of a key": f"libc.syscall({seccomp.number('request_key')}, b'user', b'sandbox-test', None, -3)",
    "io_uring": "libc.syscall(425, 1, ctypes.create_string_buffer(120))",
    "userfaultfd": f"libc.syscall({seccomp.number('userfaultfd')}, 1)",
    "perf": f"libc.syscall({seccomp.number('perf_event_open')}, b'\\x01' + bytes(127), 0, -1, -1, 0)",
    "bpf": f"libc.syscall({seccomp.number('bpf')}, 0, bytes(64), 64)",
    "fanotify": "libc.fanotify_init(0x200, 0)",
    "user namespace": "libc.unshare(0x10000000)",
    "mount": "libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None)",
    "new mount": "libc.syscall(430, b'tmpfs', 0)",
    "another process's memory": "libc.process_vm_readv(os.getppid(), None, 0, None, 0, 0)",
}


def attempt(call: str, refusal: str) -> str:
    return f"""
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
result = {call}
assert (result, ctypes.get_errno()) == (-1, errno.{refusal}), (result, ctypes.get_errno())
"""


@pytest.mark.parametrize("call", CALLS)
@isolated_runs
def test_a_call_that_works_on_the_host_is_refused(call: str, isolation: Isolation) -> None:
    program = attempt(CALLS[call], "EPERM")
    assert run(program, isolation) == Outcome(True, "passed")
    assert run(program, Isolation.NONE).reason == "failed", "the call does not even work without isolation"


@pytest.mark.parametrize("call", CALLS_OF_SOME_HOSTS)
@isolated_runs
def test_a_call_that_some_hosts_allow_is_refused(call: str, isolation: Isolation) -> None:
    assert run(attempt(CALLS_OF_SOME_HOSTS[call], "EPERM"), isolation) == Outcome(True, "passed")


@pytest.mark.parametrize("family", [17, 38, 40], ids=["AF_PACKET", "AF_ALG", "AF_VSOCK"])
@isolated_runs
def test_sockets_past_the_network_namespace_are_refused(family: int, isolation: Isolation) -> None:
    program = attempt(f"libc.socket({family}, 1, 0)", "EAFNOSUPPORT")
    assert run(program, isolation) == Outcome(True, "passed")


@isolated_runs
def test_a_fork_into_a_new_user_namespace_is_refused(isolation: Isolation) -> None:
    call = f"libc.syscall({seccomp.number('clone')}, 0x10000011, None, None, None, None)"
    assert run(attempt(f"{call} or os._exit(0)", "EPERM"), isolation) == Outcome(True, "passed")


SESSION_KEYRING = f"""
import ctypes
def key(*arguments): return ctypes.CDLL(None).syscall({seccomp.number("keyctl")}, *arguments)
session = key(0, -3, 0)
seen = key(10, -3, b"user", b"sandbox-test", 0)
added = ctypes.CDLL(None).syscall({seccomp.number("add_key")}, b"user", b"sandbox-test", b"x", 1, -3)
"""


@isolated_runs
def test_each_program_has_a_session_keyring_of_its_own(monkeypatch: pytest.MonkeyPatch, isolation: Isolation) -> None:
    """Shown without the filter, which would refuse to look."""
    own = ctypes.CDLL(None).syscall(seccomp.number("keyctl"), 0, -3, 0)
    if own == -1:
        pytest.skip("no kernel keys here")
    monkeypatch.setattr(seccomp, "call_filter", lambda: struct.pack("=HBBI", 0x06, 0, 0, ALLOW))
    programs = [Program(SESSION_KEYRING, ("session", "seen", "added"))] * 2
    sessions = []
    for outcome in run_programs(programs, isolation=isolation, workers=1):
        session, seen, added = outcome.values
        assert session != own and added != -1, "the look at the keyring does not work"
        assert seen == -1, "a key of the program before"
        sessions.append(session)
    assert sessions[0] != sessions[1]


@isolated_runs
def test_the_hosts_name_is_hidden(isolation: Isolation) -> None:
    [outcome] = run_programs(
        [Program("import os, socket", ("os.uname().nodename", "socket.gethostname()"))], isolation=isolation
    )
    assert outcome.values == ("sandbox", "sandbox")
    assert os.uname().nodename != "sandbox"
