"""The agent's tokenizer: values are the same tokens in the user's words and in a call, tools and protocol are single tokens.

Words, digits (one by one) and runs of punctuation never share a token, so `budget.txt` reads alike after a space and after a
quote: what a small model must copy, it can copy token by token. Each tool's compact signature is one token, which makes a system
prompt a fifth as long. BPE learns the rest from scripted episodes.
"""

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from envtune import bfcl
from envtune.env import protocol

ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_PROTOCOL = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<answer>",
    "</answer>",
    "<tool_response>\n",
    "\n</tool_response>",
    '[{"name": "',
    '", "arguments": {"',
    '", "arguments": {',
)
_GLUE = (
    " in the workspace",
    " in ",
    " of ",
    " the ",
    " to ",
    " and ",
    " with ",
    " is ",
    " at ",
    " from ",
    " for ",
    " on ",
    " by ",
)


def signatures() -> list[str]:
    """Every tool of BFCL's classes as the compact prompt writes it."""
    return sorted(
        {protocol.describe_tools([doc], compact=True) for doc in bfcl.docs_of(bfcl.CLASSES)}
    )


def build(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `vocabulary` learnt entries besides the tokens named above."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[0-9]|[A-Za-z_]+|[^A-Za-z_0-9]+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|pad|>", "<|end|>", *ROLES],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    # not special: decoding keeps them, and the environment reads them
    tokenizer.add_tokens(
        [
            AddedToken(t, special=False, normalized=False)
            for t in (*_PROTOCOL, *_GLUE, *protocol.compact_lines())
        ]
    )
    # the blank between two signatures belongs to the token: prompts are read as ids and never decoded
    tokenizer.add_tokens(
        [AddedToken(t, special=False, normalized=False, lstrip=True) for t in signatures()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=list(ROLES),
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
