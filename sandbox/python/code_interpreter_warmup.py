# Runs once in the zygote of the template `code-interpreter-v1`, after what `trading` warms up: the
# first figure of a cell would otherwise import for half a second and look at every font of the
# machine. Draws no random number: siblings would share it.
import atexit
import logging
import os
import shutil
import tempfile
import threading


class NoTimer:
    """A zygote has one thread. matplotlib starts a second one to say that fonts take long."""

    def __init__(self, *_):
        pass

    def start(self):
        pass

    cancel = start


def name_of_cache(*_, **__):
    """matplotlib wants a folder for its list of fonts, and nothing can be written here. It gets the
    name of one that a sandbox could make; the list is in this process and all forked from it."""
    return "/home/user/.cache/matplotlib"


kept = tempfile.mkdtemp, threading.Timer
tempfile.mkdtemp, threading.Timer = name_of_cache, NoTimer
logging.disable(logging.WARNING)

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import pandas.plotting._matplotlib

tempfile.mkdtemp, threading.Timer = kept
logging.disable(logging.NOTSET)
# Programs that cells start find a folder by themselves, and nobody removes this one.
os.environ.pop("MPLCONFIGDIR", None)
atexit.unregister(shutil.rmtree)

figure, (left, right) = plt.subplots(1, 2, figsize=(4, 2))
left.plot(days, prices["close"], label="close")
left.set(title="prices", xlabel="day", ylabel="price")
left.legend()
left.grid(True)
right.bar(["a", "b"], [1, 2])
right.scatter([0, 1], [1, 2], c=[0.0, 1.0])
right.imshow(numpy.eye(4))
prices["close"].plot(ax=left)
figure.tight_layout()
figure.savefig(io.BytesIO(), format="png", bbox_inches="tight")
plt.close("all")
