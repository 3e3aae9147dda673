"""The imports of the fork server, made before the first rank is forked. They start no thread."""

import gc
import os
import warnings

os.environ["DS_ACCELERATOR"] = "cpu"
os.environ.setdefault("LOCAL_RANK", "0")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
warnings.filterwarnings("ignore")

# DeepSpeed and torch import these modules only when an engine is built.
import deepspeed.comm.mori  # noqa: E402
import deepspeed.module_inject.auto_ep_layer  # noqa: E402
import deepspeed.moe.ep_repack  # noqa: E402
import deepspeed.ops.op_builder.all_ops  # noqa: E402
import deepspeed.runtime.superoffload.superoffload_stage3  # noqa: E402
import deepspeed.runtime.zero.muon.original_muon  # noqa: E402, F401
import numpy.ma  # noqa: E402, F401
import torch.profiler._cupti_monitor  # noqa: E402, F401

import bigtrain.convert.export  # noqa: E402
import bigtrain.train.run  # noqa: E402, F401

# Ranks never look through these million objects for garbage: that was half of a rank's start, and
# it copied the pages that they share with the server.
gc.collect()
gc.freeze()
