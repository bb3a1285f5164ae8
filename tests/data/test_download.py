from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from bn_deploy.data.download import ATTEMPTS, BLOCK_BYTES, FetchError, fetch
from bn_deploy.spec import Track, silent
from tests.data.mirror import Mirror, serve

T = TypeVar("T")

CONTENT = bytes(range(256)) * 1000
OTHER = CONTENT[::-1]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "file.gz"


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serve(Mirror(CONTENT)) as running:
        yield running


def get(target: Path, *urls: str, track: Track = silent) -> None:
    fetch(
        target,
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        size_bytes=len(CONTENT),
        mirrors=urls,
        track=track,
        schemes=("http",),
    )


def part_of(target: Path) -> Path:
    return target.with_name("file.gz.part")


def leave_part(target: Path, content: bytes) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(content)


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_a_file_arrives_whole_and_alone(target: Path, mirror: Mirror) -> None:
    get(target, mirror.url)
    assert target.read_bytes() == CONTENT
    assert left(target) == ["file.gz"]
    assert mirror.asked == [""]


def test_progress_is_told_block_by_block(target: Path, mirror: Mirror) -> None:
    told = []

    def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
        seen = list(items)
        told.append((description, total, len(seen)))
        return iter(seen)

    get(target, mirror.url, track=track)
    blocks = -(-len(CONTENT) // BLOCK_BYTES)
    assert told == [("download file.gz", blocks, blocks)]


def test_a_cut_download_goes_on_where_it_was_cut(target: Path, mirror: Mirror) -> None:
    mirror.cut_bytes = [100_000, 50_000]
    get(target, mirror.url)
    assert target.read_bytes() == CONTENT
    assert mirror.asked == ["", "bytes=100000-", "bytes=150000-"]


def test_another_run_goes_on_where_the_last_was_cut(target: Path, mirror: Mirror) -> None:
    leave_part(target, CONTENT[:1234])
    get(target, mirror.url)
    assert target.read_bytes() == CONTENT
    assert mirror.asked == ["bytes=1234-"]
    assert left(target) == ["file.gz"]


def test_a_part_that_is_whole_needs_no_mirror(target: Path) -> None:
    leave_part(target, CONTENT)
    get(target, "http://127.0.0.1:9/")
    assert target.read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(target: Path, mirror: Mirror) -> None:
    mirror.ranges = False
    leave_part(target, CONTENT[:1234])
    get(target, mirror.url)
    assert target.read_bytes() == CONTENT
    assert mirror.asked == ["bytes=1234-"]


@pytest.mark.parametrize("spoilt", [OTHER[:1234], OTHER, CONTENT + b"more"], ids=["start", "whole", "longer"])
def test_a_spoilt_part_costs_a_second_download_only(target: Path, mirror: Mirror, spoilt: bytes) -> None:
    leave_part(target, spoilt)
    get(target, mirror.url)
    assert target.read_bytes() == CONTENT
    assert mirror.asked[-1] == ""


def test_a_mirror_that_keeps_cutting_is_left_and_what_came_is_kept(target: Path, mirror: Mirror) -> None:
    mirror.cut_bytes = [10] * ATTEMPTS
    with pytest.raises(FetchError, match=f"was cut {ATTEMPTS} times"):
        get(target, mirror.url)
    assert left(target) == ["file.gz.part"]
    assert part_of(target).read_bytes() == CONTENT[: 10 * ATTEMPTS]


def test_a_mirror_that_brings_nothing_is_asked_once(target: Path, mirror: Mirror) -> None:
    mirror.cut_bytes = [0, 0]
    with pytest.raises(FetchError, match=f"was cut after 0 of {len(CONTENT)} bytes"):
        get(target, mirror.url)
    assert len(mirror.asked) == 1


def test_the_next_mirror_goes_on_with_the_part_of_the_first(target: Path, mirror: Mirror) -> None:
    mirror.cut_bytes = [10, 0]
    with serve(Mirror(CONTENT)) as second:
        get(target, mirror.url, second.url)
        assert second.asked == ["bytes=10-"]
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"status": 404}, "HTTP 404 Not Found"),
        ({"content": OTHER}, "sent another file: its SHA-256 is"),
        ({"content": CONTENT[:-1]}, f"offers {len(CONTENT) - 1} bytes instead of {len(CONTENT)}"),
        ({"content": CONTENT + b"more"}, f"offers {len(CONTENT) + 4} bytes instead of {len(CONTENT)}"),
        ({"location": "ftp://127.0.0.1/file.gz"}, "refused ftp://127.0.0.1/file.gz: only http is allowed"),
        (
            {"location": "https://127.0.0.1/file.gz"},
            "refused https://127.0.0.1/file.gz: only http is allowed",
        ),
    ],
    ids=["status", "digest", "short", "long", "redirect-ftp", "redirect-other"],
)
def test_a_faulty_mirror_is_named_and_passed_over(
    target: Path, mirror: Mirror, fault: dict[str, object], message: str
) -> None:
    for name, value in fault.items():
        setattr(mirror, name, value)
    with pytest.raises(FetchError) as caught:
        get(target, mirror.url)
    assert f"cannot download file.gz (127.0.0.1: {message}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left(target) == []
    with serve(Mirror(CONTENT)) as good:
        get(target, mirror.url, good.url)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(("stated", "named"), [("bytes 0-9/10", "bytes 0-9/10"), ("", "no range")])
def test_an_answer_for_another_range_is_refused(
    target: Path, mirror: Mirror, stated: str, named: str
) -> None:
    leave_part(target, CONTENT[:1234])
    mirror.stated_range = stated
    with pytest.raises(FetchError, match=f"answered with {named} when asked from byte 1234"):
        get(target, mirror.url)
    assert part_of(target).read_bytes() == CONTENT[:1234]


def test_a_redirect_within_the_allowed_scheme_is_followed(target: Path, mirror: Mirror) -> None:
    with serve(Mirror(b"", location=f"{mirror.url}file.gz")) as first:
        get(target, first.url)
    assert target.read_bytes() == CONTENT


def test_nothing_but_https_is_asked_by_default(target: Path, mirror: Mirror) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(FetchError, match=r"refused http://.*: only https is allowed"):
        fetch(target, sha256=digest, size_bytes=len(CONTENT), mirrors=[mirror.url])
    assert mirror.asked == []


def test_a_mirror_that_is_not_there_is_a_reason_not_a_trace(target: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: a connection is refused at once
        with pytest.raises(FetchError, match=r"127\.0\.0\.1: Connection refused"):
            get(target, f"http://127.0.0.1:{taken.getsockname()[1]}/")


def test_a_mirror_that_stays_silent_is_left(target: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent_server:
        port = silent_server.getsockname()[1]
        with pytest.raises(FetchError, match="timed out"):
            fetch(
                target,
                sha256="0" * 64,
                size_bytes=1,
                mirrors=[f"http://127.0.0.1:{port}/"],
                schemes=("http",),
                timeout_s=0.05,
            )


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, mirror: Mirror) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(FetchError, match=r"cannot keep a download in .*taken"):
        get(tmp_path / "taken" / "file.gz", mirror.url)


def test_a_target_that_cannot_be_written_is_named(target: Path, mirror: Mirror) -> None:
    target.mkdir(parents=True)
    with pytest.raises(FetchError, match=r"cannot keep a download: cannot write .*file\.gz: it is a folder"):
        get(target, mirror.url)
