"""Pictures in front of a trained run: exact where it can be, and honest about whether they are read."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.fft
import torch
from PIL import Image

from so8t_engine.commands.integrate import integrate_run
from so8t_engine.config import Config
from so8t_engine.errors import DataError, ModelError
from so8t_engine.evaluation.outputs import load_tuned
from so8t_engine.model.loading import load_tokenizer
from so8t_engine.so8t.attach import attach_from_placement
from so8t_engine.training.run import run_training
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.vision.encoder import DctEncoder, load_encoder
from so8t_engine.vision.joined import Pair, caption_losses, encode_pair, join, open_image, read_pairs
from so8t_engine.vision.projector import Projector, load_projector, save_projector
from so8t_engine.vision.training import (
    PairData,
    ProjectorTraining,
    gates_in_layers,
    held_out_losses,
    train_projector,
)

COLOURS = {"red": (200, 30, 30), "green": (30, 190, 40), "blue": (30, 40, 210)}


def _picture(name: str, seed: int) -> Any:  # noqa: ANN401
    noise = np.random.default_rng(seed).integers(-25, 25, (24, 24, 3))
    return Image.fromarray(np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8))


def _png(image: Any) -> bytes:  # noqa: ANN401
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _parquet(file: Path, count: int = 24) -> Path:
    names = [list(COLOURS)[i % 3] for i in range(count)]
    table = {
        "image": [_png(_picture(name, i)) for i, name in enumerate(names)],
        "caption": [f"The picture is {name}." for name in names],
        "language": ["en"] * count,
        "split": ["train" if i < count * 2 // 3 else "test" for i in range(count)],
    }
    pq.write_table(pa.table(table), file)
    return file


@pytest.fixture(scope="module")
def run(tiny_model: Path, few_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    values: dict[str, Any] = {
        "model": {"path": str(tiny_model), "device": "cpu", "quantization": "none"},
        "data": {"train": str(few_rows), "max_length": 96},
        "so8t": {"alpha_start": 0.5, "init_std": 0.3, "gate_layers": [0]},
        "training": {"batch_size": 2, "accumulation": 2, "max_steps": 2, "gradient_checkpointing": False,
                     "optimizer": "adamw", "learning_rate": 0.02},
        "run": {"cpu_threads": 1},
    }  # fmt: skip
    made = RunDirectory.create(Config.model_validate(values), tmp_path_factory.mktemp("vision") / "run")
    assert run_training(made, handle_signals=False) == 0
    return made


def test_the_embedded_encoder_is_the_dct_of_its_patches() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    features = DctEncoder().encode([image])[0].numpy()
    pixels = np.asarray(image, dtype=np.float64) / 127.5 - 1
    patch = pixels[8:16, 24:32, 1]
    wanted = scipy.fft.dctn(patch, norm="ortho")[:4, :4] / 8
    found = features.reshape(4, 4, 3, 4, 4)[1, 3, 1]
    assert np.abs(found - wanted).max() < 1e-6


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_clip_and_siglip_towers_come_from_a_folder(kind: str, tmp_path: Path) -> None:
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        CLIPVisionModel,
        SiglipImageProcessor,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
             "image_size": 32, "patch_size": 8}  # fmt: skip
    size = {"height": 32, "width": 32}
    torch.manual_seed(0)
    if kind == "clip":
        tower: Any = CLIPVisionModel(CLIPVisionConfig(**shape))
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(tmp_path)
    else:
        tower = SiglipVisionModel(SiglipVisionConfig(**shape))
        SiglipImageProcessor(size=size).save_pretrained(tmp_path)
    tower.save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path), torch.device("cpu"))
    assert (encoder.patches, encoder.width) == (16, 32)
    found = encoder.encode([_picture("red", 0), _picture("blue", 1)])
    assert found.shape == (2, 16, 32)
    assert not torch.allclose(found[0], found[1])
    with pytest.raises(ModelError):
        load_encoder(str(tmp_path / "nothing"), torch.device("cpu"))


def test_the_joined_sequence_is_gated_and_its_loss_is_transformers_own(run: RunDirectory) -> None:
    config = run.config()
    tuned, tokenizer = load_tuned(run.final, config), load_tokenizer(config.model)
    samples = [
        encode_pair(tokenizer, Pair(None, text, lang)) for text, lang in (("red", "en"), ("青い空です", "ja"))
    ]
    torch.manual_seed(1)
    patches_NPH = torch.randn(2, 5, 64)
    batch = join(tuned.causal_lm.get_input_embeddings(), samples, patches_NPH)
    with torch.no_grad(), gates_in_layers(tuned):
        sums_N, counts_N = caption_losses(tuned, batch)
    for row, sample in enumerate(samples):
        length = int(batch.mask_NT[row].sum())
        assert length == len(sample.before) + 5 + len(sample.after) + len(sample.answer)
        start = len(sample.before)
        assert torch.equal(batch.embeds_NTH[row, start : start + 5], patches_NPH[row])
        with torch.no_grad(), attach_from_placement(tuned.causal_lm, tuned.so8t, tuned.placement):
            loss = tuned.causal_lm(
                inputs_embeds=batch.embeds_NTH[row : row + 1, :length],
                labels=batch.labels_NT[row : row + 1, :length],
            ).loss
        assert int(counts_N[row]) == len(sample.answer)
        assert float(sums_N[row] / counts_N[row]) == pytest.approx(float(loss), rel=1e-4)
    text = tokenizer.decode(samples[0].before + samples[0].after)
    assert text.startswith("<|user|>")
    assert text.rstrip().endswith("<|assistant|>")
    assert "\ue000" not in text


def test_training_goes_on_after_a_kill_with_the_same_numbers(run: RunDirectory, tmp_path: Path) -> None:
    config = run.config()
    tuned, tokenizer = load_tuned(run.final, config), load_tokenizer(config.model)
    pairs = read_pairs(_parquet(tmp_path / "images.parquet"), "train")
    data = PairData(DctEncoder().encode([p.image for p in pairs]), [encode_pair(tokenizer, p) for p in pairs])
    options = ProjectorTraining(steps=60, batch_size=3, learning_rate=1e-2)
    frozen = {n: p.clone() for n, p in tuned.peft.named_parameters()}
    whole = Projector(48, 64, seed=1)
    losses = train_projector(tuned, whole, data, options)
    assert losses[-1] < losses[0]
    assert all(torch.equal(p, frozen[n]) for n, p in tuned.peft.named_parameters())
    assert all(p.grad is None for p in tuned.so8t.parameters())

    class KillError(Exception):
        pass

    def kill(step: int, _loss: float) -> None:
        if step == 40:
            raise KillError

    state = tmp_path / "projector.pt"
    broken = Projector(48, 64, seed=1)
    with pytest.raises(KillError):
        train_projector(tuned, broken, data, options, state_file=state, proceed=kill)
    again = Projector(48, 64, seed=1)
    steps: list[int] = []
    assert train_projector(
        tuned, again, data, options, state_file=state, proceed=lambda step, loss: steps.append(step)
    ) == losses  # fmt: skip
    assert steps[0] == 26
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    save_projector(tmp_path / "p.safetensors", again, "embedded")
    first = (tmp_path / "p.safetensors").read_bytes()
    loaded, encoder = load_projector(tmp_path / "p.safetensors")
    assert encoder == "embedded"
    assert torch.equal(loaded(data.features_NPD), again(data.features_NPD))
    save_projector(tmp_path / "p.safetensors", loaded, "embedded")
    assert (tmp_path / "p.safetensors").read_bytes() == first


def test_held_out_pictures_tell_whether_pictures_are_read(run: RunDirectory, tmp_path: Path) -> None:
    config = run.config()
    tuned, tokenizer = load_tuned(run.final, config), load_tokenizer(config.model)
    file = _parquet(tmp_path / "images.parquet", 48)
    train, test = read_pairs(file, "train"), read_pairs(file, "test")
    encoder = DctEncoder()

    def data(pairs: list[Pair]) -> PairData:
        return PairData(encoder.encode([p.image for p in pairs]), [encode_pair(tokenizer, p) for p in pairs])

    projector = Projector(48, 64, seed=1, scale=0.02)
    train_projector(tuned, projector, data(train), ProjectorTraining(steps=150, learning_rate=3e-2))
    found = held_out_losses(tuned, projector, data(test), seed=0)
    blind = Projector(48, 64, seed=1, scale=0.0)  # gives every picture the same patches
    nothing = held_out_losses(tuned, blind, data(test), seed=0)
    assert nothing["right"] == pytest.approx(nothing["wrong"])
    assert found["difference"]["low"] > 0
    few = held_out_losses(tuned, projector, data(test[:1]), seed=0)
    assert (few["right"], few["difference"]) == (None, None)


def test_the_whole_step_and_again_after_half_of_it(run: RunDirectory, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    images = _parquet(tmp_path / "images.parquet")
    options = ProjectorTraining(steps=8, batch_size=4)

    def digest(out: Path) -> dict[str, str]:
        files = [p for p in out.rglob("*") if p.is_file()]
        return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    out = tmp_path / "out"
    report = integrate_run(run.path, out, images=images, training=options, gguf=["q8_0"], scratch=tmp_path)
    assert report["vision"]["pairs"] == 16
    assert report["vision"]["joined_logits"]["max_abs"] <= 1e-3
    assert report["vision"]["joined_logits"]["top1"] == 1.0
    assert report["bake"]["as_saved"]["max_abs"] <= 1e-4
    assert report["gguf"][0]["check"]["max_relative"] < 1e-2
    first = digest(out)
    assert json.loads((out / "integration.json").read_text("utf-8")) == report
    (out / "integration.json").unlink()
    (out / "projector.safetensors").unlink()
    for file in (out / "gguf").iterdir():
        file.unlink()
    integrate_run(run.path, out, images=images, training=options, gguf=["q8_0"], scratch=tmp_path)
    assert digest(out) == first


def test_without_pictures_the_report_says_so(run: RunDirectory, tmp_path: Path) -> None:
    from so8t_engine.commands.integrate import text_of

    report = integrate_run(run.path, tmp_path / "out", images=None)
    assert report["vision"] is None
    assert "no projector was trained" in text_of(report, tmp_path)
    assert not (tmp_path / "out" / "projector.safetensors").exists()


def test_what_is_no_picture_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 3"):
        open_image(b"\x89PNG nothing", "x.parquet, row 3")
    pq.write_table(pa.table({"caption": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="no columns"):
        read_pairs(tmp_path / "x.parquet", "train")
