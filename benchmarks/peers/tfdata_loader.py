"""tf.data: TFRecords, of which each image is decoded in its crop alone and resized by TensorFlow, in its threads."""

from __future__ import annotations

from pathlib import Path

from common import AREA, ASPECT, MEAN, STD, Epoch, Job, defaults_of, fresh, list_images, main

CANDIDATES = {
    "idct": ("INTEGER_FAST", "INTEGER_ACCURATE"),
    "workers": (2, 3, 4),
    "prefetch": (2,),
    "antialias": (True,),
}
FLOAT_CANDIDATES = {"normalise": ("pipeline", "batch")}
PACKAGES = ("tensorflow-cpu", "torch", "numpy")
FORMAT = "tfrecords"
SHARDS = 12


def open_epochs(job: Job) -> Epoch:
    import tensorflow as tf
    import torch
    from transforms import Finish

    s, size = job.settings, job.image_size
    in_pipeline = job.float_output and s["normalise"] == "pipeline"
    tf.config.threading.set_inter_op_parallelism_threads(job.workers)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    # As a flat row of numbers, so that the graph multiplies without broadcasting three channels.
    scale, shift = (
        tf.constant([values] * size, tf.float32)
        for values in ([1 / (255 * d) for d in STD], [-m / d for m, d in zip(MEAN, STD, strict=True)])
    )

    def make(record):
        parsed = tf.io.parse_single_example(
            record, {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
        )
        jpeg = parsed["image"]
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(jpeg),
            tf.zeros([1, 0, 4]),
            min_object_covered=0.0,
            area_range=AREA,
            aspect_ratio_range=ASPECT,
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        box = tf.concat([begin[:2], extent[:2]], 0)
        image = tf.image.decode_and_crop_jpeg(jpeg, box, channels=3, dct_method=s["idct"])
        image = tf.image.resize(image, [size, size], antialias=bool(s["antialias"]))
        if tf.random.uniform([]) < 0.5:
            image = tf.reverse(image, [1])
        image = image * scale + shift if in_pipeline else tf.cast(tf.round(image), tf.uint8)
        return image, parsed["label"]

    files = [str(path) for path in sorted((job.data / FORMAT).iterdir())]
    dataset = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files))
    dataset = dataset.interleave(tf.data.TFRecordDataset, cycle_length=4, num_parallel_calls=1, deterministic=False)
    dataset = dataset.shuffle(1000).map(make, num_parallel_calls=job.workers, deterministic=False)
    dataset = dataset.batch(job.batch_size, drop_remainder=True).prefetch(int(s["prefetch"]))
    options = tf.data.Options()
    options.threading.private_threadpool_size = job.workers
    options.threading.max_intra_op_parallelism = 1
    dataset = dataset.with_options(options)
    finish = Finish(job) if not in_pipeline else lambda images: images.permute(0, 3, 1, 2)

    def epoch(_: int):
        for images, labels in dataset:
            yield (
                finish(torch.utils.dlpack.from_dlpack(tf.experimental.dlpack.to_dlpack(images))),
                torch.from_numpy(labels.numpy()),
            )

    return epoch


def prepare(data: Path) -> None:
    import tensorflow as tf

    folder = fresh(data / FORMAT)
    writers = [tf.io.TFRecordWriter(str(folder / f"{i:05d}.tfrecord")) for i in range(SHARDS)]
    for i, (path, label) in enumerate(list_images(data)):
        feature = {
            "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[path.read_bytes()])),
            "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        }
        example = tf.train.Example(features=tf.train.Features(feature=feature))
        writers[i % SHARDS].write(example.SerializeToString())
    for writer in writers:
        writer.close()


if __name__ == "__main__":
    main(open_epochs, prepare, {**defaults_of(CANDIDATES), **defaults_of(FLOAT_CANDIDATES)}, PACKAGES)
