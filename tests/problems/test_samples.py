"""Samples are written whole, in the same way for the same seed, and never over other data."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from libmtl_recon.cli import main
from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.problems import BUILT_IN
from libmtl_recon.problems.samples import SAMPLES, cityscapes, nyuv2, write_sample
from libmtl_recon.problems.samples.folder import LIST


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a small sample of CityScapes."""
    monkeypatch.setattr(cityscapes, "SIZE", (12, 24))

    def write(images: int = 2, seed: int = 0) -> Path:
        return write_sample("cityscapes", tmp_path / "data", images, seed)

    return write


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_there_is_a_sample_of_each_of_these_problems():
    assert set(SAMPLES) <= set(BUILT_IN)


def test_nyuv2_has_mtans_folders_shapes_and_values(tmp_path: Path):
    folder = write_sample("nyuv2", tmp_path, 3, 0)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.npy")} == {
        f"{part}/{kind}/{index}.npy"
        for part in ("train", "val")
        for kind in ("image", "label", "depth", "normal")
        for index in range(3)
    }
    image, label, depth, normal = (
        np.load(folder / "val" / kind / "2.npy") for kind in ("image", "label", "depth", "normal")
    )
    assert {array.dtype for array in (image, label, depth, normal)} == {np.dtype(np.float32)}
    assert (image.shape, label.shape) == ((96, 128, 3), (288, 384))
    assert (depth.shape, normal.shape) == ((288, 384, 1), (288, 384, 3))
    images = [np.load(path) for path in folder.glob("*/image/*.npy")]
    assert (min(map(np.min, images)), max(map(np.max, images)) <= 1) == (0, True)
    assert label.min() == -1
    assert set(np.unique(label)) <= set(range(-1, 13))
    missing = depth[..., 0] == 0
    # Some pixels have a class and no depth, and some of those without a class have none either.
    assert (missing & (label >= 0)).any()
    assert (missing & (label < 0)).any()
    assert (depth[~missing] >= 1).all()
    lengths = np.linalg.norm(normal, axis=2)
    assert (lengths[missing] == 0).all()
    np.testing.assert_allclose(lengths[~missing], 1, rtol=1e-6)


def test_cityscapes_has_inverse_depths_and_seven_classes(tmp_path: Path):
    folder = write_sample("cityscapes", tmp_path, 2, 0)
    label, depth = (np.load(folder / "train" / kind / "1.npy") for kind in ("label_7", "depth"))
    assert (label.shape, depth.shape) == ((128, 256), (128, 256, 1))
    assert set(np.unique(label)) <= set(range(-1, 7))
    measured = depth[depth != 0]
    assert 0 < measured.size < depth.size
    assert measured.min() >= 0.05 - 1e-6
    assert measured.max() <= 0.5
    assert not (folder / "train" / "normal").exists()


