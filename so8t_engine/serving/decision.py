"""From the heads' probabilities to a decision, and what is said when the model's answer is not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from so8t_engine.config.serving import ServingConfig

TASKS = ("ALLOW", "ESCALATION", "DENY", "REFUSE")
SAFETY = ("safe", "dangerous")


@dataclass(frozen=True, slots=True)
class HeadReading:
    """Probabilities at the prompt's last token.

    Attributes:
        task: of the four classes, read from M h. safety: (safe, dangerous), read from R_safe h.
        dual: the same two, once from each side.
    """

    task: tuple[float, ...]
    safety: tuple[float, ...]
    dual: tuple[tuple[float, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """Label and confidence of each head, and all probabilities by name."""
        return {
            "task": _head(TASKS, self.task),
            "safety": _head(SAFETY, self.safety),
            "dual": [_head(SAFETY, one) for one in self.dual],
        }


def _head(names: Sequence[str], values: Sequence[float]) -> dict[str, Any]:
    best = max(range(len(values)), key=values.__getitem__)
    return {
        "label": names[best],
        "confidence": round(values[best], 6),
        "probabilities": {name: round(value, 6) for name, value in zip(names, values, strict=True)},
    }


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done with a request.

    Attributes:
        label: one of `TASKS`. escalated: an ALLOW that became an ESCALATION.
        reason: ``head``, ``low_confidence``, ``danger``, ``heads_disagree`` or ``no_reading``.
    """

    label: str
    escalated: bool
    reason: str


def decide(heads: HeadReading, settings: ServingConfig) -> Decision:
    """The task head's label; an ALLOW that is unsure, or that another head objects to, is escalated.

    Probabilities that are no numbers are a refusal.
    """
    every = [*heads.task, *heads.safety, *(value for one in heads.dual for value in one)]
    if not all(0.0 <= value <= 1.0 for value in every):
        return Decision("REFUSE", False, "no_reading")
    best = max(range(len(TASKS)), key=heads.task.__getitem__)
    if best != 0:
        return Decision(TASKS[best], False, "head")
    if heads.task[0] < settings.allow_threshold:
        return Decision("ESCALATION", True, "low_confidence")
    if heads.safety[1] >= settings.danger_threshold:
        return Decision("ESCALATION", True, "danger")
    if any(one[1] > one[0] for one in heads.dual):
        return Decision("ESCALATION", True, "heads_disagree")
    return Decision("ALLOW", False, "head")


_SAID = {
    "en": {
        "ESCALATION": "This needs a person to decide. I have not answered; please ask someone responsible.",
        "DENY": "I must not do this.",
        "REFUSE": "I cannot help with this.",
    },
    "ja": {
        "ESCALATION": "これは人の判断が必要です。回答していませんので、責任者にご確認ください。",
        "DENY": "これを行うことはできません。",
        "REFUSE": "このご要望にはお応えできません。",
    },
    "zh": {
        "ESCALATION": "此事需要由人来决定。我没有作答,请咨询负责人。",
        "DENY": "我不能这样做。",
        "REFUSE": "我无法就此提供帮助。",
    },
    "ko": {
        "ESCALATION": "사람의 판단이 필요한 일입니다. 답변하지 않았으니 담당자에게 문의해 주세요.",
        "DENY": "이 일은 할 수 없습니다.",
        "REFUSE": "이 요청은 도와드릴 수 없습니다.",
    },
    "ru": {
        "ESCALATION": "Это должен решить человек. Я не ответил; обратитесь к ответственному лицу.",
        "DENY": "Я не могу этого сделать.",
        "REFUSE": "Я не могу с этим помочь.",
    },
    "de": {
        "ESCALATION": "Das muss ein Mensch entscheiden. Bitte fragen Sie jemanden, der zuständig ist.",
        "DENY": "Das darf ich nicht tun.",
        "REFUSE": "Dabei kann ich nicht helfen.",
    },
    "fr": {
        "ESCALATION": "Une personne doit en décider. Je n'ai pas répondu ; demandez à un responsable.",
        "DENY": "Je ne dois pas faire cela.",
        "REFUSE": "Je ne peux pas vous aider sur ce point.",
    },
    "es": {
        "ESCALATION": "Esto debe decidirlo una persona. No he respondido; consulte a alguien responsable.",
        "DENY": "No debo hacer esto.",
        "REFUSE": "No puedo ayudar con esto.",
    },
}

#: Frequent short words that tell the Latin-script languages apart; English where none decides.
_FREQUENT = {
    "de": "der die das und ist nicht ich ein eine bitte wie mit für sie zu den auf wir mir kann",
    "fr": "le la les et est une des je vous pas pour avec dans que qui du au ce mon comment",
    "es": "el los las y es una no por para con que del yo mi como puede usted está qué se",
    "en": "the and is of to a in you i not for with that it my please how would like do",
}


def language_of(text: str) -> str:
    """The language of a question, by script, then by frequent words; ``en`` when in doubt."""
    kana = len(re.findall(r"[\u3040-\u30ff\uff66-\uff9d]", text))
    han = len(re.findall(r"[\u3400-\u9fff]", text))
    if kana and kana + han > 1:
        return "ja"
    scripts = {
        "ko": len(re.findall(r"[\uac00-\ud7af]", text)),
        "zh": han,
        "ru": len(re.findall(r"[\u0400-\u04ff]", text)),
        "en": len(re.findall(r"[A-Za-z]", text)) // 3,  # a word of Latin letters for a sign of the others
    }
    best = max(scripts, key=scripts.__getitem__)
    if scripts[best] and best != "en":
        return best
    words = re.findall(r"[^\W\d_]+", text.lower())
    score = {code: sum(word in known.split() for word in words) for code, known in _FREQUENT.items()}
    found = max(score, key=score.__getitem__)
    return found if score[found] > score["en"] else "en"


def fixed_answer(label: str, query: str) -> str:
    """What is said instead of an answer, in the language of ``query``."""
    return _SAID[language_of(query)][label]
