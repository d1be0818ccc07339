"""Names of the last release: each still works, with a warning that names the new one."""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

import libmtl_recon
from libmtl_recon import _deprecated

importlib.import_module("LibMTL")  # the LibMTL classes cannot be imported first, and never could

# What libmtl_recon.__all__ was.
ROOT = (
    *("Bundle", "ConflictProfile", "Masked", "Measurement", "Observer", "ProfileCache"),
    *("ReconError", "RotoGrad", "ScoringObserver", "SingleTask", "StopRun", "UsageError"),
    *("__version__", "activate", "by_task", "draw_profile", "extract_task", "find_script"),
    *("fold_rotation", "gradops_weights", "known_weightings", "only_task", "run_module"),
    *("run_script", "split_layers"),
)
# What the modules that have moved offered.
NAMES = {
    "architecture": "Bundle by_task extract_task is_split only_task shared_parameters "
    "split_layers task_parameters",
    "architecture.branches": "TaskByTask",
    "architecture.bundle": "Bundle bundles_in combine name_of per_task pick",
    "architecture.checkpoint": "Checkpoint load_model load_optimizer read_checkpoint",
    "architecture.drawing": "draw_anew refuse_undrawable",
    "architecture.extract": "extract_task",
    "architecture.libmtl": "Recon Splitting recon_over",
    "architecture.outputs": "by_task",
    "architecture.split": "BN INIT is_split only_task shared_parameters split_beside split_layers "
    "task_parameters",
    "architecture.starting": "load_split load_unsplit",
    "architecture.task_specific": "TaskSpecific TaskSpecificNorm TaskSpecificRNN",
    "commands": "scoring_command",
    "conflict.adding": "add_profiles",
    "conflict.baselines": "SELECTIONS first_layers last_layers random_layers random_parameters",
    "conflict.cache": "Entry Match ProfileCache default_folder export_profile read_profile",
    "conflict.comparing": "overlap ranking_distance",
    "conflict.distribution": "draw_distributions",
    "conflict.exclusive": "ScoringTurn lock_name",
    "conflict.fingerprint": "differences fingerprint loose_fingerprint",
    "conflict.grid": "BINS EDGES check_severity",
    "conflict.intervals": "Intervals intervals",
    "conflict.layers": "Layer layer_name layers_of",
    "conflict.plot": "draw_profile",
    "conflict.probe": "ConflictProbe",
    "conflict.profile": "ConflictProfile check_severity",
    "conflict.runs": "runs_of",
    "conflict.schedule": "Schedule Stopping UntilStable",
    "conflict.selection": "Selection select_layers",
    "conflict.serial": "Contents FORMAT VERSION decode encode",
    "conflict.sources": "from_cache from_source",
    "conflict.stability": "Stability stability",
    "conflict.stores": "FolderStore Store UrlStore open_store",
    "conflict.unfinished": "Recovered Unfinished recover recover_all",
    "gradient": "SplitLosses TaskRows cosines exact_device gradients_or_none gramian hand_out "
    "isometric_rows layer_gramians present_tasks quick_gramian scatter_gradient task_gradients "
    "task_rows task_scalars write_row",
    "gradient.adding": "add_gradient added_up",
    "gradient.gramian": "cosines exact_device gramian isometric_rows layer_gramians quick_gramian",
    "gradient.per_task": "gradients_or_none scatter_gradient task_gradients write_row",
    "gradient.rows": "TaskRows",
    "gradient.split_losses": "SplitLosses",
    "gradient.step": "hand_out present_tasks task_rows task_scalars",
    "labels": "Masked labelled_rows take_rows",
    "labels.masked": "Masked",
    "labels.rows": "labelled_rows take_rows",
    "launcher": "StopRun",
    "plugin": "activate",
    "plugin.arguments": "known_weightings",
    "plugin.extracting": "ExtractingObserver export_program",
    "plugin.features": "Features detect",
    "plugin.mends": "verdicts",
    "plugin.observing": "Measurement Observer observe",
    "plugin.packages": "MissingPackagesError",
    "plugin.scoring": "ScoringObserver",
    "plugin.single_task": "SingleTask",
    "weighting.libmtl.gradops": "GradOPS",
    "weighting.libmtl.rotograd": "RotoGrad",
}
MOVED = [(module, name) for module, names in NAMES.items() for name in names.split()]


@pytest.fixture
def fresh() -> Iterator[None]:
    """Modules in old places are imported anew, and gone at the end."""

    def forget() -> None:
        for module in _deprecated.MODULES:
            sys.modules.pop(f"libmtl_recon.{module}", None)
            parent, _, name = f"libmtl_recon.{module}".rpartition(".")
            vars(sys.modules.get(parent, ModuleType(""))).pop(name, None)

    forget()
    yield
    forget()


