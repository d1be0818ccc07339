"""All hooks at members of LibMTL's Trainer, meter and architectures, and their order.

Each row is one member and the one wrapper around it. Its hooks run from top to bottom: those
``before``, the first parts of those ``around``, LibMTL's own code, and those ``after``. Each hook
is defined in the file of its subject; its place among the others is defined here only, with the
reason. A hook that belongs to a patch is left out if that patch was not applied.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from libmtl_recon.errors import ReconError
from libmtl_recon.integrations.libmtl import (
    checkpoints,
    compiled,
    decoders,
    encoder_lists,
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

    # LibMTL creates a class for each model, on which nothing else depends.
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
                "Devices that are hidden from CUDA before its first use stay hidden.",
                patch=RANKS,
            ),
        ),
    ),
    # When a Trainer is built: what it cannot do is refused before anything is built.
    Row(
        "Trainer.__init__",
        before=(
            Hook(
                "meet",
                setting_up.meet,
                "If a later hook refuses the run, all ranks end, and one prints the reason.",
                ahead_of=("choose-tasks",),
                patch=RANKS,
            ),
            Hook(
                "ranks",
                refusals_on_ranks.check_trainer,
                "Refuses what several ranks would train wrongly.",
                patch=RANKS,
            ),
            Hook(
                "choose-tasks",
                hooks.choose_tasks,
                "The next hooks check the tasks that are trained, which this hook selects.",
                ahead_of=("decoders", "architecture", "own-weighting"),
            ),
            Hook(
                "decoders",
                decoders.check_decoders,
                "LibMTL would not train decoders in a plain dict.",
            ),
            Hook(
                "complete-arguments",
                hand_written.complete_arguments,
                "Arguments written by hand get the flags' defaults, and ours are checked.",
                ahead_of=("weighting", "architecture", "own-weighting", "encoder"),
            ),
            Hook("weighting", refusals.check_weighting, "It would fail in the first step."),
            Hook("architecture", refusals.check_architecture, "It could not be built."),
            Hook(
                "own-weighting",
                refusals.check_own_weighting,
                "Our weightings are checked against the tasks.",
            ),
            Hook("encoder", encoders.check_encoder, "Its parts are known only when it is built."),
        ),
        after=(
            Hook("encoder-class", encoders.give_back_encoder_class, "The model is built."),
            Hook(
                "precision",
                precision.set_precision,
                "Hooks of users must see the model that is trained.",
                ahead_of=("tell-built",),
            ),
            Hook(
                "choose-way",
                way.choose_way,
                "The way is chosen for each model that a Trainer may train.",
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
                "Its class derives from the base's and depends on the checkpoint to be loaded.",
                ahead_of=("load-whole",),
            ),
            Hook(
                "load-whole",
                trainer.load_whole,
                "The model exists only now.",
                patch="strict-checkpoint",
            ),
        ),
        after=(
            Hook("wrap-model", _wrap_model, "The model's class exists only now."),
            Hook(
                "agree-on-model",
                setting_up.agree_on_model,
                "A checkpoint is loaded, and the optimiser is not yet created.",
                patch=RANKS,
            ),
        ),
    ),
    Row(
        "Trainer._prepare_optimizer",
        after=(Hook("recon-from", recon.split_optimizer_state, "The optimiser exists only now."),),
    ),
    Row(
        "architecture.AbsArchitecture.__init__",
        after=(
            Hook(
                "state-dicts",
                checkpoints.watch_state_dicts,
                "The model is an initialised module only now.",
            ),
        ),
    ),
    # When a Trainer trains.
    Row(
        "Trainer.train",
        before=(
            Hook(
                "begin-training",
                setting_up.begin_training,
                "Hooks of users must find the ranks in the same state.",
                ahead_of=("tell-training",),
                patch=RANKS,
            ),
            Hook(
                "tell-training",
                hooks.tell_training,
                "Also for a Trainer that does not call LibMTL's constructor.",
            ),
            Hook(
                "learning-rates",
                lr_guard.compare_learning_rates,
                "The number of epochs is known only now.",
            ),
            Hook(
                "precision", precision.set_precision, "A Trainer may not call LibMTL's constructor."
            ),
            Hook("choose-way", way.choose_way, "A script may have replaced the model by a copy."),
            Hook(
                "compiled",
                compiled.refuse_split,
                "A script may compile the network after it was built.",
            ),
            Hook(
                "name-scheduler",
                trainer.name_scheduler,
                "A script may have created the scheduler after the Trainer was built.",
                patch="own-scheduler",
            ),
        ),
        after=(
            Hook(
                "give-weights",
                trainer.give_weights,
                "LibMTL's own code must have computed the weights.",
                patch="return-weight",
            ),
            Hook("tell-trained", hooks.tell_trained, "Only for a training that has not failed."),
        ),
    ),
    Row(
        "Trainer.test",
        before=(
            Hook(
                "begin-evaluation",
                setting_up.begin_evaluation,
                "All ranks must evaluate the same network.",
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
                "LibMTL would fail with the name of a task only.",
                ahead_of=("wrap-loaders", "slice-loaders"),
            ),
            Hook(
                "slice-loaders",
                setting_up.slice_loaders,
                "The loaders are still the script's own here.",
                ahead_of=("wrap-loaders",),
                patch=RANKS,
            ),
            Hook(
                "wrap-loaders",
                trainer.wrap_loaders,
                "LibMTL iterates over these instead of the script's loaders.",
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
                "Missing labels are known only for the whole batch.",
                ahead_of=("missing-labels", "split-losses"),
                patch=RANKS,
            ),
            Hook(
                "missing-labels",
                losses.of_labelled,
                "Losses are computed from labelled samples only.",
                ahead_of=("split-losses",),
            ),
            Hook(
                "split-losses",
                functions.split_losses,
                "It computes one scalar per task instead of LibMTL's vector.",
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
                "Missing labels are known only for the whole batch.",
                ahead_of=("missing-labels",),
                patch=RANKS,
            ),
            Hook(
                "missing-labels",
                scores.update_labelled,
                "LibMTL's own code must see labelled samples only.",
            ),
        ),
    ),
    Row(
        f"{_METER}.get_score",
        around=(
            Hook("missing-labels", scores.score_labelled, "A task without labels has no score."),
        ),
    ),
    Row(
        f"{_METER}.display",
        after=(Hook("tell-measured", hooks.tell_measured, "The scores are known only now."),),
    ),
    Row(
        f"{_METER}.reinit",
        before=(
            Hook("missing-labels", scores.forget_pass, "Each pass has its own record of labels."),
        ),
    ),
    Row(
        "_record.count_improvement",
        around=(
            Hook(
                "missing-labels", scores.compare_scored, "A task without a score is not compared."
            ),
        ),
    ),
)

# Rows for each model's own class, which ``_prepare_model`` creates.
FORWARD = Row(
    "model.forward",
    around=(
        Hook(
            "fillers",
            fillers.know_fillers,
            "Batch norms use this in the rest of the forward pass.",
            ahead_of=("note-calls",),
            patch=RANKS,
        ),
        Hook(
            "branches",
            branching.draw_alike,
            "All ranks must draw the same numbers for the whole batch.",
            patch=RANKS,
        ),
        Hook(
            "see-lists",
            encoder_lists.see_lists,
            "Only a forward pass shows whether the encoder returns a list.",
        ),
        Hook(
            "note-calls",
            functions.note_calls,
            "It must record the graph of the losses that `cut-graph` later cuts off.",
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
            "The gradients of the step are complete only after all other hooks.",
            ahead_of=("encoder-reached", "add-up", "present-tasks", "cut-graph"),
            patch=RANKS,
        ),
        Hook(
            "encoder-reached",
            refusals.see_encoder_reached,
            "Gradients exist only after all others, the step's tasks are known only before.",
            ahead_of=("add-up", "present-tasks"),
        ),
        Hook(
            "add-up",
            accumulation.add_up,
            "It needs the tasks that are present, which are forgotten when the next hook ends.",
            ahead_of=("present-tasks",),
        ),
        Hook(
            "present-tasks",
            steps.of_present_tasks,
            "The weighting must get the present tasks only.",
            ahead_of=("cut-graph",),
        ),
        Hook(
            "cut-graph",
            functions.cut_graph,
            "It recognises the losses that the weighting would be given.",
            patch="fast-gradients",
        ),
    ),
)


# For each model's own class, with ``rep_grad``.
REPRESENTATIONS = Row(
    "model._get_grads",
    after=(
        Hook(
            "average",
            averaging.average_representations,
            "The weighting computes its weights from these gradients.",
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
