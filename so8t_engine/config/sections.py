"""Model, data, LoRA, memory, checkpoint and run settings."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from so8t_engine.config.fields import Section, a_switch_in_yaml, setting
from so8t_engine.i18n import N_


class ModelConfig(Section):
    """Which base model, and how its frozen weights are held."""

    path: str = setting(
        "embedded",
        N_("Base model"),
        N_(
            "A folder in transformers' layout, a Hub id (owner/name), or 'embedded' for the small "
            "demonstration model that comes with the program."
        ),
        path="folder",
        min_length=1,
    )
    revision: str | None = setting(
        None,
        N_("Revision"),
        N_("Commit or tag of a Hub model. Empty takes the newest and records which one it was."),
        advanced=True,
    )
    quantization: Literal["nf4", "int8", "none"] = setting(
        "nf4",
        N_("Quantisation"),
        N_("How the frozen weights are stored: nf4 takes 4 bits a weight, int8 takes 8, none keeps 16."),
    )
    double_quant: bool = setting(
        True,
        N_("Double quantisation"),
        N_("Quantises nf4's block scales too: saves about 0.4 bits a weight."),
        advanced=True,
    )
    compute_dtype: Literal["auto", "bf16", "fp16", "fp32"] = setting(
        "auto",
        N_("Compute type"),
        N_("auto takes bf16 on a card that has it, fp16 on one that lacks it, fp32 on the CPU."),
        advanced=True,
    )
    attention: Literal["sdpa", "eager"] = setting(
        "sdpa",
        N_("Attention"),
        N_("sdpa is PyTorch's fused attention; eager stores the attention matrix and is for comparison."),
        advanced=True,
    )
    device: Literal["auto", "cuda", "cpu"] = setting(
        "auto", N_("Device"), N_("auto takes the first NVIDIA card, else the CPU."), advanced=True
    )


class DataConfig(Section):
    """Which rows, and how they become tokens."""

    train: str = setting(
        "embedded:four_class",
        N_("Training rows"),
        N_(
            "JSONL, CSV or Parquet file, a folder of text, a Hub data set (hub:owner/name), or "
            "'embedded:four_class'."
        ),
        path="either",
        min_length=1,
    )
    validation: str | None = setting(
        None,
        N_("Held-out rows"),
        N_("Empty takes the source's own validation split, or sets rows aside as below."),
        path="either",
    )
    format: Literal["auto", "jsonl", "csv", "parquet", "text"] = setting(
        "auto", N_("Format"), N_("auto goes by the file's ending."), advanced=True
    )
    validation_fraction: float = setting(
        0.1,
        N_("Held-out part"),
        N_(
            "Part of the rows set aside where the source has no validation split. "
            "Near-duplicates stay together."
        ),
        ge=0.01,
        le=0.5,
    )
    max_length: int = setting(
        512,
        N_("Sequence length"),
        N_("Longest row in tokens; longer prompts are cut in the middle, and how many is reported."),
        unit=N_("tokens"),
        ge=16,
        le=131072,
    )
    max_rows: int | None = setting(
        None, N_("Row limit"), N_("Takes only the first rows of a shuffled set. Empty takes all."), ge=1
    )


class LoraConfig(Section):
    """The low-rank adapters on the frozen base."""

    r: int = setting(16, N_("Rank r"), N_("Width of each adapter."), ge=1, le=512)
    alpha: int = setting(
        32, N_("LoRA alpha"), N_("The adapter's output is scaled by alpha / r."), ge=1, le=4096
    )
    dropout: float = setting(
        0.05, N_("Dropout"), N_("On the adapter's input while training."), ge=0.0, lt=1.0
    )
    targets: list[str] = setting(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        N_("Target modules"),
        N_(
            "Linear layers that get an adapter. Names are resolved against the loaded architecture "
            "(q/k/v become qkv_proj on Phi-3); a name that matches nothing is an error."
        ),
        min_length=1,
    )
    rank_stabilised: bool = setting(
        False, N_("Rank-stabilised"), N_("Scale by alpha / sqrt(r) instead of alpha / r."), advanced=True
    )


class MemoryConfig(Section):
    """What the run may take of the card."""

    limit_gib: float = setting(
        7.5,
        N_("Memory limit"),
        N_("The run must stay below this. An 8 GB card with a desktop leaves about 7.2 to 7.5 GiB."),
        unit="GiB",
        ge=0.25,
        le=1024.0,
    )
    cap_allocator: bool = setting(
        True,
        N_("Hold the limit"),
        N_(
            "Caps PyTorch's allocator so that an overflow is an error and never a silent spill "
            "to slow memory."
        ),
    )
    layers: Literal["lean", "plain"] = setting(
        "lean",
        N_("Decoder layers"),
        N_(
            "lean: the program's own way through the layers, which keeps little memory (Phi-3, Llama, "
            "Mistral and Qwen2; others run as plain). plain: as transformers and peft wrote them, for "
            "comparison."
        ),
        advanced=True,
    )
    offload_activations: bool = setting(
        False,
        N_("Offload activations"),
        N_(
            "With gradient checkpointing, each layer's input waits in system memory for the backward pass. "
            "The copies run beside the computation."
        ),
    )
    keep_attention: bool = setting(
        False,
        N_("Keep the attention's results"),
        N_(
            "With gradient checkpointing, what the attention made waits with each layer's input and is not "
            "computed again: the longer the sequence, the more time that saves. It takes three times the "
            "memory of the inputs alone, system memory where activations are offloaded."
        ),
    )
    offload_everything: Literal["off", "auto", "on"] = setting(
        "off",
        N_("Offload everything"),
        N_(
            "With activations offloaded, all that the backward pass reads waits in system memory, and no "
            "layer is computed a second time: faster where the card computes slowly beside its bus, as "
            "desktop cards do. It takes about four times the system memory of the attention's results. auto "
            "measures card and bus and decides for how many layers."
        ),
    )
    kept_layers: int = setting(
        0,
        N_("Layers without recomputation"),
        N_(
            "With gradient checkpointing, so many of the last layers keep their activations all the same: "
            "faster, for memory that is left over."
        ),
        unit=N_("layers"),
        advanced=True,
        ge=0,
        le=1024,
    )
    kept_weights: int = setting(
        0,
        N_("Layers with dequantised weights"),
        N_(
            "So many of the first layers hold their quantised weights dequantised as well: faster, for "
            "memory that is left over."
        ),
        unit=N_("layers"),
        advanced=True,
        ge=0,
        le=1024,
    )
    use_spare: bool = setting(
        False,
        N_("Use spare memory"),
        N_(
            "What the estimate's highest value leaves below the limit is used to compute less: layers keep "
            "their activations, then weights stay dequantised. How many is chosen before the run."
        ),
    )
    mlp_tile: int = setting(
        1024,
        N_("MLP tile"),
        N_("Tokens that pass through an MLP at once. Smaller saves memory on long sequences."),
        unit=N_("tokens"),
        advanced=True,
        ge=64,
        le=131072,
    )
    loss_path: Literal["chunked", "full"] = setting(
        "chunked",
        N_("Loss"),
        N_("chunked: logits of a few tokens at a time. full: of all tokens at once, for comparison."),
        advanced=True,
    )
    loss_chunk: int = setting(
        256,
        N_("Loss chunk"),
        N_("Tokens whose logits exist at once. Smaller saves memory and costs a little time."),
        unit=N_("tokens"),
        advanced=True,
        ge=16,
        le=65536,
    )

    @field_validator("offload_everything", mode="before")
    @classmethod
    def _a_switch_in_yaml(cls, value: object) -> object:
        return a_switch_in_yaml(value)


class CheckpointConfig(Section):
    """When the run is saved, and how many are kept."""

    every_steps: int | None = setting(
        None, N_("Every … steps"), N_("Empty saves by time only."), unit=N_("steps"), ge=1
    )
    every_minutes: float | None = setting(
        3.0, N_("Every … minutes"), N_("Empty saves by steps only."), unit=N_("min"), gt=0.0, le=1440.0
    )
    keep: int = setting(
        3, N_("Keep"), N_("Older checkpoints are removed once a newer one is complete."), ge=1, le=1000
    )
    keep_best: bool = setting(
        True,
        N_("Keep the best"),
        N_("Saves when an evaluation's held-out loss is the lowest so far, and keeps that checkpoint too."),
    )
    wait_minutes: float = setting(
        30.0,
        N_("Wait for room"),
        N_(
            "Where the disk is full when the run ends, it waits so long for room instead of losing what was "
            "trained since the last checkpoint. Abort ends the wait."
        ),
        unit=N_("min"),
        advanced=True,
        ge=0.0,
        le=1440.0,
    )


class RunConfig(Section):
    """Where and how the run lives."""

    directory: str = setting(
        "runs", N_("Runs folder"), N_("Each run gets its own folder in here."), path="folder", min_length=1
    )
    placement: Literal["process", "thread"] = setting(
        "process",
        N_("Trainer lives in"),
        N_(
            "process: a child process, so that the window stays fluid and a crash costs no window. "
            "thread: the window's own process."
        ),
        advanced=True,
    )
    when_window_dies: Literal["save_and_stop", "continue"] = setting(
        "save_and_stop",
        N_("If the window dies"),
        N_("What the trainer does when the window that started it is gone without a word."),
        advanced=True,
    )
    stall_minutes: float | None = setting(
        5.0,
        N_("Call it a hang after"),
        N_(
            "Minutes without progress after which a running trainer is said to hang. Slow steps are "
            "waited for ten times as long as the slowest so far. Empty never says so."
        ),
        unit=N_("min"),
        advanced=True,
        gt=0.0,
        le=1440.0,
    )
    cpu_threads: int | None = setting(
        None,
        N_("CPU threads"),
        N_("Empty takes the number of physical cores. The same number gives the same loss sequence."),
        advanced=True,
        ge=1,
        le=256,
    )

    @property
    def stall_s(self) -> float | None:
        """`stall_minutes` in seconds."""
        return None if self.stall_minutes is None else 60.0 * self.stall_minutes
