"""PASCAL-Context: read from the folders of PASCAL_MT, or asked for; its five tasks train."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from libmtl_recon_search import load_config
from libmtl_recon_search.flags import flag_space, spell
from PIL import Image
from scipy import io

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.launcher import run_script
from libmtl_recon.problems import pascal_context as problem
from libmtl_recon.problems import pascal_context_data as data
from libmtl_recon.problems.networks import build
from libmtl_recon.problems.pascal_context_views import PaddedView, RandomView
from libmtl_recon.problems.samples import pascal_context as sample
from libmtl_recon.task_names import check_task_names

SMALL = ("--width", "0.1", "--size", "64", "--epochs", "1")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small data set, which no test changes."""
    folder = tmp_path_factory.mktemp("data")
    sample.write(folder / "pascal_context", 8, seed=3)
    return folder


@pytest.fixture
def found(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIBMTL_RECON_DATA", str(root))
    return root / "pascal_context"


@pytest.fixture
def own(root: Path, tmp_path: Path) -> Path:
    """A copy of the data set, to be damaged."""
    return Path(shutil.copytree(root / "pascal_context", tmp_path / "pascal_context"))


def write_by_hand(folder: Path, *, person: bool = True, indoors: bool = True) -> None:
    """One image of 2×3 pixels: the floor, or the sky, and a person's head in the middle above."""
    paths = [
        "JPEGImages/a.jpg",
        *("semseg/pascal-context/a.png", "human_parts/a.mat", "sal_distill/a.png"),
        *("normals_distill/a.png", "pascal-context/trainval/a.mat", "ImageSets/Context/train.txt"),
    ]
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2), (124, 116, 104)).save(folder / paths[0], quality=100)
    semseg = np.array([[0, 15, 255], [0, 0, 0]], dtype=np.uint8)
    Image.fromarray(semseg).save(folder / paths[1])
    head = np.array([[0, 1, 0], [0, 0, 0]], dtype=np.uint8)
    parts = [("head", head)] if person else []
    classes = np.full((2, 3), 158 if indoors else 360, dtype=np.uint16)
    classes[0, 1] = 284 if person else classes[0, 0]
    annotation = sample.annotation("a", classes, dict(parts))
    io.savemat(folder / paths[2], {"anno": annotation})
    Image.fromarray(head * 255).save(folder / paths[3])
    Image.new("RGB", (3, 2), (255, 0, 255)).save(folder / paths[4])
    io.savemat(folder / paths[5], {"LabelMap": classes})
    for split in ("train", "val"):
        (folder / "ImageSets/Context" / f"{split}.txt").write_text("a\n")


def test_an_image_and_its_labels_as_they_are_in_the_files(tmp_path: Path) -> None:
    write_by_hand(tmp_path)
    assert data.load(tmp_path, data.TASKS) == {"train": ["a"], "test": ["a"]}
    image, labels = data.Scenes(tmp_path, ["a"], data.TASKS)[0]
    torch.testing.assert_close(image, torch.zeros(3, 2, 3), atol=0.05, rtol=0)  # the mean colour
    assert labels["semseg"].dtype == torch.int64
    assert labels["semseg"].tolist() == [[0, 15, 255], [0, 0, 0]]
    assert labels["human_parts"].tolist() == [[0, 1, 0], [0, 0, 0]]
    assert labels["sal"].tolist() == [[[0, 1, 0], [0, 0, 0]]]
    assert labels["normals"].shape == (3, 2, 3)
    assert labels["normals"][:, 1, 2].tolist() == [1, -1, 1]
    assert labels["edge"].shape == (1, 2, 3)
    assert labels["edge"].unique().tolist() == [0, 1]


def test_a_padded_image_is_void_around(tmp_path: Path) -> None:
    write_by_hand(tmp_path)
    image, labels = data.Scenes(tmp_path, ["a"], data.TASKS, PaddedView(4))[0]
    assert image.shape == (3, 4, 4)
    assert labels["semseg"].tolist() == [[255] * 4, [0, 15, 255, 255], [0, 0, 0, 255], [255] * 4]
    assert labels["human_parts"][0].tolist() == [255] * 4
    assert labels["human_parts"][1].tolist() == [0, 1, 0, 255]
    assert labels["sal"][0, 1].tolist() == [0, 1, 0, 255]
    assert labels["normals"][0, 1].tolist() == [1, 1, 1, 0]
    assert labels["edge"][0, 0].tolist() == [255] * 4


