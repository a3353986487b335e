"""What goes in and out of the service, as its OpenAPI document says."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _encodable(text: str) -> str:
    text.encode("utf-8")  # half a surrogate pair is no text; UnicodeEncodeError is a ValueError
    return text


Text = Annotated[str, AfterValidator(_encodable)]
#: Fits what JSON readers keep exact.
MAX_SEED = 2**53 - 1


class ThinkRequest(BaseModel):
    """A question."""

    model_config = ConfigDict(extra="forbid", strict=True)

    query: Text = Field(min_length=1, max_length=10_000)
    max_new_tokens: int = Field(
        default=256, ge=1, le=8192, description="of the answer; the service's limit holds"
    )
    temperature: float = Field(default=0.0, ge=0.0, le=2.0, description="0 takes the likeliest token")
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    stream: bool = Field(default=False, description="server-sent events; nothing before the answer begins")


class Head(BaseModel):
    """One head's label, its probability, and all probabilities."""

    label: str
    confidence: float
    probabilities: dict[str, float]


class Heads(BaseModel):
    """The task head reads M h, the safety head R_safe h, the dual heads one side each."""

    task: Head
    safety: Head
    dual: list[Head]


class ThinkAnswer(BaseModel):
    """What a caller gets."""

    final: str
    decision: Literal["ALLOW", "ESCALATION", "DENY", "REFUSE"]
    reason: str = Field(description="head, low_confidence, danger, heads_disagree, grammar or no_reading")
    escalated: bool
    withdrawn: bool = Field(default=False, description="text that was streamed before must not be used")
    cut: bool = Field(default=False, description="the answer reached its length limit")
    heads: Heads
    domain: str | None = Field(default=None, description="null: this model has no domain head")
    latency_ms: int = Field(description="arrival to answer, to 10 ms")
    audit_id: str
    model: str


class ErrorText(BaseModel):
    """What is wrong, and the mend. `message`, `type` and `code` are for clients of OpenAI's API."""

    message: str
    type: str
    code: str
    mend: str = ""


class ErrorAnswer(BaseModel):
    """Every error's body."""

    error: ErrorText


class Health(BaseModel):
    """Whether the service can answer."""

    status: Literal["ok", "failing"]


class ContentPart(BaseModel):
    """A part of a message; only text is understood."""

    model_config = ConfigDict(strict=True)

    type: Literal["text"]
    text: Text = Field(max_length=10_000)


class ChatMessage(BaseModel):
    """One message."""

    model_config = ConfigDict(strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Text, Field(max_length=10_000)] | Annotated[list[ContentPart], Field(max_length=64)]

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """Whether a last chunk tells the number of tokens."""

    model_config = ConfigDict(strict=True)

    include_usage: bool = False


class ChatRequest(BaseModel):
    """OpenAI's chat completion request: what is understood of it. Other fields are ignored."""

    model_config = ConfigDict(strict=True)

    messages: list[ChatMessage] = Field(min_length=1, max_length=200)
    model: str = Field(default="", max_length=256)
    max_tokens: int | None = Field(default=None, ge=1, le=8192)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=8192)
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    n: Literal[1] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class Usage(BaseModel):
    """Tokens of the prompt and of the answer; thinking is not counted, its length is nobody's business."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: str | None = None


class Choice(BaseModel):
    index: int = 0
    message: AssistantMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length", "content_filter"]


class ChatAnswer(BaseModel):
    """OpenAI's chat completion, with this service's decision beside it in ``so8t``."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    so8t: dict[str, Any]


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "so8t"


class Models(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]
