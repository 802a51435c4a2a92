"""The program that jobs of a rehearsal call as `python`: it hands its command to `cli.rehearsal_server`."""

import sys
from pathlib import Path

CLIENT = """#!{python} -IS
import json, os, socket, struct, sys
if sys.argv[1:3] != ["-m", "transformer2"]:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
call = json.dumps([sys.argv[3:], os.getcwd(), dict(os.environ)]).encode()
server = socket.socket(socket.AF_UNIX)
folder = os.open({folder!r}, os.O_PATH)
server.connect("/proc/self/fd/%d/" % folder + {name!r})
os.close(folder)
socket.send_fds(server, [struct.pack("!I", len(call))], [0, 1, 2])
server.sendall(call)
status = server.recv(1)
if not status:
    print("the process of this command was killed", file=sys.stderr)
sys.exit(status[0] if status else 1)
"""
"""What a job calls as `python`. It imports next to nothing."""
ENVIRONMENT = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")} | {
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "agg",
}
"""Of the server: a process that has threads, or uses a GPU, cannot be forked safely."""
LARGE_PAGES = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Of the server alone: a fork copies the table of its pages, 30 ms of half a gigabyte in small ones, 7 ms in large."""


def write_client(path: Path, address: Path) -> None:
    """Writes the program that jobs call as `python`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(CLIENT.format(python=sys.executable, folder=str(address.parent), name=address.name))
    path.chmod(0o755)
