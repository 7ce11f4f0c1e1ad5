"""Write images of a data set, or of synthetic shapes, as picture files.

By default as PNG files with an index and the names of the classes, for run and evaluate; with --class_folders in a folder for
each class under train/ and test/, with --masks beside a mask of the class of each pixel, as --data_path takes them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from qat import data
from qat.cli import run_script
from qat.console import wrote
from qat.data import Split
from qat.data.class_names import class_names
from qat.data.class_pictures import FORMATS, write_class_folders, write_with_masks
from qat.data.pictures import MODES, write_pictures
from qat.data.preparation import PLAIN, Preparation
from qat.data.rows import Samples
from qat.data.shapes import SHAPES, shapes
from qat.errors import QatError
from qat.scripts.common.flags import add_data_argument, chosen_preparation, seed
from qat.scripts.common.plan import add_writing_arguments, of_data, stop_if_dry
from qat.tables import counted
from qat.vocabulary.arrays import as_tuple

SYNTHETIC = "shapes"  #: the --data_path of pictures that are drawn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_data_argument(parser, also=f"or {SYNTHETIC!r} for drawn ones ({', '.join(SHAPES)})")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder to put them into")
    parser.add_argument(
        "--masks",
        action="store_true",
        help="images/ and masks/ under train/ and test/, in place of an index: of synthetic shapes, or of data whose labels "
        "are maps of classes",
    )
    parser.add_argument(
        "--split", choices=("test", "train"), help="which images (default: test; with --class_folders or --masks both)"
    )
    parser.add_argument("--count", type=int, metavar="N", help="the first N only, of each split (default: all)")
    parser.add_argument(
        "--class_folders",
        action="store_true",
        help="a folder for each class under train/ and test/, in place of an index",
    )
    parser.add_argument(
        "--size",
        type=int,
        metavar="PIXELS",
        help="height and width of the pictures (default: as they are; of shapes 64)",
    )
    parser.add_argument("--picture_format", choices=tuple(FORMATS), default="png", help="of the files in class folders")
    parser.add_argument("--seed", type=seed, default=0, help="of synthetic shapes")
    add_writing_arguments(parser, replaces=False)


def _is_pictures(images: Samples) -> bool:
    return images.dtype == np.uint8 and len(images.shape) == 4 and images.shape[1] in MODES


def _write_masks(args: argparse.Namespace, part: str, split: Split, count: int) -> None:
    """Pictures and their masks. Raises QatError where the labels are no maps of classes."""
    images: Any = split.images
    labels: Any = split.labels
    if isinstance(labels, tuple) or labels is None or len(labels.shape) != 3 or not _is_pictures(images):
        raise QatError(f"{args.data_path}: holds no pictures with a class for each pixel; leave --masks out")
    folder = Path(args.out) / part
    write_with_masks(folder, images[:count], labels[:count])
    wrote(folder, f"wrote {counted(count, 'picture')} and their masks to")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    if args.size is not None and not 1 <= args.size <= 4096:
        raise QatError(f"--size {args.size}: use a number of pixels, 1 to 4096")
    if args.picture_format != "png" and not args.class_folders:
        raise QatError(f"--picture_format {args.picture_format}: an index names PNG files; give --class_folders too")
    if args.masks and args.class_folders:
        raise QatError("--masks and --class_folders: a picture has one kind of label; leave one of them out")
    if args.data_path == SYNTHETIC:
        dataset = shapes(args.size or 64, args.seed, masks=args.masks)
    else:
        dataset = data.load(args.data_path, skip_unreadable=args.skip_unreadable)
        if args.size is not None:
            images = as_tuple(dataset.train.images)[0]
            usual: Preparation = getattr(images, "usual", PLAIN)
            recipe = chosen_preparation(args, None, usual, args.data_path)
            dataset = dataset.resized((images.shape[1], args.size, args.size), recipe)
    stop_if_dry(
        args,
        "write its images as pictures" if args.count is None else f"write {args.count:,} of its images as pictures",
        reads=[(args.data_path, of_data(dataset))],
        writes=[args.out],
    )
    parts = ("train", "test") if (args.class_folders or args.masks) and args.split is None else (args.split or "test",)
    for part in parts:
        split = getattr(dataset, part)
        count = len(split) if args.count is None else args.count
        if not 1 <= count <= len(split):
            raise QatError(
                f"--count {count}: {dataset.source} has {len(split):,} {part} images; use a number from 1 to that"
            )
        if args.masks:
            _write_masks(args, part, split, count)
            continue
        if split.classes is None or isinstance(split.images, tuple) or not _is_pictures(split.images):
            raise QatError(f"{args.data_path}: holds no pictures of classes, which alone can be written; give another")
        names = dataset.class_names or class_names(int(split.classes.max()) + 1)
        images, labels = split.images[:count], split.classes[:count]
        if args.class_folders:
            folder = Path(args.out) / part
            write_class_folders(folder, images, labels, names, args.picture_format)
            wrote(folder, f"wrote {counted(count, 'picture')} in {counted(len(set(labels.tolist())), 'folder')} of")
        else:
            index = write_pictures(args.out, images, labels, names)
            wrote(index, f"wrote {counted(count, 'picture')},", f" and {Path(args.out) / 'class_names.txt'}")


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
