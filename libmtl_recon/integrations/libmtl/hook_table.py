"""All hooks at members of LibMTL's Trainer, meter and architectures, and their order.

Each row is one member and the one wrapper around it. Its hooks run from top to bottom: those
``before``, those ``around`` as far as they come before LibMTL's own code, that code, and those
``after``. Each hook is defined in the file of its subject; its place among the others is defined
here only. A hook that belongs to a patch is left out where that patch was not applied.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from libmtl_recon.errors import ReconError
from libmtl_recon.integrations.libmtl import (
    checkpoints,
    compiled,
    decoders,
    encoders,
    hand_written,
    hooks,
    lr_guard,
    precision,
    recon,
    refusals,
    refusals_on_ranks,
    saving,
)
from libmtl_recon.integrations.libmtl.data_parallel import (
    averaging,
    branching,
    devices,
    environment,
    fillers,
    predictions,
    setting_up,
)
from libmtl_recon.integrations.libmtl.missing_labels import losses, scores, steps
from libmtl_recon.integrations.libmtl.patches import patch_status, trainer
from libmtl_recon.integrations.libmtl.step import accumulation, functions, way
from libmtl_recon.integrations.libmtl.wrapper import Call, Hook, Row, wrap_member

_METER = "_record._PerformanceMeter"
# Used instead of a patch's name: hooks that exist only where torchrun has started this process
# together with others, so that a single process has none of them in its steps.
RANKS = "several ranks"


def _wrap_model(call: Call) -> None:
    import LibMTL

    # It makes a class for each model, on which nothing else depends.
    for row in (FORWARD, BACKWARD, REPRESENTATIONS):
        wrap_member(type(call.owner.model), row.in_force(applied(LibMTL)))


ROWS: tuple[Row, ...] = (
    # When a script begins.
    Row(
        "utils.set_device",
        around=(
            Hook(
                "leave-visible",
                devices.leave_visible,
                "What is hidden from CUDA before it is first used stays hidden.",
                patch=RANKS,
            ),
        ),
    ),
    # When a Trainer is built: what it cannot do is refused before it builds anything.
    Row(
        "Trainer.__init__",
        before=(
            Hook(
                "meet",
                setting_up.meet,
                "What is refused further on is refused by all ranks, and said by one.",
                ahead_of=("choose-tasks",),
                patch=RANKS,
            ),
            Hook(
                "ranks",
                refusals_on_ranks.check_trainer,
                "What several ranks would train wrongly.",
                patch=RANKS,
            ),
            Hook(
                "choose-tasks",
                hooks.choose_tasks,
                "What is refused is refused for the tasks that train.",
                ahead_of=("decoders", "architecture", "own-weighting"),
            ),
            Hook("decoders", decoders.check_decoders, "A plain dict of decoders would not train."),
            Hook(
                "complete-arguments",
                hand_written.complete_arguments,
                "Those that a script wrote by hand get the flags' defaults, and ours are checked.",
                ahead_of=("weighting", "architecture", "own-weighting", "encoder"),
            ),
            Hook("weighting", refusals.check_weighting, "It would fail in its first step."),
            Hook("architecture", refusals.check_architecture, "It could not be built."),
            Hook("own-weighting", refusals.check_own_weighting, "Ours depend on the tasks."),
            Hook("encoder", encoders.check_encoder, "Known only as soon as it is built."),
        ),
        after=(
            Hook("encoder-class", encoders.give_back_encoder_class, "The script's own again."),
            Hook(
                "precision",
                precision.set_precision,
                "Who looks at a Trainer finds the model that trains.",
                ahead_of=("tell-built",),
            ),
            Hook(
                "choose-way",
                way.choose_way,
                "Of each model that a Trainer may train.",
                ahead_of=("tell-built",),
            ),
            Hook("tell-built", hooks.tell_built, "The Trainer is complete."),
        ),
    ),
    Row(
        "Trainer._prepare_model",
        before=(Hook("compiled", compiled.prepare, "Split networks run without torch.compile."),),
        around=(
            Hook(
                "recon-base",
                recon.build_over_base,
                "Its class is made over a base's, and by what a checkpoint to be loaded says.",
                ahead_of=("load-whole",),
            ),
            Hook(
                "load-whole",
                trainer.load_whole,
                "The model is there only now.",
                patch="strict-checkpoint",
            ),
        ),
        after=(
            Hook("wrap-model", _wrap_model, "The model's class is there only now."),
            Hook(
                "agree-on-model",
                setting_up.agree_on_model,
                "A checkpoint is loaded, and the optimiser not made yet.",
                patch=RANKS,
            ),
        ),
    ),
    Row(
        "Trainer._prepare_optimizer",
        after=(Hook("recon-from", recon.split_optimizer_state, "There is an optimiser only now."),),
    ),
    Row(
        "architecture.AbsArchitecture.__init__",
        after=(Hook("state-dicts", checkpoints.watch_state_dicts, "It is a module only now."),),
    ),
    # When a Trainer trains.
    Row(
        "Trainer.train",
        before=(
            Hook(
                "begin-training",
                setting_up.begin_training,
                "Whoever is told of the training finds the ranks alike.",
                ahead_of=("tell-training",),
                patch=RANKS,
            ),
            Hook(
                "tell-training",
                hooks.tell_training,
                "Tells also of a Trainer that has built itself.",
            ),
            Hook(
                "learning-rates", lr_guard.compare_learning_rates, "Its length is known only now."
            ),
            Hook("precision", precision.set_precision, "A Trainer may have built itself."),
            Hook("choose-way", way.choose_way, "A script may have put a copy in its place."),
            Hook("compiled", compiled.refuse_split, "A script may compile a network later."),
            Hook(
                "name-scheduler",
                trainer.name_scheduler,
                "A script may have made it since the Trainer was built.",
                patch="own-scheduler",
            ),
        ),
        after=(
            Hook(
                "give-weights",
                trainer.give_weights,
                "It is the result of LibMTL's own code.",
                patch="return-weight",
            ),
            Hook("tell-trained", hooks.tell_trained, "Not of a training that failed."),
        ),
    ),
    Row(
        "Trainer.test",
        before=(
            Hook(
                "begin-evaluation",
                setting_up.begin_evaluation,
                "All ranks evaluate one network.",
                patch=RANKS,
            ),
        ),
        after=(Hook("split-beside", saving.note_split, "LibMTL saves the best model next."),),
    ),
    Row(
        "Trainer._prepare_dataloaders",
        before=(
            Hook(
                "loaders",
                refusals.check_loaders,
                "LibMTL would fail by a task's name.",
                ahead_of=("wrap-loaders", "slice-loaders"),
            ),
            Hook(
                "slice-loaders",
                setting_up.slice_loaders,
                "They are the script's own only here.",
                ahead_of=("wrap-loaders",),
                patch=RANKS,
            ),
            Hook(
                "wrap-loaders",
                trainer.wrap_loaders,
                "LibMTL iterates these in place of the script's.",
                patch="iterator-next",
            ),
        ),
    ),
    # In each step.
    Row(
        "Trainer._compute_loss",
        around=(
            Hook(
                "whole-batch",
                predictions.of_whole_batch,
                "Which labels are missing is known of the whole batch only.",
                ahead_of=("missing-labels", "split-losses"),
                patch=RANKS,
            ),
            Hook(
                "missing-labels",
                losses.of_labelled,
                "What computes the losses sees labelled samples only.",
                ahead_of=("split-losses",),
            ),
            Hook(
                "split-losses",
                functions.split_losses,
                "It computes one scalar per task where LibMTL fills a vector.",
                patch="fast-gradients",
            ),
        ),
    ),
    # In each pass over data.
    Row(
        f"{_METER}.update",
        around=(
            Hook(
                "whole-batch",
                predictions.measured_whole,
                "As for the losses.",
                ahead_of=("missing-labels",),
                patch=RANKS,
            ),
            Hook("missing-labels", scores.update_labelled, "LibMTL's own sees them only, too."),
        ),
    ),
    Row(
        f"{_METER}.get_score",
        around=(Hook("missing-labels", scores.score_labelled, "What had no label has no score."),),
    ),
    Row(
        f"{_METER}.display",
        after=(Hook("tell-measured", hooks.tell_measured, "The scores are known."),),
    ),
    Row(
        f"{_METER}.reinit",
        before=(Hook("missing-labels", scores.forget_pass, "The next pass has its own."),),
    ),
    Row(
        "_record.count_improvement",
        around=(
            Hook("missing-labels", scores.compare_scored, "What has no score is not compared."),
        ),
    ),
)

# Of each model's own class, made in ``_prepare_model``.
FORWARD = Row(
    "model.forward",
    around=(
        Hook(
            "fillers",
            fillers.know_fillers,
            "Batch norms ask in all that follows.",
            ahead_of=("note-calls",),
            patch=RANKS,
        ),
        Hook(
            "branches",
            branching.draw_alike,
            "What is drawn for the whole batch is drawn alike.",
            patch=RANKS,
        ),
        Hook(
            "note-calls",
            functions.note_calls,
            "The graph that it notes belongs to the losses that are cut off from theirs.",
            patch="fast-gradients",
        ),
    ),
)

BACKWARD = Row(
    "model.backward",
    around=(
        Hook(
            "average",
            averaging.average_gradients,
            "The gradients of the step are complete only after all others.",
            ahead_of=("encoder-reached", "add-up", "present-tasks", "cut-graph"),
            patch=RANKS,
        ),
        Hook(
            "encoder-reached",
            refusals.see_encoder_reached,
            "Gradients are there only after all others, and the step's tasks known only before.",
            ahead_of=("add-up", "present-tasks"),
        ),
        Hook(
            "add-up",
            accumulation.add_up,
            "It asks which tasks are present, which is forgotten when the next hook ends.",
            ahead_of=("present-tasks",),
        ),
        Hook(
            "present-tasks",
            steps.of_present_tasks,
            "The weighting knows of those only.",
            ahead_of=("cut-graph",),
        ),
        Hook(
            "cut-graph",
            functions.cut_graph,
            "The losses that it recognises are those that the weighting would be given.",
            patch="fast-gradients",
        ),
    ),
)


# Of each model's own class, by ``rep_grad``.
REPRESENTATIONS = Row(
    "model._get_grads",
    after=(
        Hook(
            "average",
            averaging.average_representations,
            "It is what a weighting weighs by.",
            patch=RANKS,
        ),
    ),
)


def install(libmtl: ModuleType) -> None:
    """Install the table's wrappers in LibMTL, to which the patches were applied.

    Raises:
        ReconError: This LibMTL lacks some of the members; none is wrapped then.
    """
    patches = applied(libmtl)
    rows = [row for row in (row.in_force(patches) for row in ROWS) if row.hooks]
    for owner, row in [(_owner(libmtl, row), row) for row in rows]:
        wrap_member(owner, row)


def _owner(libmtl: ModuleType, row: Row) -> Any:
    *path, name = row.member.split(".")
    owner: Any = libmtl
    for part in path:
        owner = getattr(owner, part, None)
    if not hasattr(owner, name):
        raise ReconError(
            f"The LibMTL at {libmtl.__path__[0]} is of an unknown version: it has no {row.member}, "
            "around which libmtl-recon works. Install the PyPI release 1.1.5, or GitHub main at "
            "4336804."
        )
    return owner


def applied(libmtl: ModuleType) -> list[str]:
    """Return the names of the patches applied to this LibMTL, and other conditions of hooks."""
    names = [name for name, status in patch_status(libmtl).items() if status == "applied"]
    return names if environment.world() is None else [*names, RANKS]
