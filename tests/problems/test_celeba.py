"""CelebA: read as torchvision reads it, or asked for; its attributes chosen, measured, learned."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from libmtl_recon_search import load_config
from libmtl_recon_search.flags import flag_space, spell
from PIL import Image
from torchvision import transforms
from torchvision.datasets import CelebA

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.launcher import run_script
from libmtl_recon.problems import celeba as problem
from libmtl_recon.problems import celeba_data as data
from libmtl_recon.problems.image_files import DEVIATION, MEAN, ImageLoader
from libmtl_recon.problems.networks import build
from libmtl_recon.problems.samples import celeba as sample
from libmtl_recon.task_names import check_task_names

SPLITS = {"train": "train", "val": "valid", "test": "test"}
SMALL = ("--width", "0.05", "--size", "32", "--epochs", "1", "--bs", "4")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small data set, which no test changes."""
    folder = tmp_path_factory.mktemp("data")
    sample.write(folder / "celeba", 8, seed=3)
    return folder


@pytest.fixture
def found(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIBMTL_RECON_DATA", str(root))
    return root


@pytest.fixture
def own(root: Path, tmp_path: Path) -> Path:
    """A copy of the data set, to be damaged."""
    return Path(shutil.copytree(root / "celeba", tmp_path / "celeba"))


@pytest.mark.parametrize("part", SPLITS)
def test_it_is_read_as_torchvision_reads_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    # Their MD5 sums are those of the whole data set's text files.
    monkeypatch.setattr(CelebA, "_check_integrity", lambda self: True)
    steps = [
        transforms.Resize((64, 64), transforms.InterpolationMode.BILINEAR),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, DEVIATION),
    ]
    theirs = CelebA(root, SPLITS[part], transform=transforms.Compose(steps))
    found = data.load(root / "celeba")[part]
    assert found.files == theirs.filename
    assert len(found) == 8
    names = [name for name in theirs.attr_names if name]
    assert tuple(names) == data.ATTRIBUTES
    ours = data.Faces(root / "celeba" / data.IMAGES, found, data.ATTRIBUTES, 64)
    for index in range(len(found)):
        image, labels = ours[index]
        expected, attributes = theirs[index]
        torch.testing.assert_close(image, expected)
        assert torch.equal(torch.stack(list(labels.values())), attributes)
        assert list(labels) == names


def test_a_seed_decides_the_sample(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        sample.write(tmp_path / name, 2, seed)
    first, again, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.*")} for name in "abc"
    )
    assert first == again
    assert first.keys() >= {"000006.jpg", data.LABELS, data.PARTITION, "identity_CelebA.txt"}
    assert first[data.LABELS] != other[data.LABELS]


def write_by_hand(folder: Path, names: list[str]) -> None:
    """Three images of one colour each; the first attribute of all is that of the second alone."""
    (folder / data.IMAGES).mkdir(parents=True)
    lines, split = ["3", " ".join(names) + " "], []
    for number, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255)]):
        file = f"{number + 1:06}.jpg"
        Image.new("RGB", (178, 218), colour).save(folder / data.IMAGES / file, quality=95)
        values = [" 1" if number == 1 and name == "5_o_Clock_Shadow" else "-1" for name in names]
        lines.append(" ".join([file, *values]))
        split.append(f"{file} {number}")
    (folder / data.LABELS).write_text("\r\n".join(lines) + "\r\n")
    (folder / data.PARTITION).write_text("\n".join(split) + "\n")


def test_columns_are_found_by_their_names(tmp_path: Path) -> None:
    write_by_hand(tmp_path, [*reversed(data.ATTRIBUTES)])
    parts = data.load(tmp_path)
    assert {part: found.files for part, found in parts.items()} == {
        "train": ["000001.jpg"],
        "val": ["000002.jpg"],
        "test": ["000003.jpg"],
    }
    expected = torch.zeros(40, dtype=torch.bool)
    assert torch.equal(parts["train"].attributes[0], expected)
    expected[0] = True
    assert torch.equal(parts["val"].attributes[0], expected)
    faces = data.Faces(tmp_path / data.IMAGES, parts["val"], ["Young", "5_o_Clock_Shadow"], 4)
    image, labels = faces[0]
    assert {task: int(label) for task, label in labels.items()} == {
        "Young": 0,
        "5_o_Clock_Shadow": 1,
    }
    green = torch.tensor([[0.0], [1.0], [0.0]])
    pixels = image.flatten(1) * torch.tensor([DEVIATION]).T + torch.tensor([MEAN]).T
    torch.testing.assert_close(pixels, green.expand(3, 16), atol=0.02, rtol=0)


