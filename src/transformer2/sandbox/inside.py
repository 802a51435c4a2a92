"""Runs inside a sandbox, handed to the base Python in compiled form, without this package.

Arguments: memory bytes, CPU seconds, processes, file bytes, open files; number of the call keyctl and the filter of
system calls in hexadecimal (0 and nothing: no filter); the uid of programs (-1: that of the sandbox) and the options of
their /tmp, or nothing and nothing where the process runs one program and ends.

A program has at stdin: length (8 bytes) and `marshal` text of its source and of expressions, then the token; at stdout:
"+" when it starts; the token and the expressions' values as JSON when it has reached its end, or what stopped it.
"""

import _signal  # type: ignore[import-not-found]
import _socket
import _thread
import errno
import marshal
import os
import resource
import sys
from _collections_abc import Callable, Iterable, Mapping, Set
from _json import encode_basestring_ascii

REPORT_BYTES = 60_000
"""Longest report, below what a pipe holds: writing it never blocks."""
STACK_BYTES = 8 << 20
"""Of the main and of every other thread; the host's setting would decide how many fit and how deep calls nest."""
NAMESPACES = 0x6C020000
"""CLONE_NEWNS, -UTS, -IPC, -PID and -NET: of each program."""
PRIVATE, NO_DEVICES = 0x44000, 0x6
"""MS_REC and MS_PRIVATE; MS_NOSUID and MS_NODEV."""
MOST_CAPABILITIES = 64


def main() -> None:
    read, write, leave = os.read, os.write, os._exit  # kept: a program may patch the os module
    *limits, keyctl, call_filter, uid, tmp = sys.argv[1:]
    del sys.argv[1:]
    if uid:
        serve(int(uid), tmp)
    restrict([int(limit) for limit in limits], int(keyctl), bytes.fromhex(call_filter))
    source, expressions = load()
    first, second = os.urandom(2)
    token, report = os.dup2(0, 8 + first % 24, False), os.dup2(1, 36 + second % 24, False)
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    write(report, b"+")
    # A module that dataclasses and typing can look up; not __main__, as in the official scorers.
    module = sys.modules["solution"] = type(sys)("solution")
    try:
        exec(compile(source, "<program>", "exec", dont_inherit=True), module.__dict__)
        values = [serialise(eval(one, module.__dict__)) for one in expressions]
        verdict = read(token, 64) + f"[{','.join(values)}]".encode()
        if len(verdict) > REPORT_BYTES:
            verdict = b"its results are too long"
    except MemoryError:
        verdict = b"memory"  # a constant: there may be no memory to format anything
    except BaseException as error:
        trace, line = error.__traceback__, getattr(error, "lineno", None)
        while trace:
            if trace.tb_frame.f_code.co_filename == "<program>":
                line = trace.tb_lineno
            trace = trace.tb_next
        verdict = f"line {line}: {type(error).__name__}: {error}"[:2000].encode("utf-8", "replace")
    write(report, verdict)
    leave(0)


def serve(uid: int, tmp: str) -> None:
    """Starts programs one after another; returns in the process of a program alone, without any privilege.

    A message at stdin, a socket, has three descriptors: the program to read, where to write its report, and a socket
    for its holder. The holder, a child of this process, makes the program's namespaces and its empty /tmp, sends a
    descriptor of their process 1 and, when that has ended, its exit status. Process 1 starts the program and waits.
    Nothing that the program can reach has the sockets, and all of its processes die with process 1.
    """
    call = library()
    control = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, 0)
    while True:
        program, report, channel = descriptors(control)
        holder = os.fork()
        if holder == 0:
            break
        for one in (program, report, channel):
            os.close(one)
        os.waitpid(holder, 0)
    control.close()
    call("unshare", NAMESPACES)
    call("mount", b"none", b"/", None, PRIVATE, None)
    call("mount", b"tmpfs", b"/tmp", b"tmpfs", NO_DEVICES, tmp.encode())
    os.chdir("/tmp")
    if first := os.fork():
        os.close(program)
        os.close(report)
        holding = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, channel)
        handle = os.pidfd_open(first).to_bytes(4, sys.byteorder)
        holding.sendmsg([b"+"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, handle)])
        holding.send(bytes([ended(first)]))
        os._exit(0)
    os.close(channel)
    os.setsid()  # signals to a process group stay inside
    give_up(call, uid)
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # the kernel keeps from process 1 what it has no handler for
    if second := os.fork():
        os.close(program)
        os.close(report)
        os._exit(ended(second))
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    os.dup2(program, 0, False)
    os.dup2(report, 1, False)
    os.closerange(3, max(program, report) + 1)


