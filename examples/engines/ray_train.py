"""Train a ResNet with Ray Train on any number of workers; a stopped run goes on in mid-epoch.

python examples/engines/ray_train.py data/tiny --workers 2 --out runs/ray
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torchvision

import alexnet_fast as af


def train(options: dict[str, Any]) -> None:
    """What each worker runs. Ray sends it there, and with it what it names: so its options are plain values."""
    context = ray.train.get_context()
    rank, device, out = context.get_world_rank(), ray.train.torch.get_device(), Path(options["out"])
    torch.manual_seed(0)
    # The loader takes its rank from the engine, and its batches lie on the device: prepare_data_loader() would split
    # them once more. Ray says how many workers share the cores, so each loader takes its share.
    loader = af.open_loader(
        options["dataset"], split="train", batch_size=options["batch_size"], image_size=options["image_size"],
        device=device, rank=rank, world_size=context.get_world_size(),
    )  # fmt: skip
    network = torchvision.models.resnet18(num_classes=options["num_classes"]).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    # The loader's state is the epoch and the step, the same on every rank.
    parts = {"network": network, "optimizer": optimizer, "loader": loader}
    checkpoint = ray.train.get_checkpoint()  # the newest of the run; none at its first start
    if checkpoint:
        with checkpoint.as_directory() as folder:
            kept = torch.load(Path(folder, "parts.pt"), map_location=device)
        for name, part in parts.items():
            part.load_state_dict(kept[name])
    trained = ray.train.torch.prepare_model(network)

    steps = 0
    with (out / f"records-{rank}.txt").open("a") as seen:
        for epoch in range(loader.epoch, options["epochs"]):
            for batch in loader:
                loss = torch.nn.functional.cross_entropy(trained(batch.images), batch.labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                print(epoch, *batch.records, file=seen)  # which images this rank has trained on
                steps += 1
                if steps == options["steps"]:
                    break
            with tempfile.TemporaryDirectory() as folder:
                if rank == 0:
                    torch.save({name: part.state_dict() for name, part in parts.items()}, Path(folder, "parts.pt"))
                # Every rank has to report; the first one has the checkpoint, which Ray copies into the run's folder.
                ray.train.report(
                    {"epoch": epoch, "loss": loss.item()},
                    checkpoint=ray.train.Checkpoint.from_directory(folder) if rank == 0 else None,
                )
            if steps == options["steps"]:
                break
    loader.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("--out", type=Path, default=Path("runs/ray"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128, help="of each worker")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument(
        "--steps", type=int, help="stop after so many, as where a job's time is up; call again to go on"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    # Workers run in another folder, so paths are absolute; a URL stays as it is.
    out, folder = str(options.out.resolve()), Path(options.dataset)
    dataset = str(folder.resolve()) if folder.is_dir() else options.dataset
    # Counted here: if train() named `.classes`, Ray would try to send torch.classes too.
    num_classes = len(af.read_dataset_info(dataset).classes)

    # A node of its own. On a cluster that runs: ray.init() alone, with DATASET and --out where every node has them.
    # What Ray's processes log would hide our lines and stays in Ray's own files; the error of a worker is raised here.
    ray.init(address="local", num_cpus=options.workers, include_dashboard=False, log_to_driver=False)
    trainer = ray.train.torch.TorchTrainer(
        train,
        train_loop_config={**vars(options), "dataset": dataset, "out": out, "num_classes": num_classes},
        scaling_config=ray.train.ScalingConfig(num_workers=options.workers, use_gpu=torch.cuda.is_available()),
        # A run of the same name in the same place goes on from its newest checkpoint.
        run_config=ray.train.RunConfig(
            name="ray", storage_path=out, checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1)
        ),
    )  # fmt: skip
    last = trainer.fit().metrics
    if last:  # none where all epochs were done before
        print(f"stopped in epoch {last['epoch']}, loss {last['loss']:.4f} on the first rank")
    ray.shutdown()


if __name__ == "__main__":
    main()