def test_attributes_are_names_for_tasks() -> None:
    assert len(set(data.ATTRIBUTES)) == 40
    check_task_names("tasks", data.ATTRIBUTES)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], data.ATTRIBUTES),
        (["40"], data.ATTRIBUTES),
        (["2"], ("5_o_Clock_Shadow", "Arched_Eyebrows")),
        (["Young", "Male"], ("Young", "Male")),
    ],
)
def test_tasks_are_chosen(parse, given: list[str], expected: tuple[str, ...]) -> None:
    params = parse(problem, *(["--tasks", *given] if given else []))
    assert tuple(params.tasks) == expected


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["0"], "--tasks must be a whole number from 1 to 40"),
        (["41"], "--tasks must be a whole number from 1 to 40"),
        (["smilling"], "(got 'smilling'). Did you mean Smiling?"),
        (["Young", "3"], "--tasks must be attributes of CelebA (got '3')"),
        (["Young", "Young"], "--tasks must name each attribute once (got 'Young')"),
    ],
)
def test_other_tasks_are_refused(given: list[str], says: str) -> None:
    with pytest.raises(UsageError) as error:
        problem.chosen_tasks(given)
    assert says in str(error.value)


def test_defaults_are_the_paper_s(parse) -> None:
    params = parse(problem)
    assert (params.epochs, params.bs, params.optim, params.lr) == (5, 256, "adam", 5e-5)
    assert (params.scheduler, params.step_size, params.gamma) == ("step", 3, 0.5)
    assert (params.weight_decay, params.size, params.width) == (0.0, 64, 1.0)
    assert params.pretrained is False
    network = build("resnet18", dict.fromkeys(data.ATTRIBUTES, 2))
    modules = [network.encoder_class(), network.decoders]
    count = sum(p.numel() for module in modules for p in module.parameters())
    assert f"{count * 4 / 2**20:.2f}" == "43.26"  # MB, Table 2


@pytest.mark.parametrize("name", ["celeba", "celeba-small"])
def test_the_configurations_have_flags_of_the_script(parse, name: str) -> None:
    config = load_config(name)
    params = parse(problem, *spell(flag_space(config.flags, ["tasks"]).fixed))
    if name == "celeba":
        plain = vars(parse(problem)) | {"pretrained": True, "workers": 8}
        assert vars(params) == plain
        assert (config.space.s, config.space.k) == ([-0.05], [0, 25])
    else:
        assert len(params.tasks) == 5


def test_weights_that_cannot_be_had_are_refused_by_their_flag(found: Path, run) -> None:
    with pytest.raises(UsageError, match=r"--width must be 1 with --pretrained"):
        run(problem, "--weighting", "EW", "--pretrained", "--width", "0.5")


def test_the_error_is_the_share_of_wrong_classes() -> None:
    metric = problem.ErrorMetric()
    metric.update_fun(torch.tensor([[1.0, 2.0], [0.5, -1.0]]), torch.tensor([1, 1]))
    metric.update_fun(torch.tensor([[3.0, 2.0]]), torch.tensor([0]))
    assert metric.score_fun() == [pytest.approx(100 / 3)]
    metric.reinit()
    assert np.isnan(metric.score_fun()).all()


