"""Runs inside a sandbox, handed to the base Python in compiled form, without this package.

Arguments: memory bytes, CPU seconds, processes, file bytes, open files; number of the call keyctl and the filter of
system calls in hexadecimal (0 and nothing: no filter). stdin: length (8 bytes) and `marshal` text of the program's
source and of expressions, then the token. stdout: "+" when the program starts; the token and the expressions' values
as JSON when it has reached its end, or what stopped it.
"""

import _thread
import errno
import marshal
import os
import resource
import sys
from _collections_abc import Iterable, Mapping, Set
from _json import encode_basestring_ascii

REPORT_BYTES = 60_000
"""Longest report, below what a pipe holds: writing it never blocks."""
STACK_BYTES = 8 << 20
"""Of the main and of every other thread; the host's setting would decide how many fit and how deep calls nest."""


def main() -> None:
    read, write, leave = os.read, os.write, os._exit  # kept: a program may patch the os module
    *limits, keyctl, call_filter = sys.argv[1:]
    del sys.argv[1:]
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


def restrict(limits: list[int], keyctl: int, call_filter: bytes) -> None:
    """Sets the limits; with a filter also one CPU, a session keyring of its own, and the filter."""
    names = ("AS", "CPU", "NPROC", "FSIZE", "NOFILE", "STACK", "CORE", "MSGQUEUE")
    for name, value in zip(names, [*limits, STACK_BYTES, 0, 0], strict=True):
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))
    _thread.stack_size(STACK_BYTES)
    if not call_filter:
        return
    import ctypes  # some milliseconds, which Isolation.NONE saves

    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: object, accepted: tuple[int, ...] = ()) -> int:
        result = getattr(libc, name)(*arguments)
        if result == -1 and ctypes.get_errno() not in accepted:
            raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
        return result

    class Filter(ctypes.Structure):  # struct sock_fprog
        _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]

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
