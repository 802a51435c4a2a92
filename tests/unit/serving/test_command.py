"""`transformer2 serve` as users start it, and as they start it wrongly."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from small_server import EXPERTS, save_expert, save_models

from helpers import model
from transformer2 import cli

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/serve.md").read_text(encoding="utf-8")
PUBLISHED = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return save_models(tmp_path_factory.mktemp("models"))


def blocks(language: str) -> list[str]:
    """Code blocks of the page of docs."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.S | re.M)


@pytest.mark.slow
def test_the_code_of_the_page_runs_against_the_command_and_ctrl_c_ends_it(folders):
    base, experts = folders
    start, curl = blocks("bash")
    arguments = start.split("serve ")[1].split()
    assert arguments[0] == "--experts" and (ROOT / "docs/adapt.md").read_text().count(arguments[1])
    arguments[1] = str(experts["math"].parent)
    command = [sys.executable, "-m", "transformer2", "serve", *arguments, "--model", base, "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            ready = re.fullmatch(
                rf"ready at (\S+)/v1 with the models self-adaptive, base, {', '.join(EXPERTS)}\n", line
            )
            assert ready, line
            answer = run(
                ["bash", "-c", f"curl() {{ command curl -isS --noproxy '*' \"$@\"; }}\n{here(curl, ready[1])}"]
            )
            assert answer.startswith("HTTP/1.1 200 OK") and '"transformer2": {"expert": "' in answer
            assert re.search(r"^x-transformer2-expert: \w+$", answer, re.M)
            (python,) = blocks("python")
            assert "'weights': {" in run([sys.executable, "-c", here(python, ready[1])])
            server.send_signal(signal.SIGINT)
            assert (server.wait(20), server.stdout.read()) == (0, "")
        finally:
            server.kill()


def here(text: str, address: str) -> str:
    assert PUBLISHED in text
    return text.replace(PUBLISHED, address)


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def said(monkeypatch, capsys, *arguments) -> str:
    """The one line with which the command ends."""
    monkeypatch.setattr(sys, "argv", ["transformer2", "serve", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert end.value.code == cli.MISTAKE and len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "math=1", "--strategy", "cls"], "give one of them"),
        (["--strategy", "cls"], "--expert cls=<folder>"),
        (["--strategy", "few-shot"], "strategy 'few-shot'"),
        (["--first-pass", "guess"], "first pass 'guess'"),
        (["--weights", "math"], "'math' is not <expert>=<number>"),
        (["--weights", "math=nan"], "'math=nan' is not <expert>=<number>"),
        (["--weights", "physics=1"], "expert 'physics'"),
        (["--weights", "math=1", "--weights", "math=2"], "given twice"),
        (["--weights", "math=0"], "all weights are 0"),
    ],
)
def test_options_that_do_not_go_together_are_refused_in_one_line(folders, monkeypatch, capsys, options, message):
    base, experts = folders
    assert message in said(monkeypatch, capsys, "--model", base, "--expert", f"math={experts['math']}", *options)


@pytest.mark.parametrize(("name", "message"), [("physics", "--weights physics=1"), ("others", "'others'")])
def test_an_expert_that_no_class_would_get_is_refused(folders, monkeypatch, capsys, name, message):
    base, experts = folders
    assert message in said(monkeypatch, capsys, "--model", base, "--expert", f"{name}={experts['math']}")


def test_a_name_that_the_server_uses_is_refused(folders, monkeypatch, capsys):
    base, experts = folders
    line = said(monkeypatch, capsys, "--model", base, "--expert", f"base={experts['math']}", "--weights", "base=1")
    assert "'base' is a name that the server uses itself" in line


def test_an_expert_of_another_model_is_refused_at_the_start(folders, tmp_path, monkeypatch, capsys):
    base, experts = folders
    deep = model(320, layers=3)
    deep.save_pretrained(tmp_path / "deep")
    strange = save_expert(tmp_path / "deep", tmp_path / "strange", 0)
    pairs = ["--expert", f"math={experts['math']}", "--expert", f"code={strange}"]
    line = said(monkeypatch, capsys, "--model", base, *pairs, "--port", "0")
    assert f"the expert in {strange} belongs to another model" in line


def test_an_address_that_is_taken_is_refused(folders, monkeypatch, capsys):
    base, experts = folders
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = said(monkeypatch, capsys, "--model", base, "--expert", f"math={experts['math']}", "--port", port)
    assert f"port {port}" in line and "choose others with --host and --port" in line


@pytest.mark.parametrize("package", ["fastapi", "uvicorn"])
def test_without_its_packages_the_command_says_what_to_install(folders, monkeypatch, capsys, package):
    base, experts = folders
    monkeypatch.setitem(sys.modules, package, None)
    line = said(monkeypatch, capsys, "--model", base, "--expert", f"math={experts['math']}")
    assert line == f"error: serve needs {package}: pip install 'transformer2[serve]'"