def test_missing_data_are_asked_for(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("LIBMTL_RECON_DATA", str(tmp_path))
    assert run_script("celeba", ["--weighting", "EW"]) == 1
    message = capsys.readouterr().err
    parts = ("LIBMTL_RECON_DATA", str(tmp_path / "celeba"), data.PAGE, "found: none of them")
    parts += ("libmtl-recon sample celeba DIR",)
    for part in (*parts, data.LABELS, data.PARTITION, data.IMAGES):
        assert part in message
    assert message.count("\n") == 1


def break_line(path: Path, number: int, line: str) -> None:
    lines = path.read_text().splitlines()
    lines[number - 1] = line
    path.write_text("\n".join(lines))


DAMAGES = {
    "no images": "missing: img_align_celeba; found: list_attr_celeba.txt, list_eval_partition.txt",
    "archive not unpacked": "24 of the 24 images of CelebA are not in",
    "one image": "1 of the 24 images of CelebA are not in .*, the first of them 000010.jpg",
    "cut off": "must have as many images as its first line says .24., but has 20",
    "other header": "line 2, must name the 40 attributes, from 5_o_Clock_Shadow to Young",
    "value": "list_attr_celeba.txt, line 3, must have a file's name and 40 values, each 1 or -1",
    "part": "list_eval_partition.txt, line 5, must have a file's name, and 0 for training",
    "other names": "list_attr_celeba.txt .* names 000001.jpg, but list_eval_partition.txt does not",
    "no test part": "No image is in the test part",
    "labels twice": "list_attr_celeba.txt, line 27, names 000001.jpg again",
    "part twice": "list_eval_partition.txt, line 25, names 000001.jpg again",
    "binary": "list_eval_partition.txt cannot be read",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_half_a_data_set_is_refused(own: Path, damage: str) -> None:
    labels, parts, images = own / data.LABELS, own / data.PARTITION, own / data.IMAGES
    match damage:
        case "no images":
            shutil.rmtree(images)
        case "archive not unpacked":
            shutil.rmtree(images)
            images.mkdir()
        case "one image":
            (images / "000010.jpg").unlink()
        case "cut off":
            labels.write_text("\n".join(labels.read_text().splitlines()[:22]))
        case "other header":
            break_line(labels, 2, "image_id x_1 y_1 width height")
        case "value":
            break_line(labels, 3, "000001.jpg" + " 0" * 40)
        case "part":
            break_line(parts, 5, "000005.jpg 3")
        case "other names":
            break_line(parts, 1, "000001.png 0")
        case "no test part":
            parts.write_text(parts.read_text().replace(" 2\n", " 1\n"))
        case "labels twice":
            _, *rest = labels.read_text().splitlines()
            labels.write_text("\n".join(["25", *rest, rest[1]]))
        case "part twice":
            parts.write_text(parts.read_text() + "000001.jpg 2\n")
        case "binary":
            parts.write_bytes(b"\x80\xff\x00")
    with pytest.raises(ReconError, match=DAMAGES[damage]) as error:
        data.load(own)
    assert "\n" not in str(error.value)


def test_one_training_image_is_refused(own: Path, monkeypatch, parse) -> None:
    monkeypatch.setenv("LIBMTL_RECON_DATA", str(own.parent))
    first, *rest = (own / data.PARTITION).read_text().splitlines(keepends=True)
    (own / data.PARTITION).write_text(first + "".join(rest).replace(" 0\n", " 1\n"))
    with pytest.raises(ReconError, match=r"One image is in the train part by .* need two"):
        problem.make_loaders(parse(problem))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named_and_ends_the_pass(own: Path, workers: int) -> None:
    file = own / data.IMAGES / "000003.jpg"
    file.write_bytes(file.read_bytes()[:300])
    faces = data.Faces(own / data.IMAGES, data.load(own)["train"], ["Male"], 32)
    loader = ImageLoader(faces, 2, train=False, workers=workers)
    batches = iter(loader)
    assert next(batches)[0].shape == (2, 3, 32, 32)
    with pytest.raises(ReconError) as error:
        next(batches)
    assert str(error.value).startswith(f"{file} cannot be read as an image (")
    assert "Traceback" not in str(error.value)


def test_only_training_batches_are_shuffled_and_whole(root: Path) -> None:
    part = data.load(root / "celeba")["train"]
    faces = data.Faces(root / "celeba" / data.IMAGES, part, ["Male"], 32)
    sizes = {
        train: [len(images) for images, _ in ImageLoader(faces, 3, train=train, workers=0)]
        for train in (True, False)
    }
    assert sizes == {True: [3, 3], False: [3, 3, 2]}
    assert [len(images) for images, _ in ImageLoader(faces, 9, train=True, workers=0)] == [8]


def test_forty_tasks_train_and_their_average_is_printed(found: Path, run, capsys) -> None:
    recorder = run(problem, "--weighting", "GradOPS", *SMALL)
    assert [m.mode for m in recorder.measurements] == ["train", "val", "test"]
    last = recorder.measurements[-1].metrics
    assert tuple(last) == data.ATTRIBUTES
    mean = sum(metrics["Err"] for metrics in last.values()) / 40
    assert f"Average error (test, 40 tasks): {mean:.2f} %" in capsys.readouterr().out


def test_the_worst_layers_are_split(found: Path, run) -> None:
    flags = ("--arch", "Recon", "--recon_select", "norms", "--recon_k", "2", "--tasks", "3")
    recorder = run(problem, "--weighting", "EW", *SMALL, *flags)
    names = [name for name, _ in recorder.trainer.model.encoder.named_parameters()]
    split = {name.partition(".tasks.")[0] for name in names if ".tasks." in name}
    assert split == {"bn1", "layer1.0.bn1"}


@pytest.mark.slow
def test_it_is_learned(tmp_path: Path, monkeypatch, run) -> None:
    sample.write(tmp_path / "celeba", 64, seed=0)
    monkeypatch.setenv("LIBMTL_RECON_DATA", str(tmp_path))
    flags = ("--width", "0.125", "--size", "32", "--bs", "16", "--lr", "0.003", "--epochs", "10")
    tasks = ("--tasks", "Bald", "Smiling", "--step_size", "10")
    once = run(problem, "--weighting", "EW", *flags, *tasks)
    errors = [metrics["Err"] for metrics in once.measurements[-1].metrics.values()]
    assert max(errors) < 25  # chance is 50
