"""The executor that starts no process."""

from collections.abc import Callable, Iterator, Sequence

from hpo.core import Job, Message, Reported, Train
from hpo.execution.job_runner import JobRunner


class InlineExecutor:
    """Trains one job at a time in this process, for tests, debuggers and notebooks: `wait` trains one epoch."""

    slots = 1

    def __init__(self, train: Train | None = None) -> None:
        self._runner = None if train is None else JobRunner(train)
        self._messages: Iterator[Message] | None = None
        self._stopped = False

    def begin(self, factories: Sequence[Callable[[], Train]]) -> None:
        self._runner = JobRunner(factories[0]())

    def submit(self, job: Job) -> None:
        assert self._runner is not None and self._messages is None, "one slot, after begin"
        self._stopped = False
        self._messages = self._runner.run(job, lambda: self._stopped)

    def stop(self, training: str) -> None:
        self._stopped = True

    def wait(self, timeout: float | None) -> list[Message]:
        if self._messages is None:
            return []
        message = next(self._messages)
        if not isinstance(message, Reported):
            self._messages = None
        return [message]

    def close(self) -> None:
        self._messages = None
