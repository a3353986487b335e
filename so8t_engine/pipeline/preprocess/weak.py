"""Rules that propose one of the four classes. Their labels are weak, and are called so wherever they appear.

A rule sees words, not who is asked for what: "explain how phishing is recognised" and "write a phishing mail"
share theirs. Rules therefore vote, and a person reviews where they disagree with each other or with a label.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from so8t_engine.data.labels import Task


def _rule(
    name: str, task: Task, confidence: float, *patterns: str
) -> tuple[str, Task, float, re.Pattern[str]]:
    return name, task, confidence, re.compile("|".join(patterns), re.IGNORECASE)


RULES = (
    _rule(
        "weapons", Task.REFUSE, 0.9,
        r"\b(?:build|make|assemble|synthesi[sz]e)\b.{0,40}\b(?:bomb|explosive|grenade|nerve agent"
        r"|chemical weapon|pipe gun|detonator)s?\b",
        r"(?:爆弾|爆発物|手榴弾|神経ガス|化学兵器|銃)(?:の|を).{0,8}(?:作り方|作る|製造|組み立て)",
    ),
    _rule(
        "malware", Task.REFUSE, 0.85,
        r"\b(?:write|create|build|code|spread|send)\b.{0,40}\b(?:ransomware|keylogger|malware|trojan"
        r"|computer virus|botnet|phishing)\b",
        r"(?:ランサムウェア|マルウェア|ウイルス|キーロガー|フィッシング).{0,10}(?:作|書|仕込|送|広め|ばらま)",
    ),
    _rule(
        "fraud", Task.REFUSE, 0.8,
        r"\b(?:forge|counterfeit|fake)\b.{0,30}\b(?:invoice|passport|licen[cs]e|banknote|money|certificate"
        r"|signature|id)s?\b",
        r"\blaunder\b",
        r"偽造|偽札|偽の(?:身分証|請求書|証明書)|資金洗浄|詐欺の手口",
    ),
    _rule(
        "violence", Task.REFUSE, 0.8,
        r"\b(?:kill|murder|poison|kidnap|blackmail|stalk)\b.{0,30}\b(?:him|her|them|someone|somebody|neighbou?r"
        r"|wife|husband|boss|people)\b",
        r"\banonymous threats?\b",
        r"殺す方法|毒を盛|誘拐|脅迫(?:状|文|する)|ストーカー",
    ),
    _rule(
        "self-harm", Task.ESCALATION, 0.85,
        r"\b(?:kill myself|suicid\w+|end my life|hurt myself|self[- ]harm)\b",
        r"死にたい|自殺|自傷|消えてしまいたい",
    ),
    _rule(
        "another's data", Task.DENY, 0.75,
        r"\b(?:another|someone else|somebody else|other)(?:'s| person's| employee's)?\b.{0,40}\b(?:password"
        r"|salary|medical record|personnel file|private messages?|home address|bank account)s?\b",
        r"(?:他人|他の人|別の人|他の社員|同僚)の.{0,12}(?:パスワード|給与|カルテ|人事記録|住所|口座|私信)",
    ),
    _rule(
        "no right", Task.DENY, 0.75,
        r"\b(?:bypass|circumvent|disable|skip)\b.{0,30}\b(?:access control|approval|audit|login|password"
        r"|security|policy|log)s?\b",
        r"\bwithout (?:permission|authori[sz]ation|approval)\b",
        r"無許可|許可なく|権限なし|監査ログを消",
    ),
    _rule(
        "medical", Task.ESCALATION, 0.75,
        r"\b(?:dosage|diagnos\w+|prescri\w+|stop taking|chest pain|medication)\b",
        r"投薬|診断|処方|薬の量|胸の痛み|服用",
    ),
    _rule(
        "legal", Task.ESCALATION, 0.75,
        r"\b(?:lawsuit|sue|legal advice|custody|inherit\w*|terminate (?:the|a|my) contract|plead)\b",
        r"訴訟|裁判|親権|相続|契約を解除|法的助言",
    ),
    _rule(
        "money", Task.ESCALATION, 0.7,
        r"\b(?:invest (?:all|my)|mortgage|life savings|loan approval|transfer (?:all|the) funds)\b",
        r"全額投資|住宅ローン|老後の資金|融資の可否|送金を承認",
    ),
    _rule(
        "not undone", Task.ESCALATION, 0.7,
        r"\b(?:delete|erase|wipe|drop)\b.{0,30}\b(?:all|entire|production|backups?)\b",
        r"(?:全て|すべて|本番).{0,10}(?:削除|消去)",
    ),
)  # fmt: skip
_HARMLESS = re.compile(
    r"\b(?:summari[sz]e|translate|explain|describe|compare|list|how many|what is|correct the spelling"
    r"|write a poem|recipe)\b"
    r"|要約|翻訳|説明|教えて|比較|一覧|いくつ|何個|レシピ|添削",
    re.IGNORECASE,
)
HARMLESS_CONFIDENCE = 0.6


@dataclass(frozen=True, slots=True)
class WeakLabel:
    """What the rules propose.

    Args:
        task: the class, or None where no rule applies.
        confidence: in [0, 1]; a rule's own guess, not measured.
        votes: names of the rules that apply.
        contested: whether rules of different classes apply.
    """

    task: Task | None
    confidence: float
    votes: tuple[str, ...]
    contested: bool


def propose(prompt: str) -> WeakLabel:
    """The class that the rules propose for a prompt; the gravest where they disagree, at less confidence."""
    fired = [(name, task, confidence) for name, task, confidence, rule in RULES if rule.search(prompt)]
    if not fired:
        if _HARMLESS.search(prompt):
            return WeakLabel(Task.ALLOW, HARMLESS_CONFIDENCE, ("harmless",), False)
        return WeakLabel(None, 0.0, (), False)
    best = max(fired, key=lambda one: (one[1], one[2]))
    contested = len({task for _name, task, _confidence in fired}) > 1
    confidence = max(c for _n, task, c in fired if task == best[1])
    return WeakLabel(
        best[1], confidence * (0.6 if contested else 1.0), tuple(n for n, _t, _c in fired), contested
    )


def doubt(given: int | None, weak: WeakLabel) -> float:
    """How much a row wants a person's eye, in [0, 1]: a label that the rules contradict comes first."""
    if given is not None:
        return 0.5 + weak.confidence / 2 if weak.task is not None and weak.task != given else 0.0
    return 0.5 * (1.0 - weak.confidence) + (0.4 if weak.contested else 0.0)
