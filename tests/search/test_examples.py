"""The example's job files are what their systems read, and start what the command knows."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from libmtl_recon import run_script
from libmtl_recon.cli import build_parser
from libmtl_recon.search import load_config

FOLDER = Path(__file__).parents[2] / "examples" / "search"
SLURM, KUBERNETES = FOLDER / "slurm_array.sh", FOLDER / "kubernetes.yaml"
VARIABLE = "LIBMTL_RECON_STORAGE"


def parsed(words: list[str]) -> Any:
    assert words[0] == "libmtl-recon"
    return build_parser().parse_args(words[1:])


def commands_in(text: str) -> list[list[str]]:
    """Return the commands on separate lines, also in comments."""
    return [
        shlex.split(found)
        for found in re.findall(r"^#?\s*(?:exec )?(libmtl-recon .*)$", text, re.MULTILINE)
    ]


def job() -> Any:
    return yaml.safe_load(KUBERNETES.read_text(encoding="utf-8"))


def test_the_study_is_valid() -> None:
    config = load_config(str(FOLDER / "study.yaml"))
    assert config.name == "rings"
    assert (Path(config.script).name, config.trials) == ("main.py", 24)
    (words,) = commands_in((FOLDER / "study.yaml").read_text(encoding="utf-8"))
    assert words == ["libmtl-recon", "search", "check", "study.yaml"]
    assert parsed(words).config == "study.yaml"


def test_the_script_trains(capfd: pytest.CaptureFixture[str]) -> None:
    script = FOLDER / "main.py"
    flags = ["--epochs", "1", "--weighting", "GradOPS", "--bs", "128"]
    split = ["--arch", "Recon", "--recon_k", "4", "--recon_select", "norms"]
    assert run_script(script, [*flags, *split]) == 0
    assert "Epoch: 0000" in capfd.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="bash")
def test_slurm_starts_workers_of_one_search() -> None:
    text = SLURM.read_text(encoding="utf-8")
    subprocess.run(["bash", "-n", SLURM], check=True)
    (words,) = commands_in(text)
    options = parsed(words)
    assert (options.config, options.storage) == ("study.yaml", None)
    assert "$SLURM_ARRAY_TASK_ID" in options.out, "each has a folder of its own"
    # sbatch reads its lines up to the first command.
    head = text[: text.index("\nset -e")]
    assert re.findall(r"^#SBATCH --(\S+?)=", head, re.MULTILINE) == [
        *("job-name", "array", "cpus-per-task", "mem", "time", "output", "open-mode", "signal")
    ]
    assert f': "${{{VARIABLE}:?' in text


@pytest.mark.skipif(sys.platform == "win32", reason="bash")
def test_a_slurm_job_without_an_address_says_so() -> None:
    done = subprocess.run(
        ["bash", SLURM], env={"PATH": "/bin:/usr/bin"}, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert f"{VARIABLE}: is the address of the database" in done.stderr


def test_kubernetes_starts_workers_of_one_search() -> None:
    (container,) = job()["spec"]["template"]["spec"]["containers"]
    options = parsed(container["command"])
    assert options.storage is None
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert Path(options.config) == Path(mounts["study"]) / "study.yaml"
    assert Path(options.out).is_relative_to(mounts["scratch"])
    volumes = {volume["name"] for volume in job()["spec"]["template"]["spec"]["volumes"]}
    assert set(mounts) == volumes
    assert job()["spec"]["completions"] == job()["spec"]["parallelism"]


def test_kubernetes_keeps_the_address_in_a_secret() -> None:
    (container,) = job()["spec"]["template"]["spec"]["containers"]
    environment = {entry["name"]: entry for entry in container["env"]}
    secret = environment[VARIABLE]["valueFrom"]["secretKeyRef"]
    text = KUBERNETES.read_text(encoding="utf-8")
    assert f"create secret generic {secret['name']} --from-env-file=storage.env" in text
    assert secret["key"] == VARIABLE
    (volume,) = [v for v in job()["spec"]["template"]["spec"]["volumes"] if "configMap" in v]
    create = f"kubectl create configmap {volume['configMap']['name']} "
    assert f"{create}--from-file=main.py --from-file=study.yaml" in text


@pytest.mark.parametrize("file", [SLURM, KUBERNETES], ids=["slurm", "kubernetes"])
def test_no_argument_has_an_address(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for line in text.splitlines():
        if "://" in line:
            assert line.startswith("#")
            assert "kubectl" not in line
            assert "--storage" not in line
