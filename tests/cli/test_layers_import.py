"""``libmtl-recon layers import``: under a network's own names, with the table shown."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from example_profiles import profile_of

from libmtl_recon import ConflictProfile, ProfileCache
from libmtl_recon.cli import main
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.profiles import entries
from libmtl_recon.profiles.selection import select_layers

COSINES = [[-0.5, 0.1], [-0.2, -0.3], [0.9, 1.0]]  # bn1, conv1, block.0.fc
Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProfileCache:
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path / "cache"))
    return ProfileCache()


@pytest.fixture
def network(cache: ProfileCache) -> ConflictProfile:
    """The network in the cache."""
    profile = profile_of(COSINES)
    cache.save(profile)
    return profile


def write(folder: Path, data: Any, name: str = "published.json") -> str:
    text = data.to_json() if isinstance(data, ConflictProfile) else json.dumps(data)
    (folder / name).write_text(text)
    return str(folder / name)


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def run(capsys: Output, *words: str) -> tuple[int, str, str]:
    status = main(["layers", *words])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_scores_are_kept_under_the_names_of_the_one_network_that_they_fit(
    capsys: Output, cache: ProfileCache, network: ConflictProfile, tmp_path: Path
) -> None:
    cache.save(profile_of([[0.1]], [Layer("conv1", "Conv2d", ((1,),))]))
    file = write(tmp_path, {"module.bn1.m_list.0": 5, "module.block.0.fc": 9, "module.conv1": 2.5})
    status, out, _ = run(capsys, "import", file)
    assert status == 0
    assert rows(out)[:5] == [
        ["3", "layers,", "matched", "by", "name,", "without", "wrappers:"],
        ["name", "there", "name", "here", "type", "parameters"],
        ["module.bn1.m_list.0", "bn1", "BatchNorm2d", "8"],
        ["module.block.0.fc", "block.0.fc", "Linear", "10"],
        ["module.conv1", "conv1", "Conv2d", "36"],
    ]
    (entry,) = cache.rankings()
    assert out.endswith(f"Kept as ranking {entry.id}, with the layers of profile {network.id}.\n")
    assert entry.ranking.names == ("block.0.fc", "bn1", "conv1")
    assert entry.ranking.scores == (9, 5, 2.5)
    assert entry.ranking.provenance["imported"] == "published.json"
    found = select_layers(network.architecture, 2, -0.1, entry.id[:5], cache)
    assert found.names == ("block.0.fc", "bn1")


def test_a_ranking_is_listed_shown_exported_and_removed(
    capsys: Output, cache: ProfileCache, network: ConflictProfile, tmp_path: Path
) -> None:
    run(capsys, "import", write(tmp_path, ["block.0.fc", "bn1", "conv1"]))
    (entry,) = cache.rankings()
    _, out, _ = run(capsys, "list")
    assert rows(out)[-3:-1] == [["Imported", "rankings:"], ["id", "file", "layers", "date"]]
    assert rows(out)[-1][:3] == [entry.id, "published.json", "3"]
    _, out, _ = run(capsys, "show", entry.id, "--k", "2")
    assert f"ranking {entry.id}: 3 of 3 layers" in out
    assert rows(out)[-3:] == [
        ["1", "block.0.fc", "Linear", "10"],
        ["2", "bn1", "BatchNorm2d", "8"],
        ["and", "1", "more"],
    ]
    status, _, err = run(capsys, "show", entry.id, "--plot", "x.png")
    assert (status, "--plot must be given for a profile" in err) == (2, True)
    for action in ("table", "add"):
        status, _, err = run(capsys, action, entry.id)
        assert (status, "is an imported ranking of layers, which has no cosines" in err) == (
            2,
            True,
        )
    exported = str(tmp_path / "out.json")
    assert run(capsys, "export", entry.id, exported)[1] == (
        f"Wrote ranking {entry.id} to {exported}.\n"
    )
    assert run(capsys, "remove", entry.id[:6])[1] == f"Removed ranking {entry.id}.\n"
    assert cache.rankings() == []
    assert run(capsys, "import", exported)[1] == f"Kept as ranking {entry.id}.\n"
    assert cache.rankings() == [entry]


def test_a_damaged_ranking_is_set_aside(
    capsys: Output, cache: ProfileCache, network: ConflictProfile, tmp_path: Path
) -> None:
    run(capsys, "import", write(tmp_path, ["block.0.fc", "bn1", "conv1"]))
    (entry,) = cache.rankings()
    kept = cache.folder / f"{entry.id}.ranking"
    kept.write_text(kept.read_text().replace('"bn1",\n  "conv1"', '"bn1",\n  "conv2"'))
    _, out, err = run(capsys, "list")
    assert "Imported" not in out
    assert "it ranks a layer that its architecture lacks. It was renamed to" in err


def test_order_is_asked_for_and_checked(
    capsys: Output, cache: ProfileCache, network: ConflictProfile, tmp_path: Path
) -> None:
    scores = write(tmp_path, {"0": 1, "1": 2, "2": 3})
    status, _, err = run(capsys, "import", scores)
    assert (status, "no profile of a network with exactly these layers" in err) == (1, True)
    status, out, _ = run(capsys, "import", scores, "--match", "order")
    assert status == 0
    assert rows(out)[0][3:] == ["by", "position:"]
    assert rows(out)[2:5] == [
        ["0", "conv1", "Conv2d", "36"],
        ["1", "bn1", "BatchNorm2d", "8"],
        ["2", "block.0.fc", "Linear", "10"],
    ]
    assert cache.rankings()[0].ranking.names == ("block.0.fc", "bn1", "conv1")
    status, _, err = run(capsys, "import", write(tmp_path, ["0", "1", "2"]), "--match", "order")
    assert (status, "--match cannot be order alone" in err) == (2, True)
    fewer = write(tmp_path, {"0": 1, "1": 2})
    status, _, err = run(capsys, "import", fewer, "--match", "order")
    assert (status, "has 2 where this network has 3" in err) == (2, True)


def test_a_profile_gets_the_names_of_the_network(
    capsys: Output, cache: ProfileCache, network: ConflictProfile, tmp_path: Path
) -> None:
    layers = [dataclasses.replace(a, name=f"{i}") for i, a in enumerate(network.architecture)]
    other = profile_of([[-0.9], [0.1], [0.2]], layers, "letters")
    file = write(tmp_path, other)
    status, out, _ = run(capsys, "import", file)
    assert (status, out) == (0, f"Kept as profile {other.id}.\n")
    # Its own network, which the cache has by now, is not meant.
    status, out, _ = run(capsys, "import", file, "--match", "order")
    assert status == 0
    assert f", with the layers of profile {network.id}.\n" in out
    assert run(capsys, "import", file, "--match", "order", "--like", network.id[:4])[1] == out
    assert ["0", "conv1", "Conv2d", "36"] in rows(out)
    found = cache.find(network.architecture)
    assert found is not None
    assert found.entry.profile.provenance == {
        **other.provenance, "names": "matched by position"
    }  # fmt: skip
    assert found.entry.profile.scores(-0.1) == {"conv1": 1, "bn1": 0, "block.0.fc": 0}


def test_wrappers_around_the_names_of_a_profile_are_taken_off(
    capsys: Output, cache: ProfileCache, network: ConflictProfile, tmp_path: Path
) -> None:
    layers = [dataclasses.replace(a, name=f"module.{a.name}") for a in network.architecture]
    other = profile_of([[-0.9], [0.1], [0.2]], layers, "letters")
    status, out, _ = run(capsys, "import", write(tmp_path, other))
    assert status == 0
    assert ["module.bn1", "bn1", "BatchNorm2d", "8"] in rows(out)
    (kept,) = (entry.profile for entry in cache.list() if entry.id != network.id)
    assert kept.architecture == network.architecture
    assert kept.provenance == {**other.provenance, "names": "without wrappers"}
    cache.save(other)
    status, out, _ = run(capsys, "import", write(tmp_path, other))
    assert (status, out) == (0, f"Kept as profile {other.id}.\n")


def test_what_the_network_lacks_is_left_out_on_request(
    capsys: Output, cache: ProfileCache, network: ConflictProfile, tmp_path: Path
) -> None:
    file = write(tmp_path, {"bn1": 5, "fc": 9, "block.0.fc": 4, "conv1": 2})
    status, _, err = run(capsys, "import", file)
    assert status == 2
    assert "(got 'fc'). 1 of the 4 layers" in err
    assert "take the others by --skip-missing" in err
    status, out, _ = run(capsys, "import", file, "--skip-missing")
    assert status == 0
    assert out.splitlines()[0] == "Left out, since the network lacks them: fc."
    assert cache.rankings()[0].ranking.names == ("bn1", "block.0.fc", "conv1")


def test_the_network_is_asked_for_where_it_is_not_plain(
    capsys: Output, cache: ProfileCache, network: ConflictProfile, tmp_path: Path
) -> None:
    part = write(tmp_path, ["bn1"])
    assert run(capsys, "import", part)[0] == 1
    status, out, _ = run(capsys, "import", part, "--like", network.id)
    assert (status, "Kept as ranking" in out) == (0, True)
    names = [dataclasses.replace(a, name=f"{i}") for i, a in enumerate(network.architecture)]
    exported = write(tmp_path, profile_of(COSINES, names), "exported.json")
    run(capsys, "import", exported)
    scores = write(tmp_path, {"a": 1, "b": 2, "c": 3})
    status, _, err = run(capsys, "import", scores, "--match", "order")
    assert (status, "fit several networks" in err, "with --like" in err) == (1, True, True)
    status, out, _ = run(capsys, "import", scores, "--match", "order", "--like", exported)
    assert out.endswith(f"with the layers of {exported}.\n")
    for like, said in (
        (part, "contains only names of layers, without types and shapes"),
        ("zzz", "--like must be the ID of"),
    ):
        status, _, err = run(capsys, "import", scores, "--like", like)
        assert said in err


def test_built_in_profiles_are_listed_shown_and_stay(
    capsys: Output, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    profile = profile_of(COSINES)
    monkeypatch.setattr(entries, "built_in_profiles", lambda: (("net-digits", profile),))
    status, out, _ = run(capsys, "list")
    assert out.startswith("No conflict profiles in")
    assert rows(out)[-1][:4] == ["net-digits", "(built", "in)", "digits"]
    assert "built-in profile net-digits: 2 steps" in run(capsys, "show", "net-digits")[1]
    status, _, err = run(capsys, "show")
    assert (status, "There is no conflict profile in" in err) == (1, True)
    status, _, err = run(capsys, "remove", "net-digits")
    assert (status, "is built in" in err) == (1, True)
    exported = str(tmp_path / "out.json")
    assert run(capsys, "export", "net-digits", exported)[1] == (
        f"Wrote built-in profile net-digits to {exported}.\n"
    )
    status, out, _ = run(capsys, "import", write(tmp_path, ["bn1", "conv1", "block.0.fc"]))
    assert out.endswith("with the layers of the built-in profile net-digits.\n")


@pytest.mark.parametrize("again", ["bn1", "module.bn1"])
def test_a_list_with_a_layer_twice_is_refused_for_that(
    again: str, capsys: Output, network: ConflictProfile, tmp_path: Path
) -> None:
    file = write(tmp_path, ["block.0.fc", "bn1", "conv1", again])
    status, _, err = run(capsys, "import", file)
    assert (status, f"FILE must name each layer once (got '{again}')" in err) == (2, True)


def test_a_file_that_is_not_json_is_answered_with_what_the_action_takes(
    capsys: Output, tmp_path: Path
) -> None:
    (tmp_path / "bad.json").write_text("{")
    for words in (["import"], ["compare", "resnet18-multi_fashion_mnist"]):
        status, _, err = run(capsys, *words, str(tmp_path / "bad.json"))
        assert (status, "bad.json is not JSON" in err) == (1, True)
        assert "Give the file of an exported profile" in err
        assert "comma-separated" not in err


def test_a_wrong_order_does_not_turn_to_another_network(
    capsys: Output, cache: ProfileCache, network: ConflictProfile, tmp_path: Path
) -> None:
    names = [dataclasses.replace(a, name=f"net.{a.name}x") for a in network.architecture]
    cache.save(profile_of(COSINES, names))
    ranking = [layer.name for layer in network.architecture][::-1]
    file, order = write(tmp_path, ranking), write(tmp_path, ranking, "order.json")
    status, _, err = run(capsys, "import", file, "--match", f"order:{order}")
    assert (status, "of the same names in another order: at position 1 is" in err) == (2, True)
    assert cache.rankings() == []


def test_a_network_is_named_by_its_profile_and_not_by_rankings_of_it(
    capsys: Output, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    network = profile_of(COSINES)
    monkeypatch.setattr(entries, "built_in_profiles", lambda: (("net-digits", network),))
    names = [layer.name for layer in network.architecture]
    for number, ranking in enumerate((names, names[::-1])):
        _, out, _ = run(capsys, "import", write(tmp_path, ranking, f"{number}.json"))
        assert out.endswith("with the layers of the built-in profile net-digits.\n")


def test_a_refusal_says_with_which_network_the_layers_were_matched(
    capsys: Output, network: ConflictProfile, tmp_path: Path
) -> None:
    said = f"This network is that of profile {network.id}; name another one with --like."
    wrong = write(tmp_path, ["bn1", "conv1", "fc9"])
    short = write(tmp_path, {"x": 1, "y": 2}, "short.json")
    for words in ([wrong], [short, "--match", "order"]):
        status, _, err = run(capsys, "import", *words)
        assert (status, err.endswith(f"{said}\n")) == (2, True)
    # Nothing is to be told where the network was named.
    status, _, err = run(capsys, "import", wrong, "--like", network.id)
    assert (status, "This network is" in err) == (2, False)


def test_some_of_a_networks_layers_are_not_refused_as_anothers(
    capsys: Output, cache: ProfileCache, network: ConflictProfile, tmp_path: Path
) -> None:
    cache.save(profile_of([[0.1], [0.2]], [Layer(n, "Linear", ((1,),)) for n in ("conv1", "head")]))
    status, _, err = run(capsys, "import", write(tmp_path, ["bn1", "conv1"]))
    assert (status, f"give one with --like, such as profile {network.id}. " in err) == (1, True)


@pytest.mark.parametrize("how", [["--match", "order"], ["--skip-missing"]])
def test_a_profile_of_a_known_network_is_kept_however_it_is_matched(
    how: list[str], capsys: Output, network: ConflictProfile, tmp_path: Path
) -> None:
    other = profile_of([[0.4, 0.1], [-0.2, 0.3], [0.9, -1.0]])
    status, out, err = run(capsys, "import", write(tmp_path, other), *how)
    assert (status, out, err) == (0, f"Kept as profile {other.id}.\n", "")
