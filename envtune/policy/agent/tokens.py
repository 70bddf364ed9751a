"""The agent's tokenizer: values have the same tokens in messages and calls; a tool is one token.

Words, digits (one by one) and runs of punctuation never share a token, so `budget.txt` has the
same tokens after a space and after a quote: a small model can copy it token by token. Each tool's
compact signature is one token, which makes a system prompt a fifth as long. BPE learns the rest
from scripted episodes.
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
_WORDS = [f" {word} " for word in "in of the to and with is at from for on by".split()]


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
    added = (*_PROTOCOL, " in the workspace", *_WORDS, *protocol.compact_lines())
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in added])
    # the blank between two signatures belongs to the token: prompts are never decoded
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
