"""Where a test can have this process killed: at every commit, named by the environment variable HPO_FAILPOINT.

HPO_FAILPOINT=append.after kills at the first event that is written, HPO_FAILPOINT=append.after:7 at the seventh. Worker
processes inherit the variable and count for themselves. Without it, which is always but in tests, `hit` does nothing.
"""

import os
import signal

NAMES = (
    "lock.held",  # the study is locked, its journal not yet open
    "journal.open",  # what the study depends on is not yet written down
    "resume.opened",  # `Opened` is written, running trials do not have their places yet
    "append.before",
    "append.after",
    "start.recorded",  # a trial is in the journal, no worker knows of it
    "submit",
    "listen",  # a worker has reported, nothing is written
    "forget",  # the report is written, the checkpoint before it still there
    "prune",  # in the middle of deleting what is over the cap
    "close",  # every trial is paused, `Closed` is not written
    "checkpoint.draft",  # in a worker: the state is saved, but not yet under its name
    "checkpoint.placed",  # in a worker: it is, the report not yet sent
    "publish.begin",
    "publish.done",  # MLflow has the model, the journal no test score
    "publish.scored",  # the test score is written, that it was published is not
    "set-aside",  # --fresh: the old study has been moved, there is no new one
    "table",  # trials.csv is written, report.html is not
    "report",  # report.html is written, its pictures are not
    "sweep",  # MLflow: before runs that dead drivers left are ended
)

_name, _, _count = os.environ.get("HPO_FAILPOINT", "").partition(":")
_left = int(_count or 1)


def hit(name: str) -> None:
    """Die here, as by SIGKILL, if the environment says so."""
    global _left
    if name != _name:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
