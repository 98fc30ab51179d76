"""Real processes of this machine, held against file lists that know them, or do not."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.drift.group import Identity, container_of, first_of, group, held, identity, living, pids
from proxy.drift.processes import _NAMELESS, Execution, Inspection, ProcessReport, Role, Wrong
from proxy.drift.tree import FileList
from proxy.errors import Unexaminable
from tests.simulator.trees import file
from tests.tools import need
from tests.unit.drift.reading import file_list

PYTHON = os.path.realpath(sys.executable)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program that needs no library."""
    copy = tmp_path / "busybox"
    shutil.copy(need("busybox"), copy)
    return copy


def knowing(*paths: Path, content: bytes | None = None) -> FileList:
    """A file list that has these files, with their content or another one."""
    return file_list([file(str(path), path.read_bytes() if content is None else content, 0o755) for path in paths])


def until(holds: Callable[[], object]) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def running(*command: object, env: dict[str, str] | None = None) -> Iterator[int]:
    """A child process; its number, once it has become what it is to be."""
    with subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=env) as child:
        try:
            until(lambda: os.readlink(f"/proc/{child.pid}/exe").removesuffix(" (deleted)") == os.path.realpath(str(command[0])))
            yield child.pid
        finally:
            child.kill()


@contextmanager
def python(code: str) -> Iterator[int]:
    """A child that runs ``code``, which prints a line when it is ready, and sleeps then."""
    words = (PYTHON, "-c", f"{code}\nprint(flush=True)\nimport time\ntime.sleep(1000)")
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"\n"
            yield child.pid
        finally:
            child.kill()


def inspect(pid: int, files: FileList, anonymous: Sequence[str] = ()) -> ProcessReport:
    """Look at one process."""
    return Inspection([pid], files, anonymous).run()


def told(report: ProcessReport) -> list[tuple[str, str, str]]:
    """Role, path, what is wrong."""
    return [(each.role.value, each.path, each.wrong.value) for each in report.findings]


def test_what_layers_know_is_clean(program: Path) -> None:
    """A program with the content that the layers have at its path; it is named, and nothing is told of it."""
    with running(program, "sleep", 1000) as pid:
        report = inspect(pid, knowing(program))
    assert report.findings == ()
    assert report.unread == ()
    assert [(each.pid, each.program) for each in report.processes] == [(pid, str(program))]


def test_a_deleted_program(program: Path) -> None:
    """It is found by what it was, content and all; that the layers know the content is noted, and no excuse."""
    files = knowing(program)
    with running(program, "sleep", 1000) as pid:
        program.unlink()
        report = inspect(pid, files)
    assert told(report) == [("program", str(program), "deleted")]
    assert report.findings[0].note == f"a layer has this content as {program}"
    assert report.findings[0].sha256 is not None


def test_a_replaced_program(program: Path) -> None:
    """What runs counts, not what has its path by now."""
    files = knowing(program)
    with running(program, "sleep", 1000) as pid:
        other = program.with_name("other")
        other.write_bytes(program.read_bytes())
        other.replace(program)
        assert told(inspect(pid, files)) == [("program", str(program), "deleted")]


def test_unknown_and_changed_programs(program: Path) -> None:
    """No layer has the path; or one has it with another content."""
    with running(program, "sleep", 1000) as pid:
        elsewhere = file_list([file("bin/app", program.read_bytes())])
        report = inspect(pid, elsewhere)
        assert told(report) == [("program", str(program), "unknown")]
        assert report.findings[0].note == "a layer has this content as /bin/app"
        assert told(inspect(pid, knowing(program, content=b"other"))) == [("program", str(program), "changed")]


def test_a_name_that_says_deleted(tmp_path: Path) -> None:
    """A file may be called ``x (deleted)``: it is known, or unknown, but not deleted; once it is, it is."""
    program = tmp_path / "busybox (deleted)"
    shutil.copy(need("busybox"), program)
    files = knowing(program)
    with subprocess.Popen(("busybox", "sleep", "1000"), executable=program, stdin=subprocess.DEVNULL) as child:
        try:
            until(lambda: os.readlink(f"/proc/{child.pid}/exe") == str(program))
            assert told(inspect(child.pid, files)) == []
            assert told(inspect(child.pid, file_list([]))) == [("program", str(program), "unknown")]
            program.unlink()
            assert told(inspect(child.pid, files)) == [("program", str(program), "deleted")]
        finally:
            child.kill()


