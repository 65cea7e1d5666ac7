"""ImageNet from a small image folder: preprocessing, keys, workers, and files that are no images."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from deepobs_func import datasets, random
from deepobs_func.datasets import DatasetSpec, imagenet, stand_in
from deepobs_func.datasets.loading import check_stream, load, stream
from deepobs_func.errors import ConfigError, DataError
from tests.datasets.idx_files import snapshot
from tests.datasets.imagenet_files import cut, smooth, tiny_spec, write_images

ROWS = torch.tensor([[0, 5], [3, 1], [4, 2]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path, tiny_spec())


def batches(folder: Path, split: str, key: random.Key, rows: Tensor = ROWS, workers: int = 0) -> list:
    return list(imagenet.stream(tiny_spec(), folder, split, rows, key, augment=split == "train", workers=workers))


def slow_resize(image: np.ndarray) -> np.ndarray:
    """TensorFlow 1's `resize_bilinear`, row by row."""
    height, width = image.shape[:2]
    scale = 256 / min(height, width)
    new_height, new_width = round(height * scale), round(width * scale)
    out = np.empty((new_height, new_width, image.shape[2]))
    u = np.arange(new_width) * width / new_width
    left = u.astype(int)
    right, b = np.minimum(left + 1, width - 1), (u - left)[:, None]
    for i in range(new_height):
        v = i * height / new_height
        top = int(v)
        bottom, a = min(top + 1, height - 1), v - top
        upper = (1 - b) * image[top, left] + b * image[top, right]
        lower = (1 - b) * image[bottom, left] + b * image[bottom, right]
        out[i] = (1 - a) * upper + a * lower
    return out


