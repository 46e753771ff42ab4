"""`python -m hpo`: the verbs, and how a process ends: errors become lines on stderr and an exit code, never a traceback."""

import atexit
import gc
import os
import signal
import sys
import tempfile
import traceback
from contextlib import suppress

import click

from hpo.cli.main import cli
from hpo.cli.options import echo
from hpo.errors import EnvironmentFailed, HpoError, Mistake, Stopped
from hpo.formatting import without_password

SIGNALLED, ENVIRONMENT, BUG = 128, EnvironmentFailed.exit_code, HpoError.exit_code


def main() -> None:
    gc.set_threshold(100_000)  # looking for garbage is half of the time of a large import, and of leaving after one
    atexit.register(gc.freeze)
    try:
        cli.main(standalone_mode=False)
    except HpoError as error:
        fail(str(error), error.exit_code)
    except click.exceptions.Exit as leaving:
        sys.exit(leaving.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.exceptions.Abort, KeyboardInterrupt) as leaving:
        if isinstance(leaving.__cause__, EOFError):  # click takes a file that ends too soon for Ctrl-D
            fail_by_bug(leaving.__cause__)
        for number in (signal.SIGINT, signal.SIGTERM):  # another Ctrl-C causes no traceback
            signal.signal(number, signal.SIG_IGN)
        cause = leaving if isinstance(leaving, Stopped) else leaving.__cause__
        again = "the same command without --fresh" if "--fresh" in sys.argv else "the same command"
        known, code = (True, cause.number) if isinstance(cause, Stopped) else (False, int(signal.SIGINT))
        fail(f"stopped; {again} resumes" if known else "stopped", SIGNALLED + code)
    except BrokenPipeError:  # `hpo status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        place, why = error.filename or "the machine", error.strerror or type(error).__name__
        fail(str(Mistake(str(place), "must be usable", why, "fix that, then run the same command again")), ENVIRONMENT)
    except Exception as error:
        fail_by_bug(error)


def fail_by_bug(error: Exception) -> None:
    place = "hpo"  # where no file can be written
    with suppress(OSError), tempfile.NamedTemporaryFile("w", prefix="hpo-bug-", suffix=".txt", delete=False) as file:
        file.write(without_password("".join(traceback.format_exception(error))))
        place = file.name
    fail(f"{place}: a bug of hpo, {type(error).__name__}; please report it with this file", BUG)


def fail(text: str, code: int) -> None:
    echo(text, err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
