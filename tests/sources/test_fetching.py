"""Downloads from a server on this machine, whole, cut, hostile and gone on with."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import io
import os
import shlex
import socket
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lesionlab._files import sha256_tree
from lesionlab.cli import app
from lesionlab.sources import fetching, origins
from lesionlab.sources.fetching import FetchError
from lesionlab.sources.origins import Origin

TOP = "lidc_project-0123abc"
FOLDER = "data/LIDC-IDRI-slices"
FILES = {
    f"LIDC-IDRI-0001/nodule-0/{part}/slice-{s}.png": part.encode() + os.urandom(50_000 + s)
    for part in ("images", "mask-0")
    for s in range(4)
}


def packed(files: dict[str, bytes], *more: tarfile.TarInfo) -> bytes:
    """An archive as the mirror gives it: other files of the repository, and the set in a folder."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        inside = {f"{FOLDER}/{name}": content for name, content in files.items()}
        for name, content in {"README.md": b"x", f"{FOLDER}.txt": b"y", **inside}.items():
            member = tarfile.TarInfo(f"{TOP}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in more:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return out.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Gives `content`, in part if it is asked to and `ranges`; ends after `cut` bytes."""

    content = b""
    ranges = True
    cut: int | None = None
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/set.tar.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        asked, content = self.headers["Range"], self.server.content
        self.server.asked.append(asked)
        ranged = asked and self.server.ranges
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if ranged else 0
        status = 416 if start >= len(content) else self.server.status
        if status != 200:
            self.send_error(status)
            return
        self.send_response(206 if ranged else 200)
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.cut])
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        made.content = packed(FILES)
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder and a cache of their own, no data, and no proxy before this machine."""
    monkeypatch.setattr(origins, "data_folder", lambda: tmp_path / "home")
    monkeypatch.delenv("LESIONLAB_LIDC_SLICES", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "home"


@pytest.fixture
def origin(server: Server, monkeypatch: pytest.MonkeyPatch) -> Origin:
    """The slices, as if the server's archive were what the mirror holds."""
    assert origins.SLICES.mirror is not None
    mirror = dataclasses.replace(
        origins.SLICES.mirror, url=server.url, n_files=len(FILES),
        n_bytes=sum(map(len, FILES.values())), digest=fetching.digest(FILES.items()),
    )  # fmt: skip
    made = dataclasses.replace(origins.SLICES, mirror=mirror)
    monkeypatch.setitem(origins.ORIGINS, "slices", made)
    monkeypatch.setattr(origins, "SLICES", made)
    return made


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_digest_is_that_of_the_unpacked_files(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.png").write_bytes(b"2")
    (tmp_path / "b.png").write_bytes(b"1")
    given = [("a/b.png", b"2"), ("b.png", b"1")]
    lines = (f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in given)
    by_hand = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert fetching.digest(given[::-1]) == sha256_tree(tmp_path, [".png"]) == by_hand


@pytest.mark.slow
def test_the_digests_are_those_of_the_real_sets(real_slices, real_volumes):
    for origin, path in ((origins.SLICES, real_slices), (origins.VOLUMES, real_volumes)):
        with zipfile.ZipFile(path) as given:
            files = {
                info.filename.partition("/")[2]: given.read(info)
                for info in given.infolist()
                if not info.is_dir()
            }
        assert origin.mirror is not None
        assert len(files) == origin.mirror.n_files
        assert sum(map(len, files.values())) == origin.mirror.n_bytes
        assert fetching.digest(files.items()) == origin.mirror.digest


def test_a_set_is_fetched_checked_and_kept_as_one_zip(server, origin, home):
    path = fetching.fetch(origin)
    assert path == home / "lidc-idri-slices.zip" == origins.named(origin)
    assert left(home) == [path.name]
    with zipfile.ZipFile(path) as made:
        assert {n: made.read(n) for n in made.namelist()} == {
            f"LIDC-IDRI-slices/{name}": content for name, content in FILES.items()
        }
    # once more: it is there, it is right, nothing is asked of the server
    before = path.stat()
    assert fetching.fetch(origin) == path
    assert (path.stat().st_mtime_ns, len(server.asked)) == (before.st_mtime_ns, 1)


@pytest.mark.parametrize("ranges", [True, False])
def test_what_was_cut_goes_on_where_it_was_or_starts_again(ranges, server, origin, home, caplog):
    server.cut, server.ranges = len(server.content) // 2, ranges
    with pytest.raises(FetchError, match=r"was cut after .*run the same command again"):
        fetching.fetch(origin)
    assert left(home) == ["lidc-idri-slices.zip.download.part"]
    assert (home / left(home)[0]).stat().st_size == server.cut
    asked, server.cut = f"bytes={server.cut}-", None
    fetching.fetch(origin)
    assert server.asked == ["bytes=0-", asked]
    assert ("cannot go on where it was cut, and starts again" in caplog.text) is not ranges
    assert left(home) == ["lidc-idri-slices.zip"]


@pytest.mark.parametrize("n", [1000, 10_000_000])
def test_a_part_of_something_else_is_found_out_and_thrown_away(n, server, origin, home):
    home.mkdir()
    (home / "lidc-idri-slices.zip.download.part").write_bytes(os.urandom(n))
    if n < len(server.content):
        with pytest.raises(FetchError, match="is broken or cut"):
            fetching.fetch(origin)
        assert left(home) == []
    assert fetching.fetch(origin).is_file()
    assert left(home) == ["lidc-idri-slices.zip"]


FIRST = next(iter(FILES))


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> tarfile.TarInfo:
    made = tarfile.TarInfo(f"{TOP}/{FOLDER}/{name}")
    made.type, made.size, made.linkname = kind, size, "" if size else "/etc/passwd"
    return made


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (packed(FILES | {FIRST: bytes(len(FILES[FIRST]))}), "is not the set: the digest of its"),
        (packed(FILES, member("x.png", size=1000)), "more than the set's"),
        (packed(FILES, member("../../../x.png", size=0)), "is not the set: the digest of its"),
        (packed(FILES, member("x.png", tarfile.SYMTYPE)), "is a link"),
        (packed(FILES, member("x.png", tarfile.FIFOTYPE)), "is a link or no file"),
        (b"<html>Sign in</html>", "is broken or cut"),
    ],
)  # fmt: skip
def test_what_is_not_the_set_is_refused_and_leaves_nothing(content, says, server, origin, home):
    server.content = content
    with pytest.raises(FetchError, match=says):
        fetching.fetch(origin)
    assert left(home) == []
    assert left(home.parent) == ["home"]


