"""Texts that the model writes while it is trained: fixed prompts, the likeliest tokens, no random numbers."""

from __future__ import annotations

import torch

from so8t_engine.data.tokenize import Encoded, quoted
from so8t_engine.i18n import _
from so8t_engine.training.control import RunControl
from so8t_engine.training.events import SampleEvent, WarningEvent
from so8t_engine.training.kernels import go_on_without
from so8t_engine.training.preparation import Prepared
from so8t_engine.training.recovery import release_memory

DEFAULT_PROMPTS = 4


class SampleWriter:
    """Writes the samples of a step as events, with the heads' probabilities at the prompt's end."""

    def __init__(self, prepared: Prepared, control: RunControl) -> None:
        self._prepared, self._control = prepared, control
        settings = prepared.config.samples
        held = [row.prompt for row in prepared.rows.validation if row.prompt]
        self._prompts = list(settings.prompts) or held[:DEFAULT_PROMPTS]

    def due(self, step: int) -> bool:
        """Whether this step writes samples."""
        every = self._prepared.config.samples.every
        return every is not None and step > 0 and step % every == 0

    def write(self, step: int) -> None:
        """Write all; memory that runs out is a warning, and the run goes on without these samples."""
        left = list(self._prompts)
        while left:
            if self._control.ending:
                return
            try:
                self._control.emit(self._sample(step, left[0]))
                del left[0]
            except torch.OutOfMemoryError:
                release_memory()
                self._control.emit(
                    WarningEvent(
                        kind="oom",
                        sentence=_("Memory ran out in a sample; this step's samples are left out."),
                        mend=_("Set samples.tokens lower, or samples.every to nothing."),
                    )
                )
                return
            except Exception as error:
                if not go_on_without(self._control, self._prepared.device, error):
                    raise

    @torch.no_grad()
    def _sample(self, step: int, prompt: str) -> SampleEvent:
        prepared, model = self._prepared, self._prepared.model
        tokenizer, device = prepared.tokenizer, prepared.device
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": quoted(prompt)}], tokenize=False, add_generation_prompt=True
        )
        ids = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        ids = ids[-prepared.config.data.max_length :]
        dtype = prepared.autocast_dtype
        row = Encoded(ids, [-100] * len(ids), len(ids) - 1, None, None, truncated=False)
        with (
            torch.autocast(device.type, dtype=dtype, enabled=dtype is not None),
            model.speaking() as causal_lm,
        ):
            batch = {name: value.to(device) for name, value in prepared.collate([row]).items()}
            _hidden, out = model.adapt(batch)
            ids_1T = torch.tensor([ids], device=device)
            said_1T = causal_lm.generate(
                ids_1T,
                attention_mask=torch.ones_like(ids_1T),
                max_new_tokens=prepared.config.samples.tokens,
                do_sample=False,
                use_cache=True,
                pad_token_id=tokenizer.pad_token_id,
            )
        return SampleEvent(
            step=step,
            prompt=prompt,
            text=tokenizer.decode(said_1T[0][len(ids) :], skip_special_tokens=True),
            task=out.task_logits_N4[0].double().softmax(-1).tolist(),
            safety=out.safety_logits_N2[0].double().softmax(-1).tolist(),
        )
