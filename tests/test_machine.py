"""The memory of a machine, and what a container or a job may use of it."""

import pytest

from fourm_engine.device import Machine, Memory

MEMINFO = "MemTotal: 24000 kB\nMemFree: 100 kB\nMemAvailable: 9000 kB\nSwapTotal: 500 kB\nSwapFree: 400 kB\n"


def files(root, **texts):
    for name, text in texts.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_without_a_limit_it_is_that_of_the_machine(tmp_path):
    files(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="0::/\n")
    assert Memory.detect(tmp_path) == Memory(24000 * 1024, 500 * 1024, 9400 * 1024)


@pytest.mark.parametrize(
    ("group", "limit"),
    [
        ("0::/", "memory.max"),  # in a container, which sees its group as the root
        ("0::/job/step", "job/memory.max"),
        ("0::/job/step", "job/step/memory.max"),
        ("4:memory:/job/step", "memory/job/step/memory.limit_in_bytes"),
        ("2:cpu,memory:/job", "memory/memory.limit_in_bytes"),
    ],
)
def test_the_limit_of_a_control_group_and_of_those_around_it_counts(tmp_path, group, limit):
    files(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup=f"9:name=systemd:/\n{group}\n")
    path = tmp_path / "sys/fs/cgroup" / limit
    path.parent.mkdir(parents=True)
    path.write_text("4096000\n")
    assert Memory.detect(tmp_path).most == 4096000
    assert Memory.detect(tmp_path).free == 4096000 + 400 * 1024
    path.write_text("max\n")
    assert Memory.detect(tmp_path).most == 24000 * 1024


def test_elsewhere_than_on_linux_it_is_what_the_system_says(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}.__getitem__)
    assert Memory.detect(tmp_path) == Memory(4096000, 0, 4096000)


def test_a_machine_is_described_by_what_may_be_used_of_it(monkeypatch):
    monkeypatch.setattr(Memory, "detect", classmethod(lambda cls: Memory(3 * 2**30, 2**30, 0)))
    assert "3 GiB of memory" in str(Machine.detect())
