"""A spec with identity scales and one threshold for every direction and task, for models that are no bundle yet."""

from guard_server.bundle_spec import BundleSpec, Calibration, Scale, SelfTest, Threshold, Window
from guard_server.labels import CATEGORIES, TASKS, Direction, Task


def plain_spec() -> BundleSpec:
    """Windows of 120 characters, 240 tokens."""
    scale = Scale(temperature=1)
    return BundleSpec(
        name="tiny",
        version="1",
        encoder="random weights (test)",
        precision="fp32",
        max_tokens=240,
        window=Window(characters=120, overlap=40),
        context_characters=60,
        tasks=TASKS,
        categories=CATEGORIES,
        calibration=Calibration(
            harm=dict.fromkeys(TASKS, scale), response_harm=scale, refusal=scale, task_temperature=1, category_temperature=1
        ),
        thresholds=tuple(
            Threshold(direction=direction, task=task, target_fpr=target, segments=(1,), at=(at,), benign=1)
            for direction in Direction
            for task in TASKS
            for target, at in ((0.01, 0.9), (0.05, 0.5))
        ),
        self_tests=(SelfTest(direction=Direction.PROMPT, text="text", task=Task.OTHER, score=0.5, tolerance=1),),
    )
