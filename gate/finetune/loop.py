"""The loop: transformers' Trainer with the course's losses, measurements and whole checkpoints.

In: the model, the course, the laid-down rows, a folder for checkpoints. Out: the trained model in the Trainer, which can save it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gate.endpoints.hf_load import quiet
from gate.finetune.course import Collate, Course, Item
from gate.finetune.recipe import Recipe
from gate.finetune.workplace import complete

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainingArguments


def run(
    recipe: Recipe,
    model: PreTrainedModel,
    course: Course,
    rows: Sequence[Item],
    collate: Collate,
    folder: Path,
    resume: Path | None,
) -> Trainer:
    """Train to the end, from `resume` on where it is given."""
    import torch

    per_step = recipe.batch * recipe.accumulation
    with quiet():
        arguments = training_arguments(recipe, folder)
        course.steps = len(rows) // (per_step * arguments.world_size)
        arguments.warmup_steps = math.ceil(recipe.warmup_ratio * course.steps)
        trainer = trainer_class(course)(
            model=model, args=arguments, train_dataset=rows, eval_dataset=rows[:1], data_collator=collate
        )
        trainer.callback_handler.callbacks = [c for c in trainer.callback_handler.callbacks if "Printer" not in type(c).__name__]
        trainer.add_callback(callback(course, trainer))
        # Every process draws its own dropout; a resumed one goes on with the state in its checkpoint.
        torch.manual_seed(recipe.seed + 1 + arguments.process_index)
        course.resumed(arguments.device, trainer.accelerator)
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer


def training_arguments(recipe: Recipe, folder: Path) -> TrainingArguments:
    """The recipe in transformers' words."""
    import torch
    from transformers import TrainingArguments

    gpu = torch.cuda.is_available()
    dtype = recipe.dtype if recipe.dtype != "auto" else "bfloat16" if gpu else "float32"
    measured = recipe.eval is not None
    best = recipe.early_stop is not None
    every = recipe.eval.every if recipe.eval else 1
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=not gpu,
        seed=recipe.seed,
        num_train_epochs=1,
        per_device_train_batch_size=recipe.batch,
        gradient_accumulation_steps=recipe.accumulation,
        train_sampling_strategy="sequential",
        learning_rate=recipe.lr,
        lr_scheduler_type="cosine" if recipe.schedule == "cosine" else "constant_with_warmup",
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        optim="adamw_torch" if recipe.optimizer == "adamw" else "paged_adamw_32bit",
        bf16=dtype == "bfloat16",
        fp16=dtype == "float16",
        gradient_checkpointing=recipe.gradient_checkpointing,
        eval_strategy="steps" if measured else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every if best else recipe.save_every,
        save_total_limit=2,
        load_best_model_at_end=best,
        metric_for_best_model="eval_loss" if best else None,
        greater_is_better=False if best else None,
        logging_strategy="no",
        remove_unused_columns=False,
        dataloader_pin_memory=gpu,
        ddp_find_unused_parameters=False,
        disable_tqdm=True,
        report_to="none",
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process, one device: several are several processes
    return arguments


def trainer_class(course: Course) -> type[Trainer]:
    """Transformers' Trainer with the course's losses and measurements."""
    from transformers import Trainer

    class CourseTrainer(Trainer):  # type: ignore[misc]
        """Asks the course."""

        control: TrainerControl
        loss_is_scaled_for_ga = True

        def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
            return course.whole(batch_samples, device, self.accelerator)

        def compute_loss(
            self,
            model: PreTrainedModel,
            inputs: dict[str, Any],
            return_outputs: bool = False,  # noqa: ARG002 - the Trainer passes it
            num_items_in_batch: torch.Tensor | None = None,
        ) -> torch.Tensor:
            assert num_items_in_batch is not None
            return course.loss(model, inputs, num_items_in_batch, self.accelerator)

        def evaluate(self, *_: object, **__: object) -> dict[str, float]:
            metrics = {"eval_loss": course.measure(self.model, self.state.global_step, self.accelerator)}
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            self.control.should_training_stop |= course.ledger.stopped
            return metrics

    return CourseTrainer


def callback(course: Course, trainer: Trainer) -> TrainerCallback:
    """What the course does between the steps."""
    from transformers import TrainerCallback

    class Between(TrainerCallback):  # type: ignore[misc]
        """Calls the course."""

        def on_step_begin(self, _: object, state: Any, *__: object, **___: object) -> None:  # noqa: ANN401
            course.before_step(trainer.model, state.global_step, trainer.accelerator)

        def on_step_end(self, _: object, state: Any, *__: object, **___: object) -> None:  # noqa: ANN401
            course.after_step(state.global_step, trainer.accelerator)

        def on_save(self, arguments: Any, state: Any, *_: object, **__: object) -> None:  # noqa: ANN401
            course.tell("saving", state.global_step)
            entry = course.entry(state.global_step, trainer.accelerator)
            trainer.accelerator.wait_for_everyone()
            if trainer.accelerator.is_main_process:
                complete(Path(arguments.output_dir) / f"checkpoint-{state.global_step}", entry)
            trainer.accelerator.wait_for_everyone()

    return Between()
