"""What the process from which test_faults.py forks its children has done once: imports, a model read, a figure drawn."""

import fault_jobs  # noqa: F401
import matplotlib

matplotlib.use("agg")
import io  # noqa: E402

import matplotlib.pyplot as plt  # noqa: E402
import torch  # noqa: E402

from infalign_edu import plots  # noqa: E402, F401
from infalign_edu.lm.models import load  # noqa: E402

torch.set_num_threads(1)
load("embedded", device="cpu")
plt.subplots()[0].savefig(io.BytesIO())
plt.close("all")
