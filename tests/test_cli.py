"""The command line as scripts and people meet it: real processes, exit codes, streams, interrupts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVER = """\
import http.server, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(float(self.path[1:]))
        self.send_response(200); self.end_headers(); self.wfile.write(b"hi")
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""
CULPA = (sys.executable, "-m", "culpa")
COMMANDS = ((), ("why",), ("record",), ("doctor",), ("lab",), ("lab", "list"), ("lab", "run"))


def culpa(*arguments: str, seconds: float = 60, **how: object) -> subprocess.CompletedProcess[str]:
    """One run, to its end."""
    return subprocess.run([*CULPA, *arguments], capture_output=True, text=True, timeout=seconds, **how)  # type: ignore[call-overload, no-any-return]


@pytest.fixture
def url() -> Iterator[str]:
    """A web server that sleeps as long as the path says."""
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short capture of a sleeping process."""
    path = tmp_path_factory.mktemp("cli") / "idle.culpa"
    with subprocess.Popen(["sleep", "60"]) as process:
        done = culpa("record", str(process.pid), "--no-trace", "--for", "500ms", "-o", str(path))
        process.kill()
    assert done.returncode == 0, done.stderr
    return path


def wait_until_connected(port: int) -> None:
    """Until somebody has a connection to a port of this host, by /proc/net/tcp."""
    deadline = time.monotonic() + 20
    while not any(
        row.split()[2].endswith(f":{port:04X}") and row.split()[3] == "01"
        for row in Path("/proc/net/tcp").read_text().splitlines()[1:]
    ):
        assert time.monotonic() < deadline, "nobody connects"
        time.sleep(0.01)


def assert_sentence(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """The exit code, one sentence on stderr and nothing on stdout."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_ends_with_an_example(command: tuple[str, ...]) -> None:
    """And the example starts with the command it is for."""
    done = culpa(*command, "--help")
    assert done.returncode == 0
    example = done.stdout.rpartition("Example:")[2].strip().split("\n")
    assert example
    assert all(line.strip().startswith(" ".join(("culpa", *command))) for line in example)


def test_help_loads_no_stage() -> None:
    """Neither the heavy libraries nor any room of culpa that needs them."""
    code = (
        "import sys\nfrom culpa import cli\n"
        "try:\n    cli.main(['why', '--help'])\nexcept SystemExit as end:\n    assert end.code == 0, end.code\n"
        "heavy = {'numpy', 'polars', 'redis', 'msgspec', 'rich'} & set(sys.modules)\n"
        "names = [name.split('.') for name in sys.modules if name.startswith('culpa.')]\n"
        "rooms = {name[1] for name in names if len(name) > 2} - {'cli'}\n"
        "assert not heavy and not rooms, (heavy, rooms)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_is_fast() -> None:
    """CPU time, since this machine may be busy with other things: 0.3 s."""

    def seconds() -> float:
        before = os.times()
        culpa("--help")
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert any(seconds() <= 0.3 for _ in range(10))  # a busy neighbour of the CPU makes it slower for a while


def test_version() -> None:
    """One line."""
    assert re.fullmatch(r"culpa \d+\.\d+\.\d+\n", culpa("--version").stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        ("why", "--nonsense"),
        ("why", "--for", "3x"),
        ("why", "--for", "0"),
        ("why", "--fail-on", "disaster"),
        ("why", "--budget", "0"),
        ("why", "--max-requests", "0", "http://127.0.0.1/"),
        ("why", "-X", "POST"),
        ("why", "-H", "no colon", "http://127.0.0.1:1/"),
        ("why", "--user", "nobody", "http://127.0.0.1:1/"),
        ("why", "1", "--", "true"),
        ("why", "--passive", "--", "true"),
        ("why", "--"),
        ("why", "ftp://127.0.0.1/"),
        ("why", ":0"),
        ("why", "missing.culpa"),
        ("record", "1"),
        ("lab", "run", "no-such-lab"),
        ("nonsense",),
    ],
)
def test_wrong_usage_is_exit_2(arguments: tuple[str, ...]) -> None:
    """Told before anything is watched."""
    assert_sentence(culpa(*arguments), 2)


def test_what_is_not_there_is_exit_1(tmp_path: Path) -> None:
    """No such process, nobody on the port, no such command, not a capture."""
    assert_sentence(culpa("why", str(2**22 - 1)), 1, "no process")
    assert_sentence(culpa("why", "http://127.0.0.1:1/"), 1, "refused")
    assert_sentence(culpa("why", ":1"), 1, "port 1")
    assert_sentence(culpa("why", "--", "/no/such/command"), 1, "no such file")
    noise = tmp_path / "noise.culpa"
    noise.write_bytes(b"PK\x03\x04" + b"noise" * 100)
    assert_sentence(culpa("why", str(noise)), 1, "noise.culpa")