def test_a_program_in_memory_only(program: Path) -> None:
    """memfd_create(2): it never had a name."""
    memory = os.memfd_create("implant", 0)
    os.write(memory, program.read_bytes())
    child = os.posix_spawn(f"/proc/self/fd/{memory}", ["busybox", "sleep", "1000"], {})
    os.close(memory)
    try:
        until(lambda: os.readlink(f"/proc/{child}/exe").startswith("/memfd:"))
        report = inspect(child, knowing(program))
        assert told(report) == [("program", "/memfd:implant", "memory only")]
        assert report.findings[0].sha256 is not None
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_runtime_that_is_about_to_start_something() -> None:
    """Runtimes copy themselves into memory, or mount themselves: a copy of a parent outside is none of the container's."""
    memory = os.memfd_create("runc_cloned:/proc/self/exe", 0)
    os.write(memory, Path(PYTHON).read_bytes())
    words = ["python", "-c", "import time; print(flush=True); time.sleep(1000)"]
    child = os.posix_spawn(f"/proc/self/fd/{memory}", words, {**os.environ, "PYTHONHOME": sys.base_prefix})
    os.close(memory)
    try:
        until(lambda: os.readlink(f"/proc/{child}/exe").startswith("/memfd:"))
        assert inspect(child, file_list([])).findings == ()
        within = Inspection([child, os.getpid()], file_list([])).run()
        mine = [each.wrong for each in within.findings if (each.pid, each.role) == (child, Role.PROGRAM)]
        assert mine == [Wrong.MEMORY], "a parent in the container vouches for nobody"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def others(report: ProcessReport, mapped: Path | None = None) -> list[tuple[str, str, str]]:
    """What was told, without Python and its libraries, which no file list here knows."""
    return [each for each in told(report) if each[2] != "unknown" or (mapped is not None and each[1] == str(mapped))]


@pytest.mark.parametrize("flags", ["mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS", "mmap.MAP_SHARED | mmap.MAP_ANONYMOUS"])
def test_memory_that_no_file_is_behind(flags: str) -> None:
    """Private or shared: one finding for all of it; none where the operator says that the program compiles at run time."""
    with python(f"import mmap\nkept = [mmap.mmap(-1, 8192, {flags}, mmap.PROT_READ | mmap.PROT_EXEC) for _ in range(2)]") as pid:
        report = inspect(pid, file_list([]))
        assert others(report) == [("mapping", "", "anonymous")]
        assert "in " in next(each.note for each in report.findings if each.wrong is Wrong.ANONYMOUS)
        assert others(inspect(pid, file_list([]), [PYTHON])) == []


def test_mapped_files(tmp_path: Path) -> None:
    """A library that was put there, one that was deleted since, one in memory; each once, however often it is mapped."""
    kept, gone = tmp_path / "kept.so", tmp_path / "gone.so"
    kept.write_bytes(b"\x7fELF" * 2000)
    gone.write_bytes(b"\x7fELF" * 2000)
    code = (
        "import mmap, os\n"
        f"opened = [os.open(name, os.O_RDONLY) for name in {[str(kept), str(gone)]}] + [os.memfd_create('library')]\n"
        "os.write(opened[2], bytes(9000))\n"
        "many = [mmap.mmap(each, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC) for each in opened * 2]"
    )
    with python(code) as pid:
        gone.unlink()
        report = inspect(pid, file_list([]))
        found = {path: wrong for _, path, wrong in others(report, kept)}
        assert found == {"/memfd:library": "memory only", str(gone): "deleted", str(kept): "unknown"}
        assert len(others(report, kept)) == 3
        assert ("mapping", "/memfd:library", "memory only") not in told(inspect(pid, file_list([]), [PYTHON]))


def test_names_of_mapped_files_that_look_like_something_else(tmp_path: Path) -> None:
    """A carriage return in a name ends no line of the list; a name like that of nameless memory is a file's all the same."""
    folder = tmp_path / "SYSV"
    folder.mkdir()
    odd = [tmp_path / "a.so\rzz x x x x", folder / "x\r1000-2000 r-xp 0 0:0 0 [vdso]"]
    for each in odd:
        each.write_bytes(b"\x7fELF" * 2000)
    code = (
        "import mmap, os\n"
        f"kept = [mmap.mmap(os.open(each, os.O_RDONLY), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)"
        f" for each in {[str(each) for each in odd]}]"
    )
    with python(code) as pid:
        report = inspect(pid, file_list([]), ["**"])
    assert report.unread == ()
    paths = {path for _, path, wrong in told(report) if wrong == "unknown"}
    assert {str(each).replace("\r", "\\x0d") for each in odd} <= paths


@pytest.mark.parametrize(
    ("text", "nameless"),
    [
        (b"/dev/zero (deleted)", True),
        (b"/SYSV0000abcd (deleted)", True),
        (b"/anon_hugepage (deleted)", True),
        (b"/[aio] (deleted)", True),
        (b"anon_inode:[io_uring]", True),
        (b"/SYSVlibrary.so", False),
        (b"/SYSV00000000", False),
        (b"/dev/zero.so", False),
        (b"/anon_hugepages/x.so", False),
    ],
)
def test_what_has_no_name_is_told_by_the_kernels_own_words(text: bytes, nameless: bool) -> None:
    """A file may be called something like it: then it is judged as a file."""
    assert (_NAMELESS.fullmatch(text) is not None) is nameless


