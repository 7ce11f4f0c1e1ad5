"""What a worker process runs before anything else, as ``qat.data.loader`` starts it: by its path, so that it imports nothing
of this package, nor a framework.
"""

import multiprocessing
import os
import signal
import threading
import time


def _end_with_parent() -> None:
    """End this process when its parent has gone, be it killed: nobody else would tell it."""
    while (parent := multiprocessing.parent_process()) is None:  # it is known a little later than this module is run
        time.sleep(0.1)
    parent.join()
    os._exit(1)


def _hush() -> None:
    """grain warns on import that there is no JAX, which it does not need."""
    from absl import logging

    logging.set_verbosity(logging.ERROR)


if __name__ == "__mp_main__":
    # Several workers that decode pictures side by side keep the cores busy; NumPy and OpenCV would start threads on top.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches all processes of a terminal: the parent ends the others
    _hush()
    threading.Thread(target=_end_with_parent, daemon=True).start()
