"""What a search is told: one YAML file a problem."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from libmtl_recon import ReconError, UsageError, find_script

Scalar = bool | int | float | str
Flags = dict[str, Scalar | list[Scalar]]
Positive = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FloatRange(_Strict):
    """Values from ``low`` to ``high``, ``step`` apart."""

    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    step: float = Field(gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _ordered(self) -> FloatRange:
        if self.high < self.low:
            raise ValueError(f"high must not be below low, but {self.high} < {self.low}")
        return self


class IntRange(_Strict):
    """Whole numbers from ``low`` to ``high``."""

    low: int = Field(ge=0)
    high: int = Field(ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> IntRange:
        if self.high < self.low:
            raise ValueError(f"high must not be below low, but {self.high} < {self.low}")
        return self


class Space(_Strict):
    """What the search may choose.

    Attributes:
        weighting: Names of LibMTL's weightings, ours included.
        alpha: GradOPS's exponent; only used where ``weighting`` has GradOPS.
        s: Severities, each a multiple of 0.005 in (-1, 0].
        k: How many layers are split; 0 is plain hard parameter sharing.
    """

    weighting: list[str] = Field(default=["EW", "GradOPS"], min_length=1)
    alpha: FloatRange = FloatRange(low=-3.0, high=2.0, step=0.5)
    s: list[Annotated[float, Field(gt=-1, le=0)]] = Field(
        default=[-0.2, -0.1, -0.05, -0.02, 0.0], min_length=1
    )
    k: IntRange


class Score(_Strict):
    """The scoring run.

    Attributes:
        weighting: The weighting under which the conflicts are counted.
        steps: After how many training steps it ends.
    """

    weighting: str = "EW"
    steps: Positive = 300


class Config(_Strict):
    """A search.

    Attributes:
        script: Path of a LibMTL script, relative to the file, or a built-in problem's name.
        flags: LibMTL's and the script's own flags, without the dashes.
        on: The data on which configurations are compared.
        space: What the search may choose.
        score: The scoring run.
        trials: How many configurations are trained.
        seed: The seed (``--seed``) of the search's runs.
        confirm: Other seeds, with which the best and EW are trained again and compared on the
            test data.
        workers: How many runs are trained at a time.
        threads: PyTorch's threads in each.
        prune: End trials early that stay below the median of the others.
    """

    script: str
    flags: Flags = {}
    on: Literal["val", "test"] = "val"
    space: Space
    score: Score = Score()
    trials: Positive = 20
    seed: int = 0
    confirm: list[int] = [1, 2, 3]
    workers: Positive = 2
    threads: Positive = 1
    prune: bool = True

    @model_validator(mode="after")
    def _fresh_seeds(self) -> Config:
        if self.seed in self.confirm or len(set(self.confirm)) < len(self.confirm):
            raise ValueError("confirm must name seeds other than seed, none twice")
        reserved = {"weighting", "arch", "seed", "gradops_alpha"} & set(self.flags)
        reserved |= {flag for flag in self.flags if flag.startswith("recon_")}
        if reserved:
            raise ValueError(f"flags must not set {sorted(reserved)[0]}, which the search chooses")
        return self

    @property
    def arguments(self) -> tuple[str, ...]:
        """The flags as they stand on a command line."""
        return tuple(itertools.chain.from_iterable(_spell(k, v) for k, v in self.flags.items()))


def shipped_configs() -> dict[str, Path]:
    """The configurations that come with the package, by name."""
    # Installed, they lie in the package; in a checkout, beside it.
    here = Path(__file__).parent
    folders = (here / "configs", here.parent / "configs")
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}


def load_config(source: str | Path) -> Config:
    """Read a configuration.

    Args:
        source: Path of a YAML file, or the name of a configuration that comes with the package.

    Raises:
        UsageError: There is no such file, or something in it breaks a rule; the message names
            the key, the rule, the value and the way out.
    """
    path = Path(source)
    if not path.is_file():
        shipped = shipped_configs()
        if str(source) not in shipped:
            raise UsageError(
                "CONFIG",
                "must be a YAML file, or a configuration that comes with the package",
                str(source),
                f"There is no such file here; with the package come {', '.join(shipped)}.",
            )
        path = shipped[str(source)]
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ReconError(
            f"{path} cannot be read as YAML: {' '.join(str(error).split())}."
        ) from error
    if not isinstance(data, dict):
        raise ReconError(f"{path} must hold keys and values, such as `script: main.py`.")
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise _explain(path, error, data) from error
    _check_severities(path, config.space.s)
    beside = path.parent / config.script
    script = beside if beside.is_file() else Path(config.script)
    try:
        find_script(script)
    except UsageError as error:
        raise UsageError(f"{path}: script", error.rule, error.value, error.way_out) from error
    return config.model_copy(update={"script": str(script)})


def _check_severities(path: Path, severities: Iterable[float]) -> None:
    for severity in severities:
        if abs(severity * 200 - round(severity * 200)) > 1e-6:
            raise UsageError(
                f"{path}: space.s", "must be multiples of 0.005", severity, "Round it."
            )


def _explain(path: Path, error: ValidationError, data: dict[str, Any]) -> UsageError:
    """Pydantic's first finding as one paragraph."""
    first = error.errors(include_url=False)[0]
    keys = [key for key in first["loc"] if isinstance(key, str)]
    where = f"{path}: {'.'.join(map(str, first['loc'])) or 'the file'}"
    if first["type"] == "extra_forbidden":
        known = _keys_at(keys[:-1])
        close = difflib.get_close_matches(keys[-1], known, n=1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        return UsageError(
            where, "must be one of the keys that there are", keys[-1], f"{hint}{_list(known)}"
        )
    if first["type"] == "missing":
        return UsageError(
            where, "must be given", None, f"The keys here: {_list(_keys_at(keys[:-1]))}"
        )
    rule = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    value = "this" if first["input"] is data or isinstance(first["input"], dict) else first["input"]
    return UsageError(where, f"must follow the rule «{rule}»", value, "Correct it in the file.")


def _keys_at(keys: Iterable[str]) -> list[str]:
    model: Any = Config
    for key in keys:
        model = model.model_fields[key].annotation
    return list(model.model_fields)


def _list(keys: list[str]) -> str:
    return f"There are: {', '.join(keys)}."


def _spell(flag: str, value: Any) -> list[str]:
    if value is True:
        return [f"--{flag}"]
    if value is False:
        return []
    values = value if isinstance(value, list) else [value]
    return [f"--{flag}", *map(str, values)]