def test_a_list_of_mappings_that_is_too_long_is_no_verdict(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands behind its end could be anything."""
    monkeypatch.setattr("proxy.drift.process._MAX_MAPS", 100)
    with running(program, "sleep", 1000) as pid:
        report = inspect(pid, knowing(program))
    assert report.unread == (f"process {pid}: its maps have more than 0 MiB",)


def test_shared_memory(tmp_path: Path) -> None:
    """A file below /dev/shm is on a mount of its own."""
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK) or shm.stat().st_dev == Path("/").stat().st_dev:
        pytest.skip("this machine has no /dev/shm")
    library = shm / f"tagstone-{os.getpid()}"
    library.write_bytes(bytes(9000))
    code = (
        f"import mmap, os\nopened = os.open('{library}', os.O_RDONLY)\n"
        "kept = mmap.mmap(opened, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)"
    )
    try:
        with python(code) as pid:
            assert others(inspect(pid, file_list([]))) == [("mapping", str(library), "shared memory")]
    finally:
        library.unlink()


def test_what_is_mapped_where_only_root_may_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the right to follow the kernel's links: by the path, where that still leads to the very file."""
    kept, replaced, gone = (tmp_path / name for name in ("kept.so", "replaced.so", "gone.so"))
    for each in (kept, replaced, gone):
        each.write_bytes(bytes(9000))
    code = (
        "import mmap, os\n"
        f"many = [mmap.mmap(os.open(each, os.O_RDONLY), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)"
        f" for each in {[str(kept), str(replaced), str(gone)]}]"
    )
    real = os.readlink

    def refusing(path: str, *, dir_fd: int | None = None) -> str:
        if str(path).startswith("map_files"):
            raise PermissionError(1, "Operation not permitted")
        return real(path, dir_fd=dir_fd)

    with python(code) as pid:
        gone.unlink()
        other = tmp_path / "other"
        other.write_bytes(bytes(9000))
        replaced.unlink()
        other.rename(replaced)
        monkeypatch.setattr("proxy.drift.processes.os.readlink", refusing)
        report = inspect(pid, file_list([]))
        monkeypatch.undo()
    assert ("mapping", str(kept), "unknown") in told(report)
    assert ("mapping", str(gone), "deleted") in told(report)
    assert ("mapping", str(replaced), "deleted") in told(report)


def test_scripts(program: Path, tmp_path: Path) -> None:
    """The file that an interpreter was started with is looked at where the root has it; options and code are none."""
    script = tmp_path / "job.sh"
    script.write_text("while true; do busybox sleep 1; done\n")
    with running(program, "sh", "-x", script) as pid:
        assert told(inspect(pid, knowing(program))) == [("script", str(script), "unknown")]
        assert told(inspect(pid, knowing(program, script))) == []
        other = file_list([file(str(program), program.read_bytes()), file(str(script), b"other")])
        assert told(inspect(pid, other)) == [("script", str(script), "changed")]
    with running(program, "sh", "-c", "while true; do busybox sleep 1; done", script) as pid:
        assert told(inspect(pid, knowing(program))) == []
    with running(program, "sleep", 1000) as pid:
        assert told(inspect(pid, knowing(program))) == []


def test_processes_that_end_are_noted(program: Path) -> None:
    """One that is gone, and one that has ended and waits for its parent: no error, and nothing told."""
    with running(program, "sleep", 1000) as pid:
        os.kill(pid, signal.SIGKILL)
        until(lambda: living(pid) is None)
        report = inspect(pid, knowing(program))
        assert (report.gone, report.findings, report.unread) == ((pid,), (), ())
    assert inspect(pid, knowing(program)).gone == (pid,)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the number of a system call")
def test_a_process_whose_first_thread_has_ended() -> None:
    """It looks like one that has ended; its other threads tell what it executes."""
    code = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print(flush=True), time.sleep(1000))).start()\n"
        "ctypes.CDLL(None).syscall(60, 0)"
    )
    with python(code) as pid:
        with pytest.raises(FileNotFoundError):
            os.readlink(f"/proc/{pid}/exe")
        assert ("program", PYTHON, "unknown") in told(inspect(pid, file_list([])))
        found = identity(pid)
        assert found is not None
        assert found.mount_namespace == os.readlink("/proc/self/ns/mnt")


