"""`wmtp_jax.train` in a process that something happens to: `FAULT=PROCESS:STEP:WHAT`.

    FAULT=1:5:kill python -m tests.faulty --distributed HOST:PORT ...

Before step 5 of process 1: `kill` and `stop` are signals, `sleep` never ends, `raise`
is an error of its own, `terminate` is SIGTERM, which a run is to save for.
"""

import os
import signal
import sys
import time

from shared.data.batches import TrainBatches

SIGNALS = {
    "kill": signal.SIGKILL,
    "stop": signal.SIGSTOP,
    "terminate": signal.SIGTERM,
}


def happen(what: str) -> None:
    print("fault", time.time(), file=sys.stderr, flush=True)
    if what in SIGNALS:
        os.kill(os.getpid(), SIGNALS[what])
    elif what == "sleep":
        time.sleep(10**6)
    else:
        raise OSError(5, "Input/output error", "data.jsonl")


def main() -> int:
    process, step, what = os.environ["FAULT"].split(":")
    here = sys.argv[sys.argv.index("--process") + 1] == process
    count, ask = iter(range(1, 10**6)), TrainBatches.__next__

    def ask_or_fail(self):
        if here and next(count) == int(step):
            happen(what)
        return ask(self)

    TrainBatches.__next__ = ask_or_fail
    from wmtp_jax import train

    return train.main()


if __name__ == "__main__":
    sys.exit(main())
