"""Train a ResNet with Lightning's Trainer, on any number of processes; a stopped run goes on in mid-epoch.

python examples/engines/lightning_train.py data/tiny --devices 2 --out runs/lightning.ckpt
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lightning
import torch
import torchvision

import alexnet_fast as af


class Module(lightning.LightningModule):
    """The network, and the loader of this process; Lightning keeps the loader's state in its checkpoint."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        self.options = options
        classes = len(af.read_dataset_info(options.dataset).classes)
        self.network = torchvision.models.resnet18(num_classes=classes)

    def train_dataloader(self) -> af.Loader:
        return af.open_loader(
            self.options.dataset, split="train", batch_size=self.options.batch_size,
            image_size=self.options.image_size, device=self.device, rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )  # fmt: skip

    def training_step(self, batch: af.Batch, batch_idx: int) -> torch.Tensor:
        images, labels = batch
        loss = torch.nn.functional.cross_entropy(self.network(images), labels)
        self.log("loss", loss, sync_dist=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("--out", type=Path, default=Path("runs/lightning.ckpt"))
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--max-steps", type=int, default=-1)
    options = parser.parse_args()

    lightning.seed_everything(0, verbose=False)
    trainer = lightning.Trainer(
        devices=options.devices, max_epochs=options.epochs, max_steps=options.max_steps, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(options), ckpt_path=options.out if options.out.exists() else None)
    trainer.save_checkpoint(options.out)
    if trainer.is_global_zero:
        print(f"loss {trainer.callback_metrics['loss'].item():.6f} after {trainer.global_step} steps")


if __name__ == "__main__":
    main()