def test_what_may_not_be_read_is_no_verdict(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is listed."""

    def refusing(pid: int) -> int | None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("proxy.drift.processes.living", refusing)
    assert inspect(os.getpid(), knowing(program)).unread == (f"process {os.getpid()}: Permission denied",)


def test_it_can_be_broken_off() -> None:
    """From anywhere."""
    inspection = Inspection([os.getpid()], file_list([]))
    inspection.stop()
    with pytest.raises(Unexaminable, match="broken off"):
        inspection.run()


def test_findings_are_the_same_in_a_later_look() -> None:
    """What is noted of them may change."""
    one, other = (Execution(1, "x", Role.MAPPING, "", Wrong.ANONYMOUS, None, note) for note in ("4 bytes", "8 bytes"))
    assert one == other
    assert len({one, other}) == 1


# -- which processes ---------------------------------------------------------------------------------------------------


def one(pid: int, parent: int = 1, pidns: str = "p1", mntns: str = "m1", cgroup: str = "/pods/c1") -> Identity:
    """A process of a container."""
    return Identity(pid, parent, pidns, mntns, {"": "/", "pids": cgroup})


OWN = Identity(1, 0, "host", "host", {"": "/", "pids": "/system"})
EVERYONE = [
    OWN,
    one(10),
    one(11, cgroup="/elsewhere"),
    one(12, mntns="m2"),
    one(13, mntns="m5", cgroup="/pods/c2"),
    one(14, mntns="m2", pidns="nested", cgroup="/pods/c1/inner"),
    one(15, parent=12, mntns="m9", pidns="deeper", cgroup="/out"),
    one(16, parent=15, mntns="m9", pidns="deeper", cgroup="/out"),
    Identity(20, 1, "host", "host", {"pids": "/user/session"}),
    Identity(21, 20, "host", "host", {"pids": "/user/session"}),
    Identity(22, 1, "host", "host", {"pids": "/user/session"}),
    one(30, pidns="host", mntns="m3", cgroup="/pods/c3"),
    one(31, pidns="host", mntns="m3", cgroup="/pods/c4"),
]


@pytest.mark.parametrize(
    ("pid", "expected"),
    [(10, (10, 11, 12, 14, 15, 16)), (13, (13,)), (20, (20, 21)), (22, (22,)), (30, (30,))],
    ids=["a container", "another of its pod", "no container", "its neighbour", "a container in the node's namespace"],
)
def test_what_belongs_together(pid: int, expected: tuple[int, ...]) -> None:
    """Both namespaces, or the control group, or descent."""
    assert group(pid, EVERYONE, OWN) == expected


def test_nobody_has_that_number() -> None:
    """It may have ended just now."""
    with pytest.raises(Unexaminable, match="no process 99"):
        group(99, EVERYONE, OWN)
    assert identity(2**22 + 1) is None


def test_containers_by_control_groups() -> None:
    """Runtimes name them by the ID."""
    name = "ab" * 32
    inside = one(5, cgroup=f"/kubepods.slice/pod1/cri-containerd-{name}.scope")
    assert container_of(inside) == name
    assert container_of(OWN) is None
    assert first_of(name[:12], [one(9, cgroup=f"/docker/{name}"), inside]) == 5
    assert first_of("0" * 12, [inside]) is None


def test_names_of_control_groups_that_are_no_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever may make one may call it what he likes: it is read as it is."""
    here = tmp_path / "7"
    (here / "task" / "7").mkdir(parents=True)
    (here / "ns").mkdir()
    for link in ("exe", "ns/pid", "ns/mnt"):
        (here / link).symlink_to(f"{link}:[1]")
    (here / "stat").write_bytes(b"7 (a) b\n) S 3 7 7")
    (here / "cgroup").write_bytes(b"0::/pods/\xff\xfe\r5:x:/y\xc2\x85\n1:pids:/z\n")
    monkeypatch.setattr("proxy.drift.group.PROC", tmp_path)
    found = identity(7)
    assert found is not None
    assert (found.parent, found.pid_namespace) == (3, "ns/pid:[1]")
    assert found.cgroups == {"": "/pods/\udcff\udcfe\r5:x:/y\x85", "pids": "/z"}


def test_a_process_is_held_on_to() -> None:
    """Once it has ended, that is said, whoever has its number by then."""
    with subprocess.Popen(("sleep", "1000")) as child, held(child.pid) as alive:
        alive()
        child.kill()
        child.wait()
        with pytest.raises(Unexaminable, match=f"process {child.pid} has ended"):
            alive()
    with pytest.raises(Unexaminable, match="no process"), held(2**22 + 1):
        pass


def test_this_process() -> None:
    """It is there, and is its own parent's child."""
    found = identity(os.getpid())
    assert found is not None
    assert found.parent == os.getppid()
    assert os.getpid() in pids()