def test_without_people_or_classes_of_nyuv2_there_is_no_label(tmp_path: Path) -> None:
    write_by_hand(tmp_path, person=False, indoors=False)
    for view in (PaddedView(4), RandomView(4)):
        _, labels = data.Scenes(tmp_path, ["a"], data.TASKS, view)[0]
        assert labels["human_parts"].shape == (4, 4)
        assert labels["human_parts"].isnan().all()
        assert labels["normals"].isnan().all()
        assert not labels["sal"].isnan().any()


def test_classes_of_voc_are_taken_where_an_image_has_both(tmp_path: Path) -> None:
    write_by_hand(tmp_path)
    (tmp_path / "semseg/VOC12").mkdir()
    Image.fromarray(np.full((2, 3), 7, dtype=np.uint8)).save(tmp_path / "semseg/VOC12/a.png")
    _, labels = data.Scenes(tmp_path, ["a"], ["semseg"])[0]
    assert labels["semseg"].unique().tolist() == [7]


def test_what_the_sample_writes_is_read(root: Path) -> None:
    folder = root / "pascal_context"
    names = data.load(folder, data.TASKS)
    assert [len(own) for own in names.values()] == [8, 8]
    assert not set(names["train"]) & set(names["test"])
    scenes = data.Scenes(folder, names["train"], data.TASKS)
    shapes, people = set(), []
    for index in range(len(scenes)):
        image, labels = scenes[index]
        shapes.add(tuple(image.shape[1:]))
        people.append(not bool(labels["human_parts"].isnan().any()))
        assert set(labels["semseg"].unique().tolist()) <= {0, 7, 15, 255}
        parts = labels["human_parts"].unique().tolist()
        assert parts == [0, 1, 2, 3, 4, 5, 6] or not people[-1]
        lengths = labels["normals"].norm(dim=0)
        torch.testing.assert_close(
            lengths[lengths > 0], torch.ones(int((lengths > 0).sum())), atol=0.02, rtol=0
        )
        assert 0 < labels["edge"].mean() < 0.1
    assert people == [True, True, False] * 2 + [True, True]
    assert len(shapes) > 1


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_seed_decides_the_sample(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        sample.write(tmp_path / name, 2, seed)
    first, again, other = (contents(tmp_path / name) for name in "abc")
    assert first == again
    assert first.keys() >= {"ImageSets/Context/val.txt", "human_parts/2001_000001.mat"}
    image = "JPEGImages/2001_000001.jpg"
    assert first[image] != other[image]
    # scipy.io writes the time to the second, so that files of one second would be the same.
    assert not any(b"Created on" in content for content in first.values())


def test_a_label_of_another_size_is_named(own: Path) -> None:
    name = data.load(own, ["sal"])["train"][0]
    file = own / "sal_distill" / f"{name}.png"
    Image.new("L", (7, 5)).save(file)
    with pytest.raises(ReconError, match=f"{file} is 7×5 pixels, but its image is"):
        data.Scenes(own, [name], ["sal"])[0]


def test_missing_data_are_asked_for(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("LIBMTL_RECON_DATA", str(tmp_path))
    assert run_script("pascal_context", ["--weighting", "EW"]) == 1
    message = capsys.readouterr().err
    parts = ("LIBMTL_RECON_DATA", str(tmp_path / "pascal_context"), data.ARCHIVE, "found: nothing")
    for part in (
        *parts,
        "libmtl-recon sample pascal_context DIR",
        "JPEGImages",
        "human_parts",
        "normals_distill",
    ):
        assert part in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("removed", "tasks", "says"),
    [
        ("sal_distill", ["sal"], "the folders sal_distill are missing; found: ImageSets, JPEG"),
        ("semseg", data.TASKS, "the folders semseg are missing"),
        ("JPEGImages/*7.jpg", ["sal"], "of 16 images are missing 2 of JPEGImages/*.jpg (first: 2"),
        (
            "semseg/VOC12/*1.png",
            ["semseg"],
            "2 of semseg/VOC12/*.png or semseg/pascal-context/*.png (first: 2001_000001)",
        ),
        (
            "pascal-context/trainval/*.mat",
            ["normals", "edge"],
            "16 of pascal-context/trainval/*.mat",
        ),
        ("ImageSets/Context/val.txt", ["sal"], "val.txt cannot be read"),
    ],
)
def test_half_a_data_set_is_refused(own: Path, removed: str, tasks: list[str], says: str) -> None:
    for path in own.glob(removed):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ReconError) as error:
        data.load(own, tasks)
    assert says in str(error.value)
    assert data.ARCHIVE in str(error.value)
    assert "\n" not in str(error.value)