def test_the_root_still_has_every_name() -> None:
    renamed = {"Bundle": "TaskTensor", "Observer": "TrainerHook", "ScoringObserver": "ScoringHook"}
    for name in set(ROOT) - set(renamed):
        assert getattr(libmtl_recon, name) is not None
        assert name in libmtl_recon.__all__
    for name, new in renamed.items():
        with pytest.warns(DeprecationWarning, match=rf"\.{name} .* libmtl_recon\.{new} ") as seen:
            assert getattr(libmtl_recon, name) is getattr(libmtl_recon, new)
        assert [warning.filename for warning in seen] == [__file__]


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(("module", "name"), MOVED)
def test_a_moved_module_has_every_name(module: str, name: str) -> None:
    old = f"libmtl_recon.{module}"
    if module in _deprecated.MODULES:
        with pytest.warns(DeprecationWarning, match="libmtl_recon") as seen:
            importlib.import_module(old)
        assert str(seen[0].message).startswith(f"The module libmtl_recon.{module.split('.')[0]}")
    with pytest.warns(DeprecationWarning, match="is deprecated") as seen:
        found = getattr(importlib.import_module(old), name)
    (warning,) = seen
    words = str(warning.message).split()
    assert words[0] == f"{old}.{name}"
    place, _, new = words[-2].rpartition(".")
    assert getattr(importlib.import_module(place), new) is found
    assert warning.filename == __file__


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("module", _deprecated.MODULES)
def test_every_moved_module_is_imported_by_its_old_name(module: str) -> None:
    with pytest.warns(DeprecationWarning, match="The module"):
        found = importlib.import_module(f"libmtl_recon.{module}")
    assert found.__name__ == f"libmtl_recon.{module}"
    importlib.import_module(f"libmtl_recon.{_deprecated.MODULES[module]}")
    with pytest.raises(AttributeError, match=rf"'libmtl_recon.{module}' .* 'never_was'"):
        found.never_was  # noqa: B018


@pytest.mark.usefixtures("fresh")
def test_all_ways_to_import_work() -> None:
    program = """
from libmtl_recon.gradient import *
from libmtl_recon.gradient import gramian as function, per_task
import libmtl_recon.plugin.flags.recon
import libmtl_recon.plugin.scoring as scoring
ScoringObserver = scoring.ScoringObserver
from libmtl_recon.plugin import observing
"""
    found: dict[str, object] = {}
    with pytest.warns(DeprecationWarning, match="deprecated"):
        exec(program, found)
    import libmtl_recon.integrations.libmtl.step.step as step
    from libmtl_recon.gradients import gramian, task_gradients

    assert (found["gramian"], found["function"]) == (gramian, gramian)
    assert found["ScoringObserver"] is libmtl_recon.ScoringHook
    assert found["task_gradients"] is task_gradients
    assert found["hand_out"] is step.assign_grad
    assert found["per_task"].__name__ == "libmtl_recon.gradient.per_task"
    with pytest.warns(DeprecationWarning, match=r"flags\.recon\.DEFAULT_S"):
        severity = libmtl_recon.plugin.flags.recon.DEFAULT_S
    assert severity == -0.1
    with pytest.warns(DeprecationWarning, match=r"observing\.Observer"):
        observer = found["observing"].Observer
    assert observer is libmtl_recon.TrainerHook


@pytest.mark.usefixtures("fresh")
def test_what_took_a_model_of_libmtl_still_takes_one() -> None:
    with pytest.warns(DeprecationWarning, match="architecture"):
        from libmtl_recon.architecture import extract_task
    assert extract_task is libmtl_recon.extract_task


@pytest.mark.usefixtures("fresh")
def test_objects_that_were_pickled_by_an_old_name_load() -> None:
    masked = libmtl_recon.Masked([1.0], [True])
    new = pickle.dumps(masked, protocol=0)
    assert b"libmtl_recon.integrations.libmtl.missing_labels.masked" in new
    old = new.replace(b"integrations.libmtl.missing_labels.masked", b"labels.masked")
    with pytest.warns(DeprecationWarning, match="labels") as seen:
        loaded = pickle.loads(old)
    assert "labels.masked.Masked" in str(seen[-1].message)
    assert type(loaded) is libmtl_recon.Masked


@pytest.mark.usefixtures("fresh")
@pytest.mark.filterwarnings("error")
def test_old_names_are_errors_where_warnings_are_and_new_ones_are_not() -> None:
    for name in (*libmtl_recon.__all__, "launcher"):
        assert getattr(libmtl_recon, name) is not None
    for name in ("Bundle", "plugin", "conflict"):
        with pytest.raises(DeprecationWarning, match=name):
            getattr(libmtl_recon, name)
