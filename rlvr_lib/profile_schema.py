"""Sections of a profile: every setting with its type, its range and the place it comes from.

Sources named in the descriptions: "spec 0.3" and "spec A.n" stand for the paper and its released scripts as worked
through in docs/decisions.md; "our choice" has no counterpart there. A new modality adds its classes here (or in a file
of its own beside this one) and one field in :class:`rlvr_lib.profile.Profile`.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlvr_lib.profile_fields import (
    Beta,
    Count,
    NotNegative,
    Positive,
    Section,
    Share,
    Start,
    Whole,
    divides,
    even_batches,
)
from rlvr_lib.profile_schema_agent import WebAgent


class TextGameData(Section):
    source: Literal["embedded", "bytesized32"] = Field(
        description="Our own games, or the public ByteSized32-State-Prediction files (spec A.1)."
    )
    layouts_train: Count = Field(description="Random layouts crawled per embedded game for training. Our choice.")
    layouts_rlvr: Whole = Field(
        description="Further layouts that only RLVR draws its questions from; 0: it shares the others. Our choice."
    )
    layouts_validation: Count = Field(description="The same for validation. Our choice.")
    layouts_test: Count = Field(description="The same for the test sets. Our choice.")
    first_layout_test: Whole = Field(
        description="Number of the first test layout: earlier ones served to choose settings. Our choice."
    )
    test_cases: Count = Field(description="Test transitions evaluated; spec A.2: 2 954.")
    held_out_cases: Whole = Field(
        description="Test transitions from games never seen in training (embedded games only). Our choice."
    )
    changed_share: Share = Field(
        description="Share of changed transitions among the test cases drawn; spec A.2: 1 210 of 2 954."
    )
    train_transitions: Count = Field(description="Training pool, at most; spec A.2: 150 672.")
    validation_transitions: Whole = Field(
        description="Transitions kept for validation loss and curves; the paper has no such split (spec 0.3)."
    )
    sft_samples: Count = Field(description="Answers wanted from the teacher; paper, section 4: 4 237 (spec A.10).")
    root: str = Field(
        description="Folder of the public files; empty: the folder bytesized32 in RLVR_SHARED_DATA. Our choice."
    )


class TextTokenizer(Section):
    vocabulary: Annotated[int, Field(ge=300)] = Field(
        description="Size of our BPE vocabulary (tiny_qwen2), or the base model's own (hub). Our choice."
    )


class LanguageModel(Section):
    kind: Literal["tiny_qwen2", "hub"] = Field(
        description="A small Qwen2-architecture model of our own, or a model from the hub (spec 0.3)."
    )
    name: str = Field(description="Hub id, for kind hub; spec 0.3: deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B (and 7B).")
    hidden: Count = Field(description="Width. For kind hub this and the next four record the model's own config.")
    layers: Count = Field(description="Transformer layers.")
    heads: Count = Field(description="Attention heads.")
    kv_heads: Count = Field(description="Key/value heads (grouped queries).")
    intermediate: Count = Field(description="Width of the feed-forward layer.")
    dtype: Literal["float32", "bfloat16"] = Field(description="Type of the weights in training; scripts: bfloat16.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        divides(self, "hidden", "heads")
        divides(self, "heads", "kv_heads")
        if (self.hidden // self.heads) % 2:
            raise ValueError(f"hidden: {self.hidden}/{self.heads} heads is odd; rotary positions need an even width")
        if self.kind == "hub" and not self.name:
            raise ValueError("name: kind hub needs the id of a model on the hub")
        return self


class Pretrain(Section):
    start: Start = Field(description="Base weights: released (data/weights, or the hub's) or trained from scratch.")
    steps: Whole = Field(description="Likelihood updates from scratch; the paper starts from the hub. Our choice.")
    batch: Count = Field(description="Transitions per update. Our choice.")
    learning_rate: Positive = Field(description="Peak rate. Our choice.")
    warmup: Whole = Field(description="Warm-up updates. Our choice.")
    weight_decay: NotNegative = Field(description="AdamW weight decay. Our choice.")
    live_steps: Whole = Field(description="Updates shown live when starting from released weights. Our choice.")


class TextGamePretrain(Pretrain):
    layouts: Count = Field(description="Random layouts per embedded game that the base corpus covers. Our choice.")


class SFT(Section):
    """Text games and web pages alike; where the paper's values differ, the description holds both in this order."""

    start: Start = Field(description="released: load our SFT weights and train live_steps live; scratch: train it all.")
    epochs_planned: Count = Field(description="Epochs the schedule is laid out for; scripts: 15, web 40 (spec 0.3).")
    epochs_used: Count = Field(description="Epoch whose checkpoint goes on; paper: 10, web 4 (spec 0.3).")
    batch: Count = Field(description="Samples per update; scripts: 16, web 8 (spec 0.3).")
    learning_rate: Positive = Field(description="Peak rate; paper: 1e-5 (spec 0.3).")
    betas: tuple[Beta, Beta] = Field(description="AdamW betas; config default: 0.9, 0.95 (spec 0.3).")
    weight_decay: NotNegative = Field(description="AdamW weight decay; config default: 0.01 (spec 0.3).")
    warmup_ratio: Share = Field(description="Share of planned updates for warm-up, then cosine to 0; 0.1 (spec 0.3).")
    grad_clip: Positive = Field(description="Gradient norm limit; config default: 1.0 (spec 0.3).")
    lora_rank: Count = Field(description="LoRA rank on all linear layers; scripts: 32 (spec 0.3).")
    lora_alpha: Count = Field(description="LoRA alpha; scripts: 16 (spec 0.3).")
    max_length: Count = Field(description="Longest sample in tokens, longer is an error; 11 384, web 5 000 (spec 0.3).")
    samples: Count = Field(description="Answers trained on, at most; paper: 4 237 (spec A.10), web about 6 930 (B.3).")
    live_steps: Whole = Field(description="Updates shown live when starting from released weights. Our choice.")
    length_grouped: bool = Field(description="Batches of similar lengths, so that little is padded. Our choice.")
    patience: Whole = Field(
        description="Epochs without a better validation loss before stopping; 0: never. Our choice."
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.epochs_used > self.epochs_planned:
            raise ValueError(f"epochs_used: {self.epochs_used} is more than epochs_planned ({self.epochs_planned})")
        return self


class RLVR(Section):
    """Text games and web pages alike; where the paper's values differ, the description holds both in this order."""

    steps: Count = Field(description="Rollout batches; the paper's curves show about 350, web 1 500 (spec 0.3).")
    prompts_per_step: Count = Field(description="Prompts per rollout batch; paper: 128, web 64 (spec 0.3).")
    prompts_per_update: Count = Field(description="Prompts per optimiser update; scripts: 64, web 16 (spec 0.3).")
    group_size: Annotated[int, Field(ge=2)] = Field(description="Responses per prompt, G; paper: 5 (spec 0.3).")
    learning_rate: Positive = Field(description="Constant, no warm-up; paper: 1e-6 (spec 0.3).")
    betas: tuple[Beta, Beta] = Field(description="AdamW betas; code default: 0.9, 0.999 (spec 0.3).")
    weight_decay: NotNegative = Field(description="AdamW weight decay; code default: 0.01 (spec 0.3).")
    grad_clip: Positive = Field(description="Gradient norm limit; code default: 1.0 (spec 0.3).")
    kl_coefficient: NotNegative = Field(description="Weight of the KL in the loss; paper: 0.001 (spec 0.2).")
    clip: Positive = Field(description="Range of the token ratio around 1; config default: 0.2 (spec 0.2).")
    entropy_coefficient: NotNegative = Field(description="Entropy bonus; config default: 0.001 (spec 0.2).")
    temperature: Positive = Field(description="Of the rollouts; config default: 1.0 (spec 0.3).")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(description="Of the rollouts; config default: 1.0 (spec 0.3).")
    max_prompt: Count = Field(description="Longest prompt in tokens; scripts: 7 192, web 5 000 (spec 0.3).")
    max_response: Count = Field(description="Longest response in tokens; scripts: 4 096, web 7 288 (spec 0.3).")
    evaluate_every: Count = Field(description="Steps between greedy evaluations; scripts: 20 (spec 0.3).")
    evaluate_cases: Count = Field(
        description="Cases of such an evaluation; paper: the whole test set, 2 954, web about 70."
    )
    save_every: Count = Field(description="Steps between checkpoints. Our choice.")
    bf16: bool = Field(description="Log-probabilities and updates in bfloat16 autocast, sampling aside (scripts: yes).")
    shared_prompt: bool = Field(
        description="Run a prompt once for all responses of its group that are computed together. Exact. Our choice."
    )
    skip_equal: bool = Field(
        description="Leave groups of equal rewards out of passes and updates: exact but for KL and entropy. Our choice."
    )
    sequences_per_micro_batch: Count = Field(
        description="Sequences whose tokens are averaged together; scripts: 2 per GPU, web 5 (spec 0.2)."
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        even_batches(self)
        return self


class TextGameRLVR(RLVR):
    unchanged_ratio_binary: NotNegative = Field(
        description="Unchanged slots per changed item, binary reward; paper: 100:40, 7 278 slots (spec A.11)."
    )
    unchanged_ratio_task_specific: NotNegative = Field(
        description="The same for the task-specific reward; scripts: 1 000 slots beside 18 196 items (spec A.11)."
    )


class LanguageEvaluation(Section):
    temperature: NotNegative = Field(
        description="Of the tables; paper, Table 5: 1.0 (spec A.12; not said for web pages); 0 is greedy."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(description="Likewise; paper, Table 5: 1.0 (spec A.12).")
    batch: Count = Field(description="Prompts answered together. Our choice.")
    max_response: Count = Field(description="Longest answer in tokens; scripts: 4 096, web 7 288 (spec 0.3).")
    bootstrap_draws: Annotated[int, Field(ge=100)] = Field(description="Resamples behind an interval. Our choice.")


class TextGameTeacher(Section):
    kind: Literal["engine", "endpoint"] = Field(
        description="The game engine explains its own rules, or a chat model behind an endpoint does (spec A.10)."
    )
    base_url: str = Field(description="OpenAI-compatible endpoint; paper: DeepSeek's (spec A.10).")
    model: str = Field(description="Model name there; paper: DeepSeek-R1, the reasoner (spec A.10).")
    concurrency: Count = Field(description="Requests in flight. Our choice.")
    budget_usd: NotNegative = Field(description="Stop asking beyond this cost; paper: 40 (spec A.10).")
    price_in: NotNegative = Field(description="USD per million prompt tokens. Our figure, DeepSeek-R1's first price.")
    price_out: NotNegative = Field(description="USD per million answer tokens. Our figure, DeepSeek-R1's first price.")
    max_tokens: Count = Field(description="Longest accepted answer in tokens; scripts: 4 000 (spec A.10).")
    keep_unchanged_ratio: Share = Field(
        description="Chance to keep a right answer on an unchanged item; script: 1 in 101 (spec A.10)."
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.kind == "endpoint" and not (self.base_url and self.model):
            raise ValueError(f"{'model' if self.base_url else 'base_url'}: kind endpoint needs base_url and model")
        return self


class TextGame(Section):
    data: TextGameData = Field(description="Transitions: where from, how many (spec A.1, A.2).")
    tokenizer: TextTokenizer = Field(description="Text tokens.")
    model: LanguageModel = Field(description="The language model (spec 0.3).")
    pretrain: TextGamePretrain = Field(description="Likelihood training of the base row. Our choice.")
    sft: SFT = Field(description="Supervised fine-tuning on teacher answers (spec 0.3, A.10).")
    rlvr: TextGameRLVR = Field(description="GRPO with verifiable rewards (spec 0.2, 0.3, A.9, A.11).")
    evaluation: LanguageEvaluation = Field(description="Table 1 (spec A.12).")
    teacher: TextGameTeacher = Field(description="Where the SFT answers come from (spec A.10).")


class WebPageData(Section):
    source: Literal["recorded", "webarena"] = Field(
        description="Our recorded set (data/web_pages), or the public WebArena transitions (spec B.3)."
    )
    root: str = Field(
        description="Folder of the public files; empty: the folder webarena in RLVR_SHARED_DATA. Our choice."
    )
    max_tokens: Count = Field(description="Prompt and answer together, longer ones are left out; paper: 5 000 (B.3).")
    max_answer: Count = Field(description="The answer alone; the paper has no such limit. Our choice.")
    train_transitions: Count = Field(description="Training pool, at most; paper: about 6 930 (spec B.3).")
    validation_transitions: Whole = Field(
        description="Transitions kept for losses and curves; the paper has no such split (spec 0.3)."
    )
    test_cases: Count = Field(description="Test transitions of seen sites, at most; paper: about 70 (spec B.3).")
    held_out_cases: Whole = Field(
        description="Test transitions of a site and tasks never trained on, at most (recorded set only). Our choice."
    )
    rlvr_share: Share = Field(
        description="Share of the training episodes that only RLVR asks about; 0: it shares the others. Our choice."
    )
    reworded: Whole = Field(
        description="Copies of each step with rare words exchanged, in the base model's corpus. Our choice."
    )


class WebPageEvaluation(LanguageEvaluation):
    variant: Literal["released", "paper"] = Field(
        description="F1 when both sides are empty: 0 as the released code counts, or 1 as the paper says (spec D.16)."
    )


class WebPage(Section):
    data: WebPageData = Field(description="Transitions: where from, how long, how many (spec B.1 to B.3).")
    tokenizer: TextTokenizer = Field(description="Text tokens.")
    model: LanguageModel = Field(description="The language model (spec 0.3).")
    pretrain: Pretrain = Field(description="Likelihood training of the base row. Our choice.")
    sft: SFT = Field(description="Supervised fine-tuning on the recorded answers (spec 0.3, B.3).")
    rlvr: RLVR = Field(description="GRPO with F1 (spec 0.2, 0.3, B.6).")
    evaluation: WebPageEvaluation = Field(description="Table 2 (spec B.7).")
    agent: WebAgent = Field(description="The agent that plans with the world models (spec C).")
