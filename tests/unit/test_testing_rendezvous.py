"""How ranks of a test run find each other: by a file that only their user reads."""

import json
import os
import threading
from dataclasses import replace

import pytest

from tfdist.coordination.launch import Launch
from tfdist.errors import TfdistError
from tfdist.testing import meeting, rendezvous

LAUNCH = Launch("mpirun", rank=0, size=2, local_rank=0, local_size=2)


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def path(launch=LAUNCH, **environ):
    return rendezvous.offer_path(launch, environ, rendezvous.Path("/project"))


def test_all_ranks_of_a_job_and_no_other_look_at_one_place(tmp_path):
    other_rank = replace(LAUNCH, rank=1, local_rank=1)
    job = {"OMPI_MCA_ess_base_jobid": "7"}
    assert path(**job) == path(other_rank, **job)
    assert path(**job) != path(OMPI_MCA_ess_base_jobid="8")
    assert path(**job).is_relative_to(tmp_path)


@pytest.mark.parametrize("own", ["PMIX_SERVER_URI2", "HYDI_CONTROL_FD"])
def test_what_each_host_or_process_has_for_itself_does_not_count(own):
    job = {"PMIX_NAMESPACE": "7"}
    assert path(**job, **{own: "1"}) == path(**job, **{own: "2"})


def test_workers_differ_in_their_task_only():
    def worker(index, port="1"):
        cluster = {"worker": [f"a:{port}", "a:2"]}
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": cluster, "task": task})
        return path(replace(LAUNCH, launcher="TF_CONFIG"), TF_CONFIG=config)

    assert worker(0) == worker(1)
    assert worker(0) != worker(0, port="3")


def test_several_hosts_meet_in_the_projects_folder():
    spread = replace(LAUNCH, local_size=1)
    assert path(spread).is_relative_to("/project")


def test_only_the_user_reads_it():
    rendezvous.publish(path(), {"port": 1})
    assert path().stat().st_mode & 0o777 == 0o600
    assert path().parent.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_can_write_is_refused():
    path().parent.mkdir(mode=0o755)
    path().parent.chmod(0o777)
    with pytest.raises(TfdistError, match=r"this user's alone[\s\S]*HINT: Set TMPDIR"):
        rendezvous.publish(path(), {"port": 1})


def test_nobody_there():
    rendezvous.publish(path(), {"port": 1, "addresses": ["127.0.0.1"], "token": "00"})
    with pytest.raises(TfdistError, match="Rank 1 does not find rank 0"):
        rendezvous.find(path(), 1, timeout=0.5)


def test_two_ranks_meet_in_spite_of_a_stale_file(tmp_path):
    environ = dict(os.environ)
    stale = rendezvous.offer_path(LAUNCH, environ, tmp_path)
    rendezvous.publish(stale, {"port": 1, "addresses": ["127.0.0.1"], "token": "00"})
    met = {}

    def rank(number):
        launch = replace(LAUNCH, rank=number, local_rank=number)
        one = meeting.start(launch, tmp_path, timeout=60.0, grace=5.0)
        met[number] = one.meet("a place", code=number)
        if number == 0:
            one.send({"over": True})
        one.over.wait(10)
        one.close()

    threads = [threading.Thread(target=rank, args=(number,)) for number in (1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert {number: one["code"] for number, one in met.items()} == {0: 1, 1: 1}
    assert not stale.exists(), "once all are there, the file is gone"
