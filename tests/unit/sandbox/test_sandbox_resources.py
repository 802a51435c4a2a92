"""What a right program may use, the same on every host, and bounds that hold for all processes of one together."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sandboxes import isolated_runs, run
from transformer2.sandbox import TMP_FILES, TOGETHER, Isolation, Outcome, Program, run_programs

RIGHT = {
    "pool": """
import multiprocessing
def square(x): return x * x
for size in (None, 4):
    with multiprocessing.Pool(size) as pool:
        assert pool.map(square, range(10)) == [x * x for x in range(10)]
""",
    "executors": """
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
def square(x): return x * x
for kind in (ProcessPoolExecutor, ThreadPoolExecutor):
    with kind() as pool:
        assert list(pool.map(square, range(10))) == [x * x for x in range(10)]
""",
    "queue": """
import multiprocessing
def put(queue, lock):
    with lock: queue.put(1)
queue, lock = multiprocessing.Queue(), multiprocessing.Lock()
children = [multiprocessing.Process(target=put, args=(queue, lock)) for _ in range(4)]
for child in children: child.start()
assert sum(queue.get() for child in children) == 4
for child in children: child.join()
""",
    "shared memory": """
from multiprocessing.shared_memory import SharedMemory
memory = SharedMemory(create=True, size=2**20)
memory.buf[0] = 7
other = SharedMemory(memory.name)
assert other.buf[0] == 7
""",
    "manager": """
import multiprocessing
with multiprocessing.Manager() as manager:
    assert list(manager.list([1, 2])) == [1, 2]
""",
    "ten threads": """
import threading
barrier, results = threading.Barrier(10), []
def work(number):
    barrier.wait()
    results.append(number)
threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert sorted(results) == list(range(10))
""",
    "twenty threads that work": """
import threading
sums = []
threads = [threading.Thread(target=lambda: sums.append(sum(list(range(10**4))))) for _ in range(20)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(set(sums)) == 1 and len(sums) == 20
""",
    "time zones": """
import datetime, zoneinfo
summer = datetime.datetime(2024, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Paris"))
assert summer.utcoffset() == datetime.timedelta(hours=2)
assert len(zoneinfo.available_timezones()) > 400
""",
    "subprocess": """
import subprocess, sys
assert subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, check=True).stdout == b"1\\n"
""",
    "asyncio": """
import asyncio
async def main(): return await asyncio.gather(*(asyncio.to_thread(pow, 2, n) for n in range(8)))
assert asyncio.run(main()) == [2**n for n in range(8)]
""",
    "temporary files": """
import tempfile
with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile(dir=folder) as file:
    assert file.write(b"x") == 1
""",
}


@pytest.mark.parametrize("use", RIGHT)
@isolated_runs
def test_a_right_program_may_use(use: str, isolation: Isolation) -> None:
    assert run(RIGHT[use], isolation) == Outcome(True, "passed")


@isolated_runs
def test_every_host_has_one_cpu(isolation: Isolation) -> None:
    expressions = ("os.cpu_count()", "len(os.sched_getaffinity(0))", "ThreadPoolExecutor()._max_workers")
    program = Program("import os\nfrom concurrent.futures import ThreadPoolExecutor", expressions)
    [outcome] = run_programs([program], isolation=isolation)
    assert outcome.values == (1, 1, 5)


@isolated_runs
def test_stacks_do_not_depend_on_the_host(isolation: Isolation) -> None:
    expressions = ("resource.getrlimit(resource.RLIMIT_STACK)", "threading.stack_size()")
    [outcome] = run_programs([Program("import resource, threading", expressions)], isolation=isolation)
    assert outcome.values == ((8 << 20, 8 << 20), 8 << 20)


HEAVY = """
import os, time
for _ in range(20):
    if os.fork() == 0:
        block = bytearray(40 << 20)
        time.sleep(60)
time.sleep(0.3)
"""
MANY = """
import os, time
for _ in range(20):
    if os.fork() == 0:
        time.sleep(60)
"""


@isolated_runs
def test_a_program_that_dies_slowly_takes_nothing_from_the_next(isolation: Isolation) -> None:
    outcomes = run_programs([HEAVY, MANY] * 2, isolation=isolation, workers=1)
    assert outcomes == [Outcome(True, "passed")] * 4


@isolated_runs
def test_a_program_takes_no_processes_from_that_of_another_job(isolation: Isolation) -> None:
    """All sandboxes of root's jobs are on one host, where processes are counted for each uid."""
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda _: run(MANY + "time.sleep(0.5)", isolation), range(2)))
    assert outcomes == [Outcome(True, "passed")] * 2


@isolated_runs
def test_the_number_of_files_is_bounded(isolation: Isolation) -> None:
    program = """
count = 0
try:
    while True:
        open(str(count), "x").close()
        count += 1
except OSError: raise SystemExit(f"{count} files")
"""
    start = time.monotonic()
    outcome = run(program, isolation)
    assert time.monotonic() - start < 3
    assert outcome.reason == "failed"
    assert 0 < int(outcome.detail.split()[-2]) <= TMP_FILES


@isolated_runs
def test_a_thousand_files_are_fine(isolation: Isolation) -> None:
    assert run("for i in range(1000): open(str(i), 'x').close()\nimport time; time.sleep(0.2)", isolation).passed


@isolated_runs
def test_memory_is_bounded_for_all_processes_together(isolation: Isolation) -> None:
    program = """
import os, time
for _ in range(COUNT):
    if os.fork() == 0:
        block = bytearray(45 << 20)
        time.sleep(60)
time.sleep(SECONDS)
"""
    few = program.replace("COUNT", "2").replace("SECONDS", "0.5")
    many = program.replace("COUNT", "10").replace("SECONDS", "60")
    assert TOGETHER * 64 < 10 * 45
    start = time.monotonic()
    outcomes = run_programs([few, many], isolation=isolation, memory_mb=64, workers=1)
    assert outcomes == [Outcome(True, "passed"), Outcome(False, "memory", "its processes together held too much")]
    assert time.monotonic() - start < 4


@isolated_runs
def test_orphans_count_as_well(isolation: Isolation) -> None:
    """Their parent is process 1 of the sandbox."""
    program = """
import os, time
for _ in range(10):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            block = bytearray(45 << 20)
            time.sleep(60)
        os._exit(0)
time.sleep(60)
"""
    [outcome] = run_programs([program], isolation=isolation, memory_mb=64)
    assert outcome.reason == "memory"
