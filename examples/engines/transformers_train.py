"""Train a ResNet with Hugging Face's Trainer on any number of processes; a stopped run goes on in mid-epoch.

torchrun --nproc-per-node 2 examples/engines/transformers_train.py data/tiny --out runs/transformers
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import get_last_checkpoint

import alexnet_fast as af


class Inputs:
    """The loader, as the Trainer wants its batches: the arguments of the network, by name."""

    def __init__(self, loader: af.Loader, seen: Any) -> None:
        self.loader, self.dataset, self.seen = loader, loader.dataset, seen

    def __len__(self) -> int:
        return len(self.loader)

    def set_epoch(self, epoch: int) -> None:
        self.loader.set_epoch(epoch)  # in the epoch that a checkpoint was taken in, its step stays

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        epoch = self.loader.epoch
        for batch in self.loader:
            print(epoch, *batch.records, file=self.seen)  # which images this rank trains on
            yield {"pixel_values": batch.images, "labels": batch.labels}


class KeepLoader(TrainerCallback, ExportableState):
    """Puts the loader's state into each checkpoint's trainer_state.json, and takes it from there."""

    def __init__(self, loader: af.Loader, steps: int | None) -> None:
        self.loader, self.steps = loader, steps

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": self.loader.state()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.loader.load_state(state.stateful_callbacks["KeepLoader"]["attributes"])
        self.stop_at = None if self.steps is None else state.global_step + self.steps

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step == self.stop_at:
            control.should_training_stop = control.should_save = True


class LoaderTrainer(Trainer):
    def __init__(self, inputs: Inputs, **more: Any) -> None:
        super().__init__(**more)
        self.inputs = inputs

    def get_train_dataloader(self) -> Inputs:
        return self.inputs  # not through accelerator.prepare(): that would split its batches once more


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("--out", type=Path, default=Path("runs/transformers"))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128, help="of each process")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument(
        "--steps", type=int, help="stop after so many, as where a job's time is up; call again to go on"
    )
    options = parser.parse_args()

    # Without a GPU it has to be told: it would take each of torchrun's processes for the only one, rank 0.
    settings = TrainingArguments(
        use_cpu=not torch.accelerator.is_available(),
        output_dir=str(options.out), num_train_epochs=options.epochs, per_device_train_batch_size=options.batch_size,
        learning_rate=1e-3, save_strategy="epoch", save_total_limit=2, report_to=[], disable_tqdm=True, seed=0,
        # The loader goes on by itself: else the Trainer would read and throw away the batches that are done.
        ignore_data_skip=True,
    )  # fmt: skip
    loader = af.open_loader(
        options.dataset, split="train", batch_size=options.batch_size, image_size=options.image_size,
        device=settings.device, rank=settings.process_index, world_size=settings.world_size,
    )  # fmt: skip
    network = ResNetForImageClassification(ResNetConfig(num_labels=len(loader.dataset.classes)))
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / f"records-{settings.process_index}.txt").open("a") as seen:
        trainer = LoaderTrainer(
            Inputs(loader, seen), model=network, args=settings, callbacks=[KeepLoader(loader, options.steps)]
        )
        trainer.train(resume_from_checkpoint=get_last_checkpoint(options.out))
    loader.close()


if __name__ == "__main__":
    main()