def test_several_of_a_name_are_listed() -> None:
    """Never the first one: exit 2, with the pids to choose from."""
    with subprocess.Popen(["sleep", "61"]) as one, subprocess.Popen(["setsid", "sleep", "62"]) as other:
        try:
            time.sleep(0.2)
            done = culpa("why", "sleep")
        finally:
            one.kill()
            other.kill()
    assert_sentence(done, 2, str(one.pid), "sleep 61")


def test_json_is_all_of_stdout(url: str) -> None:
    """The verdict there, the talk on stderr; no terminal, no line that changes."""
    done = culpa("why", f"{url}/0.1", "--no-trace", "--json", "--for", "3s")
    verdict = json.loads(done.stdout)
    assert done.returncode == 0
    assert verdict["schema"] == "culpa.verdict/1"
    assert verdict["target"]["kind"] == "url"
    assert verdict["observed"]["completed"] >= 5
    assert "asks GET" in done.stderr
    assert "\r" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_quiet_is_the_headline_only(url: str) -> None:
    """One line on stdout, nothing on stderr."""
    done = culpa("why", f"{url}/0.1", "--no-trace", "-q", "--for", "1s")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1


def test_a_command_has_the_terminal() -> None:
    """Its input and output are the user's; beside --json its output goes to stderr."""
    shell = ("--", "sh", "-c", "read line; echo got $line; exit 3")
    plain = culpa("why", "--no-trace", *shell, input="tea\n")
    assert plain.returncode == 0
    assert plain.stdout.startswith("got tea\n")
    assert "status 3" in plain.stderr
    as_json = culpa("why", "--no-trace", "--json", *shell, input="tea\n")
    assert json.loads(as_json.stdout)["target"]["kind"] == "command"
    assert "got tea\n" in as_json.stderr


def test_options_after_the_dashes_are_the_command_s() -> None:
    """`--json` behind `--` is no option of culpa."""
    done = culpa("why", "--no-trace", "--", "echo", "--json", "--", "-x")
    assert done.stdout.startswith("--json -- -x\n")


def test_a_capture_gives_the_same_verdict_twice(capture: Path) -> None:
    """Byte for byte, apart from what judging cost; and options of recording are refused."""
    verdicts = [json.loads(culpa("why", str(capture), "--json").stdout) for _ in range(2)]
    for verdict in verdicts:
        del verdict["cost"]
    assert verdicts[0] == verdicts[1]
    assert_sentence(culpa("why", str(capture), "--for", "3s"), 2, "saved capture")
    assert_sentence(culpa("record", str(capture), "-o", "x.culpa"), 2, "capture already")