def test_files_of_other_tasks_need_not_be_there(own: Path) -> None:
    for name in ("human_parts", "semseg", "normals_distill", "pascal-context"):
        shutil.rmtree(own / name)
    names = data.load(own, ["sal"])["train"]
    _, labels = data.Scenes(own, names, ["sal"])[0]
    assert list(labels) == ["sal"]


def test_an_empty_list_of_images_is_refused(own: Path) -> None:
    (own / "ImageSets/Context/train.txt").write_text("\n")
    with pytest.raises(ReconError, match=r"train.txt names no images"):
        data.load(own, ["sal"])


def test_a_task_is_named_once(parse) -> None:
    with pytest.raises(UsageError, match=r"--tasks must name each task once \(got 'sal'\)"):
        parse(problem, "--tasks", "sal", "edge", "sal")


def test_defaults_are_the_paper_s(parse) -> None:
    params = parse(problem)
    assert (params.epochs, params.bs, params.optim, params.lr) == (130, 6, "adam", 1e-4)
    assert (params.scheduler, params.step_size, params.gamma) == ("step", 70, 0.1)
    assert (params.network, params.size, params.weight_decay) == ("mobilenetv2_raspp", 512, 0.0)
    assert params.tasks == ["semseg", "human_parts", "sal", "normals"]
    assert params.pretrained is False
    assert parse(problem, "--tasks", "edge", "semseg").tasks == ["semseg", "edge"]
    check_task_names("tasks", data.TASKS)
    assert tuple(problem.OUTPUTS) == data.TASKS


@pytest.mark.parametrize("name", ["pascal_context", "pascal_context-small"])
def test_the_configurations_have_flags_of_the_script(parse, name: str) -> None:
    config = load_config(name)
    params = parse(problem, *spell(flag_space(config.flags, ["tasks"]).fixed))
    assert params.tasks == ["semseg", "human_parts", "sal", "normals"]
    if name == "pascal_context":
        plain = vars(parse(problem)) | {"pretrained": True, "workers": 8}
        assert vars(params) == plain
        assert (config.space.s, config.space.k) == ([-0.02], [0, 85])
    else:
        assert params.val_size > 0


def test_the_network_has_the_size_of_the_paper_s() -> None:
    outputs = {task: problem.OUTPUTS[task] for task in data.TASKS[:4]}
    network = build("mobilenetv2_raspp", outputs)
    modules = [network.encoder_class(), network.decoders]
    count = sum(p.numel() for module in modules for p in module.parameters())
    assert f"{count * 4 / 2**20:.2f}" == "8.04"  # MB, Table 4


