"""One loop for every task: precision, EMA, DDP, clipping, accumulation, checkpoints, exact resume, hooks."""

import os

# OpenMP threads that spin while waiting cost up to 10x where cores are shared; read when torch is first imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
