"""NYUv2 and CityScapes: read from MTAN's folders, checked, trained, and split."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.problems import cityscapes, nyuv2
from libmtl_recon.problems.augmentation import augmented, zoomed
from libmtl_recon.problems.network_flags import chosen_network
from libmtl_recon.problems.npy_images import NpyImages, make_loaders
from libmtl_recon.problems.npy_layout import find_files
from libmtl_recon.problems.samples import cityscapes as cityscapes_sample
from libmtl_recon.problems.samples import nyuv2 as nyuv2_sample
from libmtl_recon.problems.samples import write_sample

H, W = 6, 8
KINDS = {"image": 3, "label": 0, "depth": 1, "normal": 3}


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def write_folders(
    root: Path, counts: dict[str, int] | None = None, kinds: dict[str, int] = KINDS
) -> Path:
    """Arrays whose entries are known: image i of part p is full of i, its labels of i as well."""
    for part, count in (counts or {"train": 3, "val": 2}).items():
        for kind, channels in kinds.items():
            for index in range(count):
                shape = (H, W, channels) if channels else (H, W)
                save(root / part / kind / f"{index}.npy", np.full(shape, index, dtype=np.float32))
    return root


@pytest.fixture
def nyu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIBMTL_RECON_DATA", str(tmp_path))
    return write_folders(tmp_path / "nyuv2")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    for problem in ("nyuv2", "cityscapes"):
        write_sample(problem, folder, 2, 0)
    return folder


# Reading.


def test_arrays_are_read_as_channels_first(nyu: Path):
    image = np.arange(4 * 5 * 3, dtype=np.float64).reshape(4, 5, 3) / 60
    label = np.array([[-1, 0, 12], [255, 3, np.nan]])
    depth = np.array([[0, 1.5, 2], [np.nan, 3, 4]])[..., None]
    normal = np.arange(2 * 3 * 3, dtype=np.float32).reshape(2, 3, 3)
    shutil.rmtree(nyu)
    for part in ("train", "val"):
        for kind, array in (("image", image), ("label", label), ("depth", depth)):
            save(nyu / part / kind / "0.npy", array)
        save(nyu / part / "normal" / "0.npy", normal)
    found, labels = NpyImages(find_files(nyu, nyuv2.LAYOUT)["train"], [0])[0]
    assert_close(found, torch.tensor(image).permute(2, 0, 1).float())
    assert list(labels) == ["segmentation", "depth", "normal"]
    assert torch.equal(labels["segmentation"], torch.tensor([[-1, 0, 12], [-1, 3, -1]]))
    expected = torch.tensor(depth).permute(2, 0, 1).float()
    assert_close(labels["depth"], expected, equal_nan=True)
    assert_close(labels["normal"], torch.tensor(normal).permute(2, 0, 1))


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int8, np.float64])
def test_classes_may_be_of_any_numeric_dtype_and_have_a_third_dimension(nyu: Path, dtype: type):
    for part in ("train", "val"):
        for file in (nyu / part / "label").iterdir():
            save(file, np.full((H, W, 1), 5).astype(dtype))
    _, labels = NpyImages(find_files(nyu, nyuv2.LAYOUT)["test"], [1])[0]
    assert torch.equal(labels["segmentation"], torch.full((H, W), 5))


@pytest.mark.parametrize(
    ("folders", "used"), [(("label",), 1), (("label_7",), 2), (("label", "label_7"), 2)]
)
def test_cityscapes_takes_either_name_of_the_classes(
    tmp_path: Path, folders: tuple[str, ...], used: int
):
    write_folders(tmp_path, kinds={"image": 3, "depth": 1} | dict.fromkeys(folders, 0))
    for value, folder in ((1, "label"), (2, "label_7")):
        for file in tmp_path.glob(f"*/{folder}/*.npy"):
            save(file, np.full((H, W), value))
    _, labels = NpyImages(find_files(tmp_path, cityscapes.LAYOUT)["train"], [0])[0]
    assert labels["segmentation"].unique().tolist() == [used]


def test_val_is_the_test_part_and_nothing_is_held_out(nyu: Path, parse: Callable, capsys):
    loaders = make_loaders(parse(nyuv2), nyuv2.LAYOUT)
    assert {name: len(loader.dataset) for name, loader in loaders.items()} == {
        "train": 3,
        "test": 2,
    }
    assert (
        f"{nyu} has 3 training and 2 test images (NYUv2 has 795 and 654)" in capsys.readouterr().out
    )
    # A batch of one is left out of the training, and no other.
    assert [len(images) for images, _ in loaders["train"]] == [2]
    assert [len(images) for images, _ in loaders["test"]] == [2]
    assert loaders["train"].dataset.augment
    assert not loaders["test"].dataset.augment
    assert not make_loaders(parse(nyuv2, "--no-augment"), nyuv2.LAYOUT)["train"].dataset.augment


def test_training_images_are_held_out_by_a_seed_of_their_own(nyu: Path, parse: Callable):
    write_folders(nyu, {"train": 20, "val": 2})

    def numbers(*flags: str) -> tuple[list[int], list[int]]:
        loaders = make_loaders(parse(nyuv2, "--val_size", "5", *flags), nyuv2.LAYOUT)
        assert not loaders["val"].dataset.augment
        return loaders["train"].dataset.numbers, loaders["val"].dataset.numbers

    train, val = numbers("--seed", "1")
    assert sorted(train + val) == list(range(20))
    assert len(val) == 5
    assert numbers("--seed", "2") == (train, val)
    assert numbers("--data_seed", "1") != (train, val)


def test_two_training_images_must_stay(nyu: Path, parse: Callable):
    with pytest.raises(UsageError, match=r"--val_size must leave two of the 3 .*\(got 2\)"):
        make_loaders(parse(nyuv2, "--val_size", "2"), nyuv2.LAYOUT)


# What is not whole, or damaged, is said before the training, or when it is read.


def _remove_folder(root: Path) -> None:
    shutil.rmtree(root / "val" / "depth")


def _remove_all_depths(root: Path) -> None:
    _remove_folder(root)
    shutil.rmtree(root / "train" / "depth")


def _remove_file(root: Path) -> None:
    (root / "train" / "label" / "1.npy").unlink()


def _remove_last_file(root: Path) -> None:
    (root / "train" / "normal" / "2.npy").unlink()


def _count_from_one(root: Path) -> None:
    for kind in KINDS:
        (root / "val" / kind / "0.npy").rename(root / "val" / kind / "2.npy")


def _empty(root: Path) -> None:
    for file in root.rglob("*.npy"):
        file.unlink()


def _nest(root: Path) -> None:
    root.rename(root.with_name("inner"))
    root.mkdir()
    root.with_name("inner").rename(root / "nyuv2")


def _rename(root: Path) -> None:
    root.rename(root.with_name("NYUv2_data"))


def _cut(root: Path) -> None:
    file = root / "train" / "depth" / "2.npy"
    file.write_bytes(file.read_bytes()[:-4])


def _cut_in_the_header(root: Path) -> None:
    file = root / "train" / "depth" / "0.npy"
    file.write_bytes(file.read_bytes()[:20])


def _zero_bytes(root: Path) -> None:
    (root / "val" / "image" / "0.npy").write_bytes(b"")


def _text(root: Path) -> None:
    (root / "val" / "image" / "0.npy").write_text("<html>Sign in</html>")


def _archive(root: Path) -> None:
    with (root / "val" / "image" / "0.npy").open("wb") as file:
        np.savez(file, image=np.zeros((H, W, 3)))


def _objects(root: Path) -> None:
    np.save(root / "val" / "image" / "0.npy", np.array([{}]), allow_pickle=True)


def _folder_instead(root: Path) -> None:
    (root / "val" / "image" / "0.npy").unlink()
    (root / "val" / "image" / "0.npy").mkdir()


def _bytes(root: Path) -> None:
    save(root / "train" / "image" / "0.npy", np.zeros((H, W, 3), dtype=np.uint8))


def _channels_first(root: Path) -> None:
    save(root / "train" / "image" / "0.npy", np.zeros((3, H, W)))


def _flat_normals(root: Path) -> None:
    save(root / "train" / "normal" / "0.npy", np.zeros((H, W, 1)))


def _other_size(root: Path) -> None:
    for index in range(3):
        save(root / "train" / "depth" / f"{index}.npy", np.zeros((H, W + 1, 1)))


def _one_row(root: Path) -> None:
    save(root / "train" / "image" / "0.npy", np.zeros((1, W, 3)))


def _one_image(root: Path) -> None:
    for kind in KINDS:
        for number in (1, 2):
            (root / "train" / kind / f"{number}.npy").unlink()


def _other_size_at_the_end(root: Path) -> None:
    save(root / "train" / "image" / "2.npy", np.zeros((H, W + 1, 3)))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_remove_folder, ["is not whole in", "val/depth is missing", "val/image"]),
        (_remove_all_depths, ["train/depth, val/depth are missing", "train/image"]),
        (_remove_file, ["train/label has 2 files and lacks 1.npy, of 3 images"]),
        (_remove_last_file, ["train/normal has 2 files and lacks 2.npy, of 3 images"]),
        (_count_from_one, ["val/image has 2 files and lacks 0.npy"]),
        (_empty, ["train has no file 0.npy in its folders"]),
        (_nest, ["train/image", "are missing", "nyuv2/train"]),
        (_rename, ["is not there", "is no folder", "NYUv2_data"]),
        (_cut, ["train/depth/2.npy cannot be read as a .npy file"]),
        (_cut_in_the_header, ["train/depth/0.npy cannot be read as a .npy file"]),
        (_zero_bytes, ["val/image/0.npy cannot be read as a .npy file"]),
        (_text, ["val/image/0.npy cannot be read as a .npy file"]),
        (_archive, ["val/image/0.npy must have floats", "but is an archive"]),
        (_objects, ["val/image/0.npy cannot be read as a .npy file"]),
        (_folder_instead, ["val/image/0.npy cannot be read as a .npy file"]),
        (_bytes, ["train/image/0.npy must have floats [H, W, 3], but is uint8 [6, 8, 3]"]),
        (_channels_first, ["must have floats [H, W, 3], but is float64 [3, 6, 8]"]),
        (_flat_normals, ["normal/0.npy must have floats [H, W, 3], but is float64 [6, 8, 1]"]),
        (_other_size, ["depth/0.npy is [6, 9, 1], but", "label/0.npy is [6, 8]"]),
        (_one_row, ["image/0.npy must have at least 2×2 pixels, but is [1, 8, 3]"]),
        (_one_image, ["has 1 training image, but batch norms need two"]),
        (_other_size_at_the_end, ["image/2.npy is [6, 9, 3], but", "0.npy is [6, 8, 3]"]),
    ],
)
def test_what_is_not_whole_is_said_at_the_start(
    nyu: Path, parse: Callable, damage: Callable[[Path], None], words: list[str]
):
    damage(nyu)
    with pytest.raises(ReconError) as stop:
        make_loaders(parse(nyuv2), nyuv2.LAYOUT)
    message = str(stop.value)
    assert [word for word in words if word not in message] == []
    assert "\n" not in message
    assert str(nyu.parent) in message or damage is _one_image
    if damage in (_remove_folder, _remove_file, _empty, _rename):
        for told in ("github.com/lorenmt/mtan", "{image,label,depth,normal}", "LIBMTL_RECON_DATA"):
            assert told in message
        assert "libmtl-recon sample nyuv2 DIR" in message


def _cut_in_the_middle(root: Path) -> None:
    file = root / "train" / "depth" / "1.npy"
    file.write_bytes(file.read_bytes()[:-4])


def _nineteen_classes(root: Path) -> None:
    save(root / "train" / "label" / "1.npy", np.full((H, W), 18.0))


def _half_a_class(root: Path) -> None:
    save(root / "train" / "label" / "1.npy", np.full((H, W), 0.5))


def _below_void(root: Path) -> None:
    save(root / "train" / "label" / "1.npy", np.full((H, W), -2.0))


def _image_of_bytes(root: Path) -> None:
    save(root / "train" / "image" / "1.npy", np.full((H, W, 3), 128.0))


def _nan_image(root: Path) -> None:
    save(root / "train" / "image" / "1.npy", np.full((H, W, 3), np.nan))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_cut_in_the_middle, "train/depth/1.npy cannot be read as a .npy file"),
        (_nineteen_classes, "train/label/1.npy must have whole numbers from 0 to 12, or -1 or 255"),
        (_half_a_class, "train/label/1.npy must have whole numbers"),
        (_below_void, "but has -2"),
        (_nan_image, "train/image/1.npy must have numbers from 0 to 1, but has nan"),
        (_image_of_bytes, "train/image/1.npy must have numbers from 0 to 1, but has 128"),
    ],
)
def test_a_damaged_file_says_its_name_when_it_is_read(
    nyu: Path, run: Callable, damage: Callable[[Path], None], words: str
):
    damage(nyu)
    flags = ("--network", "segnet", "--width", "0.02", "--bs", "3", "--no-augment")
    with pytest.raises(ReconError) as stop:
        run(nyuv2, *flags, "--epochs", "1", "--workers", str(int(damage is _cut_in_the_middle)))
    assert words in str(stop.value)
    assert "Traceback" not in str(stop.value)


# Augmentation.


def test_a_part_is_zoomed_to_the_size_of_the_whole():
    values = torch.arange(12.0).view(1, 3, 4).expand(2, 3, 4)
    # The part is 2 by 2; of two places from top to bottom and three from left to right, the last.
    nearest = zoomed(values, 1.5, 0.99, 0.99, smooth=False)
    assert torch.equal(nearest[1], torch.tensor([[6.0, 6, 7, 7], [6, 6, 7, 7], [10, 10, 11, 11]]))
    smooth = zoomed(values, 1.5, 0.0, 0.0, smooth=True)
    row = torch.tensor([0.0, 1 / 3, 2 / 3, 1])
    assert_close(smooth[0], torch.stack([row, row + 2, row + 4]))
    assert zoomed(values, 1.0, 0.5, 0.5, smooth=True) is values


def test_images_and_labels_are_changed_alike():
    """In a plane whose depth, class and colour tell the place, they still do."""
    x = torch.linspace(0, 1, 48).expand(36, 48)
    y = torch.linspace(0, 1, 36)[:, None].expand(36, 48)
    small = [part[::3, ::3] for part in (x, y)]  # the image has another size than the labels
    image = torch.stack([*small, torch.ones(12, 16)])
    labels = {
        "segmentation": (x * 100).floor()[None],
        "depth": 2 + y[None],
        "normal": torch.stack([x, y, torch.ones(36, 48)]),
    }
    seen = set()
    for seed in range(24):
        torch.manual_seed(seed)
        found, changed = augmented(image, labels)
        assert found.shape == image.shape
        assert {task: label.shape for task, label in changed.items()} == {
            task: label.shape for task, label in labels.items()
        }
        left_to_right = float(found[0, 0, -1] - found[0, 0, 0])
        mirrored, part = left_to_right < 0, abs(left_to_right)
        scale = min((1.0, 1.2, 1.5), key=lambda scale: abs(part - 1 / scale))
        seen.add((scale, mirrored))
        sign = -1 if mirrored else 1
        place = sign * changed["normal"][0]
        assert_close(changed["segmentation"][0] / 100, place, atol=0.03, rtol=0)
        assert_close(changed["depth"][0] * scale - 2, changed["normal"][1], atol=0.03, rtol=0)
        assert_close(found[0], place[::3, ::3], atol=0.12, rtol=0)
        assert_close(found[1], changed["normal"][1, ::3, ::3], atol=0.12, rtol=0)
        assert_close(changed["normal"][2], torch.ones(36, 48))
    assert len(seen) == 6


# Training.

SHORT = ("--epochs", "1", "--width", "0.03", "--bs", "2")
FIRST = ("encoder_block.0.conv1", "decoder_block.1.bn1")


@pytest.mark.parametrize("problem", [nyuv2, cityscapes])
def test_it_trains_on_its_sample_and_is_split(
    samples: Path,
    run: Callable,
    parse: Callable,
    monkeypatch: pytest.MonkeyPatch,
    problem: ModuleType,
):
    monkeypatch.setenv("LIBMTL_RECON_DATA", str(samples))
    params = parse(problem, *SHORT)
    recorder = run(
        problem, *SHORT, "--arch", "Recon", "--recon_layers", ",".join(FIRST), "--recon_k", "2"
    )
    assert [m.mode for m in recorder.measurements] == ["train", "test"]
    described = problem.task_dict()
    for measurement in recorder.measurements:
        assert {task: list(values) for task, values in measurement.metrics.items()} == {
            task: about["metrics"] for task, about in described.items()
        }
        numbers = [v for values in measurement.metrics.values() for v in values.values()]
        assert np.isfinite([*numbers, *measurement.losses.values()]).all()
    shared = chosen_network(params, problem.OUTPUTS).encoder_class()
    copied = sum(shared.get_submodule(name).weight.numel() for name in FIRST)
    copied += sum(shared.get_submodule(name).bias.numel() for name in FIRST)
    whole, found = (
        sum(parameter.numel() for parameter in encoder.parameters())
        for encoder in (shared, recorder.trainer.model.encoder)
    )
    assert found == whole + (len(described) - 1) * copied


def test_it_learns_its_sample_and_is_validated(
    tmp_path: Path, run: Callable, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cityscapes_sample, "SIZE", (64, 96))
    monkeypatch.setenv("LIBMTL_RECON_DATA", str(tmp_path))
    write_sample("cityscapes", tmp_path, 10, 1)
    flags = ("--epochs", "5", "--width", "0.1", "--bs", "4", "--lr", "0.01", "--no-augment")
    recorder = run(cityscapes, *flags, "--val_size", "2")
    assert [m.mode for m in recorder.measurements[:3]] == ["train", "val", "test"]
    first, *_, last = (m for m in recorder.measurements if m.mode == "train")
    assert last.losses["segmentation"] < 0.95 * first.losses["segmentation"]
    assert last.losses["depth"] < 0.6 * first.losses["depth"]


def test_the_defaults_are_the_papers(parse: Callable):
    nyu, city = parse(nyuv2), parse(cityscapes)
    wanted = {"epochs": 200, "optim": "adam", "weight_decay": 0.0, "width": 1.0, "augment": True}
    wanted |= {"scheduler": "step", "step_size": 100, "gamma": 0.5, "pretrained": False}
    for params in (nyu, city):
        assert {name: getattr(params, name) for name in wanted} == wanted
    assert (nyu.network, nyu.bs, nyu.lr) == ("segnet_mtan", 2, 1e-4)
    assert (city.network, city.bs, city.lr) == ("segnet", 8, 5e-5)


def test_flags_that_cannot_be_combined_are_named(nyu: Path, run: Callable):
    for flags, words in (
        (("--pretrained",), "--pretrained cannot be combined with segnet_mtan"),
        (
            ("--pretrained", "--network", "resnet50_dilated", "--width", "0.5"),
            "--width must be 1 with --pretrained",
        ),
    ):
        with pytest.raises(UsageError, match=words):
            run(nyuv2, *flags)


@pytest.mark.parametrize("sample", [nyuv2_sample, cityscapes_sample])
def test_a_sample_is_as_its_problem_reads_it(samples: Path, sample: ModuleType):
    problem = {nyuv2_sample: nyuv2, cityscapes_sample: cityscapes}[sample]
    parts = find_files(samples / problem.LAYOUT.subfolder, problem.LAYOUT)
    assert problem.LAYOUT.classes == sample.CLASSES
    for files in parts.values():
        assert files.count == 2
        assert files.shapes["segmentation"] == sample.SIZE
        assert [path.name for path in files.folders.values()] == [
            names[0] for names in problem.LAYOUT.folders.values()
        ]
