"""Repair methods: a blocked candidate's folder comes in, a repaired folder goes out. The table, cheapest first.

    post and serve methods   change weights by algebra, or only how the model is served: seconds
    retrain methods          train again with `gate.finetune`: as long as the fine-tuning took

The loop that puts each outcome through the gate is `gate.repair_pipeline`.
"""

from __future__ import annotations

from typing import Final

from gate.repair.base import Method
from gate.repair.curvature import Curvature
from gate.repair.mix import Mix
from gate.repair.safe_lora import SafeLora
from gate.repair.safe_merge import SafeMerge
from gate.repair.scaling import Scaling
from gate.repair.serving import Serving
from gate.repair.task_arithmetic import TaskArithmetic
from gate.repair.token_wise import TokenWise

METHODS: Final[tuple[Method, ...]] = (
    Serving(),
    Scaling(),
    SafeLora(),
    TaskArithmetic(),
    SafeMerge(),
    Curvature(),
    Mix(),
    TokenWise(),
)
"""Every method, in the order in which they are tried: the cheapest first."""
