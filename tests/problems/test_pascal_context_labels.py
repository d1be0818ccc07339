"""The files of PASCAL-Context's tasks, written by scipy.io and Pillow with values known by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import io

from libmtl_recon.errors import MissingPackageError, ReconError
from libmtl_recon.problems import pascal_context_labels as labels


def save_map(path: Path, rows: Any) -> Path:
    io.savemat(path, {"LabelMap": np.array(rows, dtype=np.uint16)})
    return path


def struct(**fields: list[Any]) -> np.ndarray:
    """MATLAB's array 1×n of structures."""
    count = len(next(iter(fields.values())))
    made = np.empty((1, count), dtype=[(name, object) for name in fields])
    for name, values in fields.items():
        for place, value in enumerate(values):
            made[name][0, place] = value
    return made


NO_PARTS = np.zeros((0, 0))


def save_parts(path: Path, objects: np.ndarray) -> Path:
    io.savemat(path, {"anno": {"imname": "2008_000002", "objects": objects}})
    return path


def mask(*places: tuple[int, int]) -> np.ndarray:
    made = np.zeros((2, 3), dtype=np.uint8)
    for place in places:
        made[place] = 1
    return made


def test_classes_are_numbers_and_not_the_palette_s_colours(tmp_path: Path) -> None:
    rows = np.array([[0, 15, 255], [7, 20, 0]], dtype=np.uint8)
    for name, palette in (("p.png", bytes(range(255, -1, -1)) * 3), ("l.png", None)):
        image = Image.fromarray(rows)
        if palette:
            image.putpalette(palette)
        image.save(tmp_path / name)
        assert labels.read_classes(tmp_path / name).tolist() == rows.tolist()


@pytest.mark.parametrize("number", [21, 254])
def test_numbers_of_other_classes_are_refused(tmp_path: Path, number: int) -> None:
    Image.fromarray(np.array([[0, 255, number]], dtype=np.uint8)).save(tmp_path / "c.png")
    says = rf"c.png must have classes from 0 to 20, or 255 for void pixels, but has {number}\."
    with pytest.raises(ReconError, match=says):
        labels.read_classes(tmp_path / "c.png")


def test_saliency_is_cut_at_one_half(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 127, 128, 255]], dtype=np.uint8)).save(tmp_path / "s.png")
    assert labels.read_saliency(tmp_path / "s.png").tolist() == [[0, 0, 1, 1]]


def test_normals_are_taken_where_nyuv2_has_the_class(tmp_path: Path) -> None:
    # Floor, sky, tvmonitor, unknown, table, horse, wall; NYUv2 has neither sky nor horse.
    shown = [[158, 360, 427, 431, 397, 207, 440]]
    pixels = np.full((1, 7, 3), (255, 0, 51), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "n.png")
    found = labels.read_normals(tmp_path / "n.png", save_map(tmp_path / "n.mat", shown))
    there, none = [1.0, -1.0, pytest.approx(-0.6)], [0.0, 0.0, 0.0]
    assert found.tolist() == [[there, none, there, none, there, none, there]]
    assert found.dtype == np.float32


def test_the_classes_with_normals_are_different_and_of_the_459() -> None:
    assert len(labels.NORMALS) == 170
    assert sorted(set(labels.NORMALS)) == list(labels.NORMALS)
    assert (labels.NORMALS[0], labels.NORMALS[-1]) == (3, 457)


def test_edges_are_lines_of_one_pixel_between_classes(tmp_path: Path) -> None:
    rows = np.full((8, 9), 5)
    rows[:, 4:] = 300
    found = labels.read_edges(save_map(tmp_path / "e.mat", rows))
    # Either side of the border changes, of which thinning leaves one.
    assert found.dtype == np.uint8
    inner = found[1:-1]
    assert inner.sum(axis=1).tolist() == [1] * 6
    assert inner[:, 3:5].any(axis=1).all()
    assert not labels.read_edges(save_map(tmp_path / "none.mat", np.full((5, 5), 7))).any()


def test_edges_need_scikit_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.morphology", None)
    with pytest.raises(MissingPackageError) as error:
        labels.read_edges(save_map(tmp_path / "e.mat", [[1, 2]]))
    assert "The task edge needs the package scikit-image" in str(error.value)
    assert "libmtl-recon[edges]" in str(error.value)