def test_a_colour_tells_the_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The nearest mean colour, after the brightness is taken out, is right for most pixels."""
    monkeypatch.setattr(nyuv2, "SIZE", (60, 60))
    monkeypatch.setattr(nyuv2, "IMAGE_SCALE", 1)
    folder = write_sample("nyuv2", tmp_path, 12, 0)

    def pixels(part: str) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        for index in range(12):
            image, label, depth, normal = (
                np.load(folder / part / kind / f"{index}.npy")
                for kind in ("image", "label", "depth", "normal")
            )
            known = (label >= 0) & (depth[..., 0] > 0)
            colour = (image - 0.1 * normal)[known] * np.sqrt(depth[known])
            parts.append((colour, label[known]))
        colours, labels = zip(*parts, strict=True)
        return np.concatenate(colours), np.concatenate(labels)

    colours, labels = pixels("train")
    means = np.array([colours[labels == kind].mean(0) for kind in range(13)])
    colours, labels = pixels("val")
    nearest = np.linalg.norm(colours[:, None] - means, axis=2).argmin(1)
    assert (nearest == labels).mean() > 0.9


def test_the_seed_decides(sample: Callable[..., Path], tmp_path: Path):
    first = contents(sample(seed=3))
    again = contents(sample(seed=3))
    other = contents(sample(seed=4))
    assert first == again
    assert first.keys() == other.keys()
    assert first["train/image/0.npy"] != other["train/image/0.npy"]
    assert first["train/image/0.npy"] != first["val/image/0.npy"]


def test_a_sample_is_replaced_whole(sample: Callable[..., Path]):
    folder = sample(images=4)
    (folder / "val" / "depth" / "1.npy").unlink()
    sample(images=2)
    assert len(list(folder.rglob("*.npy"))) == 2 * 2 * 3
    assert [path.name for path in folder.parent.iterdir()] == ["cityscapes"]


def test_an_empty_folder_is_taken(sample: Callable[..., Path], tmp_path: Path):
    (tmp_path / "data" / "cityscapes").mkdir(parents=True)
    assert (sample() / LIST).is_file()


def _add(folder: Path) -> None:
    (folder / "train" / "image" / "2.npy").write_bytes(b"theirs")


def _change(folder: Path) -> None:
    file = folder / "train" / "image" / "0.npy"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def _lose_the_list(folder: Path) -> None:
    (folder / LIST).unlink()


def _damage_the_list(folder: Path) -> None:
    (folder / LIST).write_text("[1")


def _empty_the_list(folder: Path) -> None:
    (folder / LIST).write_text("{}")


@pytest.mark.parametrize(
    "change", [_add, _change, _lose_the_list, _damage_the_list, _empty_the_list]
)
def test_other_data_are_never_overwritten(
    sample: Callable[..., Path], change: Callable[[Path], None]
):
    folder = sample()
    change(folder)
    before = contents(folder)
    with pytest.raises(ReconError, match=r"overwritten. Name another folder, or remove it"):
        sample(seed=1)
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["cityscapes"]


def test_no_link_and_no_file_is_written_over(sample: Callable[..., Path], tmp_path: Path):
    real = sample()
    shutil.move(real, tmp_path / "real")
    real.symlink_to(tmp_path / "real")
    with pytest.raises(ReconError, match="cityscapes is a link"):
        sample()
    real.unlink()
    real.write_text("notes")
    with pytest.raises(ReconError, match="cityscapes is no folder"):
        sample()
    assert real.read_text() == "notes"


def test_a_failed_write_leaves_the_old_sample(
    sample: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    folder = sample()
    before = contents(folder)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cityscapes, "save", full)
    with pytest.raises(ReconError, match=r"cannot be written \(.*No space left on device\)"):
        sample(seed=1)
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["cityscapes"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReconError, match=r"file/cityscapes cannot be written"):
        write_sample("cityscapes", tmp_path / "file", 2, 0)


def test_a_folder_whose_name_is_too_long_is_refused(tmp_path: Path):
    with pytest.raises(ReconError, match=r"cities/cityscapes cannot be written"):
        write_sample("cityscapes", tmp_path / ("x" * 300) / "cities", 2, 0)


@pytest.mark.parametrize(
    ("problem", "images", "name"), [("nyu", 2, "problem"), ("nyuv2", 1, "images")]
)
def test_wrong_arguments_are_refused(tmp_path: Path, problem: str, images: int, name: str):
    with pytest.raises(UsageError, match=f"^{name} must be") as stop:
        write_sample(problem, tmp_path, images, 0)
    assert stop.value.exit_status == 2
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_to_run_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(nyuv2, "SIZE", (12, 24))
    folder = tmp_path / "my data"
    assert main(["sample", "nyuv2", str(folder), "--images", "3"]) == 0
    said = capsys.readouterr().out
    assert f"to {folder / 'nyuv2'}. Train on it with:" in said
    assert f"LIBMTL_RECON_DATA='{folder}' libmtl-recon run nyuv2 --weighting EW --epochs 1" in said
    (folder / "nyuv2" / "mine").write_text("")
    assert main(["sample", "nyuv2", str(folder)]) == 1
    assert "mine was added or changed since" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nyuv2", "x", "--images", "1"], "--images: must be a whole number from 2 up (got '1')"),
        (["nyuv2", "x", "--seed=-1"], "--seed: must be a whole number from 0 up (got '-1')"),
        (["multidigits", "x"], "invalid choice: 'multidigits'"),
    ],
)
def test_bad_words_are_explained(words: list[str], message: str, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sample", *words])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
