"""Train a ResNet with Lightning's Trainer on any number of processes; a stopped run goes on in mid-epoch.

python examples/engines/lightning_train.py data/tiny --devices 2 --out runs/lightning
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import lightning
import torch
import torchvision

import alexnet_fast as af


class Network(lightning.LightningModule):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.network = torchvision.models.resnet18(num_classes=num_classes)

    def training_step(self, batch: af.Batch, step: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.network(batch.images), batch.labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    def transfer_batch_to_device(self, batch: af.Batch, *more: Any) -> af.Batch:
        return batch  # it lies there already; Lightning's own copy would lose batch.records


class Images(lightning.LightningDataModule):
    """The loader, opened once each process knows its rank. Lightning keeps its state_dict() in every checkpoint."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        self.options = options

    def setup(self, stage: str) -> None:
        trainer = self.trainer
        # torchrun says how many processes share the cores; Lightning does not, so each is told its share.
        self.loader = af.open_loader(
            self.options.dataset, split="train", batch_size=self.options.batch_size,
            image_size=self.options.image_size, device=trainer.strategy.root_device,
            rank=trainer.global_rank, world_size=trainer.world_size,
            num_workers=max(1, os.cpu_count() // self.options.devices),
        )  # fmt: skip

    def train_dataloader(self) -> af.Loader:
        return self.loader

    def teardown(self, stage: str) -> None:
        self.loader.close()


class Keep(lightning.Callback):
    """Writes a checkpoint at the end of each epoch, and where the run is to stop; notes the records of each step."""

    def __init__(self, options: argparse.Namespace, checkpoint: Path) -> None:
        self.out, self.steps, self.checkpoint = options.out, options.steps, checkpoint

    def on_train_start(self, trainer: lightning.Trainer, network: Any) -> None:
        self.stop_at = None if self.steps is None else trainer.global_step + self.steps

    def on_train_batch_end(self, trainer: lightning.Trainer, network: Any, outputs: Any, batch: Any, step: int) -> None:
        with (self.out / f"records-{trainer.global_rank}.txt").open("a") as seen:
            print(trainer.current_epoch, *batch.records, file=seen)  # which images this rank has trained on
        if trainer.global_step == self.stop_at:
            trainer.should_stop = True
            trainer.save_checkpoint(self.checkpoint)  # every rank has to call it; the first one writes

    def on_train_epoch_end(self, trainer: lightning.Trainer, network: Any) -> None:
        if not trainer.should_stop:  # else it is written
            trainer.save_checkpoint(self.checkpoint)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("--out", type=Path, default=Path("runs/lightning"))
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128, help="of each process")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument(
        "--steps", type=int, help="stop after so many, as where a job's time is up; call again to go on"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    lightning.seed_everything(0, verbose=False)
    checkpoint = options.out / "checkpoint.ckpt"
    trainer = lightning.Trainer(
        devices=options.devices, max_epochs=options.epochs, callbacks=[Keep(options, checkpoint)],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    network = Network(len(af.read_dataset_info(options.dataset).classes))
    trainer.fit(network, Images(options), ckpt_path=checkpoint if checkpoint.exists() else None)
    trainer.print(f"stopped in epoch {trainer.current_epoch} after {trainer.global_step} steps in all")


if __name__ == "__main__":
    main()