def test_parts_of_people_become_six_classes(tmp_path: Path) -> None:
    one = struct(
        part_name=["hair", "neck", "ruarm"],
        mask=[mask((0, 0)), mask((0, 1)), mask((0, 2))],
    )
    # A later part covers an earlier one; the car's parts count for nothing.
    two = struct(
        part_name=["rhand", "luleg", "lfoot"],
        mask=[mask((1, 0)), mask((1, 1)), mask((1, 2), (0, 2))],
    )
    wheel = struct(part_name=["fwheel"], mask=[mask((0, 0))])
    objects = struct(
        **{"class": ["person", "car", "person", "person"]},
        class_ind=[15, 7, 15, 15],
        mask=[mask((0, 0))] * 4,
        parts=[one, wheel, two, NO_PARTS],
    )
    found = labels.read_human_parts(save_parts(tmp_path / "h.mat", objects))
    assert found is not None
    assert found.tolist() == [[1, 2, 6], [4, 5, 6]]
    assert found.dtype == np.uint8


@pytest.mark.parametrize("people", ["none", "without parts"])
def test_without_parts_of_people_there_is_no_label(tmp_path: Path, people: str) -> None:
    objects = struct(
        **{"class": ["car" if people == "none" else "person"]},
        class_ind=[7 if people == "none" else 15],
        mask=[mask((0, 0))],
        parts=[NO_PARTS],
    )
    assert labels.read_human_parts(save_parts(tmp_path / "h.mat", objects)) is None


def test_every_name_of_a_part_is_known() -> None:
    """PASCAL-Part's 24 parts of a person."""
    sides = [f"{side}{part}" for side in "lr" for part in ("uarm", "larm", "hand", "uleg", "lleg")]
    sides += [f"{side}{part}" for side in "lr" for part in ("foot", "eye", "ear", "ebrow")]
    assert set(labels.PARTS) == {*sides, "head", "hair", "nose", "mouth", "neck", "torso"}
    by_part = {
        number: {n for n, p in labels.PARTS.items() if p == number} for number in range(1, 7)
    }
    assert by_part[2] == {"torso", "neck"}
    assert by_part[3] == {"luarm", "ruarm"}
    assert by_part[4] == {"llarm", "rlarm", "lhand", "rhand"}
    assert by_part[5] == {"luleg", "ruleg"}
    assert by_part[6] == {"llleg", "rlleg", "lfoot", "rfoot"}


def write_colours(path: Path) -> None:
    Image.new("RGB", (2, 2)).save(path, format="png")


def write_text(path: Path) -> None:
    path.write_text("<html>Not found</html>")


def write_other_variable(path: Path) -> None:
    io.savemat(path, {"other": np.ones((2, 2))})


def write_words(path: Path) -> None:
    io.savemat(path, {"LabelMap": "words", "anno": "words"})


def write_unknown_part(path: Path) -> None:
    parts = struct(part_name=["tail"], mask=[mask((0, 0))])
    objects = struct(**{"class": ["person"]}, class_ind=[15], mask=[mask()], parts=[parts])
    save_parts(path, objects)


@pytest.mark.parametrize(
    ("read", "write", "says"),
    [
        (labels.read_classes, write_colours, "must have one number from 0 to 255 per pixel"),
        (labels.read_classes, write_text, "cannot be read as an image"),
        (labels.read_classes, lambda path: None, "cannot be read as an image"),
        (labels.read_label_map, write_text, "cannot be read as a MATLAB file"),
        (labels.read_label_map, lambda path: None, "cannot be read as a MATLAB file"),
        (labels.read_label_map, write_other_variable, "has no variable LabelMap"),
        (labels.read_label_map, write_words, "must be a matrix of numbers"),
        (labels.read_human_parts, write_other_variable, "has no variable anno"),
        (labels.read_human_parts, write_words, "must have the objects of an image"),
        (labels.read_human_parts, write_unknown_part, "KeyError: 'tail'"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, read, write, says: str) -> None:
    file = tmp_path / "file"
    write(file)
    with pytest.raises(ReconError) as error:
        read(file)
    assert says in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_normals_and_classes_of_different_sizes_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "n.png")
    with pytest.raises(ReconError, match=r"n.png is 3×2 pixels, but .*n.mat is 2×2"):
        labels.read_normals(tmp_path / "n.png", save_map(tmp_path / "n.mat", [[1, 2], [3, 4]]))
