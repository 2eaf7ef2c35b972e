import pytest

from carm_env.system import cgroups, memory

FREE = 1234 * 1024


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with 1234 kB of free memory and no control groups, whose folder is returned."""
    (tmp_path / "meminfo").write_text("MemTotal:  2000 kB\nMemAvailable:    1234 kB\n", encoding="utf-8")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(cgroups, "_MOUNT", tmp_path / "cgroup")
    monkeypatch.setattr(cgroups, "_MEMBERSHIP", tmp_path / "membership")
    (tmp_path / "cgroup").mkdir()
    return tmp_path


def write_group(folder, version, limit, used, cached):
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    (folder / names[0]).write_text(f"{limit}\n", encoding="utf-8")
    (folder / names[1]).write_text(f"{used}\n", encoding="utf-8")
    (folder / "memory.stat").write_text(f"anon 1500\n{names[2]} {cached}\n", encoding="utf-8")


def test_free_memory_is_read_from_proc_meminfo(machine):
    assert memory.available_bytes() == FREE


@pytest.mark.parametrize(
    ("version", "limit", "expected"),
    [(2, 5000, 3400), (2, 1000, 0), (2, "max", FREE), (2, "", FREE), (1, 5000, 3400), (1, 9223372036854771712, FREE)],
)
def test_the_limit_of_the_container_counts(machine, version, limit, expected):
    # In a container its own group is what is mounted, whatever its name outside.
    (machine / "membership").write_text("5:memory:/docker/abc\n0::/docker/abc\n", encoding="utf-8")
    write_group(machine / "cgroup" / ("memory" if version == 1 else ""), version, limit, 2000, 400)
    assert memory.available_bytes() == expected


@pytest.mark.parametrize(
    ("membership", "group"),
    [
        ("0::/user.slice/job.scope\n", "user.slice/job.scope"),
        ("0::/user.slice/job.scope\n", "user.slice"),
        ("0::/../job\n", "job"),
        ("7:cpu,cpuacct:/\n4:hugetlb,memory:/slurm/job:1\n", "hugetlb,memory/slurm/job:1"),
        ("4:memory:/slurm/job\n0::/\n", "memory/slurm"),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_the_limits_of_the_own_group_and_of_those_around_it_count(machine, membership, group, version):
    (machine / "membership").write_text(membership, encoding="utf-8")
    write_group(machine / "cgroup" / group, version, 5000, 2000, 400)
    write_group(machine / "cgroup" / "memory" / "of another process", version, 10, 0, 0)
    assert memory.available_bytes() == 3400


@pytest.mark.parametrize("text", ["", "0", "0:", "a:b:c:d", "\udce4::/x\n", "4:memory\n"])
def test_an_odd_membership_is_passed_over(machine, text):
    (machine / "membership").write_text(text, encoding="utf-8", errors="surrogateescape")
    assert memory.available_bytes() == FREE


def test_an_array_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 10_000)
    memory.check_memory("a CT", 10_000, "Crop it.")
    with pytest.raises(MemoryError, match="a CT: 20,000 bytes are needed and 10,000 are free. Crop it."):
        memory.check_memory("a CT", 20_000, "Crop it.")
