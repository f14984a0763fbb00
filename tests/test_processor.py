"""The number of threads that suits a machine, and the settings of a process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from invdiff.processor import SPIN_COUNT, suitable_threads

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads are left to torch on other systems")
NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return a function that makes a machine of processors, numbered pairs of which share a core, and of control groups."""

    def make(processors: int, *, pairs: bool = False, allowed: range | None = None, files: dict[str, str] | None = None):
        for n in range(processors):
            shared = f"{n % (processors // 2)},{n % (processors // 2) + processors // 2}" if pairs else str(n)
            write(f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list", shared + "\n")
        for name, text in (files or {}).items():
            write(name, text)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(allowed or range(processors)))
        return tmp_path

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return make


class TestSuitableThreads:
    def test_is_the_number_of_physical_cores(self, machine):
        assert suitable_threads(machine(8)) == 8

    def test_counts_a_core_of_two_threads_once(self, machine):
        assert suitable_threads(machine(8, pairs=True)) == 4

    @pytest.mark.parametrize(("allowed", "cores"), [(range(2), 2), (range(0, 8, 4), 1), (range(3, 4), 1)])
    def test_counts_what_the_process_may_use(self, machine, allowed, cores):
        assert suitable_threads(machine(8, pairs=True, allowed=allowed)) == cores

    @pytest.mark.parametrize(("limit", "threads"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8)])
    def test_respects_the_quota_of_a_container(self, machine, limit, threads):
        files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": limit}
        assert suitable_threads(machine(8, files=files)) == threads

    def test_respects_the_smallest_quota_of_all_groups_above(self, machine):
        files = {"proc/self/cgroup": "0::/jobs/one\n", "sys/fs/cgroup/jobs/cpu.max": "300000 100000"}
        assert suitable_threads(machine(8, files=files | {"sys/fs/cgroup/jobs/one/cpu.max": "max 100000"})) == 3

    def test_respects_the_quota_of_groups_of_version_1(self, machine):
        files = {
            "proc/self/cgroup": "5:memory:/box\n4:cpu,cpuacct:/box\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000",
        }
        files["sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us"] = "100000"
        assert suitable_threads(machine(8, files=files)) == 2

    def test_does_without_files(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5})
        assert suitable_threads(tmp_path) == 3


class TestPreparedProcess:
    def settings(self, **given: str) -> dict[str, str]:
        """Return the settings in a process that has been prepared, and the number of threads of torch in it."""
        code = (
            "import os, sys; from invdiff.processor import prepare_processor; prepare_processor(); "
            "assert 'torch' not in sys.modules; import torch; "
            f"print(torch.get_num_threads(), *(os.environ.get(name) for name in {NAMES}))"
        )
        environment = {name: value for name, value in os.environ.items() if name not in NAMES} | given
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
        return dict(zip(("torch", *NAMES), done.stdout.split(), strict=True))

    def test_has_suitable_threads_that_do_not_wait_long(self):
        found = self.settings()
        assert found["torch"] == found["OMP_NUM_THREADS"] == str(suitable_threads())
        assert found["GOMP_SPINCOUNT"] == str(SPIN_COUNT)

    def test_keeps_what_is_set(self):
        found = self.settings(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="ACTIVE")
        assert (found["torch"], found["OMP_NUM_THREADS"], found["GOMP_SPINCOUNT"]) == ("1", "1", "None")