def test_an_archive_that_was_downloaded_by_hand_stays(server, origin, home, tmp_path):
    file = tmp_path / "by hand.tar.gz"
    file.write_bytes(packed({}))
    with pytest.raises(FetchError, match=r"by hand\.tar\.gz is not the set"):
        fetching.fetch(origin, source=str(file))
    file.write_bytes(server.content)
    assert fetching.fetch(origin, source=str(file)).is_file()
    assert (server.asked, file.exists(), left(home)) == ([], True, ["lidc-idri-slices.zip"])


def test_a_server_that_has_no_such_file_or_does_not_answer(server, origin, home):
    server.status = 404
    with pytest.raises(FetchError, match=r"set\.tar\.gz was not downloaded .*Error 404") as told:
        fetching.fetch(origin)
    assert left(home) == []
    assert all(address in str(told.value) for address in origins.SLICES.addresses)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{free.getsockname()[1]}/x.tar.gz"
        with pytest.raises(FetchError, match=f"{url} was .* download it by hand and run"):
            fetching.fetch(origin, source=url)


@pytest.mark.parametrize("source", ["file:///etc/passwd", "no/such.tar.gz"])
def test_other_kinds_of_addresses_are_refused(source, origin, home):
    with pytest.raises(ValueError, match=r"from=.*: expected an address \(https://…\) or a tar"):
        fetching.fetch(origin, source=source)
    assert not home.exists()


def test_a_file_of_the_user_is_never_replaced(server, origin, home):
    target = home / "lidc-idri-slices.zip"
    for content in (b"mine", packed(FILES)):
        home.mkdir(exist_ok=True)
        target.write_bytes(content)
        with pytest.raises(FileExistsError, match="is there already and is something else"):
            fetching.fetch(origin)
        assert target.read_bytes() == content
    target.unlink()
    (target / "a folder").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="is there already"):
        fetching.fetch(origin)
    assert (left(target), server.asked) == (["a folder"], [])


def command(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, ["data", "fetch", *arguments], input=answer)


def test_the_command_shows_licence_and_size_first_and_then_fetches(server, origin, tmp_path):
    done = command("slices", "--yes", "--to", str(tmp_path / "a b"))
    assert done.exit_code == 0, done.output
    for told in (*origin.addresses, origins.LICENCE, origin.size, origins.CITE):
        assert told in done.stdout
    path = tmp_path / "a b" / "lidc-idri-slices.zip"
    assert done.stdout.endswith(
        f"{path}: 8 files, all as they should be\n"
        f"Run: export LESIONLAB_LIDC_SLICES={shlex.quote(str(path))}\n"
    )


def test_without_yes_nothing_is_downloaded(server, origin, home):
    for answer in ("n\n", None):  # None: nobody can be asked
        done = command("slices", answer=answer)
        assert done.exit_code == 1
        assert "CC BY 3.0" in done.stdout
    assert (server.asked, home.exists()) == ([], False)
    assert command("slices", answer="y\n").exit_code == 0
    # what is there already needs no answer
    assert command("slices").exit_code == 0