@pytest.mark.root
def test_a_capture_needs_no_root(capture: Path) -> None:
    """Another user gets the very verdict that root gets; reading this checkout is all that user may do more."""
    reading = "+dac_read_search"
    user = ["setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all,+dac_read_search"]
    user += [f"--inh-caps=-all,{reading}", f"--ambient-caps=-all,{reading}"]
    done = subprocess.run([*user, *CULPA, "why", str(capture), "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs, mine = json.loads(done.stdout), json.loads(culpa("why", str(capture), "--json").stdout)
    del mine["cost"], theirs["cost"]
    assert theirs == mine


def test_saving_where_it_cannot_be_saved(capture: Path, tmp_path: Path) -> None:
    """The verdict is shown all the same, then the sentence and exit 1; nothing half is left."""
    done = culpa("why", str(capture), "-o", str(tmp_path / "no" / "folder.culpa"), "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["schema"] == "culpa.verdict/1"
    assert "folder.culpa" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
def test_a_full_disk(capture: Path, tmp_path: Path) -> None:
    """A file system of 64 kB holds no capture: one sentence, no file."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "culpa-test", disk], check=True)
    try:
        done = culpa("why", str(capture), "-o", str(disk / "full.culpa"), "-q")
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_redact_hides_names(url: str, tmp_path: Path) -> None:
    """Neither in the verdict nor in the file."""
    saved = tmp_path / "redacted.culpa"
    with subprocess.Popen(["sh", "-c", "exec -a verysecretname sleep 60"], executable="/bin/bash") as process:
        done = culpa(
            "why", str(process.pid), "--no-trace", "--for", "500ms", "--redact", "--json", "-o", str(saved)
        )  # fmt: skip
        process.kill()
    assert done.returncode == 0, done.stderr
    assert "verysecretname" not in done.stdout
    assert b"verysecretname" not in saved.read_bytes()


def test_a_reader_that_goes_away_is_no_error(capture: Path) -> None:
    """As in `culpa why FILE | head -1`."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*CULPA, "why", str(capture)], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


MEMORY = """
import culpa.cli
from culpa.__main__ import main
def held():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def measure():
    import numpy, polars
    polars.Series([1]), numpy.ones(4 << 20)
    before = held()
    arrays = [(numpy.ones(1 << 19), numpy.ones(100)) for _ in range(20)]
    small = [pair[1] for pair in arrays]
    del arrays
    after_arrays = held()
    tables = [polars.Series(range(1 << 19)) for _ in range(20)]
    del tables
    print(after_arrays - before, held() - before)
culpa.cli.main = measure
main()
"""


def test_memory_goes_back_at_once() -> None:
    """Of 80 MiB each that numpy and polars had, next to nothing stays, whatever a parent left in the environment."""
    for inherited in ({}, {"_RJEM_MALLOC_CONF": "dirty_decay_ms:60000,muzzy_decay_ms:60000"}):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=60, env={**os.environ, **inherited}
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert max(map(int, done.stdout.split())) < 24 << 20


@pytest.mark.parametrize("after", [0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
def test_an_interrupt_at_any_moment_is_quiet(url: str, after: float) -> None:
    """A verdict or exit 130, never a traceback, and the process is gone at once."""
    # Before the interpreter has come as far as culpa's first line, an interrupt is its own to handle.
    code = "import sys\nfrom culpa.__main__ import main\nprint('up', file=sys.stderr, flush=True)\nmain()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "why", f"{url}/30", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "up\n"
        time.sleep(after)
        process.send_signal(signal.SIGINT)
        out, talk = process.communicate(timeout=20)
    assert "Traceback" not in talk
    assert process.returncode in (0, 130), talk
    if process.returncode == 0:
        assert json.loads(out)["window"]["ended_by"] == "interrupt"
    else:
        assert out == ""


def test_an_interrupt_while_the_priority_is_set_is_quiet() -> None:
    """Before the command line is even parsed."""
    code = """
import signal
from culpa import cli
cli.program.PRIORITY.give_way = lambda: signal.raise_signal(signal.SIGINT)
cli.main(["why", "--no-trace"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_interrupt_is_not_lost_where_an_import_swallows_it() -> None:
    """As Python does with what is raised in a weak reference's callback, of which each import has one."""
    code = """
import signal, sys, time, weakref
from culpa.cli.program import interrupted
signal.signal(signal.SIGINT, interrupted)
names = {"signal": signal}
callback = "def cb(_):\\n    signal.raise_signal(signal.SIGINT)\\n    return 1"
exec(compile(callback, "<frozen importlib._bootstrap>", "exec"), names)
class Held: pass
held = Held()
reference = weakref.ref(held, names["cb"])
try:
    del held
    time.sleep(20)
except KeyboardInterrupt:
    sys.exit(130)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=15)
    assert (130, "") == (done.returncode, done.stderr)


def test_an_interrupt_in_the_window_gives_a_verdict(url: str) -> None:
    """Ctrl-C after the first request was sent: exit 0 and the open request in the verdict."""
    with subprocess.Popen(
        [*CULPA, "why", f"{url}/30", "--json", "--no-trace"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert "asks GET" in process.stderr.readline()
        wait_until_connected(int(url.rpartition(":")[2]))
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    verdict = json.loads(out)
    assert process.returncode == 0
    assert verdict["window"]["ended_by"] == "interrupt"
    assert verdict["observed"]["in_flight"] == 1


def test_fail_on_finds_a_busy_command() -> None:
    """A command that only computes is a finding of warning or above: exit 3, and 0 without the option."""
    busy = ("--", sys.executable, "-c", "import time\nend = time.monotonic() + 3\nwhile time.monotonic() < end: pass")
    done = culpa("why", "--no-trace", "--json", "--fail-on", "warning", *busy)
    assert done.returncode == 3, done.stdout[:2000]
    assert json.loads(done.stdout)["causes"]


def test_doctor_and_lab_list_as_json() -> None:
    """Both are lists of objects with the fields that scripts lean on."""
    checks = json.loads(culpa("doctor", "--json").stdout)
    assert {"name", "state"} <= checks[0].keys()
    labs = json.loads(culpa("lab", "list", "--json").stdout)
    wanted = {"name", "family", "needs", "seed", "fires", "silent", "fast", "runnable", "why_not"}
    assert all(wanted <= lab.keys() for lab in labs)
    assert {"redis-slow", "redis-slow-healthy"} <= {lab["name"] for lab in labs}
