"""What the engine's keys are called on the screen. An unknown key is shown as it is."""

from __future__ import annotations

from so8t_engine.i18n import N_, _

MISSING = "—"
TERMS = {
    "lm": "LM",
    "orthogonality": N_("orthogonality"),
    "alpha": "α",
    "consistency": N_("consistency"),
    "safety": N_("safety"),
    "task": N_("task"),
    "dual": N_("dual"),
    "commutator": N_("commutator"),
    "pet": "PET",
}
METRICS = {
    "loss": N_("loss"),
    "task_accuracy": N_("task accuracy"),
    "task_macro_f1": N_("task macro F1"),
    "task_rows": N_("rows with a task label"),
    "safety_accuracy": N_("safety accuracy"),
    "safety_rows": N_("rows with a safety label"),
    "danger_to_allow": N_("danger → ALLOW rate"),
}
PHASES = {"latent": N_("latent"), "transition": N_("transition"), "stable": N_("stable")}
SPLITS = {"train": N_("training"), "validation": N_("validation"), "test": N_("test")}
FACTS = {
    "device": N_("Device"),
    "compute_dtype": N_("Compute type"),
    "quantization": N_("Quantisation"),
    "parameters_total": N_("Parameters in all"),
    "parameters_lora": N_("LoRA parameters"),
    "parameters_so8t": N_("SO8T parameters"),
    "lora_modules": N_("Adapted modules"),
    "lora_names": N_("Names of adapted modules"),
    "gate_placement": N_("Place of the gate"),
    "rows_train": N_("Training rows"),
    "rows_validation": N_("Validation rows"),
    "rows_test": N_("Test rows"),
    "rows_thinking": N_("Training rows with thinking"),
    "rows_truncated": N_("Rows cut to the sequence length"),
    "tokens_longest": N_("Longest row (tokens)"),
    "tokens_mean": N_("Mean row (tokens)"),
    "kept_layers": N_("Layers that keep their activations (chosen)"),
    "kept_weights": N_("Layers with dequantised weights (chosen)"),
    "kept_waiting": N_("Layers all of which waits in system memory, if they wait (chosen)"),
    "kept_shorter": N_("Layers that keep their activations in shorter passes (tokens: layers)"),
    "threads": N_("CPU threads"),
    "processes": N_("Processes that train together"),
    "loading_seconds": N_("Loading time (s)"),
    "steps": N_("Steps"),
    "resumed_from": N_("Continued from"),
}
#: Parts of the dotted names of a run's results; what is empty says nothing by itself.
RESULTS = METRICS | SPLITS | {
    "steps": N_("Steps"),
    "trained_seconds": N_("training time (s)"),
    "last_loss": N_("last training loss"),
    "alpha": "α",
    "alpha_source": N_("α is"),
    "alpha_converged_at": N_("α within 0.01 of φ from step"),
    "evaluation": "",
    "before": N_("before"),
    "after": N_("after"),
    "rows": N_("rows"),
    "bag_of_words": N_("baseline"),
    "ngram_task_accuracy": N_("task accuracy (n-grams)"),
    "ngram_safety_accuracy": N_("safety accuracy (n-grams)"),
    "memory": "",
    "memory_limit": N_("memory: limit (bytes)"),
    "memory_predicted": N_("memory: predicted peak (bytes)"),
    "memory_predicted_by": N_("memory: the prediction is"),
    "peak_allocated": N_("memory: allocated at the peak (bytes)"),
    "peak_reserved": N_("memory: reserved at the peak (bytes)"),
    "peak_process_rss": N_("memory: the trainer's process at the peak (bytes)"),
}  # fmt: skip


def result_name(path: str) -> str:
    """A dotted name of the results in words: ``evaluation.test.after.loss`` is "test · after · loss"."""
    return " · ".join(name for part in path.split(".") if (name := shown(part, RESULTS)))


def shown(key: str, names: dict[str, str]) -> str:
    """The name of ``key`` in the current language, or the key itself."""
    return _(names[key]) if key in names else key


#: By the last part of a result's name: where its figure comes from.
ORIGINS = {
    "alpha_source": {"learned": N_("learned"), "scheduled": N_("scheduled")},
    "memory_predicted_by": {"estimated": N_("estimated"), "measured": N_("measured")},
}


def cell(value: object, path: str = "") -> str:
    """A setting's or a result's value as text; ``path`` is its dotted name."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return yes_or_no(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(cell(one) for one in value)
    return shown(str(value), ORIGINS.get(path.rpartition(".")[2], {}))


def yes_or_no(value: bool) -> str:
    """For something that is or is not."""
    return _("yes") if value else _("no")


def fact_value(value: object) -> str:
    """A fact's value as text: grouped digits, short fractions, lists with commas."""
    if isinstance(value, bool):
        return yes_or_no(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
