"""What the fork server has loaded before the first rank is forked. It must start no thread."""

import os
import warnings

os.environ["DS_ACCELERATOR"] = "cpu"
os.environ.setdefault("LOCAL_RANK", "0")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
warnings.filterwarnings("ignore")

import bigtrain.convert.export  # noqa: E402
import bigtrain.train.run  # noqa: E402, F401
