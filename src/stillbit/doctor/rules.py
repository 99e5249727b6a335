"""The rules: one line each. A name stays as it is; `docs/doctor.md` explains every one, `tests/doctor` triggers every one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from stillbit.doctor import courses, files, grids, methods, optimizers, treatments
from stillbit.doctor.finding import Severity
from stillbit.doctor.subjects import FileSubject, ModelSubject, RunSubject
from stillbit.oscillation import optimizer_rules
from stillbit.oscillation.optimizer_rules import Found


@dataclass(frozen=True)
class Rule:
    """A rule.

    Attributes:
        name: As findings give it.
        severity: Of its findings.
        subject: What it looks at.
        find: Gives what it finds in a subject, the worst first; raises `Unknown` where it cannot look.
    """

    name: str
    severity: Severity
    subject: type[ModelSubject] | type[RunSubject] | type[FileSubject]
    find: Callable[[Any], Iterator[Found]]


RULES: tuple[Rule, ...] = (
    # A run's course.
    Rule("diverged", "error", RunSubject, courses.diverged),
    Rule("checkpoint-unreadable", "error", RunSubject, courses.checkpoint_unreadable),
    Rule("failed", "error", RunSubject, courses.failed),
    Rule("figure-not-finite", "error", RunSubject, courses.figure_not_finite),
    Rule("collapsed", "error", RunSubject, courses.collapsed),
    Rule("at-chance", "error", RunSubject, courses.at_chance),
    Rule("unfinished", "warning", RunSubject, courses.unfinished),
    Rule("loss-not-falling", "warning", RunSubject, courses.loss_not_falling),
    Rule("images-skipped", "warning", RunSubject, courses.images_skipped),
    Rule("random-start", "note", RunSubject, courses.random_start),
    Rule("best-is-not-last", "note", RunSubject, courses.best_is_not_last),
    # Optimizer and methods.
    Rule("scale-not-in-optimizer", "error", ModelSubject, optimizers.scale_not_in_optimizer),
    Rule("weight-not-in-optimizer", "error", ModelSubject, optimizers.weight_not_in_optimizer),
    Rule("foreign-parameters", "warning", ModelSubject, optimizers.foreign_parameters),
    Rule("two-optimizers", "warning", ModelSubject, optimizers.two_optimizers),
    Rule("scale-weight-decay", "warning", ModelSubject, optimizer_rules.scale_weight_decay),
    Rule("scale-learning-rate", "warning", ModelSubject, optimizer_rules.scale_learning_rate),
    Rule("scale-learning-rate-sgd", "warning", ModelSubject, optimizer_rules.scale_learning_rate_sgd),
    Rule("scales-hardly-move", "note", RunSubject, treatments.scales_hardly_move),
    Rule("scale-of-resting-weight", "warning", ModelSubject, optimizer_rules.scale_of_resting_weight),
    Rule("scale-without-gradient", "warning", ModelSubject, optimizers.scale_without_gradient),
    Rule("half-precision-weights", "warning", ModelSubject, optimizers.half_precision),
    Rule("method-not-attached", "error", ModelSubject, methods.method_not_attached),
    Rule("method-elsewhere", "error", ModelSubject, methods.method_elsewhere),
    Rule("method-missed-steps", "warning", ModelSubject, methods.method_missed_steps),
    # Quantizers.
    Rule("not-finite", "error", ModelSubject, grids.not_finite),
    Rule("uncalibrated", "error", ModelSubject, grids.uncalibrated),
    Rule("never-called", "error", ModelSubject, grids.never_called),
    Rule("bypassed", "error", ModelSubject, grids.bypassed),
    Rule("scale-collapsed", "error", ModelSubject, grids.scale_collapsed),
    Rule("dead-activation", "error", ModelSubject, grids.dead_activation),
    Rule("dead-weight", "warning", ModelSubject, grids.dead_weight),
    Rule("few-codes", "warning", ModelSubject, grids.few_codes),
    Rule("sign-out-of-reach", "warning", ModelSubject, grids.sign_out_of_reach),
    Rule("saturated-weight", "warning", ModelSubject, grids.saturated_weight),
    Rule("saturated-activation", "warning", ModelSubject, grids.saturated_activation),
    Rule("float-layer", "note", ModelSubject, grids.float_layers),
    Rule("one-image-size", "note", ModelSubject, grids.bound_to_one_size),
    # Oscillation and what is done against it.
    Rule("oscillating-untreated", "warning", RunSubject, treatments.oscillating_untreated),
    Rule("oscillation-rising", "warning", RunSubject, treatments.oscillation_rising),
    Rule("freezing-one-oscillation", "warning", RunSubject, treatments.threshold_below_momentum),
    Rule("freezing-one-oscillation", "warning", ModelSubject, methods.threshold_below_momentum),
    Rule("freezing-two-oscillations", "note", RunSubject, treatments.threshold_low),
    Rule("freezing-two-oscillations", "note", ModelSubject, methods.threshold_low),
    Rule("window-too-long", "warning", RunSubject, treatments.window_too_long),
    Rule("window-too-long", "warning", ModelSubject, methods.window_too_long),
    Rule("freezing-nothing", "warning", RunSubject, treatments.froze_nothing),
    Rule("freezing-nothing", "warning", ModelSubject, methods.threshold_never),
    Rule("freezing-everything", "warning", RunSubject, treatments.froze_early),
    Rule("freezing-everything", "warning", ModelSubject, methods.frozen_nearly_all),
    Rule("dampening-nothing", "warning", RunSubject, treatments.dampening_does_nothing),
    Rule("dampening-nothing", "warning", ModelSubject, methods.dampening_weight_zero),
    Rule("dampening-dominates", "warning", RunSubject, treatments.dampening_dominates),
    Rule("annealing-nothing-free", "warning", RunSubject, treatments.annealing_nothing_free),
    Rule("annealing-nothing-free", "warning", ModelSubject, methods.annealing_nothing_free),
    # Batch norms and averages.
    Rule("stale-batchnorm", "warning", ModelSubject, methods.stale_batchnorm),
    Rule("reestimation-hurt", "warning", RunSubject, treatments.reestimation_hurt),
    Rule("reestimation-helped", "note", RunSubject, treatments.reestimation_helped),
    Rule("not-reestimated", "note", RunSubject, treatments.not_reestimated),
    Rule("lost-activation", "error", ModelSubject, methods.lost_activation),
    Rule("averaged-model", "warning", ModelSubject, methods.averaged_model),
    Rule("pins-and-latents", "warning", ModelSubject, grids.pins_and_latents),
    # Files.
    Rule("accumulator-overflow", "error", FileSubject, files.accumulator_overflow),
    Rule("mostly-float", "warning", FileSubject, files.mostly_float),
    Rule("wider-than-bits", "warning", FileSubject, files.wider_than_bits),
    Rule("float-kernel", "note", FileSubject, files.float_kernel),
    Rule("pair-saturation", "note", FileSubject, files.pair_saturation),
    Rule("inexact-layer", "note", FileSubject, files.notes_of_the_file),
)
