"""The lock of a folder on a disk without room."""

import os
import resource
import signal

from utils.files import WriteError
from utils.locks import FolderLock


def test_a_lock_that_can_not_be_noted_names_its_file(tmp_path):
    """A limit of 10 bytes on files, in a child, stands for a full disk."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        lock = FolderLock(tmp_path, "a test")
        try:
            lock.acquire(exclusive=True)
        except WriteError as error:
            lock.release()
            os._exit(7 if error.filename == str(tmp_path / ".lock") else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
