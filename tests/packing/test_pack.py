"""Packing end to end: every image once, byte for byte, with the right label, from any container."""

import io
import os
import random
import resource
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from source_files import WNIDS, jpeg, records, tiny_files, write_files, write_zip

from alexnet_fast import PackConfig
from alexnet_fast.dataset import ShardReader, read_dataset_info
from alexnet_fast.errors import DamagedDataError, StorageError, UsageError
from alexnet_fast.packing import pack
from alexnet_fast.packing.plan import plan_shards
from alexnet_fast.packing.target import open_target
from alexnet_fast.sources import FileReader, Split, open_source

SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "tiny-imagenet-10.zip"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_tiny_imagenet_folder(tmp_path):
    files = tiny_files()
    info = pack(write_files(tmp_path / "tiny", files), tmp_path / "out")
    assert [(c.index, c.wnid, c.name) for c in info.classes] == [
        (0, "n01443537", "goldfish, Carassius"), (1, "n01629819", "n01629819"), (2, "n02124075", "n02124075"),
    ]  # fmt: skip
    expected = {
        f"{wnid}/{wnid}_{i}.JPEG": (c, files[f"train/{wnid}/images/{wnid}_{i}.JPEG"])
        for c, wnid in enumerate(WNIDS)
        for i in range(4)
    }
    assert {key: (label, data) for key, label, data in records(tmp_path / "out", "train")} == expected
    assert sorted(records(tmp_path / "out", "val")) == [
        (f"{WNIDS[i]}/val_{i}.JPEG", i, files[f"val/images/val_{i}.JPEG"]) for i in range(3)
    ]
    assert sorted(records(tmp_path / "out", "test")) == [
        (f"test_{i}.JPEG", -1, files[f"test/images/test_{i}.JPEG"]) for i in range(2)
    ]
    assert not info.splits["test"].labelled
    assert info.splits["val"].labelled
    assert not [name for name in contents(tmp_path / "out") if name.startswith(".")]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_gives_the_records_of_the_folder(tmp_path, method):
    files = tiny_files()
    shuffled = dict(random.Random(0).sample(sorted(files.items()), len(files)))
    pack(write_files(tmp_path / "tiny", files), tmp_path / "a")
    pack(write_zip(tmp_path / "b.zip", {f"tiny/{n}": c for n, c in shuffled.items()}, method), tmp_path / "b")
    for split in ("train", "val", "test"):
        assert records(tmp_path / "a", split) == records(tmp_path / "b", split)


@pytest.mark.skipif(not SAMPLE.exists(), reason="real images are not here")
def test_every_real_image_is_packed_once_byte_for_byte(tmp_path):
    pack(SAMPLE, tmp_path / "out", workers=2)
    with zipfile.ZipFile(SAMPLE) as archive:
        wnids = sorted({n.split("/")[2] for n in archive.namelist() if "/train/" in n and n.endswith(".JPEG")})
        answers = {
            line.split()[0]: line.split()[1]
            for line in archive.read("tiny-imagenet-10/val/val_annotations.txt").decode().splitlines()
        }
        expected = {"train": [], "val": [], "test": []}
        for name in archive.namelist():
            if name.endswith(".JPEG"):
                split, file = name.split("/")[1], name.rpartition("/")[2]
                wnid = {"train": name.split("/")[2], "val": answers.get(file), "test": None}[split]
                label = -1 if wnid is None else wnids.index(wnid)
                expected[split].append((f"{wnid}/{file}" if wnid else file, label, archive.read(name)))
    for split, images in expected.items():
        packed = records(tmp_path / "out", split)
        assert sorted(packed) == sorted(images)
        assert packed != sorted(packed)  # shuffled