def descriptors(control: _socket.socket) -> list[int]:
    """The three of the next message; ends the process where there will be none."""
    message, ancillary, _, _ = control.recvmsg(1, 64)
    if not message:
        os._exit(0)
    [(_, _, data)] = ancillary
    return [int.from_bytes(data[at : at + 4], sys.byteorder) for at in range(0, 12, 4)]


def ended(child: int) -> int:
    """Waits until a child has ended, and reaps all others meanwhile; its exit status as a shell tells it."""
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def give_up(call: Callable[..., int], uid: int) -> None:
    """Drops every capability, and every way to one, for good; becomes another user unless `uid` is -1."""
    for capability in range(MOST_CAPABILITIES):
        call("prctl", 24, capability, 0, 0, 0, accepted=(errno.EINVAL,))  # PR_CAPBSET_DROP
    if uid != -1:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    # No capability, permitted, effective or inheritable, by the third version of the structure.
    call("capset", (0x20080522).to_bytes(8, sys.byteorder), bytes(24))
    call("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS


def library() -> Callable[..., int]:
    """A function that calls the C library by name, and raises OSError where that fails."""
    import ctypes  # some milliseconds, which Isolation.NONE saves

    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: object, accepted: tuple[int, ...] = ()) -> int:
        result = getattr(libc, name)(*arguments)
        if result == -1 and ctypes.get_errno() not in accepted:
            raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
        return result

    return call


def restrict(limits: list[int], keyctl: int, call_filter: bytes) -> None:
    """Sets the limits; with a filter also one CPU, a session keyring of its own, and the filter."""
    names = ("AS", "CPU", "NPROC", "FSIZE", "NOFILE", "STACK", "CORE", "MSGQUEUE")
    for name, value in zip(names, [*limits, STACK_BYTES, 0, 0], strict=True):
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))
    _thread.stack_size(STACK_BYTES)
    if not call_filter:
        return
    import ctypes

    class Filter(ctypes.Structure):  # struct sock_fprog
        _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]

    call = library()
    # One CPU, where the kernel has put this process: pools of workers have the same size on every host.
    os.sched_setaffinity(0, {call("sched_getcpu")})
    # KEYCTL_JOIN_SESSION_KEYRING; a kernel or a container without keys has none to protect.
    call("syscall", keyctl, 1, None, accepted=(errno.ENOSYS, errno.EPERM))
    call("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    call("prctl", 22, 2, ctypes.byref(Filter(len(call_filter) // 8, call_filter)))


def load() -> tuple[bytes, list[str]]:
    """The program and its expressions from stdin; what follows stays there."""
    size, text = int.from_bytes(os.read(0, 8), "big"), b""
    while len(text) < size:
        text += os.read(0, size - len(text))
    return marshal.loads(text)


def serialise(value: object) -> str:
    """A value as JSON that `values.deserialise` reads; what equals no builtin value is an object that is true or false.

    Subclasses become the builtin value that they are equal to unless they say otherwise (a named tuple is a tuple).
    """

    def tagged(tag: str, parts: Iterable[object]) -> str:
        return f'["{tag}"{"".join("," + serialise(part) for part in parts)}]'

    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return encode_basestring_ascii(str.__str__(value))
    if isinstance(value, int):
        return f'["int","{int.__format__(value, "x")}"]'
    if isinstance(value, float):
        return f'["float","{float.hex(value)}"]'
    if isinstance(value, complex):
        return tagged("complex", (complex.__complex__(value).real, complex.__complex__(value).imag))
    if isinstance(value, (bytes, bytearray)):
        return f'["bytes","{bytes(value).hex()}"]'
    if isinstance(value, list):
        return tagged("list", list.__iter__(value))
    if isinstance(value, tuple):
        return tagged("tuple", tuple.__iter__(value))
    if isinstance(value, Mapping):
        return tagged("dict", tuple(value.items()))
    if isinstance(value, Set):
        return tagged("set", value)
    if ratio := getattr(type(value), "as_integer_ratio", None):  # of a Decimal or a Fraction
        return tagged("ratio", ratio(value))
    return '["object",true]' if value else '["object",false]'


if __name__ == "__main__":
    main()