def test_normals_are_compared_by_their_l1_distance() -> None:
    pred = torch.tensor([[3.0, 0.0, 4.0], [0.0, -2.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    gold = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    pred, gold = (rows.T[None, :, None] for rows in (pred, gold))
    loss = problem.DistanceLoss()
    # (0.6, 0, 0.8) is 0.6 + 0.2 from (0, 0, 1); the third pixel has no normal.
    assert loss.compute_loss(pred, gold).item() == pytest.approx((0.8 + 2) / 2, rel=1e-12)
    pred = pred.clone().requires_grad_()
    nothing = loss.compute_loss(pred, torch.zeros_like(pred))
    nothing.backward()
    assert nothing.item() == 0
    assert not pred.grad.any()


def test_training_images_are_held_out(found: Path, parse) -> None:
    def names(*flags: str) -> dict[str, list[str]]:
        loaders = problem.make_loaders(parse(problem, *flags))
        return {part: loader.dataset.names for part, loader in loaders.items()}

    plain, held = names(), names("--val_size", "3")
    assert list(plain) == ["train", "test"]
    assert held["test"] == plain["test"]
    assert len(held["val"]) == 3
    assert sorted(held["train"] + held["val"]) == plain["train"]
    assert names("--val_size", "3", "--seed", "5")["val"] == held["val"]
    assert names("--val_size", "3", "--data_seed", "5")["val"] != held["val"]
    with pytest.raises(UsageError, match="--val_size must leave two of the 8 training images"):
        problem.make_loaders(parse(problem, "--val_size", "7"))


def test_only_training_images_are_changed_at_random(found: Path, parse) -> None:
    loaders = problem.make_loaders(parse(problem, "--size", "64", "--tasks", "sal"))
    first = {part: [loaders[part].dataset[0][0] for _ in range(4)] for part in loaders}
    assert all(torch.equal(first["test"][0], image) for image in first["test"])
    assert len({image.numpy().tobytes() for image in first["train"]}) > 1
    loader = problem.make_loaders(parse(problem, "--tasks", "sal", "--no-augment"))["train"]
    assert torch.equal(loader.dataset[0][0], loader.dataset[0][0])


def test_five_tasks_train_for_an_epoch(found: Path, run) -> None:
    flags = ("--tasks", *data.TASKS, "--val_size", "2")
    recorder = run(problem, "--weighting", "GradOPS", *SMALL, *flags)
    assert [m.mode for m in recorder.measurements] == ["train", "val", "test"]
    last = recorder.measurements[-1]
    assert {task: list(metrics) for task, metrics in last.metrics.items()} == {
        "semseg": ["mIoU", "pixAcc"],
        "human_parts": ["mIoU", "pixAcc"],
        "sal": ["mIoU"],
        "normals": ["mean", "median", "<11.25", "<22.5", "<30"],
        "edge": ["maxF"],
    }
    assert all(np.isfinite(loss) and loss > 0 for loss in last.losses.values())


def test_the_worst_layers_are_split(found: Path, run) -> None:
    flags = ("--arch", "Recon", "--recon_select", "norms", "--recon_k", "3")
    recorder = run(problem, "--weighting", "EW", *SMALL, *flags)
    names = [name for name, _ in recorder.trainer.model.encoder.named_parameters()]
    split = {name.partition(".tasks.")[0] for name in names if ".tasks." in name}
    assert len(split) == 3
    assert [m.mode for m in recorder.measurements] == ["train", "test"]


def test_a_batch_without_people_leaves_the_task_out(own: Path, monkeypatch, run) -> None:
    monkeypatch.setenv("LIBMTL_RECON_DATA", str(own.parent))
    without = [name for at, name in enumerate(data.load(own, data.TASKS)["train"]) if at % 3 == 2]
    (own / "ImageSets/Context/train.txt").write_text("\n".join(without))
    recorder = run(problem, "--weighting", "MGDA", *SMALL)
    losses = recorder.measurements[0].losses
    assert np.isnan(losses["human_parts"])
    assert all(np.isfinite(losses[task]) for task in ("semseg", "sal", "normals"))


@pytest.mark.slow
def test_it_is_learned(tmp_path: Path, monkeypatch, run) -> None:
    sample.write(tmp_path / "pascal_context", 24, 0)
    monkeypatch.setenv("LIBMTL_RECON_DATA", str(tmp_path))
    flags = ("--epochs", "12", "--size", "64", "--width", "0.25", "--lr", "0.005", "--no-augment")
    last = run(problem, "--weighting", "EW", *flags, "--tasks", *data.TASKS).measurements[-1]
    assert last.metrics["semseg"]["mIoU"] > 0.33  # 0.28 where all is background
    assert last.metrics["human_parts"]["mIoU"] > 0.15  # 0.12
    assert last.metrics["sal"]["mIoU"] > 0.5  # 0.17 where all is salient
    assert last.metrics["normals"]["mean"] < 17  # 21 where all is the floor
    assert last.metrics["edge"]["maxF"] > 0.04  # 0.03 where all is edge