def run_pack(source, dataset, *options, **settings):
    return subprocess.run(
        [sys.executable, "-m", "alexnet_fast", "pack", str(source), str(dataset), *map(str, options)],
        capture_output=True, text=True, **settings,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return write_files(tmp_path / "tiny", tiny_files(train=30, val=6, test=4))


def test_any_number_of_workers_gives_the_same_files(tmp_path, folder):
    for name, workers in (("a", 0), ("b", 1), ("c", 3)):
        pack(folder, tmp_path / name, workers=workers, shard_bytes=20_000, seed=4)
    assert len(contents(tmp_path / "a")) > 8
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")
    pack(folder, tmp_path / "d", workers=0, shard_bytes=20_000, seed=5)
    assert records(tmp_path / "a", "train") != records(tmp_path / "d", "train")


def test_ray_gives_the_files_of_the_local_engine(tmp_path, folder):
    ray = pytest.importorskip("ray")
    pack(folder, tmp_path / "local", workers=0, shard_bytes=20_000)
    write_files(folder, {"train/n01443537/images/bad.JPEG": b"no image"})
    script = (
        "import sys, ray; ray.init('local', num_cpus=2, include_dashboard=False, log_to_driver=False)\n"
        "from alexnet_fast import pack\n"
        "from alexnet_fast.errors import DamagedDataError\n"
        "import pathlib\n"
        "source, out = sys.argv[1:]\n"
        "try:\n    pack(source, out + '-bad', engine='ray')\n"
        "except DamagedDataError as error:\n    print(error)\n"
        "pathlib.Path(source, 'train/n01443537/images/bad.JPEG').unlink()\n"
        "pack(source, out, engine='ray', shard_bytes=20_000)\n"
    )
    assert ray
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(tmp_path / "ray")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "n01443537/bad.JPEG" in done.stdout
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


def test_killed_at_any_moment_goes_on_to_the_same_files(tmp_path, folder):
    pack(folder, tmp_path / "whole", workers=0, shard_bytes=9_000)
    chance = random.Random(1)
    command = [
        sys.executable,
        "-m",
        "alexnet_fast",
        "pack",
        str(folder),
        str(tmp_path / "out"),
        "--shard-bytes",
        "9000",
    ]
    kept = 0
    for trial in range(6):
        process = subprocess.Popen([*command, "--workers", str(trial % 3)], stderr=subprocess.DEVNULL)
        began = time.monotonic()
        limit = chance.uniform(0.02, 0.2)
        # Killed some moment after the first finished shard shows, so that there is something to go on from.
        while process.poll() is None and time.monotonic() - began < 20:
            if len(list((tmp_path / "out").glob("train-*.lmdb"))) > kept:
                break
            time.sleep(0.002)
        time.sleep(limit / 10)
        process.kill()
        process.wait()
        kept = len(list((tmp_path / "out").glob("train-*.lmdb")))
    done = run_pack(folder, tmp_path / "out", "--shard-bytes", 9000)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_killed_worker_is_an_error_and_what_is_finished_stays(tmp_path):
    files = {f"train/{c}/{i}.jpg": jpeg(i, (600, 500)) for c in "ab" for i in range(60)}
    source = write_files(tmp_path / "source", files)
    for at in ("first", "again"):
        process = subprocess.Popen(
            [sys.executable, "-m", "alexnet_fast", "pack", str(source), str(tmp_path / "out"), "--workers", "2",
             "--shard-bytes", "60000", "--resize-shorter", "450"], stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while not list((tmp_path / "out").glob("train-*.lmdb")):
            time.sleep(0.005)
        workers = [int(p) for p in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        if at == "first":
            os.kill(workers[0], signal.SIGKILL)
            error = process.communicate(timeout=60)[1]
            assert process.returncode == 1
            assert "a worker process ended before its work did (killed by SIGKILL" in error
            assert "Traceback" not in error
        else:
            process.kill()
            process.communicate()
            for pid in workers:  # they end with their parent
                for _ in range(200):
                    if not Path(f"/proc/{pid}").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
                        break
                    time.sleep(0.02)
                else:
                    pytest.fail("a worker outlives its parent")
    done = run_pack(source, tmp_path / "out", "--shard-bytes", 60000, "--resize-shorter", 450)
    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path / "out", "train")) == 120


def test_ctrl_c_ends_in_one_line_and_can_be_resumed(tmp_path):
    images = [jpeg(i, (600, 500)) for i in range(40)]
    source = write_files(tmp_path / "s", {f"a/{i}.jpg": images[i % 40] for i in range(300)})
    process = subprocess.Popen(
        [sys.executable, "-m", "alexnet_fast", "pack", str(source), str(tmp_path / "out"), "--workers", "2",
         "--shard-bytes", "60000", "--resize-shorter", "450"], stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not list((tmp_path / "out").glob("train-*.lmdb")):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in error
    done = run_pack(source, tmp_path / "out", "--shard-bytes", 60000, "--resize-shorter", 450)
    assert done.returncode == 0
    assert not (tmp_path / "out" / ".pack").exists()


def test_other_options_or_another_source_are_refused(tmp_path, folder):
    pack(folder, tmp_path / "out", workers=0)
    before = contents(tmp_path / "out")
    again = run_pack(folder, tmp_path / "out")
    assert again.returncode == 0
    assert "was complete already" in again.stderr
    for options, text in (
        ({"seed": 1}, "with --seed 0, not 1"),
        ({"resize_shorter": 8}, "with --resize-shorter unset, not 8"),
        ({"splits": ["val"]}, "with --split train,val,test, not val"),
        ({"shard_bytes": 5}, "--shard-bytes 8388608, not 5"),
    ):
        with pytest.raises(UsageError, match=text):
            pack(folder, tmp_path / "out", workers=0, **options)
    other = write_files(tmp_path / "other", tiny_files(train=5))
    with pytest.raises(UsageError, match="from a source with other images"):
        pack(other, tmp_path / "out", workers=0)
    assert contents(tmp_path / "out") == before
    info = pack(other, tmp_path / "out", workers=0, overwrite=True)
    assert info.splits["train"].records == 15
    pack(other, tmp_path / "fresh", workers=0)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_an_unfinished_pack_refuses_other_options(tmp_path, folder):
    write_files(folder, {"train/n01443537/images/bad.JPEG": b"no image"})
    with pytest.raises(DamagedDataError):
        pack(folder, tmp_path / "out", workers=0, shard_bytes=9000, seed=2)
    assert list((tmp_path / "out").glob("*.lmdb"))
    with pytest.raises(UsageError, match="holds a pack that was begun with --seed 2, not 3"):
        pack(folder, tmp_path / "out", workers=0, shard_bytes=9000, seed=3)
    # What to do with bad images may change: finished shards held none.
    pack(folder, tmp_path / "out", workers=0, shard_bytes=9000, seed=2, on_bad_image="skip")
    pack(folder, tmp_path / "fresh", workers=0, shard_bytes=9000, seed=2, on_bad_image="skip")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_pack_goes_on_with_the_size_of_shards_that_it_was_begun_with(tmp_path, folder):
    write_files(folder, {"train/n01443537/images/bad.JPEG": b"no image"})
    with pytest.raises(DamagedDataError):
        pack(folder, tmp_path / "out", workers=0, seed=2, shard_bytes=9000)
    kept = {path.name for path in (tmp_path / "out").glob("*.lmdb")}
    pack(folder, tmp_path / "fresh", workers=0, seed=2, shard_bytes=9000, on_bad_image="skip")
    assert kept and kept < {path.name for path in (tmp_path / "fresh").glob("*.lmdb")}
    with pytest.raises(UsageError, match="begun with --shard-bytes 9000, not 9001"):
        pack(folder, tmp_path / "out", workers=0, seed=2, shard_bytes=9001, on_bad_image="skip")
    pack(folder, tmp_path / "out", workers=0, seed=2, on_bad_image="skip")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")
    assert "was complete already" in run_pack(folder, tmp_path / "out", "--seed", 2, "--on-bad-image", "skip").stderr
    # Nothing of the old set counts where it is replaced.
    info = pack(folder, tmp_path / "out", workers=0, seed=2, on_bad_image="skip", overwrite=True)
    assert info.packing["options"]["shard_bytes"] == 8 << 20 and len(info.splits["train"].shards) == 1


@pytest.mark.parametrize(("total", "shard_mib"), [(1, 8), (1000, 8), (2000, 16), (10_240, 80), (10**6, 1024)])
def test_shards_are_sized_by_the_source_alone(tmp_path, folder, total, shard_mib):
    """`total` MiB of images in all: a 128th, rounded up to whole MiB, from 8 MiB to 1 GiB."""
    source = open_source(folder)
    images = source.splits["train"].images.repeat(2000)
    images["size"] = (total << 20) // len(images)
    plan = plan_shards(
        replace(source, splits={"train": Split(images=images, labelled=True)}),
        PackConfig(source=folder, dataset=tmp_path),
    )
    assert plan.identity()["options"]["shard_bytes"] == shard_mib << 20
    assert max(shard.source_bytes for shard in plan.shards) < (shard_mib << 20) + int(images["size"][0])
    assert len(plan.shards) == -(-total // shard_mib)


def test_two_at_once(tmp_path, folder):
    with open_target(tmp_path / "out"):
        done = run_pack(folder, tmp_path / "out")
        assert done.returncode == 2
        assert f"another pack is writing to {tmp_path / 'out'} (process {os.getpid()})" in done.stderr
    assert not (tmp_path / "out").exists()


def test_folders_of_others_are_left_alone(tmp_path, folder):
    target = write_files(tmp_path / "mine", {"thesis.txt": b"words"})
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"holds other files \(thesis\.txt\)"):
            pack(folder, target, workers=0, overwrite=overwrite)
    with pytest.raises(UsageError, match="is a file"):
        pack(folder, target / "thesis.txt", workers=0)
    assert contents(target) == {"thesis.txt": b"words"}
    pack(folder, tmp_path / "out", workers=0)
    write_files(tmp_path / "out", {"notes/mine.txt": b"words"})
    pack(folder, tmp_path / "out", workers=0, overwrite=True, seed=9)
    assert (tmp_path / "out" / "notes" / "mine.txt").read_bytes() == b"words"


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit on file sizes here")
def test_a_refusing_disk_ends_clearly_and_can_be_resumed(tmp_path):
    source = write_files(tmp_path / "s", {f"a/{i}.jpg": jpeg(i, (400, 300)) for i in range(60)})

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    done = run_pack(source, tmp_path / "out", "--shard-bytes", 400_000, "--workers", 0, preexec_fn=limited)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()[-1]) < 300
    assert not list((tmp_path / "out").glob("*.lmdb"))
    assert run_pack(source, tmp_path / "out", "--shard-bytes", 400_000).returncode == 0
    assert len(records(tmp_path / "out", "train")) == 60


def test_large_images_packed_on_threads_give_the_same_files(tmp_path):
    files = {f"train/{c}/{i}.jpg": jpeg(i, (1200, 900)) for c in "ab" for i in range(8)}
    files["train/a/png.jpg"] = b"\x89PNG no more"
    source = write_files(tmp_path / "source", files)
    assert sum(map(len, files.values())) > 17 * (16 << 10)  # the size from which on they are taken
    done = run_pack(source, tmp_path / "out", "--shard-bytes", "1MB", timeout=120)
    assert done.returncode == 1
    assert "a/png.jpg" in done.stderr
    for name, options in (("out", ()), ("alone", ("--workers", 0))):
        done = run_pack(
            source, tmp_path / name, "--shard-bytes", "1MB", "--on-bad-image", "skip", *options, timeout=120
        )
        assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


def test_what_is_not_packed_is_no_part_of_the_source(tmp_path, folder):
    pack(folder, tmp_path / "out", workers=0, splits=["train"])
    write_files(folder, {"val/images/val_6.JPEG": jpeg(9), "test/images/test_9.JPEG": jpeg(8)})
    again = run_pack(folder, tmp_path / "out", "--split", "train")
    assert again.returncode == 0, again.stderr
    assert "was complete already" in again.stderr


def test_bad_images(tmp_path):
    out = io.BytesIO()
    Image.new("RGB", (20, 20), (200, 30, 30)).save(out, "PNG")
    files = {f"train/a/{i}.jpg": jpeg(i) for i in range(4)}
    files |= {
        "train/a/png.JPEG": out.getvalue(),
        "train/a/cut.jpg": jpeg(7, (200, 160))[:2500],
        "train/a/bad.jpg": b"?",
    }
    source = write_files(tmp_path / "s", files)
    done = run_pack(source, tmp_path / "out")
    assert done.returncode == 1
    assert "a/bad.jpg (split train of s) cannot be packed" in done.stderr
    assert "--on-bad-image skip" in done.stderr
    assert not (tmp_path / "out").exists()
    done = run_pack(source, tmp_path / "out", "--on-bad-image", "skip")
    assert done.returncode == 0, done.stderr
    assert "left out: a/bad.jpg (train)" in done.stdout
    assert "encoded anew, not a JPEG (PNG): 1 (a/png.JPEG)" in done.stdout
    packing = read_dataset_info(tmp_path / "out").packing
    assert [(e["split"], e["key"]) for e in packing["left_out"]] == [("train", "a/bad.jpg")]
    assert sorted(e["key"] for e in packing["re_encoded"]["images"]) == ["a/cut.jpg", "a/png.JPEG"]
    packed = {key: data for key, _, data in records(tmp_path / "out", "train")}
    assert len(packed) == 6
    assert packed["a/0.jpg"] == files["train/a/0.jpg"]


def test_resize_limit_and_splits(tmp_path, folder):
    info = pack(folder, tmp_path / "out", workers=0, resize_shorter=15, splits=["train"], limit=20)
    assert list(info.splits) == ["train"]
    assert info.num_classes == 3
    reader = ShardReader(tmp_path / "out", "train")
    assert len(reader) == 20
    assert {(int(r["width"]), int(r["height"])) for r in reader.index} == {(20, 15)}
    assert info.packing["resized"] == 20
    with pytest.raises(UsageError, match="has no split 'dev'"):
        pack(folder, tmp_path / "x", splits=["dev"], workers=0)
    for name, value in (("shard_bytes", 0), ("quality", 101), ("limit", 0), ("seed", -1), ("on_bad_image", "no"),
                        ("engine", "dask"), ("format", "lmdb")):  # fmt: skip
        with pytest.raises(UsageError):
            pack(folder, tmp_path / "x", **{name: value})
    assert not (tmp_path / "x").exists()


def test_a_source_that_changes_while_packing(tmp_path, folder):
    plan = plan_shards(open_source(folder), PackConfig(source=folder, dataset=tmp_path))
    first = plan.tables["train"][0]
    path = folder / first["name"].decode()
    path.write_bytes(path.read_bytes() + b"more")
    with FileReader(plan.source.containers) as reader:
        with pytest.raises(DamagedDataError, match="size changed"):
            reader.read(first)
        path.unlink()
        with pytest.raises(StorageError, match="cannot be read"):  # and so is never skipped as a bad image
            reader.read(first)