def slow_inputs(path: Path, draws: list[int] | None) -> np.ndarray:
    image = slow_resize(np.asarray(Image.open(path).convert("RGB")).astype(np.float64) / 255)
    height, width = image.shape[:2]
    if draws is None:
        image = image[(height - 224) // 2 :, (width - 224) // 2 :][:224, :224]
    else:
        top, left, flip = draws
        image = image[(height - 256) // 2 + top :, (width - 256) // 2 + left :][:224, :224]
        image = image[:, ::-1] if flip else image
    return ((image - image.mean()) / max(image.std(), 1 / np.sqrt(image.size))).transpose(2, 0, 1)


@pytest.mark.parametrize("shape", [(97, 180), (300, 256), (256, 31), (512, 400)])
def test_resize(shape: tuple[int, int]) -> None:
    image = smooth(*shape, seed=1)
    np.testing.assert_allclose(imagenet.resize(image), slow_resize(image.astype(np.float64)), rtol=0, atol=2e-3)


@pytest.mark.parametrize("split", ["train", "test"])
def test_inputs_and_class_ids(folder: Path, split: str) -> None:
    key, rows = random.key(3), ROWS if split == "train" else torch.tensor([[2, 0], [1, 1]])
    paths = sorted((folder / ("train" if split == "train" else "val")).rglob("*.JPEG"))
    found = batches(folder, split, key, rows)
    assert len(found) == len(rows)
    for (x, y), step in zip(found, rows, strict=True):
        assert (x.shape, x.dtype, y.dtype) == ((2, 3, 224, 224), torch.float32, torch.int64)
        for image, label, row in zip(x, y, step.tolist(), strict=True):
            draws = imagenet.draw(key, torch.tensor(row)).tolist() if split == "train" else None
            np.testing.assert_allclose(image.numpy(), slow_inputs(paths[row], draws), rtol=0, atol=1e-3)
            assert label == 1 + int(paths[row].parent.name[1:])


def test_number_of_workers_changes_nothing(folder: Path) -> None:
    key = random.key(1)
    alone = batches(folder, "train", key)
    for workers in (1, 2):
        for (x, y), (other_x, other_y) in zip(alone, batches(folder, "train", key, workers=workers), strict=True):
            assert torch.equal(x, other_x)
            assert torch.equal(y, other_y)


def test_training_images_without_augmentation_are_prepared_as_in_the_test(folder: Path) -> None:
    rows = torch.tensor([[3, 0]])
    ((x, _),) = imagenet.stream(tiny_spec(), folder, "train", rows, random.key(0), augment=False)
    paths = sorted((folder / "train").rglob("*.JPEG"))
    for image, row in zip(x, rows[0].tolist(), strict=True):
        np.testing.assert_allclose(image.numpy(), slow_inputs(paths[row], None), rtol=0, atol=1e-3)


def test_a_stream_can_start_in_the_middle(folder: Path) -> None:
    key = random.key(1)
    whole, rest = batches(folder, "train", key), batches(folder, "train", key, ROWS[1:])
    assert torch.equal(whole[1][0], rest[0][0])


def test_other_keys_crop_otherwise_and_the_test_reads_none(folder: Path) -> None:
    rows = torch.tensor([[0, 1, 2]])
    for split, same in (("train", False), ("test", True)):
        first, second = (batches(folder, split, random.key(seed), rows)[0][0] for seed in (0, 1))
        assert torch.equal(first, second) is same


def test_draws_have_their_ranges() -> None:
    draws = imagenet.draw(random.key(0), torch.arange(33_000))
    for offsets in draws[:, :2].T:
        assert offsets.min() == 0
        assert (torch.bincount(offsets, minlength=33) - 1_000).abs().max() < 160  # 5 standard deviations
    assert set(draws[:, 2].tolist()) == {0, 1}
    assert abs(draws[:, 2].double().mean() - 0.5) < 0.02
    assert (torch.corrcoef(draws.T.double()) - torch.eye(3)).abs().max() < 0.03


def test_global_generator_is_left_alone(folder: Path) -> None:
    before = torch.get_rng_state()
    batches(folder, "train", random.key(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_grey_and_cmyk_files_become_rgb(folder: Path, mode: str) -> None:
    path = folder / "val" / "n00000000" / "val_0.JPEG"
    Image.fromarray(smooth(300, 300, 0)).convert(mode).save(path)
    x, _ = batches(folder, "test", random.key(0), torch.tensor([[0]]))[0]
    assert x.shape == (1, 3, 224, 224)


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_jpeg_in_the_middle_is_named(folder: Path, workers: int) -> None:
    path = cut(sorted((folder / "train").rglob("*.JPEG"))[4])
    found = imagenet.stream(tiny_spec(), folder, "train", ROWS, random.key(0), augment=True, workers=workers)
    assert len(next(found)[0]) == len(next(found)[0]) == 2
    with pytest.raises(DataError) as caught:
        next(found)
    assert str(caught.value).startswith(f"{path}: expected a whole JPEG image, found: ")
    assert "Traceback" not in str(caught.value)


@given(cut=st.floats(0, 0.99))
def test_every_cut_is_seen(tmp_path_factory: pytest.TempPathFactory, cut: float) -> None:
    path = tmp_path_factory.mktemp("cut") / "image.JPEG"
    Image.fromarray(smooth(64, 64, 0)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(DataError, match=str(path)):
        imagenet._decode(str(path))


def assert_refused(spec: DatasetSpec, folder: Path, fragments: list[str]) -> None:
    before = snapshot(folder)
    with pytest.raises(DataError) as caught:
        next(imagenet.stream(spec, folder, "train", ROWS, random.key(0), augment=True))
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)
    assert snapshot(folder) == before


def test_other_number_of_classes(folder: Path) -> None:
    spec = replace(datasets.spec("imagenet"), train_size=6)
    assert_refused(spec, folder, [str(folder / "train"), "expected 1000 folders", "found 3"])


def test_no_training_folder(tmp_path: Path) -> None:
    assert_refused(tiny_spec(), tmp_path, [str(tmp_path / "train"), "found 0"])


def test_empty_class(folder: Path) -> None:
    for path in (folder / "train" / "n00000001").iterdir():
        path.unlink()
    assert_refused(tiny_spec(), folder, ["n00000001"])


def test_other_number_of_images(folder: Path) -> None:
    next((folder / "train" / "n00000001").iterdir()).unlink()
    assert_refused(tiny_spec(), folder, ["expected 6 images, found 5"])


@pytest.mark.parametrize("layout", ["imagenet", "."])
def test_layouts(folder: Path, tmp_path_factory: pytest.TempPathFactory, layout: str) -> None:
    data = tmp_path_factory.mktemp("data")
    target = data / layout
    if layout != ".":
        target.symlink_to(folder)
    else:
        data = folder
    x, _ = next(load_stream(data))
    assert x.shape == (2, 3, 224, 224)


def load_stream(data: Path | str) -> Iterator[tuple[Tensor, Tensor]]:
    return stream(tiny_spec(), data, "train", ROWS, random.key(0), augment=True)


def test_it_is_not_loaded_as_a_whole(folder: Path) -> None:
    with pytest.raises(ConfigError, match="too large to hold"):
        load(datasets.spec("imagenet"), folder)


def test_files_are_checked_without_reading_one(folder: Path) -> None:
    cut(next((folder / "train").rglob("*.JPEG")))
    check_stream(tiny_spec(), folder)
    next((folder / "val" / "n00000001").iterdir()).unlink()
    imagenet.list_images.cache_clear()
    with pytest.raises(DataError, match="val"):
        check_stream(tiny_spec(), folder)


def test_no_download_but_an_explanation(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"^ImageNet is not in /.*imagenet/train/<wnid>/\*\.JPEG.*imagenet/val/<wnid>.*synthetic"
    ):
        load_stream(tmp_path)
    assert snapshot(tmp_path) == {}


class TestStandIn:
    def test_batches(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        found = list(load_stream("synthetic"))
        assert len(found) == 3
        for x, y in found:
            assert (x.shape, x.dtype, y.dtype) == ((2, 3, 224, 224), torch.float32, torch.int64)
            assert abs(x.mean()) < 1e-5
            assert abs(x.std(correction=0) - 1) < 1e-4
        assert snapshot(tmp_path) == {}

    def test_examples_are_the_same_in_every_order(self) -> None:
        spec, key = datasets.spec("imagenet"), random.key(0)
        (x, y), (x_other, y_other) = (
            next(stand_in.image_stream(spec, None, "train", torch.tensor([rows]), key, augment=True))
            for rows in ([7, 3], [3, 9])
        )
        assert torch.equal(x[1], x_other[0])
        assert y[1] == y_other[0]
        x_test, _ = next(stand_in.image_stream(spec, None, "test", torch.tensor([[7, 3]]), key, augment=False))
        assert not torch.equal(x, x_test)

    def test_classes_are_all_but_the_background_and_learnable(self) -> None:
        """The nearest class mean of the training examples, on blocks of 32 x 32 pixels, knows the test examples."""
        spec, key = replace(datasets.spec("imagenet"), num_classes=6), random.key(0)
        rows = torch.arange(60)[None]
        (x, y), (x_test, y_test) = (
            next(stand_in.image_stream(spec, None, split, rows, key, augment=False)) for split in ("train", "test")
        )
        assert set(y.tolist()) == {1, 2, 3, 4, 5}
        x, x_test = (torch.nn.functional.avg_pool2d(images, 32).flatten(1) for images in (x, x_test))
        means = torch.stack([x[y == label].mean(0) for label in range(1, 6)])
        assert (1 + torch.cdist(x_test, means).argmin(1) == y_test).double().mean() > 0.9
