"""Stores other than the web: S3 as moto plays it, and the Hub through a file system in memory."""

from __future__ import annotations

import hashlib
import sys

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from fourm_engine.storage import store
from fourm_engine.storage.errors import Away, Missing, StoreError
from fourm_engine.storage.location import open_location

CONTENT = bytes(range(256)) * 1000


@pytest.fixture(scope="module")
def s3():
    """A client of boto for a bucket `photos`, in a server on this machine."""
    import boto3
    from moto.server import ThreadedMotoServer

    patch = pytest.MonkeyPatch()
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for key, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "*",
    }.items():
        patch.setenv(key, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="photos")
    for name in ("day 1/a.tar", "day 1/b.tar", "day 10/c.tar", "day 1/.hidden"):
        client.put_object(Bucket="photos", Key=f"set/{name}", Body=CONTENT)
    yield client
    server.stop()
    patch.undo()


def test_a_bucket_is_listed_and_read(s3, config):
    folder = open_location("s3://photos/set", config)
    assert folder.list() == {f"day {name}": len(CONTENT) for name in ("1/a.tar", "1/b.tar", "10/c.tar")}
    assert (folder / "day 1").list() == {f"{name}.tar": len(CONTENT) for name in "ab"}
    assert (folder / "day 1/a.tar").local().read_bytes() == CONTENT
    assert (folder / "day 1/a.tar").read_bytes(1 << 20) == CONTENT
    with (folder / "day 1/b.tar").open(len(CONTENT), f"sha256:{hashlib.sha256(CONTENT).hexdigest()}") as shard:
        assert shard.read(100, 200) == CONTENT[100:300]
    assert len(list(config.cache.glob("*.copy"))) == 2


def test_an_object_that_is_replaced_is_copied_anew(s3, config):
    folder = open_location("s3://photos/set", config)
    s3.put_object(Bucket="photos", Key="set/new.tar", Body=b"1" * 100)
    assert (folder / "new.tar").local().read_bytes() == b"1" * 100
    s3.put_object(Bucket="photos", Key="set/new.tar", Body=b"2" * 100)
    assert (open_location("s3://photos/set", config) / "new.tar").local().read_bytes() == b"2" * 100
    s3.delete_object(Bucket="photos", Key="set/new.tar")


def test_an_object_shorter_than_its_index_says_is_named(s3, config):
    folder = open_location("s3://photos/set", config)
    with pytest.raises(StoreError, match=r"day 1/a\.tar: 256000 bytes, not at least 256001, as its index says"):
        (folder / "day 1/a.tar").local(len(CONTENT) + 1, "sha256:" + "0" * 64)


@pytest.mark.parametrize("url", ["s3://photos/set/none", "s3://nobucket/set"])
def test_what_is_not_in_a_bucket_is_named(s3, config, url):
    folder = open_location(url, config)
    file = folder / "x.tar"
    for read in (file.local, file.open, lambda: file.read_bytes(100)):
        with pytest.raises(Missing, match=rf"{url}/x\.tar: there is no such file"):
            read()
    assert not (folder / "x.tar").exists()
    assert folder.list() == {} if "photos" in url else True


def test_a_bucket_without_credentials_says_how_to_give_them(s3, config, monkeypatch, tmp_path):
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreError, match="no access, or no such file; correct the path, or set AWS_PROFILE"):
        (open_location("s3://photos/set", config) / "day 1/a.tar").local()


def test_a_bucket_that_stays_away_is_named_after_the_stated_time(config, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with pytest.raises(Away, match=r"s3://photos/set/x\.tar: the store stayed away"):
        (open_location("s3://photos/set", config.model_copy(update={"give_up_s": 0.2})) / "x.tar").local()


class Hub(MemoryFileSystem):
    """The Hub answers with paths of the form datasets/org/name/…, and with the sha256 of large files."""

    store: dict = {}  # noqa: RUF012  # of the class, as in MemoryFileSystem
    pseudo_dirs = [""]  # noqa: RUF012
    protocol = "hf"
    root_marker = ""
    #: What the next calls raise.
    faults: list = []  # noqa: RUF012

    def info(self, path, **kwargs):
        if self.faults:
            raise self.faults.pop(0)
        found = super().info(path, **kwargs)
        if found["type"] == "file":
            found["lfs"] = {"sha256": hashlib.sha256(self.store[path].getvalue()).hexdigest()}
        return found


@pytest.fixture
def hub(monkeypatch):
    fs = Hub(skip_instance_cache=True)
    monkeypatch.setattr(store, "file_system", lambda scheme, timeout_s: fs)
    fs.pipe_file("hf://datasets/org/name/train/a.tar", CONTENT)
    yield fs
    fs.store.clear()
    Hub.faults = []


def test_a_data_set_of_the_hub_is_listed_and_read_and_its_digest_checked(hub, config):
    folder = open_location("hf://datasets/org/name", config)
    assert folder.list() == {"train/a.tar": len(CONTENT)}
    assert (folder / "train/a.tar").local().read_bytes() == CONTENT
    with pytest.raises(Missing, match="hf://datasets/org/name/train/b"):
        (folder / "train/b").local()


def test_errors_of_the_hub_are_told_apart(hub, config):
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    httpx = sys.modules[HTTPError.__module__.partition(".")[0]]  # httpx, or what follows it

    def error(status):
        response = httpx.Response(status, request=httpx.Request("GET", "https://hub/x"))
        return HfHubHTTPError("no", response=response)

    Hub.faults = [error(503), httpx.ConnectError("no route"), error(429)]
    assert (open_location("hf://datasets/org/name", config) / "train/a.tar").exists()
    Hub.faults = [error(401)]
    with pytest.raises(StoreError, match="run `hf auth login`, or set HF_TOKEN"):
        (open_location("hf://datasets/org/name", config) / "train/a.tar").exists()
    Hub.faults = [OfflineModeIsEnabled("offline")]
    with pytest.raises(StoreError, match="unset HF_HUB_OFFLINE"):
        (open_location("hf://datasets/org/name", config) / "train/a.tar").exists()


def test_a_fault_of_ours_is_no_fault_of_the_store(hub, config):
    Hub.faults = [TypeError("a bug")]
    with pytest.raises(TypeError, match="a bug"):
        (open_location("hf://datasets/org/name", config) / "train/a.tar").exists()


@pytest.mark.parametrize(
    ("scheme", "package", "extra"), [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs"), ("https", "aiohttp", "http")]
)
def test_a_client_that_is_not_installed_is_named_with_its_extra(monkeypatch, config, scheme, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"{scheme}:// needs {package}: pip install 'fourm-engine\[{extra}\]'"):
        open_location(f"{scheme}://bucket/set", config)
