"""Settings of the web agent (spec C): how it plans, what answers for each of its roles, where it is tried."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlvr_lib.profile_fields import Count, NotNegative, Positive, Section

Kind = Literal["local", "endpoint"]
ROLES = ("policy", "extractor", "summariser", "value")


class AgentEndpoint(Section):
    base_url: str = Field(description="OpenAI-compatible endpoint of the chat roles; paper: DeepSeek's (spec C.1).")
    model: str = Field(description="Model name there; paper: DeepSeek-V3 (spec C.1).")
    world_model_url: str = Field(
        description="Endpoint of the world models, which are called sft and rlvr there (spec C.1)."
    )
    concurrency: Count = Field(description="Requests in flight. Our choice.")
    max_tokens: Count = Field(description="Longest answer in tokens. Our choice.")
    budget_usd: NotNegative = Field(description="Stop asking beyond this cost. Our choice.")
    price_in: NotNegative = Field(description="USD per million prompt tokens. Our figure.")
    price_out: NotNegative = Field(description="USD per million answer tokens. Our figure.")


class WebAgent(Section):
    world: Literal["local", "webarena"] = Field(
        description="Our sites and MiniWoB pages, or WebArena through BrowserGym (docs/your_own_data.md; spec C.5)."
    )
    instances: Count = Field(
        description="Task instances that every arm runs; fewer WebArena tasks are evenly spread; spec C.5: 812."
    )
    candidates: Count = Field(description="Proposals per decision; code: 20 (spec C.2).")
    kept: Count = Field(description="Most frequent proposals that are tried; code: 3 (spec C.2).")
    values: Count = Field(description="Scores per candidate; code: 20 (spec C.2).")
    max_steps: Count = Field(description="Actions before a forced stop; script: 5 (spec C.3).")
    unreadable: Count = Field(description="Unreadable actions in a row before a forced stop; code: 3 (spec C.3).")
    repeated: Count = Field(description="Equal actions before a forced stop; code: 5 (spec C.3).")
    stop_rule: Literal["released", "action", "most_frequent"] = Field(
        description="Stop at once when a kept proposal holds the letters stop (released), is a stop action, or when "
        "the most frequent one is (spec C.2, D.28)."
    )
    unparsable_scores: Literal["released", "left_out"] = Field(
        description="Unreadable scores count as 0 (released), or are left out of the mean (spec C.2)."
    )
    temperature: Positive = Field(description="Of all roles; code: 1.0 (spec C.1).")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(description="Of all roles; code: 0.95 (spec C.1).")
    max_response: Count = Field(
        description="Longest answer of the world model in tokens; paper, Table 5: 7 288 as in training (spec 0.3)."
    )
    parallel: Count = Field(description="Episodes side by side; script: 40 (spec C.6).")
    pause_s: NotNegative = Field(
        description="Seconds of rest after an action; code: 2.5 (spec C.2). Ours waits until the page is quiet as well."
    )
    watched: Annotated[int, Field(ge=0)] = Field(description="Episodes kept with screenshots. Our choice.")
    policy: Kind = Field(description="Cloned from scripted solvers, or a chat model (spec C.1).")
    world_model: Kind = Field(description="Loaded here, or behind an endpoint of its own (spec C.1).")
    extractor: Kind = Field(description="A rule, or a chat model (spec C.1).")
    summariser: Kind = Field(description="A rule, or a chat model (spec C.1).")
    value: Kind = Field(description="Learnt from recorded steps, or a chat model (spec C.1).")
    cloning_steps: Count = Field(description="Recorded steps that the local policy is cloned from. Our choice.")
    cloning_epochs: Count = Field(description="Passes over them. Our choice.")
    value_steps: Count = Field(description="Recorded steps that the local value is learnt from. Our choice.")
    value_epochs: Count = Field(description="Passes over them. Our choice.")
    endpoint: AgentEndpoint = Field(description="Where chat roles are asked (spec C.1).")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.kept > self.candidates:
            raise ValueError(f"kept: {self.kept} is more than candidates ({self.candidates})")
        asks = [role for role in ROLES if getattr(self, role) == "endpoint"]
        if asks and not (self.endpoint.base_url and self.endpoint.model):
            raise ValueError(f"endpoint: {asks[0]} is endpoint, which needs endpoint.base_url and endpoint.model")
        if self.world_model == "endpoint" and not self.endpoint.world_model_url:
            raise ValueError("endpoint: world_model is endpoint, which needs endpoint.world_model_url")
        if self.value == "local" and "endpoint" in (self.extractor, self.summariser):
            raise ValueError("value: local reads the words of the local extractor and summariser; make all three alike")
        return self


__all__ = ["AgentEndpoint", "WebAgent"]
