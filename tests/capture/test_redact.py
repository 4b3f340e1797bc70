"""Redaction: nothing secret is left in the file, and the capture still fits together."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import captures
import msgspec
import pytest

from culpa.capture import schema
from culpa.capture.bundle import Capture, open_capture, save
from culpa.capture.columns import Table
from culpa.capture.manifest import BlindSpot
from culpa.capture.redact import _PUBLIC_COLUMNS, redact

KEY = b"0123456789abcdef"
FOLDER = "/var/lib/acmepay"
AOF = f"{FOLDER}/appendonlydir/ledger.aof.1.incr.aof"
SECRETS = (
    "acmepay", "ledger", "customer4711", "10.20.30.40", "2001:db9::77", "db7.corp.example", "hunter2", "vault",
    "paymentsd", "tok_live", "s3cr3t", "invoice", "3f2a9c0d11", "alice", "PayHandler", "кассир",
)  # fmt: skip


def secretive() -> Capture:
    """A capture with a secret in every column that may hold one."""
    target = msgspec.structs.replace(
        captures.MANIFEST.target, kind="url", name="http://db7.corp.example:8443/invoice/customer4711"
    )
    spots = (
        BlindSpot(
            what="the server at 10.20.30.40:7001", why="paymentsd refused (run by alice on db7.corp.example)",
            way_out="see http://db7.corp.example/vault and /var/lib/acmepay/hunter2, then run culpa as root",
        ),
    )  # fmt: skip
    tables = {
        schema.MESSAGES: {
            "pid": [20, 20], "ino": [5, 6], "verb": ["GET", "SADD"], "protocol": ["http", "resp"],
            "detail": ["/invoice/customer4711", "invoice:customer4711:*"],
        },
        schema.SOCKETS: {
            "ino": [5, 6, 7, 8], "family": ["tcp", "tcp6", "unix", "tcp"],
            "local_addr": ["10.20.30.40", "2001:db9::77", f"{FOLDER}/vault.sock", "127.0.0.1"],
            "local_port": [7001] * 4, "peer_addr": ["127.0.0.1", "10.20.30.40", None, "db7.corp.example"],
        },
        schema.TASKS: {"tid": [20, 99], "comm": ["paymentsd", "jbd2/vda1-8"], "kernel": [False, True]},
        schema.PROCESSES: {
            "pid": [20, 30, 99], "comm": ["paymentsd", "redis-server", "jbd2/vda1-8"],
            "cmdline": ["/opt/acmepay/paymentsd --token tok_live", "redis-server *:7001", None],
            "exe": ["/opt/acmepay/paymentsd", "/usr/bin/redis-server", None],
            "cgroup": ["/system.slice/paymentsd.service", "/docker/3f2a9c0d11", None],
            "unit": ["paymentsd.service", None, None], "container": [None, "3f2a9c0d11", None],
            "role": ["target", "peer", "kernel"],
        },
        schema.FILES: {"ino": [1, 2], "path": [AOF, "/home/alice/кассир.log"],
            "inner_path": ["/data/ledger.aof", None]},
        schema.CODE: {"function": ["PayHandler_get"], "path": ["/opt/acmepay/PayHandler.py"], "line": [53]},
        schema.REQUESTS: {"start_ns": [captures.START], "error": ["db7.corp.example refused s3cr3t"]},
        schema.REDIS: {
            "server": ["10.20.30.40:7001"] * 6, "source": ["CONFIG GET"] * 6,
            "field": ["dir", "appendfilename", "appendfsync", "save", "slave0", "connected_clients"],
            "value": [FOLDER, "ledger.aof", "always", "3600 1 300 100", "ip=10.20.30.40,port=7002,state=online", "12"],
        },
        schema.DEVICES: {"dev": [1], "name": ["loop5"], "scheduler": ["none"]},
        schema.COUNTERS: {
            "source": ["/proc/diskstats", "/sys/fs/cgroup/system.slice/paymentsd.service/cpu.stat", "/proc/stat"],
            "object": ["loop5", "/system.slice/paymentsd.service", "cpu0"], "field": ["ios", "nr_throttled", "user"],
            "value": [1.0, 2.0, 3.0],
        },
    }  # fmt: skip
    frames = {table.name: table.frame(columns) for table, columns in tables.items()}
    manifest = msgspec.structs.replace(captures.MANIFEST, target=target, blind_spots=spots)
    return Capture(manifest=manifest, tables=frames)


def column(capture: Capture, table: str, name: str) -> list[str]:
    return capture.tables[table][name].to_list()


def test_no_secret_is_left_in_the_file(tmp_path: Path) -> None:
    """None of the secrets stands in the manifest, in any cell or in any byte of the file, in any case of letters."""
    path = tmp_path / "a.culpa"
    save(redact(secretive(), KEY), path)
    opened = open_capture(path)
    assert opened.manifest.redacted
    cells = [path.read_bytes().decode("latin-1"), zipfile.ZipFile(path).read("manifest.json").decode()]
    cells += [frame.write_csv() for frame in opened.tables.values()]
    text = "\n".join(cells).lower()
    assert [secret for secret in SECRETS if secret.lower() in text] == []
    assert all(secret in "".join(frame.write_csv() for frame in secretive().tables.values()) + str(secretive().manifest)
               for secret in SECRETS)  # fmt: skip


def test_parts_still_fit_together() -> None:
    """The same name is the same hash everywhere: file and setting, socket and peer, unit and control group."""
    hidden = redact(secretive(), KEY)
    folder, filename = column(hidden, "redis", "value")[:2]
    assert column(hidden, "files", "path")[0] == f"{folder}/appendonlydir/{filename}.1.incr.aof"
    assert filename.endswith(".aof")
    assert column(hidden, "sockets", "local_addr")[0] == column(hidden, "sockets", "peer_addr")[1]
    assert column(hidden, "processes", "unit")[0] in column(hidden, "processes", "cgroup")[0]
    assert column(hidden, "counters", "object")[1] == column(hidden, "processes", "cgroup")[0]


def test_public_words_structure_and_numbers_stay() -> None:
    """Settings, standard programs, kernel names, loopback, ports, devices and wild cards are still readable."""
    hidden = redact(secretive(), KEY)
    assert column(hidden, "redis", "value")[2:4] == ["always", "3600 1 300 100"]
    assert re.fullmatch(r"ip=2[45]\d\.\d+\.\d+\.\d+,port=7002,state=online", column(hidden, "redis", "value")[4])
    assert column(hidden, "processes", "comm")[1:] == ["redis-server", "jbd2/vda1-8"]
    assert column(hidden, "tasks", "comm")[1] == "jbd2/vda1-8"
    assert column(hidden, "sockets", "local_addr")[3] == "127.0.0.1"
    assert column(hidden, "messages", "verb") == ["GET", "SADD"]
    assert re.fullmatch(r"\w{8}:\w{8}:\*", column(hidden, "messages", "detail")[1])
    assert column(hidden, "counters", "source")[::2] == ["/proc/diskstats", "/proc/stat"]
    assert column(hidden, "counters", "object")[::2] == ["loop5", "cpu0"]
    assert re.fullmatch(r"http://\w{8}\.\w{8}\.\w{8}:8443/\w{8}/\w{8}", hidden.manifest.target.name)
    assert hidden.manifest.blind_spots[0].way_out.endswith("then run culpa as root")


def test_only_texts_change() -> None:
    """Numbers, nulls, row order, types and columns are those of the original."""
    capture, hidden = secretive(), redact(secretive(), KEY)
    for name, frame in capture.tables.items():
        assert frame.schema == hidden.tables[name].schema
        numbers = [column.name for column in schema.BY_NAME[name].columns if not column.is_text]
        assert frame.select(numbers).equals(hidden.tables[name].select(numbers))
        assert frame.null_count().equals(hidden.tables[name].null_count())
        assert frame.n_unique() == hidden.tables[name].n_unique()


def test_hashes_hang_on_the_key() -> None:
    """The same key gives the same capture, another key another one, and a short key is refused."""
    same = [redact(secretive(), KEY).tables["files"]["path"].to_list() for _ in range(2)]
    assert same[0] == same[1]
    other = redact(secretive(), b"another key of ours").tables["files"]["path"].to_list()
    assert not set(same[0]) & set(other)
    with pytest.raises(ValueError, match="at least 16 bytes"):
        redact(secretive(), b"short")


@pytest.mark.parametrize("table", schema.TABLES, ids=lambda table: table.name)
def test_every_text_column_is_hashed_or_known_to_be_public(table: Table) -> None:
    """A secret in any text column of the schema disappears unless the column is declared public: new ones are safe."""
    texts = [c.name for c in table.columns if c.is_text and not _public(table, c.name)]
    frame = table.frame({name: ["Zyxwvut9/hunter2"] for name in texts} or {table.columns[0].name: [None]})
    hidden = redact(Capture(manifest=captures.MANIFEST, tables={table.name: frame}), KEY).tables[table.name]
    assert [name for name in texts if "Zyxwvut9" in hidden[name][0] or "hunter2" in hidden[name][0]] == []


def _public(table: Table, name: str) -> bool:
    return name in _PUBLIC_COLUMNS or f"{table.name}.{name}" in _PUBLIC_COLUMNS
